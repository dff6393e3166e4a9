"""A layer of minGRU or minLSTM."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
from torch import Tensor, nn

from . import functional as mF
from . import reference
from ._checks import check_input
from ._plain import child, fits, fusible, is_plain


class Layer(nn.Module):
    """norm -> projection -> scan (-> + residual) -> dropout: what MinGRU and MinLSTM are stacks of, who check its arguments.

    Args:
        input_size: features of the input.
        hidden_size: features of the state, H, for each direction.
        gates: 1 for minGRU, 2 for minLSTM.
        bias: whether the projections have biases.
        norm: whether the input passes through layer normalisation.
        align, align_bias: whether the residual passes through a linear map, and whether that has a bias.
        residual: whether the input is added to the output.
        bidirectional: a second projection and scan, from a sequence's last step to its first.
        time_first: inputs are (T, B, features).
        dropout: the probability, of the output.
        activation: of the candidate, as MinGRU has it.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        gates: int,
        bias: bool,
        norm: bool,
        align: bool,
        align_bias: bool,
        residual: bool,
        bidirectional: bool,
        time_first: bool,
        dropout: float,
        activation: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.hidden_size, self.gates, self.activation = hidden_size, gates, activation
        self.residual, self.bidirectional, self.time_first = residual, bidirectional, time_first
        planes = (gates + 1) * hidden_size
        # none where absent, rather than nn.Identity, whose call takes as long as a small kernel
        self.norm = nn.LayerNorm(input_size, **factory) if norm else None
        self.gate_hidden = nn.Linear(input_size, planes, bias=bias, **factory)
        self.gate_hidden_reverse = nn.Linear(input_size, planes, bias=bias, **factory) if bidirectional else nn.Identity()
        output_size = hidden_size * (2 if bidirectional else 1)
        self.res_align = nn.Linear(input_size, output_size, bias=align_bias, **factory) if align else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout > 0 else None

    def forward(
        self, x: Tensor, h: Optional[Tensor], lengths: Optional[Tensor], reset: Optional[Tensor]
    ) -> Tuple[Tensor, Tensor]:
        """x (B, T, input_size), h (directions, B, 1, >= H) -> out (B, T, H directions), h (directions, B, 1, H)."""
        y = x
        if self.norm is not None:
            if not torch.jit.is_scripting():
                check_input(x, self.gate_hidden)
            y = self.norm(x)
        out, h_last = self.scan(y, h, 0, lengths, reset)
        if self.bidirectional:
            backward, h_first = self.scan(y, h, 1, lengths, reset)
            out = torch.cat([out, backward], 2)
            h_last = torch.stack([h_last, h_first])
        if self.residual:
            out = out + self.res_align(x)
        if self.dropout is not None:
            out = self.dropout(out)
        return out, h_last.view(2 if self.bidirectional else 1, -1, 1, self.hidden_size)

    @torch.jit.export
    def step(self, x: Tensor, h: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        """x (B, input_size), h (B, >= H) -> out (B, H), h (B, H)."""
        if not torch.jit.is_scripting():
            check_input(x, self.gate_hidden)
        if h is not None:
            if h.shape[1] > self.hidden_size:
                h = h[:, : self.hidden_size]
            h = h.contiguous()
        y = x if self.norm is None else self.norm(x)
        out, h_next = mF.step_unchecked(self.gate_hidden(y), self.gates, h, self.activation)
        if self.residual:
            out = out + self.res_align(x)
        if self.dropout is not None:
            out = self.dropout(out)
        return out, h_next

    def is_bare(self) -> bool:
        """Whether a layer that goes one way is nothing but a projection and a scan, at the moment."""
        known = self.__dict__  # in which modules are not: nn.Module's way to them takes long
        if self.residual or "norm" not in known:
            return False
        if "dropout" in known:
            return True
        dropout = child(self, "dropout")
        return is_plain(dropout, nn.Dropout) and not dropout.training

    def scan(
        self, y: Tensor, h: Optional[Tensor], direction: int, lengths: Optional[Tensor], reset: Optional[Tensor]
    ) -> Tuple[Tensor, Tensor]:
        """One direction's projection of y and scan of it: out like y, and h (B, H)."""
        h0: Optional[Tensor] = None
        if h is not None:
            h0 = h[direction, :, 0, : self.hidden_size]
        if not torch.jit.is_scripting():
            linear = child(self, "gate_hidden_reverse" if direction == 1 else "gate_hidden")
            parameters = fusible(linear)
            if parameters is not None and fits(y, parameters[0]):
                weight, bias = parameters
                options = (direction == 1, self.activation, not self.time_first)
                out, h_last = mF.layer_unchecked(y, weight, bias, self.gates, h0, lengths, reset, *options)
                return out.contiguous(), h_last
            check_input(y, linear)
        planes = self.gate_hidden_reverse(y) if direction == 1 else self.gate_hidden(y)
        if self.time_first:
            planes = planes.transpose(0, 1)
        out, h_last = mF.scan([planes], self.gates, h0, lengths, reset, direction == 1, self.activation)
        return out.transpose(0, 1) if self.time_first else out, h_last


def check_dropout(dropout: float) -> None:
    """Raises ValueError unless it is a probability."""
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout: expected a probability in [0, 1], got {dropout}")


def check_activation(activation: str) -> None:
    """Raises ValueError unless it is one of those known."""
    if activation not in reference.ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(map(repr, reference.ACTIVATIONS))}, got {activation!r}")
