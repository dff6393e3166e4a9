"""`torchaudio.functional.rnnt_loss` and `torchaudio.transforms.RNNTLoss`, with their arguments and results."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import _ops
from ._lattice import (
    REDUCTIONS,
    check_boundary,
    check_choice,
    check_index,
    check_logits,
    check_symbols,
    may_read,
    reduce,
    solve,
    with_unit_stride,
)
from ._shared import check_integers

__all__ = ["RNNTLoss", "rnnt_loss"]


def rnnt_loss(
    logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = -1,
    clamp: float = -1,
    reduction: str = "mean",
    fused_log_softmax: bool = True,
    *,
    fastemit_lambda: float = 0.0,
    zero_infinity: bool = False,
) -> Tensor:
    """The RNN-T loss (Graves, arXiv:1211.3711).

    Args:
        logits: (B, T, S + 1, C), float64, float32, float16 or bfloat16.
        targets: (B, S) integers, within 0..C - 1 but for padding.
        logit_lengths: (B,) integers within 0..T.
        target_lengths: (B,) integers within 0..S.
        blank: its class, also counted from the end.
        clamp: if > 0, the gradient of each logit, of a sequence's loss, is limited to -clamp..clamp.
        reduction: "none", "mean" (over the batch) or "sum".
        fused_log_softmax: whether the logits go through log_softmax; if not, they are log-probabilities already.
        fastemit_lambda, zero_infinity: see `rnnt_loss.functional`.

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced.

    Raises:
        TypeError, ValueError: see `rnnt_loss.functional`.
    """
    check_logits("logits", logits, "B, T, S + 1, C")
    check_choice("reduction", reduction, REDUCTIONS)
    batch, frames, rows, classes = logits.shape
    blank = check_index("blank", blank, classes)
    lengths = [
        check_integers(name, t, [batch], logits)
        for name, t in (("target_lengths", target_lengths), ("logit_lengths", logit_lengths))
    ]
    if may_read(logit_lengths) and may_read(target_lengths) and batch > 0:
        for name, t, most in (("logit_lengths", lengths[1], frames), ("target_lengths", lengths[0], rows - 1)):
            if int(t.min()) < 0 or int(t.max()) > most:
                raise ValueError(f"{name}: expected values within 0..{most}, got {int(t.min())}..{int(t.max())}")
    start = torch.zeros_like(lengths[0])
    boundary = check_boundary(torch.stack([start, start, *lengths], 1), batch, rows - 1, frames, logits)
    if targets.dim() != 2 or list(targets.shape) != [batch, rows - 1]:
        raise ValueError(
            f"targets: expected shape {[batch, rows - 1]} for logits {list(logits.shape)}, got {list(targets.shape)}"
        )
    symbols = check_symbols(targets, batch, rows - 1, classes, boundary, logits)
    mode = _ops.SOFTMAX if fused_log_softmax else _ops.LOG_PROBS
    options = (boundary, None, None, frames, [blank], mode, max(clamp, 0.0), False)
    label, blanks = _ops.joint_scores(with_unit_stride(logits), symbols, *options)
    score, _, _ = solve(label, blanks[:, 0], "regular", boundary, fastemit_lambda=fastemit_lambda)
    return reduce(score, reduction, zero_infinity)


class RNNTLoss(nn.Module):
    """`rnnt_loss` with its options kept: torchaudio.transforms.RNNTLoss.

    Args:
        blank, clamp, reduction, fused_log_softmax, fastemit_lambda, zero_infinity: see there.
    """

    def __init__(
        self,
        blank: int = -1,
        clamp: float = -1.0,
        reduction: str = "mean",
        fused_log_softmax: bool = True,
        *,
        fastemit_lambda: float = 0.0,
        zero_infinity: bool = False,
    ) -> None:
        super().__init__()
        self.blank, self.clamp, self.reduction, self.fused_log_softmax = blank, clamp, reduction, fused_log_softmax
        self.fastemit_lambda, self.zero_infinity = fastemit_lambda, zero_infinity

    def forward(self, logits: Tensor, targets: Tensor, logit_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """The loss; arguments as of the function."""
        lengths = (logit_lengths, target_lengths)
        options = (self.blank, self.clamp, self.reduction, self.fused_log_softmax)
        penalties = {"fastemit_lambda": self.fastemit_lambda, "zero_infinity": self.zero_infinity}
        return rnnt_loss(logits, targets, *lengths, *options, **penalties)  # type: ignore[arg-type]
