"""minGRU and minLSTM (arXiv:2410.01201) for PyTorch, on fused linear-space kernels for CPU and CUDA."""

from . import functional
from ._decompositions import decompositions
from .cells import Bidirectional, ListMinGRU, MinGRUCell
from .convolutional import MinConv2dGRU, MinConv2dGRUCell
from .modules import MinGRU, MinLSTM
from .scan import parallel_scan_log

__version__ = "0.1.0"
__all__ = [
    "Bidirectional",
    "ListMinGRU",
    "MinConv2dGRU",
    "MinConv2dGRUCell",
    "MinGRU",
    "MinGRUCell",
    "MinLSTM",
    "decompositions",
    "functional",
    "parallel_scan_log",
]
