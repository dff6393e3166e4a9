"""Li-GRU (arXiv:1803.10225) and SLi-GRU (arXiv:2302.10144) for PyTorch, on fused kernels for CPU and CUDA."""

from . import functional
from ._decompositions import decompositions
from .convert import from_pytorch_kaldi
from .layer import LiGRU_Layer, SLiGRU_Layer
from .modules import LiGRU, SLiGRU

__version__ = "0.1.0"
__all__ = ["LiGRU", "LiGRU_Layer", "SLiGRU", "SLiGRU_Layer", "decompositions", "from_pytorch_kaldi", "functional"]
