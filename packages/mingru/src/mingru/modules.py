"""minGRU and minLSTM layers, stacks and their convolutional form."""

from __future__ import annotations

import math
from typing import Any, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from . import functional as mF
from ._ops import ACTIVATIONS
from ._shared import check_input, check_lengths, check_state


class MinGRU(nn.Module):
    r"""Stacked minGRU (Feng et al., "Were RNNs All We Needed?", arXiv:2410.01201).

    Each layer computes, from its input x (normalised first if `norm`),

        k, v = split(W x + b),   z = sigmoid(k),   h_t = (1 - z_t) h_{t-1} + z_t g(v_t)

    and hands on h (+ residual), then dropout except after the last layer.

    Args:
        input_dims: features of the input.
        hidden_dims: features of every layer, or a sequence with those of each layer.
        num_layers: number of layers; default 1, or the length of `hidden_dims`.
        dropout: probability, in [0, 1], of zeroing an output of a layer but the last; while training only.
        bias: whether the projections have biases.
        batch_first: input and output are (B, T, features); otherwise (T, B, features).
        residual: adds each layer's input to its output. The first layer's input always passes through a linear map
            (`layers.0.res_align`), a later one's where sizes differ.
        norm: normalises each layer's input with nn.LayerNorm.
        bidirectional: each layer has a second set of weights that runs over the sequence backwards; outputs are
            concatenated, aligned in time, so the next layer sees 2 * hidden_dims features (as in nn.GRU).
        activation: candidate c(v): "g" (the paper's), "identity" or "tanh".
        device, dtype: of the parameters.

    Shape:
        x: (B, T, input_dims), or a PackedSequence.
        h: (L, B, 1, H) with L = num_layers * directions, ordered as in nn.GRU, and H the largest of `hidden_dims`
            (narrower layers use the first of its columns); anything that expands to it. Any sign. Default: g(0) = 1/2
            (0 for the other activations).
        returns: out (B, T, H_last * directions), or a PackedSequence, and h after each sequence's last step,
            (L, B, 1, H): in float32 also for float16 and bfloat16, so that a stream does not stall on rounding.

    Raises:
        ValueError: arguments out of range, or an input, state or length that does not fit.
        TypeError: dtypes that are not floating or differ.
    """

    gates = 1

    def __init__(
        self,
        input_dims: int,
        hidden_dims: int | Sequence[int],
        *,
        num_layers: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = True,
        residual: bool = False,
        norm: bool = False,
        bidirectional: bool = False,
        activation: str = "g",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(hidden_dims, int):
            sizes = [hidden_dims] * (1 if num_layers is None else num_layers)
        else:
            sizes = list(hidden_dims)
        if num_layers is not None and num_layers != len(sizes):
            raise ValueError(f"num_layers: expected {len(sizes)} for hidden_dims={hidden_dims}, got {num_layers}")
        if not sizes:
            raise ValueError(f"num_layers: expected at least one layer, got {num_layers} of hidden_dims={hidden_dims}")
        if min(sizes) < 1 or input_dims < 1:
            raise ValueError(f"input_dims and hidden_dims: expected positive sizes, got {input_dims} and {hidden_dims}")
        _check_dropout(dropout)
        _check_activation(activation)
        self.input_dims, self.hidden_dims = input_dims, hidden_dims
        self.num_layers, self.num_directions = len(sizes), 2 if bidirectional else 1
        self.dropout, self.bias, self.batch_first = dropout, bias, batch_first
        self.residual, self.norm, self.bidirectional, self.activation = residual, norm, bidirectional, activation
        self.state_size = max(sizes)

        layers = []
        width = input_dims
        for i, size in enumerate(sizes):
            layers.append(
                _Layer(
                    width,
                    size,
                    gates=self.gates,
                    bias=bias,
                    norm=norm,
                    align=residual and (i == 0 or width != size * self.num_directions),
                    align_bias=bias and i == 0,
                    residual=residual,
                    bidirectional=bidirectional,
                    time_first=not batch_first,
                    dropout=dropout if i + 1 < len(sizes) else 0.0,
                    activation=activation,
                    device=device,
                    dtype=dtype,
                )
            )
            width = size * self.num_directions
        self.layers = nn.ModuleList(layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights and biases of the projections from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as upstream does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                for parameter in module.parameters():
                    nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        """The constructor's arguments, for print()."""
        names = ("num_layers", "dropout", "bias", "batch_first", "residual", "norm", "bidirectional", "activation")
        return f"{self.input_dims}, {self.hidden_dims}, " + ", ".join(f"{n}={getattr(self, n)}" for n in names)

    def forward(
        self, x: Tensor, h: Optional[Tensor] = None, lengths: Optional[Tensor] = None, reset: Optional[Tensor] = None
    ) -> Tuple[Tensor, Tensor]:
        """Runs all layers over a batch of sequences. Shapes and errors: see the class.

        Args:
            x: input, or a PackedSequence (then `lengths` must be None, and the output is packed alike).
            h: initial states.
            lengths: (B,) integers in 0..T, on the CPU or x's device. Padding is never read, and its outputs are 0.
            reset: bool, shaped like x without its features. Where True, every layer's state starts afresh before that step.
        """
        if not torch.jit.is_scripting():
            if isinstance(x, PackedSequence):
                return self._forward_packed(x, h, lengths, reset)
        if x.dim() != 3 or x.shape[2] != self.input_dims:
            raise ValueError(f"x: expected shape (B, T, {self.input_dims}), got {list(x.shape)}")
        batch_dim = 0 if self.batch_first else 1
        batch, steps = x.shape[batch_dim], x.shape[1 - batch_dim]

        states: Optional[Tensor] = None
        if h is not None:
            shape = [self.num_layers * self.num_directions, batch, 1, self.state_size]
            states = check_state(h, x, shape)
        if reset is not None:
            if not self.batch_first:
                reset = reset.transpose(0, 1)
        padding: Optional[Tensor] = None
        if lengths is not None:
            lengths = check_lengths(lengths, x, batch, steps)
            padding = torch.arange(steps, device=x.device) >= lengths.unsqueeze(1)
            padding = (padding if self.batch_first else padding.transpose(0, 1)).unsqueeze(2)
            x = x.masked_fill(padding, 0.0)  # NaN there must not reach the weights' gradients

        last: List[Tensor] = []
        for i, layer in enumerate(self.layers):
            start: Optional[Tensor] = None
            if states is not None:
                start = states[i * self.num_directions : (i + 1) * self.num_directions]
            x, h_last = layer(x, start, lengths, reset)
            last.append(self._padded(h_last))
        if padding is not None:
            if self.residual:
                x = x.masked_fill(padding, 0.0)
        return x, (last[0] if len(last) == 1 else torch.cat(last)).unsqueeze(2)

    @torch.jit.export
    def step(self, x: Tensor, h: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """One step of a stream: x (B, input_dims), h as for `forward`; returns out (B, H_last) and the next h.

        Steps give what `forward` gives for the whole sequence, to rounding.
        """
        if self.bidirectional:
            raise ValueError("step: a bidirectional model needs the whole sequence; call it instead")
        if x.dim() != 2 or x.shape[1] != self.input_dims:
            raise ValueError(f"x: expected shape (B, {self.input_dims}), got {list(x.shape)}")
        shape = [self.num_layers, x.shape[0], 1, self.state_size]
        states: List[Tensor] = []
        if h is not None:
            states = list(check_state(h, x, shape).squeeze(2).unbind(0))
        last: List[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, h_next = layer.step(x, states[i] if h is not None else None)  # type: ignore[operator]
            last.append(self._padded(h_next))
        return x, (last[0] if len(last) == 1 else torch.stack(last)).view(shape)

    def _padded(self, h: Tensor) -> Tensor:
        missing = self.state_size - h.shape[-1]
        return nn.functional.pad(h, [0, missing]) if missing > 0 else h

    @torch.jit.unused
    def _forward_packed(
        self, x: PackedSequence, h: Tensor | None, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[PackedSequence, Tensor]:
        if lengths is not None:
            raise ValueError("lengths: expected None with a PackedSequence, which has its own")
        padded, sizes = pad_packed_sequence(x, batch_first=self.batch_first)
        out, h = self.forward(padded, h, lengths=sizes, reset=reset)
        packed = pack_padded_sequence(out, sizes, batch_first=self.batch_first, enforce_sorted=x.sorted_indices is None)
        return packed, h

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        _convert_state_dict(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class MinLSTM(MinGRU):
    r"""Stacked minLSTM, in its length-independent form (arXiv:2410.01201, section 3.2).

        k_f, k_i, v = split(W x + b),   f = sigmoid(k_f),   i = sigmoid(k_i),
        h_t = f_t / (f_t + i_t) h_{t-1} + i_t / (f_t + i_t) g(v_t)

    Arguments, shapes and errors are those of `MinGRU`.
    """

    gates = 2


class _Layer(nn.Module):
    """norm -> projection -> scan (-> + residual) -> dropout. h: (directions, B, 1, >= H) -> (directions, B, H)."""

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
        self.normed = norm
        planes = (gates + 1) * hidden_size
        self.norm = nn.LayerNorm(input_size, **factory) if norm else nn.Identity()
        self.gate_hidden = nn.Linear(input_size, planes, bias=bias, **factory)
        self.gate_hidden_reverse = nn.Linear(input_size, planes, bias=bias, **factory) if bidirectional else nn.Identity()
        output_size = hidden_size * (2 if bidirectional else 1)
        self.res_align = nn.Linear(input_size, output_size, bias=align_bias, **factory) if align else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()

    def forward(
        self, x: Tensor, h: Optional[Tensor], lengths: Optional[Tensor], reset: Optional[Tensor]
    ) -> Tuple[Tensor, Tensor]:
        check_input(x, self.gate_hidden.weight)
        y = self.norm(x)
        out, h_last = self.scan(self.gate_hidden(y), h, 0, lengths, reset)
        h_last = h_last.unsqueeze(0)
        if self.bidirectional:
            backward, h_first = self.scan(self.gate_hidden_reverse(y), h, 1, lengths, reset)
            out = torch.cat([out, backward], 2)
            h_last = torch.stack([h_last.squeeze(0), h_first])
        if self.residual:
            out = out + self.res_align(x)
        return self.dropout(out), h_last

    @torch.jit.export
    def step(self, x: Tensor, h: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        """x (B, input_size), h (B, >= H) -> out (B, H), h (B, H)."""
        check_input(x, self.gate_hidden.weight)
        if h is not None:
            if h.shape[1] > self.hidden_size:
                h = h[:, : self.hidden_size]
            h = h.contiguous()
        planes = self.gate_hidden(self.norm(x) if self.normed else x)
        out, h_next = mF.step_unchecked(planes, self.gates, h, self.activation)
        if self.residual:
            out = out + self.res_align(x)
        return self.dropout(out) if self.training else out, h_next

    def scan(
        self, planes: Tensor, h: Optional[Tensor], direction: int, lengths: Optional[Tensor], reset: Optional[Tensor]
    ) -> Tuple[Tensor, Tensor]:
        h0: Optional[Tensor] = None
        if h is not None:
            h0 = h[direction, :, 0, : self.hidden_size]
        if self.time_first:
            planes = planes.transpose(0, 1)
        out, h_last = mF.scan([planes], self.gates, h0, lengths, reset, direction == 1, self.activation)
        return out.transpose(0, 1) if self.time_first else out, h_last


class MinGRUCell(nn.Module):
    """One minGRU layer with nothing around it: x (B, T, input_size), h (B, 1, hidden_size) -> out (B, T, hidden_size), h.

    `activation` and the state are as for `MinGRU`. `step` takes one time step, x (B, input_size).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        activation: str = "g",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_activation(activation)
        self.input_size, self.hidden_size, self.activation = input_size, hidden_size, activation
        self.to_gate_hidden = nn.Linear(input_size, 2 * hidden_size, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor, h: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """Runs over a batch of sequences; raises ValueError or TypeError for inputs that do not fit."""
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x: expected shape (B, T, {self.input_size}), got {list(x.shape)}")
        check_input(x, self.to_gate_hidden.weight)
        if h is not None:
            h = check_state(h, x, [x.shape[0], 1, self.hidden_size]).squeeze(1)
        out, h_last = mF.scan([self.to_gate_hidden(x)], 1, h, activation=self.activation)
        return out, h_last.unsqueeze(1)

    @torch.jit.export
    def step(self, x: Tensor, h: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """One step of a stream: x (B, input_size), h (B, 1, hidden_size) -> out (B, hidden_size), h."""
        if x.dim() != 2 or x.shape[1] != self.input_size:
            raise ValueError(f"x: expected shape (B, {self.input_size}), got {list(x.shape)}")
        check_input(x, self.to_gate_hidden.weight)
        if h is not None:
            h = check_state(h, x, [x.shape[0], 1, self.hidden_size]).squeeze(1)
            h = h.contiguous()
        out, h_next = mF.step_unchecked(self.to_gate_hidden(x), 1, h, self.activation)
        return out, h_next.unsqueeze(1)


class MinConv2dGRUCell(nn.Module):
    """One convolutional minGRU layer: gate and candidate come from a Conv2d over each frame.

    x (B, T, input_size, H, W), h [(B, 1, hidden_size, H', W')] -> out (B, T, hidden_size, H', W') and the next h. h is a
    list, as for `MinConv2dGRU`; its entry expands to that shape.
    """

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
        _check_activation(activation)
        self.input_size, self.activation = input_size, activation
        self.to_gate_hidden = nn.Conv2d(
            input_size, 2 * hidden_size, kernel_size, stride, padding, bias=bias, device=device, dtype=dtype
        )

    def forward(self, x: Tensor, h: Optional[List[Tensor]] = None) -> Tuple[Tensor, List[Tensor]]:
        """Runs over a batch of videos; raises ValueError or TypeError for inputs that do not fit."""
        _check_frames(x, self.input_size)
        _check_states(h, 1)
        check_input(x, self.to_gate_hidden.weight)
        planes = self.to_gate_hidden(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        out, h_last = _scan_frames(planes, h[0] if h is not None else None, self.activation)
        return out, [h_last]


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
    """

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
        _check_dropout(dropout)
        _check_activation(activation)
        self.input_size, self.num_layers = input_size, len(sizes)

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

    def forward(self, x: Tensor, h: Optional[List[Tensor]] = None) -> Tuple[Tensor, List[Tensor]]:
        """Runs all layers over a batch of videos; raises ValueError or TypeError for inputs that do not fit."""
        _check_frames(x, self.input_size)
        _check_states(h, self.num_layers)
        last: List[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, h_last = layer(x, h[i] if h is not None else None)
            last.append(h_last)
        return x, last


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

    def forward(self, x: Tensor, h: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        check_input(x, self.gate_hidden.weight)
        frames = x.flatten(0, 1)
        planes = self.gate_hidden(self.norm(frames)).unflatten(0, x.shape[:2])
        out, h_last = _scan_frames(planes, h, self.activation)
        if self.residual:
            out = out + self.res_align(frames).unflatten(0, x.shape[:2])
        return self.dropout(out), h_last


def _scan_frames(planes: Tensor, h: Optional[Tensor], activation: str) -> Tuple[Tensor, Tensor]:
    """planes (B, T, 2 C, H, W), h (B, 1, C, H, W) -> out (B, T, C, H, W), h."""
    if h is not None:
        channels = planes.shape[2] // 2
        h = check_state(h, planes, [planes.shape[0], 1, channels, planes.shape[3], planes.shape[4]]).squeeze(1)
    out, h_last = mF.scan([planes], 1, h, activation=activation)
    return out, h_last.unsqueeze(1)


def _groups(channels: int) -> int:
    """As many groups, of those usual, as leave each at least 4 channels (or all, where there are fewer)."""
    return next(n for n in (64, 32, 16, 8, 4, 1) if channels % n == 0 and channels // n >= min(4, channels))


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout <= 1:
        raise ValueError(f"dropout: expected a probability in [0, 1], got {dropout}")


def _check_activation(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")


def _check_frames(x: Tensor, channels: int) -> None:
    if x.dim() != 5 or x.shape[2] != channels:
        raise ValueError(f"x: expected shape (B, T, {channels}, H, W), got {list(x.shape)}")


def _check_states(h: Optional[List[Tensor]], layers: int) -> None:
    if h is not None:
        if len(h) != layers:
            raise ValueError(f"h: expected a list of {layers} tensors, one per layer, got {len(h)}")


def _convert_state_dict(model: MinGRU, state_dict: dict[str, Any], prefix: str) -> None:
    """Rewrites, in place, a state dict of upstream mingru 1.3.0 or 1.4.x, or of minGRU-pytorch, to this layout."""
    own = model.state_dict()

    def rename(old: str, new: str, permutation: tuple[int, ...] | None = None) -> None:
        for kind in ("weight", "bias"):
            value = state_dict.pop(f"{prefix}{old}.{kind}", None)
            if value is not None and permutation is not None:
                blocks = value.chunk(len(permutation))
                value = torch.cat([blocks[i] for i in permutation])
            if value is not None:
                state_dict[f"{prefix}{new}.{kind}"] = value

    def fill(key: str, value: Tensor) -> None:
        if key in own:
            state_dict.setdefault(prefix + key, value)

    if f"{prefix}linear_gate_hidden.0.weight" in state_dict:  # mingru 1.3.0
        for i in range(model.num_layers):
            rename(f"linear_gate_hidden.{i}", f"layers.{i}.gate_hidden")
        rename("input_residual_align", "layers.0.res_align")
    elif f"{prefix}to_hidden_and_gate.weight" in state_dict:  # minGRU-pytorch: [hidden, gate], never a bias
        rename("to_hidden_and_gate", "layers.0.gate_hidden", (1, 0))
        fill("layers.0.gate_hidden.bias", torch.zeros(2 * model.state_size))
    elif f"{prefix}to_hidden_and_f_i_gate.weight" in state_dict:  # its minLSTM: [hidden, f, i]
        rename("to_hidden_and_f_i_gate", "layers.0.gate_hidden", (1, 2, 0))
        fill("layers.0.gate_hidden.bias", torch.zeros(3 * model.state_size))
    elif f"{prefix}layers.0.gate_hidden.weight" in state_dict and f"{prefix}layers.0.res_align.bias" not in state_dict:
        # mingru 1.4.x aligns the first layer without a bias, and only where sizes differ
        weight = own.get("layers.0.res_align.weight")
        if weight is not None and (weight.shape[0] == weight.shape[1] or prefix + "layers.0.res_align.weight" in state_dict):
            fill("layers.0.res_align.weight", torch.eye(weight.shape[0]))
            fill("layers.0.res_align.bias", torch.zeros(weight.shape[0]))
