"""minGRU and minLSTM (arXiv:2410.01201) for PyTorch, on fused linear-space kernels for CPU and CUDA."""

from . import functional
from .modules import MinConv2dGRU, MinConv2dGRUCell, MinGRU, MinGRUCell, MinLSTM

__version__ = "0.1.0"
__all__ = ["MinConv2dGRU", "MinConv2dGRUCell", "MinGRU", "MinGRUCell", "MinLSTM", "functional"]
