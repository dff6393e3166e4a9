"""SRU layers and stacks.

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

import copy
import math
import warnings
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from . import functional as sF
from ._shared import check_input, check_lengths, check_state, dropout_mask


class SRUCell(nn.Module):
    r"""One layer of SRU (Lei et al., arXiv:1709.02755): a whole sequence at once, or a step.

        U_t = W x_t                                    k values per channel: candidate, two gates, and x' where k = 4
        f_t = sigmoid(U1_t + v_f c_{t-1} + b_f),       c_t = f_t c_{t-1} + (1 - f_t) U0_t
        r_t = sigmoid(U2_t + v_r c_{t-1} + b_r),       h_t = x'_t + (g(c_t) - x'_t) mask r_t

    x' is alpha x_t where input and output have the same size (k = 3), U3_t where they differ (k = 4), and 0 without a skip term.

    Args:
        input_size: features of the input.
        hidden_size: features of the state, of each direction.
        dropout: probability, in [0, 1), of zeroing a channel of g(c) - x' for a whole sequence; while training.
        rnn_dropout: the same for the input of the matrix product.
        bidirectional: the second half of the channels goes from the last step to the first.
        n_proj: inner size of a factorised weight, below the input's and the output's; 0: not factorised.
        use_tanh: g = tanh; otherwise the identity.
        highway_bias: initial b_r.
        has_skip_term: whether there is x'.
        layer_norm: normalises the input of the matrix product, or h if `normalize_after`.
        rescale: alpha = sqrt(1 + 2 e^highway_bias) instead of 1 (in the initial weight, where k = 4).
        v1: the first version's recurrence: v = 0, and parallel in time forward too.
        custom_m: a module in the place of the matrix product: x (T, B, input_size) -> U (T, B, k * output_size), the k values of
            a channel side by side, or -> (U, V), V (T, B, 2 * output_size) being added to v for each step, side by side
            (v_f, v_r).
        amp_recurrence_fp16: under autocast, the recurrence reads and writes the 16-bit type instead of float32. Its state
            is float32 anyway.
        normalize_after: where `layer_norm` acts.
        weight_c_init: v is uniform in +-weight_c_init. Default: +-sqrt(3/2).
        use_relu: g = relu.
        batch_first: sequences are (B, T, features) instead of (T, B, features); mask_pad is (B, T).
        device, dtype: of the parameters.

    Attributes:
        weight: (input_size or n_proj, k * output_size); column (direction * hidden_size + j) * k + m is the m-th value of
            channel j.
        weight_proj: (input_size, n_proj), or None.
        weight_c, bias: (2 * output_size,): [v_f | v_r] and [b_f | b_r].
        scale_x: (1,), alpha.

    Raises:
        ValueError: arguments out of range or that contradict each other, or an input, state, mask or length that does not fit.
        TypeError: dtypes that are not floating or differ.
    """

    scale_x: Tensor
    weight_proj: Optional[Tensor]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        dropout: float = 0.0,
        rnn_dropout: float = 0.0,
        bidirectional: bool = False,
        n_proj: int = 0,
        use_tanh: bool = False,
        highway_bias: float = 0.0,
        has_skip_term: bool = True,
        layer_norm: bool = False,
        rescale: bool = True,
        v1: bool = False,
        custom_m: Optional[nn.Module] = None,
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
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"input_size and hidden_size: expected positive sizes, got {input_size} and {hidden_size}")
        for name, p in (("dropout", dropout), ("rnn_dropout", rnn_dropout)):
            if not 0 <= p < 1:
                raise ValueError(f"{name}: expected a probability in [0, 1), got {p}")
        if use_tanh and use_relu:
            raise ValueError("use_tanh and use_relu: expected at most one activation, got both")
        if normalize_after and not layer_norm:
            raise ValueError("normalize_after: expected False without layer_norm, got True")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size * 2 if bidirectional else hidden_size
        if n_proj != 0 and not 0 < n_proj < min(input_size, self.output_size):
            raise ValueError(
                f"projection size: expected 0, or less than both input_size {input_size} and output size {self.output_size}, "
                f"got {n_proj}"
            )
        if n_proj != 0 and custom_m is not None:
            raise ValueError("projection size: expected 0 with custom_m, which takes the weight's place")
        self.rnn_dropout, self.dropout = float(rnn_dropout), float(dropout)
        self.bidirectional = bidirectional
        self.has_skip_term = has_skip_term
        self.highway_bias = highway_bias
        self.v1 = v1
        self.rescale = rescale
        self.activation_type = 1 if use_tanh else (2 if use_relu else 0)
        self.activation = "tanh" if use_tanh else ("relu" if use_relu else "identity")
        self.amp_recurrence_fp16 = amp_recurrence_fp16
        self.normalize_after = normalize_after
        self.weight_c_init = weight_c_init
        self.projection_size = n_proj
        self.batch_first = batch_first
        self.num_matrices = 4 if has_skip_term and input_size != self.output_size else 3

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, device=device, dtype=dtype))

        self.custom_m = custom_m
        if custom_m is None:
            self.weight_proj = empty(input_size, n_proj) if n_proj else None
            self.weight = empty(n_proj or input_size, self.output_size * self.num_matrices)
        self.weight_c = empty(2 * self.output_size)
        self.bias = empty(2 * self.output_size)
        self.register_buffer("scale_x", torch.ones(1, device=device, dtype=dtype))
        size = self.output_size if normalize_after else input_size
        self.layer_norm = nn.LayerNorm(size, device=device, dtype=dtype) if layer_norm else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the parameters as sru 2.6 does, the same ones from the same seed."""
        alpha = (1 + math.exp(self.highway_bias) * 2) ** 0.5 if self.rescale and self.has_skip_term else 1.0
        self.scale_x.fill_(alpha)
        self.bias.zero_()
        self.set_bias(self.highway_bias)
        if self.custom_m is None:
            bound = (3.0 / self.weight.shape[0]) ** 0.5
            self.weight.uniform_(-bound, bound)
            if self.weight_proj is not None:
                bound = (3.0 / self.input_size) ** 0.5
                self.weight_proj.uniform_(-bound, bound)
            w = self.weight.unflatten(1, (self.output_size, self.num_matrices))
            w[..., 0] *= (1 - self.dropout) ** 0.5
            w *= (1 - self.rnn_dropout) ** 0.5
            if self.layer_norm is not None:
                w *= 0.1
            if self.num_matrices == 4:
                w[..., 3] *= alpha
            if not self.v1:
                w[..., 1:3] *= 0.5**0.5
        elif hasattr(self.custom_m, "reset_parameters"):
            self.custom_m.reset_parameters()  # type: ignore[operator]
        else:
            warnings.warn(
                f"custom_m: {type(self.custom_m).__name__} has no reset_parameters(), and keeps its own", stacklevel=2
            )
        if self.v1:
            self.weight_c.zero_().requires_grad_(False)
        elif self.weight_c_init is None:
            self.weight_c.uniform_(-(3.0**0.5), 3.0**0.5).mul_(0.5**0.5)
        else:
            self.weight_c.uniform_(-self.weight_c_init, self.weight_c_init)

    @torch.no_grad()
    def set_bias(self, bias_val: float = 0.0) -> None:
        """Sets b_r."""
        self.bias[self.output_size :] = bias_val

    def forward(
        self,
        input: Tensor,
        c0: Optional[Tensor] = None,
        mask_pad: Optional[Tensor] = None,
        lengths: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor]:
        """Runs over a batch of sequences, or over one step.

        Args:
            input: (T, B, input_size), or (B, T, input_size) if `batch_first`; or (B, input_size), a single step.
            c0: c before the first step, anything that expands to (B, output_size). Default: 0.
            mask_pad: (T, B), nonzero where a step is padding: it is never read, leaves c as it is, and its h is 0.
            lengths: (B,) integers in 0..T: what lies beyond is padding.

        Returns:
            h (T, B, output_size), or (B, T, output_size); and c after each sequence's last step, (B, output_size), in
            float32 also for 16-bit types. For a single step both are (B, output_size).
        """
        if input.dim() == 2:
            if mask_pad is not None or lengths is not None:
                raise ValueError("mask_pad and lengths: expected None with a single step, (B, features)")
            dim = 1 if self.batch_first else 0
            h, c = self.run(input.unsqueeze(dim), c0, None, None)
            return h.squeeze(dim), c
        return self.run(clear_padding(input, mask_pad, lengths, self.batch_first), c0, mask_pad, lengths)

    def run(
        self, input: Tensor, c0: Optional[Tensor], mask_pad: Optional[Tensor], lengths: Optional[Tensor]
    ) -> Tuple[Tensor, Tensor]:
        """`forward` without a look at the padding, which must not be NaN."""
        check_sequence(input, self.input_size, self.batch_first)
        check_input(input, self.bias)
        if self.custom_m is None:  # alone in its condition, so that TorchScript never looks for the weight of others
            if self._is_one_product(input):
                h, c = self._layer(input, c0, mask_pad, lengths)
                return self.finish(h, mask_pad, lengths), c
        U, V = self.compute_UV(self.prepare(input))
        h, c = self.recur(U, V, input, c0, mask_pad, lengths)
        return self.finish(h, mask_pad, lengths), c

    def prepare(self, input: Tensor) -> Tensor:
        """What the matrix product sees of the input: normalised and dropped out, if at all."""
        layer_norm = self.layer_norm
        if layer_norm is not None and not self.normalize_after:
            input = layer_norm(input)
        mask = self._mask(input, self.rnn_dropout, self.input_size)
        if mask is not None:
            input = input * mask.to(input.dtype).unsqueeze(1 if self.batch_first else 0)
        return input

    def finish(self, h: Tensor, mask_pad: Optional[Tensor], lengths: Optional[Tensor]) -> Tensor:
        """h, normalised if that comes after."""
        layer_norm = self.layer_norm
        if layer_norm is not None and self.normalize_after:
            return clear_padding(layer_norm(h), mask_pad, lengths, self.batch_first)  # where it would leave its bias
        return h

    def compute_UV(self, input: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        """U (T, B, k * output_size), and weight_c, or V + weight_c (T, B, 2 * output_size) if `custom_m` returns a V."""
        V: Optional[Tensor] = None if self.v1 else self.weight_c
        if self.custom_m is None:
            return self.compute_U(input), V
        else:
            made = self.custom_m(input)
            if isinstance(made, Tensor):
                U = made
            else:
                if len(made) != 2:
                    raise ValueError(f"custom_m: expected to return U, or U and V, got {len(made)} tensors")
                U = made[0]
                if made[1].shape[-1] != 2 * self.output_size:
                    raise ValueError(f"custom_m: expected V with {2 * self.output_size} features, got {made[1].shape[-1]}")
                V = made[1] + self.weight_c
            if U.shape[-1] != self.num_matrices * self.output_size:
                raise ValueError(
                    f"custom_m: expected U with {self.num_matrices * self.output_size} features, got {U.shape[-1]}"
                )
            return U.view(input.shape[0], input.shape[1], U.shape[-1]), V

    def compute_U(self, input: Tensor) -> Tensor:
        """x (T, B, input_size) -> U (T, B, k * output_size), in the order that x has in memory, so that nothing is copied."""
        turn = input.stride(0) > input.stride(1) if not self.batch_first else input.stride(0) < input.stride(1)
        x = input.transpose(0, 1) if turn else input
        weight_proj = self.weight_proj
        if weight_proj is not None:
            x = sF.product(x, weight_proj)
        U = sF.product(x, self.weight)
        return U.transpose(0, 1) if turn else U

    def _layer(
        self, input: Tensor, c0: Optional[Tensor], mask_pad: Optional[Tensor], lengths: Optional[Tensor]
    ) -> Tuple[Tensor, Tensor]:
        return sF.layer(
            input,
            self.weight,
            self.bias,
            None if self.v1 else self.weight_c,
            c0,
            mask_pad,
            lengths,
            self._mask(input, self.dropout, self.output_size),
            self.scale_x if self.rescale else None,
            self.activation,
            self.bidirectional,
            self.batch_first,
        )

    def recur(
        self,
        U: Tensor,
        V: Optional[Tensor],
        residual: Tensor,
        c0: Optional[Tensor],
        mask_pad: Optional[Tensor],
        lengths: Optional[Tensor],
    ) -> Tuple[Tensor, Tensor]:
        """The recurrence on U and V, with x' from `residual` where k = 3."""
        if U.dtype != residual.dtype:  # autocast made U
            if self.amp_recurrence_fp16:
                residual = residual.to(U.dtype)
            else:
                U = U.to(residual.dtype)
        if V is not None and V.dim() == 3:
            V = V.to(U.dtype)
        return sF.recurrence(
            U,
            self.bias,
            V,
            residual if self.has_skip_term and self.num_matrices == 3 else None,
            c0,
            mask_pad,
            lengths,
            self._mask(U, self.dropout, self.output_size),
            self.scale_x if self.rescale else None,
            self.activation,
            self.bidirectional,
            self.batch_first,
        )

    def _is_one_product(self, input: Tensor) -> bool:
        """Whether U is nothing but the product of the highway with the weight, in one dtype."""
        if not torch.jit.is_scripting():
            if torch.is_autocast_enabled(input.device.type):
                return False
        changed = (self.layer_norm is not None and not self.normalize_after) or (self.training and self.rnn_dropout > 0)
        highway = self.has_skip_term and self.num_matrices == 3
        return highway and self.projection_size == 0 and not changed

    def _mask(self, like: Tensor, p: float, size: int) -> Optional[Tensor]:
        """A variational dropout mask (B, size), or None."""
        if not self.training or p == 0.0:
            return None
        return dropout_mask(like, p, [like.shape[0 if self.batch_first else 1], size])

    def extra_repr(self) -> str:
        """The constructor's arguments that are not the default, for print()."""
        s = f"{self.input_size}, {self.hidden_size}"
        if self.projection_size > 0:
            s += f", projection_size={self.projection_size}"
        for name in ("dropout", "rnn_dropout", "highway_bias"):
            s += f", {name}={getattr(self, name)}" if getattr(self, name) else ""
        for name in ("bidirectional", "v1", "rescale", "normalize_after", "batch_first"):
            s += f", {name}=True" if getattr(self, name) else ""
        s += f", activation={self.activation}" if self.activation_type else ""
        return s + ("" if self.has_skip_term else ", has_skip_term=False")

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        _convert(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class SRU(nn.Module):
    r"""Stacked SRU layers: a drop-in for nn.LSTM in many uses. Equations: `SRUCell`.

    Args:
        input_size: features of the input.
        hidden_size: features of each layer's state, of each direction.
        num_layers: number of layers.
        dropout, rnn_dropout: see `SRUCell`; the last layer has no `dropout`.
        bidirectional: see `SRUCell`; every layer sees both directions of the one below.
        projection_size: inner size of the factorised weights, one for all layers or one for each; 0: not factorised.
        use_tanh, layer_norm, highway_bias, has_skip_term, v1: see `SRUCell`.
        rescale: see `SRUCell`; here False by default.
        nn_rnn_compatible_return: returns c as (num_layers * directions, B, hidden_size), as nn.LSTM would, instead of
            (num_layers, B, output_size).
        custom_m: see `SRUCell`; a module that is copied for each layer, or a list with one for each.
        proj_input_to_hidden_first: where the input's size is not the output's, a linear map makes it so.
        amp_recurrence_fp16, normalize_after, weight_c_init, use_relu: see `SRUCell`.
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
    ) -> Tuple[Tensor, Tensor]:
        """Runs all layers over a batch of sequences. Shapes and errors: see the class.

        Args:
            input: or a PackedSequence (then `mask_pad` and `lengths` must be None, and the output is packed alike).
            c0: initial states. Default: 0.
            mask_pad: (T, B), or (B, T) if `batch_first`: nonzero where a step is padding, which is never read, leaves c as it
                is, and whose h is 0.
            lengths: (B,) integers in 0..T, on the CPU or the input's device: what lies beyond is padding.
        """
        if not torch.jit.is_scripting():
            if isinstance(input, PackedSequence):
                return self._forward_packed(input, c0, mask_pad, lengths)
        check_sequence(input, self.input_size, self.batch_first)
        states = split_states(c0, input, self.num_layers, self.output_size, self.num_directions, self.batch_first)
        x = clear_padding(input, mask_pad, lengths, self.batch_first)
        if self.input_to_hidden is not None:
            x = self.input_to_hidden(x)
        last: List[Tensor] = []
        for i, rnn in enumerate(self.rnn_lst):
            x, c = rnn.run(x, states[i], mask_pad, lengths)  # type: ignore[operator]
            last.append(c)
        return x, join_states(last, self.num_directions if self.nn_rnn_compatible_return else 1)

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
        if input.dim() != 2:
            raise ValueError(f"input: expected shape (B, {self.input_size}), got {list(input.shape)}")
        dim = 1 if self.batch_first else 0
        h, c = self.forward(input.unsqueeze(dim), c)
        return h.squeeze(dim), c

    def make_backward_compatible(self) -> None:
        """Completes a model that was pickled whole by an earlier version of the package."""
        defaults: Dict[str, Any] = {"nn_rnn_compatible_return": False, "batch_first": False, "input_to_hidden": None}
        old: Any = self
        cells: List[Any] = list(self.rnn_lst)
        if hasattr(self, "n_in"):  # up to 2.1.7
            if len(getattr(self, "ln_lst", ())) or getattr(self, "use_weight_norm", False):
                raise ValueError("layer norm and weight norm of sru <= 2.1.8 cannot be converted")
            self.input_size, self.hidden_size, self.output_size = old.n_in, old.n_out, old.out_size
            self.num_layers, self.projection_size, self.use_layer_norm = old.depth, old.n_proj, False
            for cell in cells:
                cell.input_size, cell.hidden_size = cell.n_in, cell.n_out
                cell.output_size = cell.n_out * 2 if cell.bidirectional else cell.n_out
                cell.num_matrices, cell.projection_size, cell.layer_norm = cell.k, cell.n_proj, None
                if int(cell.activation_type) > 2:
                    raise ValueError("SELU of sru <= 2.1.8 cannot be converted")
        defaults["num_directions"] = 2 if self.bidirectional else 1
        _set_missing(self, defaults)
        for cell in cells:
            known: Dict[str, Any] = {"custom_m": None, "weight_proj": None, "normalize_after": False, "batch_first": False}
            known.update(amp_recurrence_fp16=False, weight_c_init=None)
            _set_missing(cell, known)
            cell.activation = ("identity", "tanh", "relu")[int(cell.activation_type)]

    @torch.jit.unused
    def _forward_packed(
        self, input: PackedSequence, c0: Optional[Tensor], mask_pad: Optional[Tensor], lengths: Optional[Tensor]
    ) -> Tuple[PackedSequence, Tensor]:
        if mask_pad is not None or lengths is not None:
            raise ValueError("mask_pad and lengths: expected None with a PackedSequence, which has its own")
        padded, sizes = pad_packed_sequence(input, batch_first=self.batch_first)
        h, c = self.forward(padded, c0, None, sizes)
        return pack_like(input, h, sizes, self.batch_first), c


def check_sequence(x: Tensor, features: int, batch_first: bool) -> None:
    """Raises unless x is a batch of sequences with so many features."""
    if x.dim() != 3 or x.shape[2] != features:
        order = "(B, T, " if batch_first else "(T, B, "
        raise ValueError(f"input: expected shape {order}{features}), got {list(x.shape)}")


def clear_padding(x: Tensor, mask_pad: Optional[Tensor], lengths: Optional[Tensor], batch_first: bool) -> Tensor:
    """x with zeros in the padding: NaN there must not reach the weights' gradients."""
    if mask_pad is None and lengths is None:
        return x
    batch, steps = x.shape[0 if batch_first else 1], x.shape[1 if batch_first else 0]
    pad = torch.zeros([batch, steps], dtype=torch.bool, device=x.device)
    if mask_pad is not None:
        pad = sF.check_mask_pad(mask_pad, batch, steps, batch_first)
    if lengths is not None:
        pad = pad | (torch.arange(steps, device=x.device) >= check_lengths(lengths, x, batch, steps).unsqueeze(1))
    return x.masked_fill((pad if batch_first else pad.transpose(0, 1)).unsqueeze(2), 0.0)


def split_states(
    c0: Optional[Tensor], x: Tensor, layers: int, width: int, directions: int, batch_first: bool
) -> List[Optional[Tensor]]:
    """The initial state of each layer, (B, width), from (layers, B, width) or (layers * directions, B, width / directions)."""
    states: List[Optional[Tensor]] = []
    if c0 is not None:
        batch = x.shape[0 if batch_first else 1]
        if directions == 2 and list(c0.shape) == [2 * layers, batch, width // 2]:
            c0 = c0.unflatten(0, [layers, 2]).transpose(1, 2).flatten(2)
        if list(c0.shape) != [layers, batch, width]:
            raise ValueError(f"c0: expected shape {[layers, batch, width]}, got {list(c0.shape)}")
        c0 = check_state(c0, x, [layers, batch, width], "c0")
    for i in range(layers):
        states.append(None if c0 is None else c0[i])
    return states


def join_states(last: List[Tensor], directions: int) -> Tensor:
    """(layers * directions, B, width / directions) from the layers' states (B, width), with the directions side by side."""
    return torch.stack(last).unflatten(2, [directions, last[0].shape[1] // directions]).transpose(1, 2).flatten(0, 1)


def pack_like(packed: PackedSequence, h: Tensor, lengths: Tensor, batch_first: bool) -> PackedSequence:
    """h packed as `packed` is, whose lengths these are."""
    return pack_padded_sequence(h, lengths, batch_first=batch_first, enforce_sorted=packed.sorted_indices is None)


def _set_missing(module: nn.Module, values: Dict[str, Any]) -> None:
    for name, value in values.items():
        if not hasattr(module, name):
            setattr(module, name, value)


def _convert(cell: SRUCell, state_dict: Dict[str, Any], prefix: str) -> None:
    """Renames and transposes, in place, what the first version and 3.0.0-dev call otherwise."""
    own = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
    linear = prefix + "transform_module."  # 3.0.0-dev: nn.Linear, two of them where the weight is factorised, or custom_m
    if cell.custom_m is not None:
        for key in [key for key in state_dict if key.startswith(linear)]:
            state_dict[prefix + "custom_m." + key[len(linear) :]] = state_dict.pop(key)
    elif "transform_module.weight" in own:
        state_dict[prefix + "weight"] = state_dict.pop(linear + "weight").t()
    elif "transform_module.0.weight" in own:
        state_dict[prefix + "weight_proj"] = state_dict.pop(linear + "0.weight").t()
        state_dict[prefix + "weight"] = state_dict.pop(linear + "1.weight").t()
    if cell.v1 and "bias" in own:  # the first version has neither
        state_dict.setdefault(prefix + "weight_c", torch.zeros_like(cell.weight_c))
        state_dict.setdefault(prefix + "scale_x", torch.ones_like(cell.scale_x))
        if state_dict[prefix + "weight_c"].count_nonzero() > 0:
            raise ValueError(f"{prefix}weight_c: expected zeros for a model with v1=True")
