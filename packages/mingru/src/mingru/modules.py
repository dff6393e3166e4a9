"""minGRU and minLSTM: stacks of layers."""

from __future__ import annotations

import math
from typing import Any, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from . import functional as mF
from ._checks import check_lengths, check_state, check_tensor
from ._modes import is_eager, is_unwatched
from ._plain import child, children, fits, is_untouched_as, parameters_as_they_are, stack_parameters
from ._tensors import pack_like
from .convert import convert_state_dict
from .layer import Layer, check_activation, check_dropout


class _ByEitherName(nn.Module):
    def __new__(cls, *args: Any, **kwargs: Any) -> _ByEitherName:
        """For MinGRU, a ListMinGRU if its arguments have the names of mingru 1.4."""
        if cls is MinGRU and "hidden_size" in kwargs:
            raise TypeError(
                "hidden_size: MinGRU takes input_dims and hidden_dims, or mingru 1.4's input_size and hidden_sizes"
            )
        if cls is MinGRU and ("input_size" in kwargs or "hidden_sizes" in kwargs):
            from .cells import ListMinGRU

            return super().__new__(ListMinGRU)
        return super().__new__(cls)


class MinGRU(_ByEitherName):
    r"""Stacked minGRU (Feng et al., "Were RNNs All We Needed?", arXiv:2410.01201).

    Each layer computes, from its input x (normalised first if `norm`)::

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

    mingru 1.4 calls these `input_size` and `hidden_sizes`; whoever does gets a `cells.ListMinGRU`, whose states are lists.

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

    Example:
        >>> rnn = MinGRU(3, 64, num_layers=2, dropout=0.1, residual=True)
        >>> out, h = rnn(torch.randn(10, 128, 3))
        >>> out.shape, h.shape
        (torch.Size([10, 128, 64]), torch.Size([2, 10, 1, 64]))
        >>> out, h = rnn(torch.randn(10, 50, 3), h)  # goes on where it stopped
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
        check_dropout(dropout)
        check_activation(activation)
        self.input_dims, self.hidden_dims = input_dims, hidden_dims
        self.num_layers, self.num_directions = len(sizes), 2 if bidirectional else 1
        self.dropout, self.bias, self.batch_first = dropout, bias, batch_first
        self.residual, self.norm, self.bidirectional, self.activation = residual, norm, bidirectional, activation
        self.state_size = max(sizes)

        layers = []
        width = input_dims
        for i, size in enumerate(sizes):
            align, align_bias = self._alignment(i, width, size * self.num_directions)
            layers.append(
                Layer(
                    width,
                    size,
                    gates=self.gates,
                    bias=bias,
                    norm=norm,
                    align=residual and align,
                    align_bias=align_bias,
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

    def _alignment(self, layer: int, input_size: int, output_size: int) -> Tuple[bool, bool]:
        """Whether a layer's residual passes through a linear map, and whether that has a bias: as in mingru 1.3."""
        return layer == 0 or input_size != output_size, self.bias and layer == 0

    def reset_parameters(self) -> None:
        """Draws weights and biases of the projections from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as upstream does; norms scale by 1."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                for parameter in module.parameters():
                    nn.init.uniform_(parameter, -bound, bound)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()

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
            reset: bool, shaped like x without its features. Where True, a sequence begins: every layer's state starts afresh, and
                no state passes between that step and the one before, in either direction.
        """
        if not torch.jit.is_scripting():
            if isinstance(x, PackedSequence):
                return self._forward_packed(x, h, lengths, reset)
        batch = self._check_batch(x)
        if not torch.jit.is_scripting():
            if h is None and lengths is None and reset is None:
                made = self._forward_in_ops(x, batch)
                if made is not None:
                    return made
        states: List[Optional[Tensor]] = []
        if h is None:
            for _ in range(self.num_layers):
                states.append(None)
        else:
            h = check_state(h, x, [self.num_layers * self.num_directions, batch, 1, self.state_size])
            for i in range(self.num_layers):
                states.append(h[i * self.num_directions : (i + 1) * self.num_directions])
        out, last = self._run(x, states, lengths, reset)
        padded: List[Tensor] = []
        for state in last:
            padded.append(self._padded(state))
        return out, torch.cat(padded)  # also of one: a view could not be detached in place

    @torch.jit.unused
    def _forward_in_ops(self, x: Tensor, batch: int) -> Optional[Tuple[Tensor, Tensor]]:
        """`forward`, where all layers are nothing but a product and a scan one way: an op each, and as little else as can be."""
        if self.bidirectional or not (is_eager() and is_unwatched()):
            return None
        bare = []
        layers: Any = children(self, "layers")
        for layer in layers:
            is_bare = is_untouched_as(layer, Layer) and layer.is_bare()
            parameters = parameters_as_they_are(child(layer, "gate_hidden")) if is_bare else None
            if parameters is None or not fits(x, parameters[0]):
                return None
            bare.append((layer, parameters))
        last = []
        for layer, (weight, bias) in bare:
            options = (False, layer.activation, self.batch_first, (1, batch, 1, layer.hidden_size))
            x, state = mF.layer_unchecked(x, weight, bias, layer.gates, None, None, None, *options)
            last.append(state)
        return x.contiguous(), last[0] if len(last) == 1 else torch.cat([self._padded(state) for state in last])

    def _check_batch(self, x: Tensor) -> int:
        """B, once x is known to be a batch of sequences."""
        check_tensor("x", x)
        if x.dim() != 3 or x.shape[2] != self.input_dims:
            order = "(B, T, " if self.batch_first else "(T, B, "
            raise ValueError(f"x: expected shape {order}{self.input_dims}), got {list(x.shape)}")
        return x.shape[0 if self.batch_first else 1]

    def _run(
        self, x: Tensor, states: List[Optional[Tensor]], lengths: Optional[Tensor], reset: Optional[Tensor]
    ) -> Tuple[Tensor, List[Tensor]]:
        """All layers, from states (directions, B, 1, >= H_i) to states (directions, B, 1, H_i)."""
        batch_dim = 0 if self.batch_first else 1
        batch, steps = x.shape[batch_dim], x.shape[1 - batch_dim]
        if reset is not None:
            if not self.batch_first:
                check_tensor("reset", reset)
                reset = reset.transpose(0, 1)
        padding: Optional[Tensor] = None
        if lengths is not None:
            lengths = check_lengths(lengths, x, batch, steps)
            padding = torch.arange(steps, device=x.device) >= lengths.unsqueeze(1)
            padding = (padding if self.batch_first else padding.transpose(0, 1)).unsqueeze(2)
            x = x.masked_fill(padding, 0.0)  # NaN there must not reach the weights' gradients
        last: List[Tensor] = []
        if torch.jit.is_scripting():
            for i, layer in enumerate(self.layers):
                x, h_last = layer(x, states[i], lengths, reset)
                last.append(h_last)
        else:
            for layer, state in zip(children(self, "layers"), states):
                x, h_last = layer(x, state, lengths, reset)
                last.append(h_last)
        if padding is not None:
            if self.residual:
                x = x.masked_fill(padding, 0.0)
        return x, last

    @torch.jit.export
    def step(self, x: Tensor, h: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """One step of a stream: x (B, input_dims), h as for `forward`; returns out (B, H_last) and the next h.

        Steps give what `forward` gives for the whole sequence, to rounding.
        """
        if self.bidirectional:
            raise ValueError("step: a bidirectional model needs the whole sequence; call it instead")
        check_tensor("x", x)
        if x.dim() != 2 or x.shape[1] != self.input_dims:
            raise ValueError(f"x: expected shape (B, {self.input_dims}), got {list(x.shape)}")
        states: List[Tensor] = []
        if h is not None:
            h = check_state(h, x, [self.num_layers, x.shape[0], 1, self.state_size])
        if not torch.jit.is_scripting():
            made = self._step_in_one_op(x, h)
            if made is not None:
                return made
        if h is not None:
            states = list(h.squeeze(2).unbind(0))
        last: List[Tensor] = []
        for i, layer in enumerate(self.layers):
            x, h_next = layer.step(x, states[i] if h is not None else None)  # type: ignore[operator]
            last.append(self._padded(h_next).unsqueeze(1))
        return x, torch.stack(last)

    @torch.jit.unused
    def _step_in_one_op(self, x: Tensor, h: Optional[Tensor]) -> Optional[Tuple[Tensor, Tensor]]:
        """`step`, where all layers are of one width and nothing but a product and a scan, and no gradient is wanted."""
        if not is_eager():
            return None
        for layer in children(self, "layers"):
            if not (type(layer) is Layer and layer.is_bare() and layer.activation == self.activation):
                return None
        linears = [child(layer, "gate_hidden") for layer in children(self, "layers")]
        parameters = stack_parameters(linears, (self.gates + 1) * self.state_size, x, h)
        if parameters is None:
            return None
        weights, biases = parameters
        return mF.stack_step_unchecked(x, weights, biases, self.gates, h, self.activation)

    def flatten_parameters(self) -> None:
        """Nothing: for code that calls it, as nn.LSTM needs it. Parameters are used as they lie."""

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
        return pack_like(x, out, sizes, self.batch_first), h

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        convert_state_dict(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class MinLSTM(MinGRU):
    r"""Stacked minLSTM, in its length-independent form (arXiv:2410.01201, section 3.2)::

        k_f, k_i, v = split(W x + b),   f = sigmoid(k_f),   i = sigmoid(k_i),
        h_t = f_t / (f_t + i_t) h_{t-1} + i_t / (f_t + i_t) g(v_t)

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

    Example:
        >>> out, h = MinLSTM(3, 64)(torch.randn(10, 128, 3), lengths=[128] * 9 + [5])
        >>> out.shape, bool((out[9, 5:] == 0).all())
        (torch.Size([10, 128, 64]), True)
    """

    gates = 2
