"""The executable specification: minGRU and minLSTM step by step in plain PyTorch, in any floating dtype.

Slow, differentiable any number of times, and the oracle of the tests. Equations: arXiv:2410.01201, sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._recurrence import absent_steps, present, run_steps

ACTIVATIONS = ("g", "identity", "tanh")


def candidate(v: Tensor, activation: str) -> Tensor:
    """c(v), the candidate state: "g" (appendix B: v + 1/2 where v >= 0, else sigmoid(v)), "identity" or "tanh"."""
    if activation == "g":
        return torch.where(v >= 0, v + 0.5, torch.sigmoid(v))
    return v if activation == "identity" else torch.tanh(v)


def gates(planes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(a, z) of h = a h_prev + z c(v), from the gate planes: (k,) for minGRU or (k_f, k_i) for minLSTM."""
    if len(planes) == 1:
        return torch.sigmoid(-planes[0]), torch.sigmoid(planes[0])
    # f / (f + i) with f = sigmoid(k_f), i = sigmoid(k_i): in logarithms, because both may underflow
    difference = torch.nn.functional.logsigmoid(planes[0]) - torch.nn.functional.logsigmoid(planes[1])
    return torch.sigmoid(difference), torch.sigmoid(-difference)


def scan(
    planes: list[Tensor],
    h0: Tensor,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    activation: str = "g",
    initial: float = 0.5,
    direction: str = "forward",
) -> tuple[Tensor, Tensor]:
    """out (B, T, D), h_last (B, D) from planes (B, T, D), h0 (B, D), lengths (B,) and reset (B, T)."""
    absent = absent_steps(planes[0], lengths)
    planes = present(planes, absent, h0.dtype)
    a, z = gates(planes[:-1])
    b = z * candidate(planes[-1], activation)

    def step(values: Sequence[Tensor], h_prev: Tensor) -> tuple[Tensor, Tensor]:
        h = values[0] * h_prev + values[1]
        return h, h

    return run_steps(step, [a, b], h0, absent, reset=reset, initial=initial, direction=direction)
