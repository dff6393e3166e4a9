"""Newname for PyTorch, on fused kernels for CPU and CUDA."""

from . import functional
from .modules import Newname

__version__ = "0.1.0"
__all__ = ["Newname", "functional"]
