"""Stacks of QRNN layers.

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from . import functional as qF
from ._checks import check_state, check_tensor
from ._modes import is_eager, is_unwatched
from ._plain import child, children, fits, is_untouched_as, parameters_as_they_are, stack_parameters
from ._tensors import pack_like
from .convert import join_language_model
from .layer import QRNNLayer, check_sequence

_LAYER_OPTIONS = {"save_prev_x", "zoneout", "zoneout_mode", "output_gate", "use_cuda", "pooling", "device", "dtype"}


class QRNN(nn.Module):
    r"""Stacked QRNN layers: a drop-in for nn.LSTM in many uses. Equations: `QRNNLayer`.

    Args:
        input_size: features of the input.
        hidden_size: features of each layer's state, and of the output.
        num_layers: number of layers.
        bias: whether the projections have biases.
        batch_first: input and output are (B, T, features) instead of (T, B, features).
        dropout: probability, in [0, 1], of zeroing an output of a layer but the last; while training only.
        bidirectional: every layer has a partner with weights of its own that runs backward.
        layers: QRNNLayer instances to stack, instead of new ones.
        n_layers: fastai's name of `num_layers`.
        join: where the directions of a bidirectional QRNN meet. "layer": each layer sees both directions of the one below, as
            in nn.LSTM. "top": two stacks, concatenated at the end, as in fastai.
        window: of all layers, or one for each; None is fastai's choice: 2 for the first layer, 1 for the others.
        layer_options: further arguments of every QRNNLayer: save_prev_x, zoneout, zoneout_mode, output_gate, pooling,
            device, dtype.

    Shape:
        X: (T, B, input_size), (B, T, input_size) if `batch_first`, (T, input_size) for one sequence alone, or a
            PackedSequence.
        hidden: (num_layers * directions, B, H), ordered as in nn.LSTM: first layer forward, first layer backward, second
            layer forward, ...; (..., H) for one sequence alone. H is the largest hidden_size of the layers; smaller ones use
            the first columns.
        returns: output (T, B, directions * H) like X; and the next hidden: c (not h) after each sequence's last step, in
            float32 also for 16-bit types. Fed back, it continues the sequence; with a window > 1 so does `save_prev_x`.

    Raises:
        ValueError: arguments out of range, layers that do not chain, or an input, state or length that does not fit.
        TypeError: dtypes that are not floating or differ.

    Example:
        >>> rnn = QRNN(128, 256, num_layers=2, dropout=0.4, window=2)
        >>> output, hidden = rnn(torch.randn(7, 20, 128))  # (T, B, features)
        >>> output.shape, hidden.shape
        (torch.Size([7, 20, 256]), torch.Size([2, 20, 256]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: Optional[int] = None,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        layers: Optional[Sequence[QRNNLayer]] = None,
        *,
        n_layers: Optional[int] = None,
        join: str = "layer",
        window: Union[int, Sequence[int], None] = 1,
        **layer_options: Any,
    ) -> None:
        super().__init__()
        unknown = sorted(layer_options.keys() - _LAYER_OPTIONS)
        if unknown:
            raise TypeError(
                f"{unknown[0]}: not an argument of QRNN, nor one of its layers: {', '.join(sorted(_LAYER_OPTIONS))}"
            )
        if n_layers is not None:
            if num_layers not in (1, n_layers):
                raise ValueError(f"n_layers: expected one number of layers, got {n_layers} and num_layers={num_layers}")
            num_layers = n_layers
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a probability in [0, 1], got {dropout}")
        if join not in ("layer", "top"):
            raise ValueError(f"join: expected 'layer' or 'top', got {join!r}")
        self.directions = 2 if bidirectional else 1
        backward: List[QRNNLayer] = []
        if layers is None:
            if num_layers < 1:
                raise ValueError(f"num_layers: expected at least 1, got {num_layers}")
            size = input_size if hidden_size is None else hidden_size
            above = size * (self.directions if join == "layer" else 1)
            windows = _windows(window, num_layers)
            options = {"bias": bias, "batch_first": batch_first, **layer_options}
            sizes = [input_size] + [above] * (num_layers - 1)
            layers = [QRNNLayer(n, size, window=w, **options) for n, w in zip(sizes, windows)]
            if bidirectional and layer_options.get("save_prev_x"):
                raise ValueError(
                    "save_prev_x: expected False if bidirectional, when no order of pieces suits both directions"
                )
            if bidirectional:
                backward = [QRNNLayer(n, size, window=w, backward=True, **options) for n, w in zip(sizes, windows)]
        else:
            if layer_options or bidirectional or window != 1:
                raise ValueError("layers: given, so window, bidirectional and the options of layers cannot be")
            _check_chain(layers, input_size, hidden_size, num_layers, batch_first)
        self.layers, self.layers_bwd = nn.ModuleList(layers), nn.ModuleList(backward)
        self.input_size, self.num_layers = input_size, len(layers)
        self.hidden_size = max(layer.hidden_size for layer in layers)
        self.batch_first, self.dropout, self.bidirectional, self.join = batch_first, float(dropout), bidirectional, join

    def reset(self) -> None:
        """Forgets the inputs that layers with `save_prev_x` kept."""
        for layer in [*self.layers, *self.layers_bwd]:
            layer.reset()

    def flatten_parameters(self) -> None:
        """Nothing: for code that calls it, as nn.LSTM needs it. Parameters are used as they lie."""

    def extra_repr(self) -> str:
        """The constructor's arguments, for print()."""
        names = ("num_layers", "batch_first", "dropout", "bidirectional", "join")
        return f"{self.input_size}, {self.hidden_size}, " + ", ".join(f"{n}={getattr(self, n)}" for n in names)

    def forward(
        self,
        X: Tensor,
        hidden: Optional[Tensor] = None,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor]:
        """Runs all layers over a batch of sequences. Shapes and errors: see the class.

        Args:
            X: input, or a PackedSequence (then `lengths` must be None, and the output is packed alike).
            hidden: initial states; also as a list with one for each layer.
            lengths: (B,) integers in 0..T, on the CPU or X's device, or a list. Padding is never read, its outputs are 0.
            reset: bool, shaped like X without its features. Where True, a sequence begins: every layer's state starts afresh, from
                0, and neither state nor window passes between that step and the one before, in either direction.
        """
        if not torch.jit.is_scripting():
            if isinstance(hidden, (list, tuple)):
                hidden = _stack_states(hidden, len(self.layers) + len(self.layers_bwd))
            if isinstance(X, PackedSequence):
                return self._forward_packed(X, hidden, lengths, reset)
        check_tensor("X", X)
        if X.dim() == 2:
            dim = 0 if self.batch_first else 1
            if lengths is not None:
                raise ValueError("lengths: expected None with one sequence alone, (T, features)")
            hidden = None if hidden is None else hidden.unsqueeze(1)
            out, last = self._run(X.unsqueeze(dim), hidden, None, None if reset is None else reset.unsqueeze(dim))
            return out.squeeze(dim), last.squeeze(1).clone()  # a state is no view
        return self._run(X, hidden, lengths, reset)

    @torch.jit.export
    def step(self, X: Tensor, hidden: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """One step of a stream: the same numbers as `forward`, a step at a time.

        Args:
            X: (B, input_size).
            hidden: what the last step returned, or None at the beginning.

        Returns:
            output (B, H), and the next hidden (num_layers, B, H).

        Raises:
            ValueError: if bidirectional, if a layer with a window > 1 has no `save_prev_x`, or if a shape does not fit.
            TypeError: if a dtype does not.
        """
        if self.bidirectional:
            raise ValueError("step: a bidirectional model needs the whole sequence; call it instead")
        check_tensor("X", X)
        if X.dim() != 2 or X.shape[1] != self.input_size:
            raise ValueError(f"X: expected shape (B, {self.input_size}), got {list(X.shape)}")
        for layer in self.layers:
            if layer.window > 1 and not layer.save_prev_x:  # type: ignore[operator]
                raise ValueError("step: expected save_prev_x with a window > 1, as steps need the inputs before them")
        if not torch.jit.is_scripting():
            made = self._step_in_one_op(X, hidden)
            if made is not None:
                return made
        dim = 1 if self.batch_first else 0
        out, last = self._run(X.unsqueeze(dim), hidden, None, None)
        return out.squeeze(dim), last

    @torch.jit.unused
    def _step_in_one_op(self, X: Tensor, hidden: Optional[Tensor]) -> Optional[Tuple[Tensor, Tensor]]:
        """`step`, where all layers are alike, and nothing but a product and a pooling, and no gradient is wanted."""
        if not is_eager() or (self.dropout > 0.0 and self.training):
            return None
        poolings: List[str] = []
        linears: List[nn.Module] = []
        for layer in children(self, "layers"):
            if not is_untouched_as(layer, QRNNLayer):
                return None
            if layer.window > 1 or layer.zoneout > 0.0:
                return None
            poolings.append(layer.pooling)
            linears.append(child(layer, "linear"))
        if any(pooling != poolings[0] for pooling in poolings):
            return None
        if hidden is not None:
            hidden = check_state(hidden, X, [self.num_layers, X.shape[0], self.hidden_size], "hidden")
        parameters = stack_parameters(linears, qF.plane_count(poolings[0]) * self.hidden_size, X, hidden)
        return None if parameters is None else qF.stack_step_unchecked(X, *parameters, hidden, poolings[0])

    def _run(
        self, X: Tensor, hidden: Optional[Tensor], lengths: Optional[Tensor], reset: Optional[Tensor]
    ) -> Tuple[Tensor, Tensor]:
        check_sequence(X, self.input_size, self.batch_first)
        if not torch.jit.is_scripting():
            if hidden is None and lengths is None and reset is None:
                made = self._run_in_ops(X)
                if made is not None:
                    return made
        count = self.num_layers * self.directions
        if hidden is not None:
            hidden = check_state(hidden, X, [count, X.shape[0 if self.batch_first else 1], self.hidden_size], "hidden")
        states: List[Optional[Tensor]] = []
        for i in range(count):
            states.append(None if hidden is None else hidden[i])
        last: List[Tensor] = []
        if self.bidirectional:
            Y = X
            for i, (layer, partner) in enumerate(zip(self.layers, self.layers_bwd)):
                X, c = layer(X, states[2 * i], lengths, reset)
                Y, d = partner(Y, states[2 * i + 1], lengths, reset)
                last += [c, d]
                top = i + 1 == self.num_layers
                if self.join == "layer" or top:
                    X = torch.cat([X, Y], 2)
                    X = X if top else self._drop(X)
                    Y = X
                else:
                    X, Y = self._drop(X), self._drop(Y)
        elif torch.jit.is_scripting():
            for i, layer in enumerate(self.layers):
                start = self._narrowed(states[i], layer.hidden_size)  # type: ignore[arg-type]
                X, c = layer(self._drop(X) if i > 0 else X, start, lengths, reset)
                last.append(self._padded(c))
        else:
            for i, layer in enumerate(children(self, "layers")):
                start = self._narrowed(states[i], layer.hidden_size)  # type: ignore[arg-type]
                X, c = layer(self._drop(X) if i > 0 else X, start, lengths, reset)
                last.append(self._padded(c))
        return X, last[0] if len(last) == 1 else torch.cat(last)

    @torch.jit.unused
    def _run_in_ops(self, X: Tensor) -> Optional[Tuple[Tensor, Tensor]]:
        """`_run`, where all layers are nothing but a product and a pooling one way: an op each, and as little else as can be."""
        drops = self.dropout > 0.0 and self.training
        if self.bidirectional or drops or not (is_eager() and is_unwatched()):
            return None
        bare = []
        layers: Any = children(self, "layers")
        for layer in layers:
            is_bare = is_untouched_as(layer, QRNNLayer) and layer.window == 1 and layer.zoneout == 0.0
            parameters = parameters_as_they_are(child(layer, "linear")) if is_bare else None
            if parameters is None or not fits(X, parameters[0]):
                return None
            bare.append((layer, parameters))
        last = []
        batch = X.shape[0 if self.batch_first else 1]
        for layer, (weight, bias) in bare:
            options = (layer.pooling, None, None, layer.backward, 0.0, layer.zoneout_mode, self.training, self.batch_first)
            X, c = qF.layer_unchecked(X, weight, bias, None, *options, (1, batch, layer.hidden_size))
            last.append(c)
        return X.contiguous(), last[0] if len(last) == 1 else torch.cat([self._padded(c) for c in last])

    def _narrowed(self, state: Optional[Tensor], width: int) -> Optional[Tensor]:
        return state if state is None or width == self.hidden_size else state[:, :width]

    def _padded(self, c: Tensor) -> Tensor:
        missing = self.hidden_size - c.shape[2]
        return nn.functional.pad(c, [0, missing]) if missing > 0 else c

    def _drop(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.dropout, self.training) if self.dropout > 0.0 else x

    @torch.jit.unused
    def _forward_packed(
        self, X: PackedSequence, hidden: Optional[Tensor], lengths: Optional[Tensor], reset: Optional[Tensor]
    ) -> Tuple[PackedSequence, Tensor]:
        if lengths is not None:
            raise ValueError("lengths: expected None with a PackedSequence, which has its own")
        padded, sizes = pad_packed_sequence(X, batch_first=self.batch_first)
        out, last = self.forward(padded, hidden, sizes, reset)
        return pack_like(X, out, sizes, self.batch_first), last

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        join_language_model(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _stack_states(states: Sequence[Tensor], count: int) -> Tensor:
    """(count, B, H), from a list with one for each layer, (B, H) or (1, B, H)."""
    if len(states) == 2 and all(isinstance(state, Tensor) and state.dim() == 3 and len(state) == count for state in states):
        raise ValueError("hidden: expected one state, got two; of nn.LSTM's (h, c), it is c alone")
    if len(states) != count or any(not isinstance(state, Tensor) or state.shape != states[0].shape for state in states):
        raise ValueError(
            f"hidden: expected a tensor, or a list with equal ones for each of {count} layers, got {_shapes(states)}"
        )
    return torch.cat(list(states)) if states[0].dim() == 3 and states[0].shape[0] == 1 else torch.stack(list(states))


def _shapes(states: Sequence[Any]) -> List[Any]:
    return [list(state.shape) if isinstance(state, Tensor) else type(state).__name__ for state in states]


def _windows(window: Union[int, Sequence[int], None], layers: int) -> List[int]:
    if window is None:
        return [2] + [1] * (layers - 1)
    if isinstance(window, int):
        return [window] * layers
    if not isinstance(window, Sequence):
        raise TypeError(f"window: expected an int, or one for each layer, got {window!r}")
    if len(window) != layers:
        raise ValueError(f"window: expected {layers} of them, one per layer, got {list(window)}")
    return list(window)


def _check_chain(
    layers: Sequence[QRNNLayer], input_size: int, hidden_size: Optional[int], num_layers: int, batch_first: bool
) -> None:
    if not layers or num_layers not in (1, len(layers)):
        raise ValueError(f"layers: expected num_layers={num_layers} of them, got {len(layers)}")
    width = input_size
    for i, layer in enumerate(layers):
        if layer.input_size != width:
            raise ValueError(f"layers[{i}]: expected input_size={width} to fit what comes before, got {layer.input_size}")
        if layer.batch_first != batch_first or layer.backward:
            raise ValueError(f"layers[{i}]: expected batch_first={batch_first} and backward=False, got {layer}")
        width = layer.hidden_size
    if hidden_size is not None and hidden_size != width:
        raise ValueError(f"hidden_size: expected {width}, that of the last layer, got {hidden_size}")
