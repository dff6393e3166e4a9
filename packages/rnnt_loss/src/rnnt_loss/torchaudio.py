"""`torchaudio.functional.rnnt_loss` and `torchaudio.transforms.RNNTLoss`, with their arguments and results.

Both go through torch.jit.script, as torchaudio's do; hence their plain style.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._arguments import REDUCTIONS, check_boundary, check_index, check_logits, check_symbols, with_unit_stride
from ._checks import check_choice
from ._forms import boundary_of
from ._scores import Options, joint_scores, limit_of
from ._solving import reduce, solve

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
        clamp: if > 0, the gradient of each logit, of a sequence's loss, is limited to -clamp..clamp, after FastEmit.
        reduction: "none", "mean" (over the batch) or "sum".
        fused_log_softmax: whether the logits go through log_softmax; if not, they are log-probabilities already.
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148).
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite; its gradients are 0 either way.

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced.

    Raises:
        TypeError: of logits that are not floating, or other tensors that are not of integers.
        ValueError: of shapes, devices, lengths, targets, blank or reduction other than the above.

    Example:
        >>> lengths, target_lengths = torch.tensor([20, 12]), torch.tensor([5, 3])
        >>> value = rnnt_loss(torch.randn(2, 20, 6, 30), torch.randint(0, 29, (2, 5)), lengths, target_lengths)
    """
    if torch.jit.is_scripting():
        classes = logits.shape[3]
        start = torch.zeros_like(target_lengths)
        lengths = [start, start, target_lengths, logit_lengths.to(start)]
        boundary = torch.stack(lengths, 1).to(logits.device, torch.int64)
        symbols = targets.to(logits.device, torch.int64).contiguous()
        if logits.stride(-1) != 1:
            logits = logits.contiguous()
        label, blank_scores, _ = torch.ops.rnnkit_rnnt_loss.joint_scores(
            logits,
            symbols,
            boundary,
            blanks=[blank + classes if blank < 0 else blank],
            kind="softmax" if fused_log_softmax else "log_probs",
            clamp=limit_of(clamp),
            label_weight=1 + fastemit_lambda,
        )
        wanted = label.requires_grad
        score, _, _ = torch.ops.rnnkit_rnnt_loss.lattice(
            label, blank_scores, boundary=boundary, occupancies=wanted, label_weight=1 + fastemit_lambda
        )
        loss = -score
        if zero_infinity:
            loss = loss.masked_fill(loss == float("inf"), 0.0)
        return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss
    logits, symbols, boundary, blank = _checked(logits, targets, logit_lengths, target_lengths, blank, reduction)
    kind = "softmax" if fused_log_softmax else "log_probs"
    options = Options([blank], kind, clamp=limit_of(clamp), label_weight=1 + fastemit_lambda)
    scores = joint_scores(logits, symbols, options, boundary)
    score = solve(*scores, "regular", boundary, fastemit_lambda=fastemit_lambda)[0]
    return reduce(score, reduction, zero_infinity)


def _checked(
    logits: Tensor, targets: Tensor, logit_lengths: Tensor, target_lengths: Tensor, blank: int, reduction: str
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Logits, targets, boundary and blank as the ops take them."""
    check_logits("logits", logits, "B, T, S + 1, C")
    check_choice("reduction", reduction, REDUCTIONS)
    batch, frames, rows, classes = logits.shape
    blank = check_index("blank", blank, classes)
    ends = boundary_of(logits, target_lengths=target_lengths, logit_lengths=logit_lengths)
    boundary = check_boundary(ends, batch, rows - 1, frames, logits)
    assert boundary is not None
    symbols = check_symbols(targets, batch, rows - 1, classes, boundary, logits, "targets")
    return with_unit_stride(logits), symbols, boundary, blank


class RNNTLoss(nn.Module):
    """`rnnt_loss` with its options kept: torchaudio.transforms.RNNTLoss.

    Args:
        blank: its class, also counted from the end.
        clamp: if > 0, the gradient of each logit, of a sequence's loss, is limited to -clamp..clamp, after FastEmit.
        reduction: "none", "mean" (over the batch) or "sum".
        fused_log_softmax: whether the logits go through log_softmax; if not, they are log-probabilities already.
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148).
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite.
    """

    def __init__(
        self,
        blank: int = -1,
        clamp: float = -1.0,
        reduction: str = "mean",
        fused_log_softmax: bool = True,
        fastemit_lambda: float = 0.0,
        zero_infinity: bool = False,
    ) -> None:
        super().__init__()
        self.blank = blank
        self.clamp = float(clamp)
        self.reduction = reduction
        self.fused_log_softmax = fused_log_softmax
        self.fastemit_lambda = float(fastemit_lambda)
        self.zero_infinity = zero_infinity

    def forward(self, logits: Tensor, targets: Tensor, logit_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """The loss of logits (B, T, S + 1, C), targets (B, S) and their lengths (B,)."""
        return rnnt_loss(
            logits,
            targets,
            logit_lengths,
            target_lengths,
            self.blank,
            self.clamp,
            self.reduction,
            self.fused_log_softmax,
            self.fastemit_lambda,
            self.zero_infinity,
        )
