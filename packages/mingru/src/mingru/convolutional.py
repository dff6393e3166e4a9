"""Convolutional minGRU, for video.

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from . import functional as mF
from ._checks import check_input, check_state, check_tensor
from .cells import check_states, fresh_state
from .layer import check_activation, check_dropout


class MinConv2dGRUCell(nn.Module):
    """One convolutional minGRU layer: gate and candidate come from a Conv2d over each frame.

    x (B, T, input_size, H, W), h [(B, 1, hidden_size, H', W')] -> out (B, T, hidden_size, H', W') and the next h. h is a
    list, as for `MinConv2dGRU`; its entry expands to that shape.
    """

    layer_sizes: Final[tuple[int, ...]]
    num_layers: Final[int]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        activation: str = "g",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_activation(activation)
        self.input_size, self.activation = input_size, activation
        self.layer_sizes = (input_size, hidden_size)
        self.num_layers = 1
        self.to_gate_hidden = nn.Conv2d(
            input_size, 2 * hidden_size, kernel_size, stride, padding, bias=bias, device=device, dtype=dtype
        )

    def forward(self, x: Tensor, h: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Runs over a batch of videos; raises ValueError or TypeError for inputs that do not fit."""
        _check_frames(x, self.input_size)
        check_states(h, 1)
        if not torch.jit.is_scripting():
            check_input(x, self.to_gate_hidden)
        planes = self.to_gate_hidden(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        out, h_last = _scan_frames(planes, h[0] if h is not None else None, self.activation)
        return out, [h_last]

    @torch.jit.export
    def init_hidden_state(self, x: Tensor) -> list[Tensor]:
        """The state that a video begins with where none is given, for a batch like x."""
        with torch.no_grad():
            planes = self.to_gate_hidden(x[:1, :1].flatten(0, 1))
        return [fresh_frames(planes, x.shape[0], self.activation)]


class MinConv2dGRU(nn.Module):
    """Stacked convolutional minGRU for video.

    Args:
        input_size: channels of the input.
        hidden_sizes: channels of each layer, an int for one layer.
        kernel_sizes, strides, paddings: of each layer's Conv2d; an int serves all layers.
        dropout: probability, in [0, 1], of zeroing an output of a layer but the last; while training only.
        residual: adds each layer's input to its output, through a convolution where channels or frame sizes differ.
        bias: whether the convolutions of gates and candidates have biases.
        norm: normalises each layer's input with nn.GroupNorm.
        activation, device, dtype: as for `MinGRU`.

    Shape:
        x: (B, T, input_size, H, W); h: a list with (B, 1, hidden_sizes[i], H_i, W_i), or what expands to it, per layer.
        returns: out (B, T, hidden_sizes[-1], H', W') and h after the last frame, float32 at least.

    Raises:
        ValueError: arguments out of range, or an input or state that does not fit.
        TypeError: dtypes that are not floating or differ.

    Example:
        >>> rnn = MinConv2dGRU(3, [16, 32], kernel_sizes=3, paddings=1, strides=[1, 2])
        >>> out, h = rnn(torch.randn(2, 10, 3, 32, 32))  # video (B, T, C, H, W)
        >>> out.shape, [state.shape for state in h]
        (torch.Size([2, 10, 32, 16, 16]), [torch.Size([2, 1, 16, 32, 32]), torch.Size([2, 1, 32, 16, 16])])
    """

    layer_sizes: Final[tuple[int, ...]]
    num_layers: Final[int]

    def __init__(
        self,
        input_size: int,
        hidden_sizes: int | Sequence[int],
        kernel_sizes: int | Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        paddings: int | Sequence[int] = 0,
        dropout: float = 0.0,
        residual: bool = False,
        bias: bool = True,
        norm: bool = False,
        activation: str = "g",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes = [hidden_sizes] if isinstance(hidden_sizes, int) else list(hidden_sizes)
        check_dropout(dropout)
        check_activation(activation)
        self.input_size, self.num_layers, self.activation = input_size, len(sizes), activation
        self.layer_sizes = (input_size, *sizes)

        def per_layer(name: str, values: int | Sequence[int]) -> list[int]:
            values = [values] * len(sizes) if isinstance(values, int) else list(values)
            if len(values) != len(sizes):
                raise ValueError(f"{name}: expected {len(sizes)} values, one per layer, got {len(values)}")
            return values

        kernels, strides = per_layer("kernel_sizes", kernel_sizes), per_layer("strides", strides)
        paddings = per_layer("paddings", paddings)
        layers = []
        for i, size in enumerate(sizes):
            layers.append(
                _Conv2dLayer(
                    input_size,
                    size,
                    (kernels[i], strides[i], paddings[i]),
                    bias=bias,
                    norm=norm,
                    residual=residual,
                    dropout=dropout if i + 1 < len(sizes) else 0.0,
                    activation=activation,
                    factory={"device": device, "dtype": dtype},
                )
            )
            input_size = size
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, h: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Runs all layers over a batch of videos; raises ValueError or TypeError for inputs that do not fit."""
        _check_frames(x, self.input_size)
        check_states(h, self.num_layers)
        last: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, h_last = layer(x, h[i] if h is not None else None)
            last.append(h_last)
        return x, last

    def flatten_parameters(self) -> None:
        """Nothing: for code that calls it, as nn.LSTM needs it. Parameters are used as they lie."""

    @torch.jit.export
    def init_hidden_state(self, x: Tensor) -> list[Tensor]:
        """The states that a video begins with where none are given, for a batch like x."""
        states: list[Tensor] = []
        frame = x[:1, :1].flatten(0, 1)
        with torch.no_grad():
            for layer in self.layers:
                planes: Tensor = layer.gate_hidden(frame)  # type: ignore[operator]
                states.append(fresh_frames(planes, x.shape[0], self.activation))
                frame = planes.chunk(2, 1)[0]
        return states


class _Conv2dLayer(nn.Module):
    """norm -> convolution -> scan (-> + residual) -> dropout. x (B, T, C, H, W), h (B, 1, C', H', W')."""

    def __init__(
        self,
        input_size: int,
        size: int,
        shape: tuple[int, int, int],
        *,
        bias: bool,
        norm: bool,
        residual: bool,
        dropout: float,
        activation: str,
        factory: dict[str, Any],
    ) -> None:
        super().__init__()
        self.residual, self.activation = residual, activation
        kernel, stride, padding = shape
        same = input_size == size and stride == 1 and 2 * padding == kernel - 1
        self.norm = nn.GroupNorm(_groups(input_size), input_size, **factory) if norm else nn.Identity()
        self.gate_hidden = nn.Conv2d(input_size, 2 * size, *shape, bias=bias, **factory)
        align = residual and not same
        self.res_align = nn.Conv2d(input_size, size, *shape, bias=False, **factory) if align else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting():
            check_input(x, self.gate_hidden)
        frames = x.flatten(0, 1)
        planes = self.gate_hidden(self.norm(frames)).unflatten(0, x.shape[:2])
        out, h_last = _scan_frames(planes, h, self.activation)
        if self.residual:
            out = out + self.res_align(frames).unflatten(0, x.shape[:2])
        return self.dropout(out), h_last


def _scan_frames(planes: Tensor, h: Tensor | None, activation: str) -> tuple[Tensor, Tensor]:
    """planes (B, T, 2 C, H, W), h (B, 1, C, H, W) -> out (B, T, C, H, W), h."""
    if h is not None:
        channels = planes.shape[2] // 2
        h = check_state(h, planes, [planes.shape[0], 1, channels, planes.shape[3], planes.shape[4]]).squeeze(1)
    out, h_last = mF.scan([planes], 1, h, activation=activation)
    return out, torch.stack([h_last], 1)


def fresh_frames(planes: Tensor, batch: int, activation: str) -> Tensor:
    """The state before the first frame, (B, 1, C, H, W), from what the convolution makes of one frame, (1, 2 C, H, W)."""
    return fresh_state(planes, [batch, 1, planes.shape[1] // 2, planes.shape[2], planes.shape[3]], activation)


def _groups(channels: int) -> int:
    """As many groups, of those usual, as leave each at least 4 channels (or all, where there are fewer)."""
    return next(n for n in (64, 32, 16, 8, 4, 1) if channels % n == 0 and channels // n >= min(4, channels))


def _check_frames(x: Tensor, channels: int) -> None:
    check_tensor("x", x)
    if x.dim() != 5 or x.shape[2] != channels:
        raise ValueError(f"x: expected shape (B, T, {channels}, H, W), got {list(x.shape)}")
