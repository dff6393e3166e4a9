"""Stacks of SRU layers.

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

import copy
from typing import List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from . import functional as sF
from ._checks import check_input, check_tensor
from ._modes import is_eager, is_unwatched
from ._plain import children, fits, tensor_of
from ._tensors import pack_like, state_dtype
from .attention import SRUppAttention, SRUppProjectedLinear
from .cell import SRUCell, check_sequence, clear_padding
from .convert import complete_old_model
from .srupp import SRUpp, SRUppCell
from .states import join_states, split_states

# what sru 2.6 and 3.0 have in their file of this name
__all__ = ["SRU", "SRUCell", "SRUpp", "SRUppAttention", "SRUppCell", "SRUppProjectedLinear"]


class SRU(nn.Module):
    r"""Stacked SRU layers: a drop-in for nn.LSTM in many uses. Equations: `SRUCell`.

    Args:
        input_size: features of the input.
        hidden_size: features of each layer's state, of each direction.
        num_layers: number of layers.
        dropout: probability, in [0, 1), of zeroing a channel of g(c) - x' for a whole sequence; while training, and not in the
            last layer.
        rnn_dropout: the same for the input of each matrix product.
        bidirectional: the second half of the channels goes from the last step to the first; every layer sees both directions
            of the one below.
        projection_size: inner size of the factorised weights, one for all layers or one for each; 0: not factorised.
        use_tanh: g = tanh; otherwise the identity.
        layer_norm: normalises the input of each matrix product, or h if `normalize_after`.
        highway_bias: initial b_r.
        has_skip_term: whether there is x'.
        rescale: alpha = sqrt(1 + 2 e^highway_bias) instead of 1 (in the initial weight, where k = 4).
        v1: the first version's recurrence: v = 0, and parallel in time forward too.
        nn_rnn_compatible_return: returns c as (num_layers * directions, B, hidden_size), as nn.LSTM would, instead of
            (num_layers, B, output_size).
        custom_m: a module in the place of the matrix product, which is copied for each layer, or a list with one for each: x
            (T, B, input_size) -> U (T, B, k * output_size), or -> (U, V), V (T, B, 2 * output_size) being added to v.
        proj_input_to_hidden_first: where the input's size is not the output's, a linear map makes it so.
        amp_recurrence_fp16: under autocast, the recurrence reads and writes the 16-bit type instead of float32.
        normalize_after: where `layer_norm` acts.
        weight_c_init: v is uniform in +-weight_c_init. Default: +-sqrt(3/2).
        use_relu: g = relu.
        batch_first: sequences are (B, T, features) instead of (T, B, features).
        device, dtype: of the parameters.

    Shape:
        input: (T, B, input_size), (B, T, input_size) if `batch_first`, or a PackedSequence.
        c0: (num_layers, B, output_size); with `nn_rnn_compatible_return` also as it is returned.
        returns: h (T, B, output_size) like the input, with output_size = directions * hidden_size; and c after each
            sequence's last step, in float32 also for 16-bit types. Fed back as c0, it continues the sequence.

    Raises:
        ValueError: arguments out of range or that contradict each other, or an input, state, mask or length that does not fit.
        TypeError: dtypes that are not floating or differ.

    Example:
        >>> rnn = SRU(128, 128, num_layers=4, dropout=0.1, bidirectional=True)
        >>> output, c = rnn(torch.randn(20, 32, 128))  # (T, B, features)
        >>> output.shape, c.shape
        (torch.Size([20, 32, 256]), torch.Size([4, 32, 256]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 2,
        dropout: float = 0.0,
        rnn_dropout: float = 0.0,
        bidirectional: bool = False,
        projection_size: Union[int, Sequence[int]] = 0,
        use_tanh: bool = False,
        layer_norm: bool = False,
        highway_bias: float = 0.0,
        has_skip_term: bool = True,
        rescale: bool = False,
        v1: bool = False,
        nn_rnn_compatible_return: bool = False,
        custom_m: Union[nn.Module, List[nn.Module], None] = None,
        proj_input_to_hidden_first: bool = False,
        amp_recurrence_fp16: bool = False,
        normalize_after: bool = False,
        weight_c_init: Optional[float] = None,
        *,
        use_relu: bool = False,
        batch_first: bool = False,
        device: Union[torch.device, str, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers: expected at least 1, got {num_layers}")
        projections = [projection_size] * num_layers if isinstance(projection_size, int) else list(projection_size)
        if len(projections) != num_layers:
            raise ValueError(f"projection_size: expected {num_layers} of them, one per layer, got {projections}")
        modules = custom_m if isinstance(custom_m, (list, tuple)) else [copy.deepcopy(custom_m) for _ in range(num_layers)]
        if len(modules) != num_layers:
            raise ValueError(f"custom_m: expected {num_layers} modules, one per layer, got {len(modules)}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size * 2 if bidirectional else hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.rnn_dropout = rnn_dropout
        self.projection_size = projection_size if isinstance(projection_size, int) else projections
        self.bidirectional = bidirectional
        self.use_layer_norm = layer_norm
        self.has_skip_term = has_skip_term
        self.num_directions = 2 if bidirectional else 1
        self.nn_rnn_compatible_return = nn_rnn_compatible_return
        self.amp_recurrence_fp16 = amp_recurrence_fp16
        self.batch_first = batch_first
        first = proj_input_to_hidden_first and input_size != self.output_size
        width = self.output_size if first else input_size
        self.input_to_hidden = nn.Linear(input_size, width, bias=False, device=device, dtype=dtype) if first else None
        self.rnn_lst = nn.ModuleList(
            SRUCell(
                width if i == 0 else self.output_size,
                hidden_size,
                dropout=dropout if i + 1 != num_layers else 0.0,
                rnn_dropout=rnn_dropout,
                bidirectional=bidirectional,
                n_proj=projections[i],
                use_tanh=use_tanh,
                highway_bias=highway_bias,
                has_skip_term=has_skip_term,
                layer_norm=layer_norm,
                rescale=rescale,
                v1=v1,
                custom_m=modules[i],
                amp_recurrence_fp16=amp_recurrence_fp16,
                normalize_after=normalize_after,
                weight_c_init=weight_c_init,
                use_relu=use_relu,
                batch_first=batch_first,
                device=device,
                dtype=dtype,
            )
            for i in range(num_layers)
        )

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        for rnn in self.rnn_lst:
            rnn.reset_parameters()  # type: ignore[operator]
        if self.input_to_hidden is not None:
            self.input_to_hidden.reset_parameters()

    def set_bias(self, bias_val: float = 0.0) -> None:
        """Sets b_r of all layers."""
        for rnn in self.rnn_lst:
            rnn.set_bias(bias_val)  # type: ignore[operator]

    def flatten_parameters(self) -> None:
        """Nothing: for code that calls it, as nn.LSTM needs it. Parameters are used as they lie."""

    def __getitem__(self, n: int) -> nn.Module:
        """The n-th layer."""
        return self.rnn_lst[n]

    def extra_repr(self) -> str:
        """The constructor's arguments, for print()."""
        names = ("num_layers", "dropout", "bidirectional", "nn_rnn_compatible_return", "batch_first")
        return f"{self.input_size}, {self.hidden_size}, " + ", ".join(f"{n}={getattr(self, n)}" for n in names)

    def forward(
        self,
        input: Tensor,
        c0: Optional[Tensor] = None,
        mask_pad: Optional[Tensor] = None,
        lengths: Optional[Tensor] = None,
        reset: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor]:
        """Runs all layers over a batch of sequences. Shapes and errors: see the class.

        Args:
            input: or a PackedSequence (then `mask_pad` and `lengths` must be None, and the output is packed alike).
            c0: initial states. Default: 0.
            mask_pad: (T, B), or (B, T) if `batch_first`: nonzero where a step is padding, which is never read, leaves c as it
                is, and whose h is 0.
            lengths: (B,) integers in 0..T, on the CPU or the input's device: what lies beyond is padding.
            reset: bool, shaped like the input without its features. Where True, a sequence begins: every layer's c starts from 0,
                and no state passes between that step and the one before, in either direction.
        """
        if not torch.jit.is_scripting():
            if isinstance(input, PackedSequence):
                return self._forward_packed(input, c0, mask_pad, lengths, reset)
        check_sequence(input, self.input_size, self.batch_first)
        if not torch.jit.is_scripting():
            if c0 is None and mask_pad is None and lengths is None and reset is None:
                made = self._forward_in_ops(input)
                if made is not None:
                    return made
        states = split_states(c0, input, self.num_layers, self.output_size, self.num_directions, self.batch_first)
        x = input
        if self.input_to_hidden is not None:
            if not torch.jit.is_scripting():
                check_input(input, self.input_to_hidden, "input")
            x = self.input_to_hidden(clear_padding(input, mask_pad, lengths, self.batch_first))
        last: List[Tensor] = []
        if torch.jit.is_scripting():
            for i, rnn in enumerate(self.rnn_lst):
                x, c = rnn(x, states[i], mask_pad, lengths, reset)
                last.append(c)
        else:
            for rnn, state in zip(children(self, "rnn_lst"), states):
                # modules in the place of cells may not know of what was not given
                given = (lengths, reset) if reset is not None else () if lengths is None else (lengths,)
                x, c = rnn(x, state, mask_pad, *given)
                last.append(c)
        return x, join_states(last, self.num_directions if self.nn_rnn_compatible_return else 1)

    @torch.jit.unused
    def _forward_in_ops(self, input: Tensor) -> Optional[Tuple[Tensor, Tensor]]:
        """`forward`, where all cells are nothing but products and recurrences: an op each, and as little else as can be."""
        if self.input_to_hidden is not None or not (is_eager() and is_unwatched()):
            return None
        parameters = []
        dtype = input.dtype
        for cell in children(self, "rnn_lst"):
            if not (type(cell) is SRUCell and cell.is_bare() and cell.num_matrices == 3 and cell.has_skip_term):
                return None
            weight, bias = tensor_of(cell, "weight"), tensor_of(cell, "bias")
            weight_c = None if cell.v1 else tensor_of(cell, "weight_c")
            same_dtype = bias.dtype is dtype and (weight_c is None or weight_c.dtype is dtype)
            if cell.rescale or not (same_dtype and fits(weight, input)):
                return None
            parameters.append((weight, bias, weight_c, cell.activation))
        shape = (1, input.shape[0 if self.batch_first else 1], self.hidden_size)
        h, last = input, []
        for weight, bias, weight_c, activation in parameters:
            h, c = sF.layer_unchecked(h, weight, bias, weight_c, activation, False, self.batch_first, shape)
            last.append(c)
        return h.contiguous(), last[0] if len(last) == 1 else torch.cat(last)

    def step(self, input: Tensor, c: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """One step of a stream: the same numbers as `forward`, a step at a time.

        Args:
            input: (B, input_size).
            c: what the last step returned, or None at the beginning.

        Returns:
            h (B, output_size), and the next c.

        Raises:
            ValueError: if bidirectional, or if a shape does not fit.
        """
        if self.bidirectional:
            raise ValueError("step: expected a model that goes forward only, this one is bidirectional")
        check_tensor("input", input)
        if input.dim() != 2:
            raise ValueError(f"input: expected shape (B, {self.input_size}), got {list(input.shape)}")
        if c is not None:
            check_tensor("c0", c)
        made = self._step_in_one_op(input, c)
        if made is not None:
            return made
        dim = 1 if self.batch_first else 0
        h, c = self.forward(input.unsqueeze(dim), c)
        return h.squeeze(dim), c

    def _step_in_one_op(self, input: Tensor, c: Optional[Tensor]) -> Optional[Tuple[Tensor, Tensor]]:
        """`step`, where all cells are nothing but products and recurrences, and no gradient is wanted."""
        if not is_eager() or self.input_to_hidden is not None:
            return None
        weights: List[Tensor] = []
        biases: List[Tensor] = []
        weights_c: List[Tensor] = []
        scales: List[Tensor] = []
        kinds = set()
        for cell in children(self, "rnn_lst"):
            if not (type(cell) is SRUCell and cell.is_bare()):
                return None
            kinds.add((cell.has_skip_term, cell.activation, cell.v1, cell.rescale))
            weights.append(tensor_of(cell, "weight"))
            biases.append(tensor_of(cell, "bias"))
            weights_c += [] if cell.v1 else [tensor_of(cell, "weight_c")]
            scales += [tensor_of(cell, "scale_x")] if cell.rescale else []
        given = [input, *weights, *biases, *weights_c, *scales, *([] if c is None else [c])]
        if len(kinds) > 1 or (torch.is_grad_enabled() and any(t.requires_grad for t in given)):
            return None
        if not all(fits(t, input) for t in given) or state_dtype(input) is not input.dtype:
            return None  # `forward` says what does not fit, or makes it so
        shape = [self.num_layers, input.shape[0], self.output_size]
        if input.shape[1] != self.input_size or (c is not None and list(c.shape) != shape):
            return None
        c = None if c is None else c.contiguous()
        ((has_skip_term, activation, _, _),) = kinds
        return sF.stack_step_unchecked(input, weights, biases, weights_c, scales, c, has_skip_term, activation)

    def make_backward_compatible(self) -> None:
        """Completes a model that was pickled whole by an earlier version of the package."""
        complete_old_model(self)

    @torch.jit.unused
    def _forward_packed(
        self,
        input: PackedSequence,
        c0: Optional[Tensor],
        mask_pad: Optional[Tensor],
        lengths: Optional[Tensor],
        reset: Optional[Tensor],
    ) -> Tuple[PackedSequence, Tensor]:
        if mask_pad is not None or lengths is not None:
            raise ValueError("mask_pad and lengths: expected None with a PackedSequence, which has its own")
        padded, sizes = pad_packed_sequence(input, batch_first=self.batch_first)
        h, c = self.forward(padded, c0, None, sizes, reset)
        return pack_like(input, h, sizes, self.batch_first), c
