"""The executable specification: step by step in plain PyTorch, in any floating dtype; the oracle of the tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._recurrence import absent_steps, present, run_steps, split_planes

PLANES = 2


def scan(
    inputs: list[Tensor], h0: Tensor, lengths: Tensor | None, reset: Tensor | None, direction: str
) -> tuple[Tensor, Tensor]:
    """out (B, T, D), h_last (B, D) from planes (gate, x), h0 (B, D), lengths (B,) and reset (B, T)."""
    absent = absent_steps(inputs[0], lengths)
    gate, x = present(split_planes(inputs, PLANES), absent, h0.dtype)
    keep, take = torch.sigmoid(-gate), torch.sigmoid(gate)  # 1 - f would cancel

    def step(values: Sequence[Tensor], h_prev: Tensor) -> tuple[Tensor, Tensor]:
        h = values[0] * h_prev + values[1]
        return h, h

    return run_steps(step, [keep, take * x], h0, absent, reset=reset, direction=direction)
