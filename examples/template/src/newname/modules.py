"""Newname as a layer."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from . import functional as F
from ._checks import check_input


class Newname(nn.Module):
    """One layer: a linear map of the input makes gate and candidate of each channel, and `functional.scan` averages them.

    Args:
        input_size: features of the input.
        hidden_size: channels, features of the output.
        bias: whether the linear map has one.
        device, dtype: of the parameters.

    Shapes:
        x (B, T, input_size), h0 (B, hidden_size) or None -> out (B, T, hidden_size), h_last (B, hidden_size).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.linear = nn.Linear(input_size, 2 * hidden_size, bias, device, dtype)

    def extra_repr(self) -> str:
        """The constructor's arguments, for print()."""
        return f"{self.input_size}, {self.hidden_size}"

    def forward(
        self,
        x: Tensor,
        h0: Optional[Tensor] = None,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor]:
        """See the class; `lengths` and `reset` as in `functional.scan`."""
        if not torch.jit.is_scripting():
            check_input(x, self.linear)
        return F.scan([self.linear(x)], h0, lengths, reset)
