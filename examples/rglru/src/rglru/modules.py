"""RG-LRU as a layer."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from . import functional as F


class Rglru(nn.Module):
    """The real-gated linear recurrent unit: gates of x, (B, T, D), decide how much of x, and of the state, each channel takes."""

    def __init__(self, input_size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.gates = nn.Linear(input_size, 2 * input_size, device=device, dtype=dtype)
        a = torch.empty(input_size, device=device, dtype=dtype).uniform_(0.9, 0.999)  # at sigmoid(r) = 1
        self.decay = nn.Parameter(torch.log(torch.expm1(-torch.log(a) / 8)))

    def forward(
        self, x: Tensor, h0: Optional[Tensor] = None, lengths: Optional[Tensor] = None, reset: Optional[Tensor] = None
    ) -> Tuple[Tensor, Tensor]:
        """out (B, T, D) and h_last (B, D); `lengths` and `reset` as in `functional.scan`."""
        gates = self.gates(x)
        decay = self.decay.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        return F.scan([gates, x.to(gates.dtype), decay], h0, lengths, reset)
