"""One layer of SRU.

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from . import functional as sF
from ._checks import check_input, check_lengths, check_tensor
from ._modes import autocast_enabled, is_eager
from ._plain import fits, is_untouched, tensor_of
from ._tensors import dropout_mask
from .convert import CellProduct, convert_state_dict


class SRUCell(nn.Module):
    r"""One layer of SRU (Lei et al., arXiv:1709.02755): a whole sequence at once, or a step::

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
        n_proj: inner size of a factorised weight; 0: not factorised. (sru 2.6 does not factorise where that is not below the
            input's and the output's, 3.0.0-dev does, as this.)
        use_tanh: g = tanh; otherwise the identity.
        highway_bias: initial b_r.
        has_skip_term: whether there is x'.
        layer_norm: normalises the input of the matrix product, or h if `normalize_after`, which means nothing without it.
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

    __jit_unused_properties__ = ("transform_module",)
    scale_x: Tensor
    weight_proj: Tensor | None

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
        custom_m: nn.Module | None = None,
        amp_recurrence_fp16: bool = False,
        normalize_after: bool = False,
        weight_c_init: float | None = None,
        *,
        use_relu: bool = False,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"input_size and hidden_size: expected positive sizes, got {input_size} and {hidden_size}")
        for name, p in (("dropout", dropout), ("rnn_dropout", rnn_dropout)):
            if not 0 <= p < 1:
                raise ValueError(f"{name}: expected a probability in [0, 1), got {p}")
        if use_tanh and use_relu:
            raise ValueError("use_tanh and use_relu: expected at most one activation, got both")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.output_size = hidden_size * 2 if bidirectional else hidden_size
        if n_proj < 0:
            raise ValueError(f"projection size: expected 0 or more, got {n_proj}")
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
        c0: Tensor | None = None,
        mask_pad: Tensor | None = None,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Runs over a batch of sequences, or over one step.

        Args:
            input: (T, B, input_size), or (B, T, input_size) if `batch_first`; or (B, input_size), a single step.
            c0: c before the first step, anything that expands to (B, output_size). Default: 0.
            mask_pad: (T, B), nonzero where a step is padding: it is never read, leaves c as it is, and its h is 0.
            lengths: (B,) integers in 0..T: what lies beyond is padding.
            reset: (T, B), or (B, T) if `batch_first`, of bool. Where True, a sequence begins, from 0: no state passes between that
                step and the one before, in either direction.

        Returns:
            h (T, B, output_size), or (B, T, output_size); and c after each sequence's last step, (B, output_size), in
            float32 also for 16-bit types. For a single step both are (B, output_size).
        """
        check_tensor("input", input)
        if input.dim() == 2:
            if mask_pad is not None or lengths is not None or reset is not None:
                raise ValueError("mask_pad, lengths and reset: expected None with a single step, (B, features)")
            dim = 1 if self.batch_first else 0
            h, c = self._run(input.unsqueeze(dim), c0, None, None, None)
            return h.squeeze(dim), c
        if mask_pad is not None or lengths is not None:
            check_sequence(input, self.input_size, self.batch_first)
            input = clear_padding(input, mask_pad, lengths, self.batch_first)
        return self._run(input, c0, mask_pad, lengths, reset)

    def _run(
        self, input: Tensor, c0: Tensor | None, mask_pad: Tensor | None, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`forward` of a batch of sequences, without NaN in the padding."""
        check_sequence(input, self.input_size, self.batch_first)
        if not torch.jit.is_scripting():
            weight = self._parameters.get("weight")  # none that a parametrisation would compute
            if weight is None or not fits(input, weight):
                check_input(input, self, "input")
        if self.custom_m is None:  # alone in its condition, so that TorchScript never looks for the weight of others
            if self._is_one_product(input):
                h, c = self._layer(input, c0, mask_pad, lengths, reset)
                return self.finish(h, mask_pad, lengths), c
        U, V = self.compute_UV(self.prepare(input))
        h, c = self.recur(U, V, input, c0, mask_pad, lengths, reset)
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

    def finish(self, h: Tensor, mask_pad: Tensor | None, lengths: Tensor | None) -> Tensor:
        """h, normalised if that comes after, and contiguous, whatever the input was."""
        layer_norm = self.layer_norm
        if layer_norm is not None and self.normalize_after:
            h = clear_padding(layer_norm(h), mask_pad, lengths, self.batch_first)  # where it would leave its bias
        return h.contiguous()

    def compute_UV(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """U (T, B, k * output_size), and weight_c, or V + weight_c (T, B, 2 * output_size) if `custom_m` returns a V."""
        V: Tensor | None = None if self.v1 else self.weight_c
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
        turn = input.stride(0) < input.stride(1)
        x = input.transpose(0, 1) if turn else input
        weight_proj = self.weight_proj
        if weight_proj is not None:
            x = sF.product(x, weight_proj)
        U = sF.product(x, self.weight)
        return U.transpose(0, 1) if turn else U

    def _layer(
        self, input: Tensor, c0: Tensor | None, mask_pad: Tensor | None, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if not torch.jit.is_scripting():
            return self._layer_of_python(input, c0, mask_pad, lengths, reset)
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
            reset,
        )

    @torch.jit.unused
    def _layer_of_python(
        self, input: Tensor, c0: Tensor | None, mask_pad: Tensor | None, lengths: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`_layer`, with the shortest way to the tensors, and to the op."""
        weight = tensor_of(self, "weight")
        bias = tensor_of(self, "bias")
        weight_c = None if self.v1 else tensor_of(self, "weight_c")
        scale = tensor_of(self, "scale_x") if self.rescale else None
        mask = self._mask(input, self.dropout, self.output_size)
        options = (self.activation, self.bidirectional, self.batch_first)
        given = (c0, mask_pad, lengths, mask, scale, reset)
        bare = all(one is None for one in given)
        if bare and is_eager() and bias.dtype is weight.dtype and (weight_c is None or weight_c.dtype is weight.dtype):
            return sF.layer_unchecked(input, weight, bias, weight_c, *options)
        return sF.layer(input, weight, bias, weight_c, c0, mask_pad, lengths, mask, scale, *options, reset)

    def recur(
        self,
        U: Tensor,
        V: Tensor | None,
        residual: Tensor,
        c0: Tensor | None,
        mask_pad: Tensor | None,
        lengths: Tensor | None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
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
            reset,
        )

    def _is_one_product(self, input: Tensor) -> bool:
        """Whether U is nothing but the product of the highway with the weight, in one dtype."""
        if not torch.jit.is_scripting():
            if autocast_enabled(input.device):
                return False
        changed = (self.layer_norm is not None and not self.normalize_after) or (self.training and self.rnn_dropout > 0)
        highway = self.has_skip_term and self.num_matrices == 3
        return highway and self.projection_size == 0 and not changed

    def is_bare(self) -> bool:
        """Whether a call is nothing but a product and a recurrence, at the moment, with tensors that are this cell's own."""
        alone = self.custom_m is None and self.projection_size == 0 and self.layer_norm is None and not self.bidirectional
        drops = self.training and (self.dropout > 0 or self.rnn_dropout > 0)
        return alone and not drops and is_untouched(self)

    def _mask(self, like: Tensor, p: float, size: int) -> Tensor | None:
        """A variational dropout mask (B, size), or None."""
        if not self.training or p == 0.0:
            return None
        return dropout_mask(like, p, [like.shape[0 if self.batch_first else 1], size])

    @property
    def transform_module(self) -> nn.Module:
        """What sru 3.0.0-dev calls the module of the product: `custom_m`, or one that has this cell's weights."""
        return CellProduct(self) if self.custom_m is None else self.custom_m

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

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        convert_state_dict(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def check_sequence(x: Tensor, features: int, batch_first: bool) -> None:
    """Raises unless x is a batch of sequences with so many features."""
    check_tensor("input", x)
    if x.dim() != 3 or x.shape[2] != features:
        order = "(B, T, " if batch_first else "(T, B, "
        raise ValueError(f"input: expected shape {order}{features}), got {list(x.shape)}")


def clear_padding(x: Tensor, mask_pad: Tensor | None, lengths: Tensor | None, batch_first: bool) -> Tensor:
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
