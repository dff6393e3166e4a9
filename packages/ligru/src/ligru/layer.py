"""Layers of Li-GRU and SLi-GRU, under the names and state-dict keys of SpeechBrain.

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from . import functional as lF
from ._checks import check_input, check_lengths, check_reset, check_state, check_tensor
from ._modes import is_eager, is_unwatched
from ._plain import child, is_plain, is_untouched_as, linear_parameters, parameters_as_they_are
from ._small import small_layer
from ._tensors import dropout_mask, state_dtype


class LayerBase(nn.Module):
    """What LiGRU_Layer and SLiGRU_Layer share: all but the names of arguments."""

    batch_norm: Final[bool]
    if TYPE_CHECKING:  # nn.BatchNorm1d or nn.LayerNorm: not for TorchScript, which knows from the module itself
        norm: Any

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        dropout: float,
        nonlinearity: str,
        normalization: str,
        bias: bool,
        bidirectional: bool,
        stabilised: bool,
        recurrent_elementwise_affine: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"input_size and hidden_size: expected positive sizes, got {input_size} and {hidden_size}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
        if normalization not in ("batchnorm", "layernorm"):
            raise ValueError(
                f"{'ff_normalization' if stabilised else 'normalization'}: expected 'batchnorm' or 'layernorm' "
                f"(which is what SpeechBrain makes of any other string), got {normalization!r}"
            )
        lF.activation_name(nonlinearity)
        self.input_size, self.hidden_size = int(input_size), int(hidden_size)
        self.dropout = float(dropout)
        self.nonlinearity = nonlinearity
        self.bias = bias
        self.bidirectional = bidirectional
        self.batch_norm = normalization == "batchnorm"
        self.stabilised = stabilised
        width = 2 * self.hidden_size
        self.w = nn.Linear(self.input_size, width, bias=False, device=device, dtype=dtype)
        self.u = nn.Linear(self.hidden_size, width, bias=False, device=device, dtype=dtype)
        affine = stabilised and recurrent_elementwise_affine
        # before `norm`, as in SpeechBrain: the states of optimisers go by the order of parameters
        self.layer_norm = nn.LayerNorm(width, elementwise_affine=affine, device=device, dtype=dtype) if stabilised else None
        if self.batch_norm:
            self.norm = nn.BatchNorm1d(width, momentum=0.05, device=device, dtype=dtype)
        else:
            self.norm = nn.LayerNorm(width, device=device, dtype=dtype)
        if not bias:
            self.norm.bias.requires_grad_(False)

    def forward(
        self,
        x: Tensor,
        hx: Tensor | None = None,
        lengths: Tensor | None = None,
        with_state: bool = False,
        reset: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """h at each step.

        Args:
            x: (B, T, input_size), or any (B, T, ...) with as many values at a step.
            hx: h before the first step: (D, B, hidden_size), with D = 2 if bidirectional, else 1; or the same as
                (D * B, hidden_size), the rows that go forward first. Default: 0.
            lengths: (B,) integers in 0..T, on the CPU or x's device. What lies beyond is padding: never read, not counted by
                batch normalisation, and its h is 0.
            with_state: whether to return h after each sequence's last step too.
            reset: (B, T) of bool. Where True, a sequence begins, from 0: no state passes between that step and the one before,
                in either direction.

        Returns:
            (B, T, D * hidden_size), the directions side by side; if with_state, also (D, B, hidden_size), in float32 also for
            16-bit types.

        Raises:
            ValueError: if a shape, device or length does not fit.
            TypeError: if a dtype does not.
        """
        check_tensor("x", x)
        if x.dim() > 3:
            x = x.flatten(2)
        if x.dim() != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x: expected shape (B, T, {self.input_size}), got {list(x.shape)}")
        mask: Tensor | None = None
        if not torch.jit.is_scripting():
            if lengths is None and reset is None and self._is_one_call():
                mask = self._mask(x)
                made = self._made_in_one_call(x, hx, mask)
                if made is not None:
                    return made if with_state else made[0]
            check_input(x, child(self, "w"))
        valid: Tensor | None = None
        if lengths is not None:
            lengths = check_lengths(lengths, x, x.shape[0], x.shape[1])
            valid = (torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(1)).unsqueeze(2)
            x = x.masked_fill(~valid, 0.0)  # NaN there must not reach the weights' gradients
        g = self._input_part(x, valid)
        if hx is not None:
            directions = 2 if self.bidirectional else 1
            check_tensor("hx", hx)
            if hx.dim() == 2:
                if list(hx.shape) != [directions * x.shape[0], self.hidden_size]:
                    expected = [directions * x.shape[0], self.hidden_size]
                    raise ValueError(f"hx: expected shape {expected}, got {list(hx.shape)}")
                hx = hx.unflatten(0, [directions, x.shape[0]])
            hx = check_state(hx, x, [directions, x.shape[0], self.hidden_size], "hx")
        out, h = self._recurrence(g, hx, lengths, reset, self._mask(g) if mask is None else mask)
        if with_state:
            return out, h
        return out

    @torch.jit.unused
    def _is_one_call(self) -> bool:
        """Whether all that a call does, in one direction, is what `small_layer` does."""
        if self.bidirectional or not (self.batch_norm and is_eager() and is_unwatched()):
            return False
        norm, layer_norm = child(self, "norm"), self.layer_norm
        if layer_norm is not None:
            if not is_untouched_as(layer_norm, nn.LayerNorm) or layer_norm.weight is not None or layer_norm.bias is not None:
                return False
        return is_untouched_as(norm, nn.BatchNorm1d) and norm.track_running_stats

    @torch.jit.unused
    def _made_in_one_call(self, x: Tensor, hx: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor] | None:
        w, u = parameters_as_they_are(child(self, "w")), parameters_as_they_are(child(self, "u"))
        if w is None or u is None or w[1] is not None or u[1] is not None:
            return None
        eps = 1e-5 if self.layer_norm is None else self.layer_norm.eps
        norm: Any = child(self, "norm")
        return small_layer(x, w[0], u[0], norm, hx, mask, self.nonlinearity, self.stabilised, eps)

    def _recurrence(
        self,
        g: Tensor,
        hx: Tensor | None,
        lengths: Tensor | None,
        reset: Tensor | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        layer_norm = self.layer_norm
        weight: Tensor | None = None
        bias: Tensor | None = None
        eps = 1e-5
        if torch.jit.is_scripting():
            u = self.u.weight
        else:
            parameters = linear_parameters(child(self, "u"))
            known = layer_norm is None or (
                is_plain(layer_norm, nn.LayerNorm) and (layer_norm.weight is None) == (layer_norm.bias is None)
            )
            if parameters is None or parameters[1] is not None or not known:
                return self._recurrence_of_calls(g, hx, mask, lengths, reset)
            u = parameters[0]
            bare = hx is None and lengths is None and reset is None and layer_norm is None
            if bare and is_eager() and u.dtype is g.dtype:
                return lF.recurrence_unchecked(g, u, mask, self.nonlinearity, self.bidirectional)
        if layer_norm is not None:
            weight, bias, eps = layer_norm.weight, layer_norm.bias, layer_norm.eps
        return lF.recurrence(
            g, u, hx, mask, lengths, self.nonlinearity, self.bidirectional, self.stabilised, weight, bias, eps, reset
        )

    @torch.jit.unused
    def _recurrence_of_calls(
        self,
        g: Tensor,
        hx: Tensor | None,
        mask: Tensor | None,
        lengths: Tensor | None,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Where `u` or `layer_norm` is something else than what it was: it is called at each step."""

        def product(h: Tensor) -> Tensor:
            made: Tensor = self.u(h)
            return made if self.layer_norm is None else self.layer_norm(made)

        reset = None if reset is None else check_reset(reset, g)
        return lF.recurrence_of_a_call(g, product, hx, mask, lengths, reset, self.nonlinearity, self.bidirectional)

    def _input_part(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Norm(W x) (B, T, 2 * hidden_size); `valid` (B, T, 1) is False in the padding, or None where there is none."""
        if self.batch_norm:
            return self._batch_normed(x, valid)
        return self.norm(self.w(x))

    def _batch_normed(self, x: Tensor, valid: Tensor | None) -> Tensor:
        norm = self.norm
        if torch.jit.is_scripting():
            known = True
            plain = norm.affine and norm.track_running_stats
            weight: Tensor = self.w.weight
        else:
            known = is_plain(norm, nn.BatchNorm1d)
            parameters = linear_parameters(child(self, "w")) if known else None
            plain = parameters is not None and parameters[1] is None and norm.running_mean is not None
            if parameters is not None:
                weight = parameters[0]
        if plain and not norm.training:
            scale = torch.rsqrt(norm.running_var + norm.eps)
            if norm.weight is not None:
                scale = scale * norm.weight
            shift = -norm.running_mean * scale
            if norm.bias is not None:
                shift = shift + norm.bias
            if self._has_many_steps(x):  # one product with weights that have the scale in them, instead of another pass
                return nn.functional.linear(x, weight * scale.unsqueeze(1), shift)
            return torch.addcmul(shift, nn.functional.linear(x, weight), scale)
        if valid is not None and (not known or norm.training or norm.running_mean is None):
            return self._batch_norm_of_valid(nn.functional.linear(x, weight) if plain else self.w(x), valid)
        # in two dimensions from the product on: one view for autograd instead of two
        rows = nn.functional.linear(x.flatten(0, 1), weight) if plain else self.w(x).flatten(0, 1)
        if rows.shape[0] > 0:
            rows = norm(rows)
        return rows.view(x.shape[0], x.shape[1], 2 * self.hidden_size)

    def _has_many_steps(self, x: Tensor) -> bool:
        """Whether there are more steps to scale than columns of W."""
        if not torch.jit.is_scripting():
            if torch.compiler.is_compiling():  # the answer would hold for one size only
                return True
        return x.shape[0] * x.shape[1] > self.input_size

    def _batch_norm_of_valid(self, g: Tensor, valid: Tensor) -> Tensor:
        """Batch normalisation by the steps that are not padding, where g is 0; without a look at how many they are.

        What nn.BatchNorm1d does with its running statistics, in all its forms; anything else is called with those steps.
        """
        norm = self.norm
        if not torch.jit.is_scripting():
            if not is_plain(norm, nn.BatchNorm1d) or len(norm._forward_pre_hooks) > 0:
                rows = valid.squeeze(2)
                return torch.zeros_like(g).masked_scatter(valid, norm(g[rows]).to(g.dtype))
        values = g.to(state_dtype(g))
        count = valid.sum().clamp(min=1).to(values.dtype)
        mean = values.sum([0, 1]) / count
        centred = (values - mean) * valid
        var = centred.square().sum([0, 1]) / count
        running_mean, running_var, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
        if norm.training and running_mean is not None and running_var is not None:
            with torch.no_grad():
                if batches is not None:
                    batches.add_(1)
                unbiased = var * count / (count - 1).clamp(min=1)
                momentum = norm.momentum
                if momentum is not None:
                    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                    running_var.lerp_(unbiased.to(running_var.dtype), momentum)
                elif batches is not None:  # the average of all batches
                    share = 1.0 / batches.to(running_mean.dtype)
                    running_mean.lerp_(mean.to(running_mean.dtype), share)
                    running_var.lerp_(unbiased.to(running_var.dtype), share)
        scale = torch.rsqrt(var + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        normal = centred * scale
        if norm.bias is not None:
            normal = normal + norm.bias
        return normal.to(g.dtype)

    def _mask(self, like: Tensor) -> Tensor | None:
        """A mask of recurrent dropout (D, B, hidden_size), one for each sequence and direction, or None."""
        if not self.training or self.dropout == 0.0:
            return None
        return dropout_mask(like, self.dropout, [2 if self.bidirectional else 1, like.shape[0], self.hidden_size])

    def extra_repr(self) -> str:
        """The arguments that the submodules do not show, for print()."""
        return f"nonlinearity={self.nonlinearity}, dropout={self.dropout}, bidirectional={self.bidirectional}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("drop_masks", "drop_mask_te", "h_init"):  # SpeechBrain's buffers: random masks, ones and zeros
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class LiGRU_Layer(LayerBase):
    r"""One layer of Li-GRU (Ravanelli et al., arXiv:1803.10225)::

        (a_t, z'_t) = Norm(W x_t) + U h_{t-1};   z_t = sigmoid(z'_t);   h_t = z_t h_{t-1} + (1 - z_t) f(a_t) mask

    The two directions of a bidirectional layer share all weights.

    Args:
        input_size: values of the input at a step.
        hidden_size: H, units of each direction.
        num_layers, batch_size: accepted for SpeechBrain's sake, and without meaning.
        dropout: probability, in [0, 1), that a unit's f(a) is 0 for a whole sequence; the others are scaled by 1 / (1 -
            dropout). While training.
        nonlinearity: f: "relu", "leaky_relu" (also "leakyrelu"), "tanh" or "sin" (also "sine").
        normalization: "batchnorm" (over all steps of the batch, momentum 0.05) or "layernorm".
        bias: whether the normalisation's bias, the only one there is, is trained.
        bidirectional: a second recurrence goes from each sequence's last step to its first.
        device, dtype: of the parameters.

    Attributes:
        w.weight: W (2H, input_size); u.weight: U (2H, H): the candidate's rows, then the update gate's.
        norm: nn.BatchNorm1d or nn.LayerNorm, of 2H.

    Raises:
        ValueError: an argument out of range, or none of the strings named.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        batch_size: int = 1,
        dropout: float = 0.0,
        nonlinearity: str = "relu",
        normalization: str = "batchnorm",
        bias: bool = True,
        bidirectional: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, dropout, nonlinearity, normalization, bias, bidirectional, False, False, device, dtype
        )


class SLiGRU_Layer(LayerBase):
    r"""One layer of SLi-GRU, the stabilised Li-GRU (Moumen and Parcollet, arXiv:2302.10144)::

        (a_t, z'_t) = Norm(W x_t) + LayerNorm(U h_{t-1});   z_t = sigmoid(z'_t);   h_t = z_t h_{t-1} + (1 - z_t) f(a_t) mask

    The two directions of a bidirectional layer share all weights.

    Args:
        input_size: values of the input at a step.
        hidden_size: H, units of each direction.
        num_layers, batch_size: accepted for SpeechBrain's sake, and without meaning.
        dropout: probability, in [0, 1), that a unit's f(a) is 0 for a whole sequence; the others are scaled by 1 / (1 -
            dropout). While training.
        nonlinearity: f: "relu", "leaky_relu" (also "leakyrelu"), "tanh" or "sin" (also "sine").
        ff_normalization: of W x: "batchnorm" (over all steps of the batch, momentum 0.05) or "layernorm".
        recurrent_elementwise_affine: whether the normalisation of U h has a weight and a bias.
        bias: whether the normalisation's bias is trained.
        bidirectional: a second recurrence goes from each sequence's last step to its first.
        device, dtype: of the parameters.

    Attributes:
        w.weight: W (2H, input_size); u.weight: U (2H, H): the candidate's rows, then the update gate's.
        norm: nn.BatchNorm1d or nn.LayerNorm, of 2H.
        layer_norm: nn.LayerNorm, of 2H.

    Raises:
        ValueError: an argument out of range, or none of the strings named.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        batch_size: int = 1,
        dropout: float = 0.0,
        nonlinearity: str = "relu",
        ff_normalization: str = "batchnorm",
        recurrent_elementwise_affine: bool = False,
        bias: bool = True,
        bidirectional: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            dropout,
            nonlinearity,
            ff_normalization,
            bias,
            bidirectional,
            True,
            recurrent_elementwise_affine,
            device,
            dtype,
        )
