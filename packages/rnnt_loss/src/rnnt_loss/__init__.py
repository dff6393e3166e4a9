"""RNN-T losses: exact, pruned, smoothed, fused with the joiner, TDT and multi-blank. See `rnnt_loss.functional`."""

from . import decode, functional, nemo, speechbrain, transformers
from .functional import *  # noqa: F403
from .modules import PrunedRNNTLoss
from .nemo import MultiblankRNNTLoss, TDTLoss
from .torchaudio import RNNTLoss

__version__ = "0.1.0"
__all__ = [
    "MultiblankRNNTLoss",
    "PrunedRNNTLoss",
    "RNNTLoss",
    "TDTLoss",
    "decode",
    "functional",
    "nemo",
    "speechbrain",
    "transformers",
    *functional.__all__,
]
