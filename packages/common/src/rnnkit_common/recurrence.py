"""The loop over time that the references of all scans share, in operations that torch can differentiate any number of times.

`_recurrence.py` in a family is a link to this file, and a copy of it in its wheel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def split_planes(inputs: list[Tensor], count: int) -> list[Tensor]:
    """`count` planes (B, T, D) from tensors (B, T, k * D) that hold some of them each, side by side."""
    width = sum(t.shape[2] for t in inputs) // count
    if width == 0:
        return [inputs[0]] * count
    return [plane for t in inputs for plane in t.split(width, dim=-1)]


def absent_steps(like: Tensor, lengths: Tensor | None, pad: Tensor | None = None) -> Tensor:
    """(B, T) bool, of sequences (B, T, ...): what lies behind `lengths` (B,), or is marked by `pad` (B, T)."""
    batch, steps = like.shape[:2]
    absent = torch.zeros(batch, steps, dtype=torch.bool, device=like.device) if pad is None else pad
    if lengths is not None:
        absent = absent | (torch.arange(steps, device=like.device) >= lengths[:, None])
    return absent


def present(sequences: list[Tensor], absent: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The sequences in `dtype`, and 0 where they are absent, whatever stands there."""
    return [t.masked_fill(absent[..., None], 0.0).to(dtype) for t in sequences]


def goes_back(channels: int, direction: str, device: torch.device) -> Tensor:
    """(D,) bool: the channels that are walked from the last step to the first."""
    first = {"forward": channels, "backward": 0, "both": channels // 2}[direction]
    return torch.arange(channels, device=device) >= first


def starts(reset: Tensor, absent: Tensor, channels: int, direction: str) -> Tensor:
    """(B, T, D) bool: the steps into which no state passes, where `reset` (B, T) marks those at which a sequence begins."""
    steps = reset.shape[1]
    if steps == 0:
        return reset[..., None].expand(-1, -1, channels)
    places = torch.arange(steps, device=reset.device).expand_as(reset).masked_fill(absent, steps)
    later = torch.cat(
        [places[:, 1:], torch.full_like(places[:, :1], steps)], 1
    )  # of steps that are there, the next is the least
    later = later.flip(1).cummin(1).values.flip(1)
    following = torch.cat([reset, torch.zeros_like(reset[:, :1])], 1).gather(1, later)
    return torch.where(goes_back(channels, direction, reset.device), following[..., None], reset[..., None])


def run_steps(
    step: Callable[..., tuple[Tensor, Tensor]],
    sequences: list[Tensor],
    h0: Tensor,
    absent: Tensor,
    *,
    reset: Tensor | None = None,
    initial: float = 0.0,
    direction: str = "forward",
) -> tuple[Tensor, Tensor]:
    """out (B, T, D) and the last state (B, D).

    Args:
        step: (one value (B, D) of each sequence, h_prev) -> (h, out).
        sequences: (B, T, D) each, 0 in absent steps.
        h0: (B, D), in the dtype of all that is computed.
        absent: (B, T) bool; such a step leaves the state as it is, and its out is 0.
        reset: (B, T) bool; at such a step a sequence begins, from `initial`: no state passes into it, or, backward, out of it.
        direction: "forward"; "backward", from the last step to the first; or "both": the second half of the channels backward.
    """
    steps, channels = sequences[0].shape[1:]
    back = goes_back(channels, direction, h0.device)
    fresh = None if reset is None else starts(reset, absent, channels, direction)

    def at(t: Tensor, i: int) -> Tensor:
        """Step i of (B, T, 1) or (B, T, D), in the order of processing."""
        if direction == "both":
            return torch.where(back, t[:, steps - 1 - i], t[:, i])
        return t[:, i if direction == "forward" else steps - 1 - i]

    h, rows = h0, []
    for i in range(steps):
        before = h if fresh is None else torch.where(at(fresh, i), h.new_tensor(initial), h)
        after, out = step([at(t, i) for t in sequences], before)
        is_absent = at(absent[..., None], i)
        rows.append(out.masked_fill(is_absent, 0.0))
        h = torch.where(is_absent, h, after)
    if not rows:
        return sequences[0], h
    forward = torch.stack(rows, dim=1)
    return torch.where(back, forward.flip(1), forward), h
