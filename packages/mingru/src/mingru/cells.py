"""minGRU as mingru 1.4 has it, with a list of states: a bare layer, a stack, and a layer that goes both ways.

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

# Lists of states are what differs, and TorchScript takes no comment where this belongs:
# mypy: disable-error-code="override"

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from . import functional as mF
from ._checks import check_input, check_state, check_tensor
from .layer import check_activation
from .modules import MinGRU


class MinGRUCell(nn.Module):
    """One minGRU layer with nothing around it (arXiv:2410.01201, section 3.1).

    Args:
        input_size: features of the input.
        hidden_size: features of the state.
        bias: whether the projection has a bias.
        activation: candidate c(v): "g" (the paper's), "identity" or "tanh".
        device, dtype: of the parameters.

    Shape:
        x: (B, T, input_size).
        h: [(B, 1, hidden_size)]; its entry may be anything that expands to that. Default: g(0) = 1/2 (0 for the other
            activations).
        returns: out (B, T, hidden_size), and [h] after the last step, in float32 also for float16 and bfloat16.

    Raises:
        ValueError: an argument out of range, or an input or state that does not fit.
        TypeError: dtypes that are not floating or differ.
    """

    layer_sizes: Final[tuple[int, ...]]
    num_layers: Final[int]

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
        check_activation(activation)
        self.input_size, self.hidden_size, self.activation = input_size, hidden_size, activation
        self.layer_sizes = (input_size, hidden_size)
        self.num_layers = 1
        self.to_gate_hidden = nn.Linear(input_size, 2 * hidden_size, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor, h: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Runs over a batch of sequences. Shapes and errors: see the class."""
        check_tensor("x", x)
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x: expected shape (B, T, {self.input_size}), got {list(x.shape)}")
        if not torch.jit.is_scripting():
            check_input(x, self.to_gate_hidden)
        out, h_last = mF.scan([self.to_gate_hidden(x)], 1, self._state(x, h), activation=self.activation)
        return out, [torch.stack([h_last], 1)]

    @torch.jit.export
    def step(self, x: Tensor, h: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """One step of a stream: x (B, input_size), [h (B, 1, hidden_size)] -> out (B, hidden_size), [h]."""
        check_tensor("x", x)
        if x.dim() != 2 or x.shape[1] != self.input_size:
            raise ValueError(f"x: expected shape (B, {self.input_size}), got {list(x.shape)}")
        if not torch.jit.is_scripting():
            check_input(x, self.to_gate_hidden)
        out, h_next = mF.step_unchecked(self.to_gate_hidden(x), 1, self._state(x, h), self.activation)
        return out, [torch.stack([h_next], 1)]

    @torch.jit.export
    def init_hidden_state(self, x: Tensor) -> list[Tensor]:
        """The state that a sequence begins with where none is given, for a batch like x (B, T, input_size)."""
        return [fresh_state(x, [x.shape[0], 1, self.hidden_size], self.activation)]

    def _state(self, x: Tensor, h: list[Tensor] | None) -> Tensor | None:
        check_states(h, 1)
        if h is None:
            return None
        return check_state(h[0], x, [x.shape[0], 1, self.hidden_size], "h[0]").squeeze(1).contiguous()


class ListMinGRU(MinGRU):
    r"""`MinGRU` with the names and the states of mingru 1.4; `MinGRU(input_size=, hidden_sizes=)` makes one.

    Args:
        input_size: features of the input.
        hidden_sizes: features of each layer, an int for one layer.
        bias: whether the projections have biases.
        norm: normalises each layer's input with nn.LayerNorm.
        dropout: probability, in [0, 1], of zeroing an output of a layer but the last; while training only.
        residual: adds each layer's input to its output, through a linear map without bias where sizes differ.
        device, dtype: of the parameters.
        options: `batch_first`, `bidirectional` and `activation` of `MinGRU`.

    Shape:
        x: (B, T, input_size), or a PackedSequence.
        h: a list with (B, 1, hidden_sizes[i]), or what expands to it, for each layer; twice as long if bidirectional,
            ordered as in nn.GRU. Default: g(0) = 1/2 (0 for the other activations).
        returns: out (B, T, hidden_sizes[-1] * directions), and the states after each sequence's last step, as such a list.

    Raises:
        ValueError: arguments out of range, or an input, state or length that does not fit.
        TypeError: dtypes that are not floating or differ.
    """

    layer_sizes: Final[tuple[int, ...]]

    def __init__(self, input_size: int, hidden_sizes: int | Sequence[int], **options: Any) -> None:
        super().__init__(input_size, hidden_sizes, **options)
        self.layer_sizes = (input_size, *([hidden_sizes] if isinstance(hidden_sizes, int) else hidden_sizes))

    def _alignment(self, layer: int, input_size: int, output_size: int) -> tuple[bool, bool]:
        return input_size != output_size, False

    def forward(
        self,
        x: Tensor,
        h: list[Tensor] | None = None,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs all layers over a batch of sequences. Shapes and errors: see the class.

        Args:
            x: input, or a PackedSequence (then `lengths` must be None, and the output is packed alike).
            h: initial states.
            lengths: (B,) integers in 0..T, on the CPU or x's device, or a list. Padding is never read, its outputs are 0.
            reset: bool, shaped like x without its features. Where True, every layer's state starts afresh at that step.
        """
        if not torch.jit.is_scripting():
            if isinstance(x, nn.utils.rnn.PackedSequence):
                return self._forward_packed(x, h, lengths, reset)
        return self._forward_padded(x, h, lengths, reset)

    def _forward_padded(
        self, x: Tensor, h: list[Tensor] | None, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        batch = self._check_batch(x)
        directions = self.num_directions
        check_states(h, self.num_layers * directions)
        states: list[Tensor | None] = []
        for i in range(self.num_layers):
            if h is None:
                states.append(None)
            else:
                shape = [batch, 1, self.layer_sizes[i + 1]]
                each: list[Tensor] = []
                for j in range(i * directions, (i + 1) * directions):
                    each.append(check_state(h[j], x, shape, f"h[{j}]"))
                states.append(torch.stack(each))
        out, last = self._run(x, states, lengths, reset)
        flat: list[Tensor] = []
        for state in last:
            for direction in range(directions):
                flat.append(state[direction].clone())
        return out, flat

    @torch.jit.export
    def step(self, x: Tensor, h: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """One step of a stream: x (B, input_size), h as for `forward`; returns out (B, H_last) and the next h."""
        check_tensor("x", x)
        if x.dim() != 2:
            raise ValueError(f"x: expected shape (B, {self.input_dims}), got {list(x.shape)}")
        dim = 1 if self.batch_first else 0
        out, last = self._forward_padded(x.unsqueeze(dim), h, None, None)  # forward itself would get in the way of a trace
        return out.squeeze(dim), last

    @torch.jit.export
    def init_hidden_state(self, x: Tensor) -> list[Tensor]:
        """The states that a sequence begins with where none are given, for a batch like x."""
        states: list[Tensor] = []
        for size in self.layer_sizes[1:]:
            for _ in range(self.num_directions):
                states.append(fresh_state(x, [x.shape[0 if self.batch_first else 1], 1, size], self.activation))
        return states


class Bidirectional(nn.Module):
    """Runs a module of this file, or a convolutional one, over a sequence and over the same sequence reversed.

    Both directions have the same weights, and what the second returns stays in reversed order, both as in mingru 1.4:
    `MinGRU(bidirectional=True)` has weights for each direction, and aligns them in time.

    Args:
        rnn: a module with `num_layers`, `layer_sizes`, `init_hidden_state` and a list of states.

    Shape:
        x: as for `rnn`, batch first.
        h: the states of the first direction, then those of the second.
        returns: out, with the directions side by side in dimension 2, and the next h.
    """

    layer_sizes: Final[tuple[int, ...]]
    num_layers: Final[int]
    if TYPE_CHECKING:
        rnn: Any

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn
        self.layer_sizes, self.num_layers = self.rnn.layer_sizes, self.rnn.num_layers

    def forward(self, x: Tensor, h: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Runs over a batch of sequences, both ways; errors are those of `rnn`, or a ValueError for the number of states."""
        check_states(h, 2 * self.num_layers)
        first: list[Tensor] | None = None
        second: list[Tensor] | None = None
        if h is not None:
            first = h[: self.num_layers]
            second = h[self.num_layers :]
        forward, h_forward = self.rnn(x, first)
        backward, h_backward = self.rnn(x.flip([1]), second)
        return torch.cat([forward, backward], 2), h_forward + h_backward

    def flatten_parameters(self) -> None:
        """Nothing: for code that calls it, as nn.LSTM needs it. Parameters are used as they lie."""

    @torch.jit.export
    def init_hidden_state(self, x: Tensor) -> list[Tensor]:
        """The states that a sequence begins with where none are given, for a batch like x."""
        forward: list[Tensor] = self.rnn.init_hidden_state(x)
        backward: list[Tensor] = self.rnn.init_hidden_state(x)
        return forward + backward


def fresh_state(like: Tensor, shape: list[int], activation: str) -> Tensor:
    """c(0) everywhere, in the dtype and on the device of `like`."""
    return torch.full(shape, 0.5 if activation == "g" else 0.0, dtype=like.dtype, device=like.device)


def check_states(h: list[Tensor] | None, count: int) -> None:
    """Raises unless h is None or a list of so many states."""
    if not torch.jit.is_scripting():
        if h is not None and not isinstance(h, (list, tuple)):
            raise TypeError(f"h: expected a list of {count} tensors, one per layer, got {type(h).__name__}")
    if h is not None:
        if len(h) != count:
            raise ValueError(f"h: expected a list of {count} tensors, one per layer, got {len(h)}")
