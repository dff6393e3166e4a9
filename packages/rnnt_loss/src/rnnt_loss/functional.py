"""RNN-T losses under the names and with the arguments of fast_rnnt and k2, and what those lack.

Shapes: B sequences, T frames, S symbols (without blank), C classes, H the joiner's width. `termination_symbol` is the blank.
A node (t, s) of the lattice has consumed t frames and emitted s symbols; from it lead a label, px[b, s, t] =
log P(symbols[b, s]), and the blank, py[b, s, t]. `rnnt_type` says where the label leads::

    "regular"      to (t, s + 1): any number of symbols a frame (Graves, arXiv:1211.3711)
    "modified"     to (t + 1, s + 1): a symbol consumes a frame, which needs T >= S
    "constrained"  the same, and the blank of the next context at the same frame is taken with it

Logits may be float64, float32, float16 or bfloat16; all sums are float32 (float64), gradients have the logits' dtype. Errors:
TypeError for a dtype, ValueError for a shape, device, option or value, with the argument's name. Values on a GPU are not
read, unless `check_values(True)`.
"""

from __future__ import annotations

from . import _ops
from ._arguments import check_values
from .durations import multiblank_rnnt_loss, tdt_align, tdt_loss
from .fused import multiblank_rnnt_loss_fused, rnnt_loss_fused, rnnt_loss_pruned_fused, tdt_loss_fused
from .joint import expected_emission_times, get_rnnt_logprobs_joint, rnnt_align, rnnt_loss, rnnt_loss_packed
from .pruned import (
    do_rnnt_pruning,
    get_hat_logprobs_pruned,
    get_rnnt_logprobs_pruned,
    get_rnnt_prune_ranges,
    rnnt_align_pruned,
    rnnt_loss_pruned,
)
from .recursion import joint_mutual_information_recursion, mutual_information_recursion
from .simple import get_rnnt_logprobs, get_rnnt_logprobs_smoothed, rnnt_loss_simple, rnnt_loss_smoothed

__all__ = [
    "check_values",
    "do_rnnt_pruning",
    "expected_emission_times",
    "get_hat_logprobs_pruned",
    "get_rnnt_logprobs",
    "get_rnnt_logprobs_joint",
    "get_rnnt_logprobs_pruned",
    "get_rnnt_logprobs_smoothed",
    "get_rnnt_prune_ranges",
    "joint_mutual_information_recursion",
    "multiblank_rnnt_loss",
    "multiblank_rnnt_loss_fused",
    "mutual_information_recursion",
    "rnnt_align",
    "rnnt_align_pruned",
    "rnnt_loss",
    "rnnt_loss_fused",
    "rnnt_loss_packed",
    "rnnt_loss_pruned",
    "rnnt_loss_pruned_fused",
    "rnnt_loss_simple",
    "rnnt_loss_smoothed",
    "tdt_align",
    "tdt_loss",
    "tdt_loss_fused",
    "with_cuda",
]


def with_cuda() -> bool:
    """Whether this build has CUDA kernels."""
    return _ops.WITH_CUDA
