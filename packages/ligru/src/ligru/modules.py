"""Stacks of Li-GRU and SLi-GRU layers, under the names and state-dict keys of SpeechBrain.

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

import math
import operator
from typing import List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ._checks import check_state, check_tensor
from ._plain import children
from ._tensors import pack_like
from .layer import LayerBase, LiGRU_Layer, SLiGRU_Layer


class _Stack(nn.Module):
    """What LiGRU and SLiGRU share: layers one after the other."""

    def __init__(self, layers: Sequence[LayerBase], re_init: bool, dropout_between: float) -> None:
        super().__init__()
        if len(layers) == 0:
            raise ValueError("num_layers: expected at least 1, got 0")
        if not 0 <= dropout_between < 1:
            raise ValueError(f"dropout_between: expected a probability in [0, 1), got {dropout_between}")
        first = layers[0]
        self.fea_dim, self.hidden_size = first.input_size, first.hidden_size
        self.num_layers = len(layers)
        self.nonlinearity, self.bias, self.dropout = first.nonlinearity, first.bias, first.dropout
        self.bidirectional = first.bidirectional
        self.num_directions = 2 if first.bidirectional else 1
        self.re_init = re_init
        self.dropout_between = float(dropout_between)
        self.rnn = nn.ModuleList(layers)
        if re_init:
            for layer in layers:
                nn.init.orthogonal_(layer.u.weight)

    def forward(
        self,
        x: Tensor,
        hx: Optional[Tensor] = None,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor]:
        """Runs all layers over a batch of sequences.

        Args:
            x: (B, T, F), or (B, T, F, C), which is flattened to (B, T, F * C); or a PackedSequence (then `lengths` must be
                None, and the output is packed alike).
            hx: h before the first step, (num_layers * D, B, hidden_size), with D = 2 if bidirectional, else 1: the first
                layer's directions, then the second's, as in nn.GRU. Default: 0.
            lengths: (B,) integers in 0..T, on the CPU or x's device. What lies beyond is padding: never read, not counted by
                batch normalisation, and its h is 0.
            reset: (B, T) of bool. Where True, a sequence begins: every layer's state starts afresh, from 0, and none passes
                between that step and the one before, in either direction.

        Returns:
            h of the last layer (B, T, D * hidden_size), and h of all layers after each sequence's last step, in the shape of
            hx, float32 also for 16-bit types. Fed back as hx, it continues the sequence.

        Raises:
            ValueError: if a shape, device or length does not fit.
            TypeError: if a dtype does not.
        """
        if not torch.jit.is_scripting():
            if isinstance(x, PackedSequence):
                return self._forward_packed(x, hx, lengths, reset)
        return self._run(x, hx, lengths, reset)

    def _run(
        self, x: Tensor, hx: Optional[Tensor], lengths: Optional[Tensor], reset: Optional[Tensor]
    ) -> Tuple[Tensor, Tensor]:
        check_tensor("x", x)
        if hx is not None:
            hx = check_state(hx, x, [self.num_layers * self.num_directions, x.shape[0], self.hidden_size], "hx")
        last: List[Tensor] = []
        if torch.jit.is_scripting():
            for i, layer in enumerate(self.rnn):
                made = layer(self._dropped(x) if i > 0 else x, self._start(hx, i), lengths, True, reset)
                assert torch.jit.isinstance(made, Tuple[Tensor, Tensor])
                x, h = made
                last.append(h)
        else:
            for i, layer in enumerate(children(self, "rnn")):
                x, h = layer(self._dropped(x) if i > 0 else x, self._start(hx, i), lengths, True, reset)
                last.append(h)
        return x, last[0] if len(last) == 1 else torch.cat(last)

    def _dropped(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.dropout_between, self.training) if self.dropout_between > 0.0 else x

    def _start(self, hx: Optional[Tensor], layer: int) -> Optional[Tensor]:
        return None if hx is None else hx[layer * self.num_directions : (layer + 1) * self.num_directions]

    @torch.jit.export
    def step(self, x: Tensor, hx: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """One step of a stream: in evaluation the same numbers as `forward`, a step at a time. (In training, batch normalisation
        goes by the values of this step alone.)

        Args:
            x: (B, F), or any (B, ...) with as many values.
            hx: what the last step returned, or None at the beginning.

        Returns:
            h of the last layer (B, hidden_size), and the next hx (num_layers, B, hidden_size).

        Raises:
            ValueError: if bidirectional, or if a shape or device does not fit.
            TypeError: if a dtype does not.
        """
        if self.bidirectional:
            raise ValueError("step: a bidirectional model needs the whole sequence; call it instead")
        check_tensor("x", x)
        if x.dim() < 2:
            raise ValueError(f"x: expected shape (B, {self.fea_dim}), got {list(x.shape)}")
        out, h = self._run(x.unsqueeze(1), hx, None, None)
        return out.squeeze(1), h

    def flatten_parameters(self) -> None:
        """Nothing: for code that calls it, as nn.LSTM needs it. Parameters are used as they lie."""

    @torch.jit.unused
    def _forward_packed(
        self, x: PackedSequence, hx: Optional[Tensor], lengths: Optional[Tensor], reset: Optional[Tensor]
    ) -> Tuple[PackedSequence, Tensor]:
        if lengths is not None:
            raise ValueError("lengths: expected None with a PackedSequence, which has its own")
        padded, sizes = pad_packed_sequence(x, batch_first=True)
        out, h = self.forward(padded, hx, sizes, reset)
        return pack_like(x, out, sizes, True), h


class LiGRU(_Stack):
    r"""Stacked layers of Li-GRU: a drop-in for `speechbrain.nnet.RNN.LiGRU`, and for fast_ligru's. Equations: `LiGRU_Layer`.

    Args:
        hidden_size: H, units of each direction.
        input_shape: shape of an input, (B, T, F) or (B, T, F, C); only what follows T counts.
        nonlinearity: f: "relu", "leaky_relu" (also "leakyrelu"), "tanh" or "sin" (also "sine").
        normalization: of W x: "batchnorm" (over all steps of the batch, momentum 0.05) or "layernorm".
        num_layers: number of layers.
        bias: whether the normalisations' bias, the only one there is, is trained.
        dropout: probability, in [0, 1), that a unit's f(a) is 0 for a whole sequence, in every layer; the others are scaled by
            1 / (1 - dropout). While training.
        re_init: whether U starts orthogonal; otherwise as nn.Linear starts.
        bidirectional: a second recurrence, with the same weights, goes from each sequence's last step to its first; every layer
            sees both directions of the one below.
        dropout_between: probability of zeroing a value between two layers (what fast_ligru calls dropout).
        device, dtype: of the parameters.

    Shape:
        x (B, T, F) or (B, T, F, C) or a PackedSequence, hx (num_layers * D, B, H) -> out (B, T, D * H), hh like hx.

    Raises:
        ValueError: an argument out of range, or none of the strings named.

    Example:
        >>> net = LiGRU(512, input_shape=(10, 100, 80), num_layers=2, dropout=0.1, bidirectional=True)
        >>> out, h = net(torch.randn(10, 100, 80), lengths=[100] * 9 + [7])
        >>> out.shape, h.shape
        (torch.Size([10, 100, 1024]), torch.Size([4, 10, 512]))
    """

    def __init__(
        self,
        hidden_size: int,
        input_shape: Sequence[Optional[int]],
        nonlinearity: str = "relu",
        normalization: str = "batchnorm",
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        re_init: bool = True,
        bidirectional: bool = False,
        *,
        dropout_between: float = 0.0,
        device: Union[torch.device, str, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        layers = [
            LiGRU_Layer(
                size,
                hidden_size,
                dropout=dropout,
                nonlinearity=nonlinearity,
                normalization=normalization,
                bias=bias,
                bidirectional=bidirectional,
                device=device,
                dtype=dtype,
            )
            for size in _input_sizes(input_shape, hidden_size, num_layers, bidirectional)
        ]
        super().__init__(layers, re_init, dropout_between)
        self.normalization = normalization


class SLiGRU(_Stack):
    r"""Stacked layers of SLi-GRU: a drop-in for `speechbrain.nnet.RNN.SLiGRU`, and for fast_ligru's. Equations: `SLiGRU_Layer`.

    Args:
        hidden_size: H, units of each direction.
        input_shape: shape of an input, (B, T, F) or (B, T, F, C); only what follows T counts.
        nonlinearity: f: "relu", "leaky_relu" (also "leakyrelu"), "tanh" or "sin" (also "sine").
        ff_normalization: of W x: "batchnorm" (over all steps of the batch, momentum 0.05) or "layernorm".
        recurrent_elementwise_affine: whether the normalisation of U h has a weight and a bias.
        num_layers: number of layers.
        bias: whether the normalisations' bias, the only one there is, is trained.
        dropout: probability, in [0, 1), that a unit's f(a) is 0 for a whole sequence, in every layer; the others are scaled by
            1 / (1 - dropout). While training.
        re_init: whether U starts orthogonal; otherwise as nn.Linear starts.
        bidirectional: a second recurrence, with the same weights, goes from each sequence's last step to its first; every layer
            sees both directions of the one below.
        dropout_between: probability of zeroing a value between two layers (what fast_ligru calls dropout).
        device, dtype: of the parameters.

    Shape:
        x (B, T, F) or (B, T, F, C) or a PackedSequence, hx (num_layers * D, B, H) -> out (B, T, D * H), hh like hx.

    Raises:
        ValueError: an argument out of range, or none of the strings named.

    Example:
        >>> net = SLiGRU(512, input_shape=(10, 100, 80), num_layers=2)
        >>> out, h = net(torch.randn(10, 100, 80))
        >>> out, h = net(torch.randn(10, 100, 80), h)  # goes on where it stopped
    """

    def __init__(
        self,
        hidden_size: int,
        input_shape: Sequence[Optional[int]],
        nonlinearity: str = "relu",
        ff_normalization: str = "batchnorm",
        recurrent_elementwise_affine: bool = False,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        re_init: bool = True,
        bidirectional: bool = False,
        *,
        dropout_between: float = 0.0,
        device: Union[torch.device, str, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        layers = [
            SLiGRU_Layer(
                size,
                hidden_size,
                dropout=dropout,
                nonlinearity=nonlinearity,
                ff_normalization=ff_normalization,
                recurrent_elementwise_affine=recurrent_elementwise_affine,
                bias=bias,
                bidirectional=bidirectional,
                device=device,
                dtype=dtype,
            )
            for size in _input_sizes(input_shape, hidden_size, num_layers, bidirectional)
        ]
        super().__init__(layers, re_init, dropout_between)
        self.ff_normalization = ff_normalization


def _input_sizes(input_shape: Sequence[Optional[int]], hidden_size: int, num_layers: int, bidirectional: bool) -> List[int]:
    """Values at a step that each layer sees."""
    try:
        sizes = [None if size is None else operator.index(size) for size in input_shape]
    except TypeError:
        raise TypeError(f"input_shape: expected the shape of an input, (B, T, F), got {input_shape!r}") from None
    features = [size for size in sizes[2:] if size is not None]
    if len(sizes) < 3 or len(features) != len(sizes) - 2:
        raise ValueError(f"input_shape: expected (B, T, F) or (B, T, F, C), got {tuple(input_shape)}")
    return [math.prod(features), *[hidden_size * (2 if bidirectional else 1)] * (num_layers - 1)][:num_layers]
