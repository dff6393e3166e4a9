"""Quasi-recurrent neural networks (arXiv:1611.01576) for PyTorch, on fused kernels for CPU and CUDA."""

from . import functional
from ._decompositions import decompositions
from .layer import ForgetMult, QRNNLayer
from .modules import QRNN

__version__ = "0.1.0"
__all__ = ["QRNN", "ForgetMult", "QRNNLayer", "decompositions", "functional"]
