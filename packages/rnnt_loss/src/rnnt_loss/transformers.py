"""The transducer losses of Hugging Face Transformers, by their names, arguments and results.

Theirs asks for torchaudio (RNN-T), casts logits to float32, and walks the lattice in Python (TDT). To have a model train with
ours, set its `loss_function`::

    from rnnt_loss.transformers import ParakeetForRNNTLoss, ParakeetForTDTLoss

    model.loss_function = ParakeetForTDTLoss
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import functional
from ._arguments import check_logits, checked_joint
from ._checks import check_choice
from ._forms import boundary_of, named, reduced
from ._scores import joint_scores, options_of
from .durations import check_durations, tdt_loss_of
from .reference import inside

__all__ = ["ParakeetForRNNTLoss", "ParakeetForTDTLoss", "rnnt_loss", "tdt_loss"]

REDUCTIONS = ("mean_volume", "mean_batch", "mean", "sum", "none")


def rnnt_loss(
    logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    blank_token_id: int,
    reduction: str = "mean_volume",
) -> Tensor:
    """The RNN-T loss (Graves, arXiv:1211.3711), as `transformers.loss.loss_rnnt.rnnt_loss`.

    Args:
        logits: (B, T, S + 1, C), float64, float32, float16 or bfloat16.
        targets: (B, S) integers within 0..C - 1; padding may be anything, -100 too.
        logit_lengths: (B,) integers within 0..T, on the CPU or the logits' device.
        target_lengths: (B,) integers within 0..S.
        blank_token_id: the blank's class, also counted from the end.
        reduction: "mean_volume": the sum over the number of all symbols; "mean_batch": the mean over the batch; "mean": of
            losses over their own number of symbols; "sum"; or "none".

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced.

    Raises:
        TypeError: of logits that are not floating, or other tensors that are not of integers.
        ValueError: of shapes, devices, lengths, targets, blank or reduction other than the above.

    Example:
        >>> lengths, target_lengths = torch.tensor([20, 12]), torch.tensor([5, 3])
        >>> loss = rnnt_loss(torch.randn(2, 20, 6, 30), torch.randint(0, 29, (2, 5)), lengths, target_lengths, blank_token_id=29)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_logits("logits", logits, "B, T, S + 1, C")
    boundary = boundary_of(logits, target_lengths=target_lengths, logit_lengths=logit_lengths)
    with named(symbols="targets", termination_symbol="blank_token_id"):
        losses = functional.rnnt_loss(logits, targets, blank_token_id, boundary, reduction="none")
    assert isinstance(losses, Tensor)
    return reduced(losses, reduction, target_lengths, by_symbols=True)


def tdt_loss(
    token_logits: Tensor,
    duration_logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    blank_token_id: int,
    durations: Sequence[int],
    sigma: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """The token-and-duration transducer's loss (Xu et al., arXiv:2304.06795), as `transformers.loss.loss_tdt.tdt_loss`.

    Args:
        token_logits: (B, T, S + 1, C), float64, float32, float16 or bfloat16; as a slice of one tensor it is read where it lies.
        duration_logits: (B, T, S + 1, D).
        targets: (B, S) integers within 0..C - 1; padding may be anything, -100 too.
        logit_lengths: (B,) integers within 0..T, on the CPU or the logits' device.
        target_lengths: (B,) integers within 0..S.
        blank_token_id: the blank's class, also counted from the end.
        durations: D numbers of frames that a label or blank may last; blanks do not last 0, so one is above 0.
        sigma: subtracted from the log-probabilities of classes (logit under-normalisation).
        reduction: "mean_volume": the sum over the number of all symbols; "mean_batch": the mean over the batch; "mean": of
            losses over their own number of symbols; "sum"; or "none".

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced.

    Raises:
        TypeError: of logits that are not floating, or other tensors and durations that are not of integers.
        ValueError: of shapes, devices, lengths, targets, durations, blank or reduction other than the above.

    Example:
        >>> logits = torch.randn(2, 20, 6, 30 + 5)
        >>> lengths, target_lengths = torch.tensor([20, 12]), torch.tensor([5, 3])
        >>> targets, durations = torch.randint(0, 29, (2, 5)), [0, 1, 2, 3, 4]
        >>> loss = tdt_loss(logits[..., :30], logits[..., 30:], targets, lengths, target_lengths, 29, durations)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    durations = check_durations(durations)
    check_logits("token_logits", token_logits, "B, T, S + 1, C")
    check_logits("duration_logits", duration_logits, "B, T, S + 1, D")
    expected = [*token_logits.shape[:3], len(durations)]
    if list(duration_logits.shape) != expected:
        raise ValueError(f"duration_logits: expected shape {expected}, got {list(duration_logits.shape)}")
    if duration_logits.dtype != token_logits.dtype:
        raise TypeError(f"duration_logits: expected token_logits' {token_logits.dtype}, got {duration_logits.dtype}")
    if duration_logits.device != token_logits.device:
        raise ValueError(
            f"duration_logits: expected token_logits' device {token_logits.device}, got {duration_logits.device}"
        )
    boundary = boundary_of(token_logits, target_lengths=target_lengths, logit_lengths=logit_lengths)
    with named(logits="token_logits", symbols="targets", termination_symbol="blank_token_id"):
        given = checked_joint(token_logits, targets, blank_token_id, boundary, "regular", "none")
        tokens, symbols, _, blank = given
        label, blanks = joint_scores(tokens, symbols, options_of(blank), boundary)
        valid = inside(boundary, None, *tokens.shape[1:3])
        lasting = torch.where(valid[..., None], duration_logits, 0.0).to(label.dtype).log_softmax(-1).permute(0, 3, 1, 2)
        losses = tdt_loss_of(label, torch.cat([blanks, lasting], 1), durations, boundary, sigma, 0.0, "none", 0.0, False)
    return reduced(losses, reduction, target_lengths, by_symbols=True)


def ParakeetForRNNTLoss(
    logits: Tensor,
    labels: Tensor,
    logit_lengths: Tensor,
    label_lengths: Tensor,
    blank_token_id: int,
    reduction: str = "mean_volume",
    **kwargs: Any,
) -> Tensor:
    """`rnnt_loss`, as a Parakeet model calls its `loss_function`.

    Args:
        logits: (B, T, S + 1, C).
        labels: (B, S) integers. (The model counts those that are not its blank, so pads with that.)
        logit_lengths: (B,) integers.
        label_lengths: (B,) integers.
        blank_token_id: the blank's class.
        reduction: "mean_volume", "mean_batch", "mean", "sum" or "none".
        kwargs: not used.

    Returns:
        The loss: (B,), or reduced.

    Raises:
        TypeError, ValueError: as `rnnt_loss`.
    """
    with named(targets="labels", target_lengths="label_lengths"):
        return rnnt_loss(logits, labels, logit_lengths, label_lengths, blank_token_id, reduction)


def ParakeetForTDTLoss(
    token_logits: Tensor,
    duration_logits: Tensor,
    labels: Tensor,
    logit_lengths: Tensor,
    label_lengths: Tensor,
    blank_token_id: int,
    durations: Sequence[int],
    sigma: float = 0.0,
    reduction: str = "mean",
    **kwargs: Any,
) -> Tensor:
    """`tdt_loss`, as a Parakeet model calls its `loss_function`.

    Args:
        token_logits: (B, T, S + 1, C).
        duration_logits: (B, T, S + 1, D).
        labels: (B, S) integers. (The model counts those that are not its pad_token_id, so pads with that.)
        logit_lengths: (B,) integers.
        label_lengths: (B,) integers.
        blank_token_id: the blank's class.
        durations: D numbers of frames.
        sigma: subtracted from the log-probabilities of classes.
        reduction: "mean_volume", "mean_batch", "mean", "sum" or "none".
        kwargs: not used.

    Returns:
        The loss: (B,), or reduced.

    Raises:
        TypeError, ValueError: as `tdt_loss`.
    """
    lengths = (logit_lengths, label_lengths)
    with named(targets="labels", target_lengths="label_lengths"):
        return tdt_loss(token_logits, duration_logits, labels, *lengths, blank_token_id, durations, sigma, reduction)
