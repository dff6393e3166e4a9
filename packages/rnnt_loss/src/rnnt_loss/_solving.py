"""From scores to losses, and back to the shapes that k2 and fast_rnnt know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ._checks import check_integers
from ._modes import wants_gradients
from .recursion import lattice

Loss = Tensor | tuple[Tensor, tuple[Tensor, Tensor]]


def fold_constrained(label: Tensor, blank: Tensor, band: bool) -> Tensor:
    """Labels of a constrained lattice: each is followed by the blank of the next context, at the same frame."""
    following = blank[..., 1:]
    return label + (torch.nn.functional.pad(following, (0, 1), value=-torch.inf) if band else following)


def solve(
    label: Tensor,
    blank: Tensor,
    rnnt_type: str,
    boundary: Tensor | None,
    begin: Tensor | None = None,
    *,
    delay_penalty: float = 0.0,
    fastemit_lambda: float = 0.0,
    emission_window: Tensor | None = None,
    occupancies: bool = False,
    viterbi: bool = False,
) -> tuple[Tensor, ...]:
    """Score (B,), and occupancies (B, T, S or rows), (B, T, rows), if wanted; blank may be (B, 1, T, rows)."""
    if rnnt_type == "constrained":
        label = fold_constrained(label, blank[:, 0] if blank.dim() == 4 else blank, begin is not None)
    if delay_penalty > 0 or emission_window is not None:
        label = _restricted(label, boundary, delay_penalty, emission_window)
    wanted = occupancies or wants_gradients([label, blank], None)
    duration = 0 if rnnt_type == "regular" else 1
    score, *of_arcs = lattice(
        label,
        blank,
        [duration],
        [1],
        boundary,
        begin,
        label_end=duration > 0,
        viterbi=viterbi,
        occupancies=wanted,
        label_weight=1 + fastemit_lambda,
    )
    return score, *(t[:, 0] if t.dim() == 4 else t for t in of_arcs)


def _restricted(label: Tensor, boundary: Tensor | None, delay_penalty: float, emission_window: Tensor | None) -> Tensor:
    """Labels (B, T, S or rows) with what is for or against them at each frame."""
    batch, frames = label.shape[:2]
    t = torch.arange(frames, device=label.device, dtype=label.dtype)[:, None]
    if delay_penalty > 0:
        end = t.new_full((batch, 1, 1), frames) if boundary is None else boundary[:, 3, None, None]
        label = label + delay_penalty * ((end - 1) / 2 - t)
    if emission_window is not None:
        window = check_integers("emission_window", emission_window, [batch, label.shape[2], 2], label)
        label = label.masked_fill((t < window[:, None, :, 0]) | (t > window[:, None, :, 1]), -torch.inf)
    return label


def reduce(score: Tensor, reduction: str, zero_infinity: bool = False) -> Tensor:
    """The loss from scores (B,)."""
    loss = -score
    if zero_infinity:
        loss = torch.where(loss == torch.inf, 0.0, loss)
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


def loss_of(
    label: Tensor,
    blank: Tensor,
    rnnt_type: str,
    boundary: Tensor | None,
    begin: Tensor | None = None,
    *,
    symbols: int,
    reduction: str,
    zero_infinity: bool,
    return_grad: bool,
    **options: Any,
) -> Loss:
    """What a loss returns, from its scores: reduced, and with the occupancies of all S = `symbols` labels if `return_grad`."""
    score, *occupancies = solve(label, blank, rnnt_type, boundary, begin, occupancies=return_grad, **options)
    loss = reduce(score, reduction, zero_infinity)
    if not return_grad:
        return loss
    if begin is not None:
        occupancies = [spread(t, begin, symbols, 0.0) for t in occupancies]
        occupancies[0] = occupancies[0][..., :-1]
    return loss, as_upstream(occupancies, rnnt_type)


def frames_of(taken: Tensor) -> Tensor:
    """The frame (B, S) at which the one path (B, T, S) that was taken emits each symbol; -1 where it does not."""
    if taken.shape[1] == 0:
        return taken.new_full((taken.shape[0], taken.shape[2]), -1, dtype=torch.int64)
    most, frame = taken.max(1)
    return torch.where(most > 0, frame, -1)


def spread(x: Tensor, begin: Tensor, symbols: int, value: float) -> Tensor:
    """A band's (B, T, rows) as (B, T, symbols + 1), with `value` outside of it."""
    rows = torch.arange(x.shape[2], device=x.device)
    return x.new_full((*x.shape[:2], symbols + 1), value).scatter(2, begin[..., None] + rows, x)


def as_logprobs(label: Tensor, blank: Tensor, rnnt_type: str) -> tuple[Tensor, Tensor]:
    """(B, T, S), (B, T, S + 1) as (px, py)."""
    if rnnt_type == "constrained":
        label = fold_constrained(label, blank, band=False)
    px = label.transpose(1, 2)
    if rnnt_type == "regular":
        px = torch.nn.functional.pad(px, (0, 1), value=-torch.inf)
    return px, blank.transpose(1, 2)


def as_upstream(occupancies: Sequence[Tensor], rnnt_type: str) -> tuple[Tensor, Tensor]:
    """Occupancies (B, T, S), (B, T, S + 1) as (px_grad, py_grad)."""
    px_grad, py_grad = (t.transpose(1, 2) for t in occupancies)
    return torch.nn.functional.pad(px_grad, (0, 1)) if rnnt_type == "regular" else px_grad, py_grad
