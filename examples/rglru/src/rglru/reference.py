"""The executable specification: RG-LRU (Griffin, arXiv:2402.19427, section 2.4) step by step; the oracle of the tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._recurrence import absent_steps, present, run_steps, split_planes, starts

PLANES = 3


def scan(
    inputs: list[Tensor], h0: Tensor, lengths: Tensor | None, reset: Tensor | None, direction: str
) -> tuple[Tensor, Tensor]:
    """out (B, T, D), h_last (B, D) from planes (recurrence gate, input gate, x) and the parameter Lambda (D,)."""
    *planes, decay = inputs
    absent = absent_steps(planes[0], lengths)
    r, i, x = present(split_planes(planes, PLANES), absent, h0.dtype)
    log_a = -8 * torch.nn.functional.softplus(decay.to(h0.dtype), threshold=100) * torch.sigmoid(r)
    m = torch.sqrt((-torch.expm1(2 * log_a)).clamp(min=torch.finfo(h0.dtype).tiny))
    if reset is not None:
        m = m.masked_fill(starts(reset, absent, m.shape[2], direction), 1.0)

    def step(values: Sequence[Tensor], h_prev: Tensor) -> tuple[Tensor, Tensor]:
        h = values[0] * h_prev + values[1]
        return h, h

    gated = m * torch.sigmoid(i) * x
    return run_steps(step, [torch.exp(log_a), gated], h0, absent, reset=reset, direction=direction)
