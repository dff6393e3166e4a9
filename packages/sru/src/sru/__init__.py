"""Simple recurrent units, SRU (arXiv:1709.02755) and SRU++ (arXiv:2102.12459), for PyTorch, on fused kernels for CPU and CUDA."""

from . import functional
from ._decompositions import decompositions
from .attention import SRUppAttention, SRUppProjectedLinear
from .cell import SRUCell
from .modules import SRU
from .srupp import SRUpp, SRUppCell

__version__ = "0.1.0"
__all__ = ["SRU", "SRUCell", "SRUpp", "SRUppAttention", "SRUppCell", "SRUppProjectedLinear", "decompositions", "functional"]
