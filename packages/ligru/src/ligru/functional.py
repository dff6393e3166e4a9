"""The recurrence of Li-GRU and SLi-GRU as a function, for those who build their own layer::

    (a_t, z'_t) = g_t + U h_{t-1}, in SLi-GRU g_t + LayerNorm(U h_{t-1});   z_t = sigmoid(z'_t)
    h_t = z_t h_{t-1} + (1 - z_t) f(a_t) mask

(Ravanelli et al., "Light Gated Recurrent Units for Speech Recognition", arXiv:1803.10225; Moumen and Parcollet,
"Stabilising and accelerating light gated recurrent units for automatic speech recognition", arXiv:2302.10144.) One op each way
for the whole sequence. States are float32, and float64 for float64 inputs. Second derivatives, and everything under
torch.func, are exact too, but computed step by step by `ligru.reference`. Arguments are positional or by keyword, so that
torch.jit.script can compile calls.
"""

from __future__ import annotations

from typing import Callable, List, Optional, Tuple

import torch
from torch import Tensor

from . import _ops, reference
from ._checks import check_floating, check_lengths, check_reset, check_state, check_tensor
from ._modes import allows_tf32, autocast_enabled, needs_plain_torch, wants_gradients
from ._tensors import state_dtype

__all__ = ["recurrence"]


def recurrence(
    g: Tensor,
    weight: Tensor,
    h0: Optional[Tensor] = None,
    mask: Optional[Tensor] = None,
    lengths: Optional[Tensor] = None,
    nonlinearity: str = "relu",
    bidirectional: bool = False,
    normalize: bool = False,
    norm_weight: Optional[Tensor] = None,
    norm_bias: Optional[Tensor] = None,
    eps: float = 1e-5,
    reset: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """The recurrence, from what the input's part of the gates is.

    Args:
        g: (B, T, 2 * H): the candidate's part, then the update gate's. float64, float32, float16 or bfloat16. Under autocast it
            and the weight are cast to autocast's dtype. On a GPU, float32 is multiplied with the weight as TF32 where torch may
            multiply so (`torch.backends.cuda.matmul.fp32_precision`, `torch.set_float32_matmul_precision`).
        weight: U, (2 * H, H), rows in the order of g, of g's dtype.
        h0: h before the first step, anything that expands to (D, B, H), with D = 2 if `bidirectional`, else 1. Default: 0.
        mask: anything that expands to (D, B, H), multiplies f(a): usually a dropout mask. It has no gradient.
        lengths: (B,) integers within 0..T. Steps from lengths[b] on are padding: never read, and their output is 0. They may
            lie on the CPU; if they lie on the GPU, a value out of range ends in a CUDA error.
        nonlinearity: f: "relu", "leaky_relu" (slope 0.01; also "leakyrelu"), "tanh" or "sin" (also "sine").
        bidirectional: a second recurrence, with the same weight, goes from each sequence's last step to its first.
        normalize: whether U h is normalised over its 2 * H values (SLi-GRU).
        norm_weight, norm_bias: (2 * H,), both or none: what that normalisation multiplies by, and adds.
        eps: added to its variance.
        reset: (B, T) of bool. Where True, a sequence begins, from 0: no state passes between that step and the one before, in
            either direction.

    Returns:
        h at each step (B, T, D * H), in g's dtype, the directions side by side; and h after the last step of each sequence and
        direction (D, B, H), float32, or float64 where g is.

    Raises:
        TypeError: if a dtype is not floating, or differs from g's (for states, from the states' too).
        ValueError: if a shape or device does not fit, `lengths` on the CPU are out of range, `nonlinearity` is none of those
            named, the norm's parameters come without `normalize` or without each other, or mask requires a gradient.

    Example:
        >>> g, weight = torch.randn(4, 50, 2 * 32), torch.randn(2 * 32, 32) / 32**0.5
        >>> out, h_last = recurrence(g, weight, normalize=True)
        >>> out.shape, h_last.shape
        (torch.Size([4, 50, 32]), torch.Size([1, 4, 32]))
    """
    activation = activation_name(nonlinearity)
    check_tensor("g", g)
    check_tensor("weight", weight)
    if g.dim() != 3 or g.shape[2] % 2 != 0:
        raise ValueError(f"g: expected shape (B, T, 2 * H), got {list(g.shape)}")
    check_floating("g", g)
    batch, steps, units = g.shape[0], g.shape[1], g.shape[2] // 2
    if list(weight.shape) != [2 * units, units]:
        raise ValueError(f"weight: expected shape {[2 * units, units]}, got {list(weight.shape)}")
    if weight.device != g.device:
        raise ValueError(f"weight: expected device {g.device}, got {weight.device}")
    if not torch.jit.is_scripting():
        if autocast_enabled(g.device) and g.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(g.device.type)
            g, weight = g.to(dtype), weight.to(dtype)
    if weight.dtype != g.dtype:
        raise TypeError(f"weight: expected {g.dtype}, got {weight.dtype}")
    shape = [2 if bidirectional else 1, batch, units]
    if h0 is not None:
        h0 = check_state(h0, g, shape, "h0").contiguous()
    if mask is not None:
        if mask.requires_grad:
            raise ValueError("mask: expected a tensor without requires_grad, for which there is no gradient")
        mask = check_state(mask, g, shape, "mask").contiguous()
    if lengths is not None:
        lengths = check_lengths(lengths, g, batch, steps)
    if reset is not None:
        reset = check_reset(reset, g)
    if (norm_weight is None) != (norm_bias is None):
        raise ValueError("norm_weight and norm_bias: expected both or none")
    if norm_weight is not None and norm_bias is not None:
        if not normalize:
            raise ValueError("norm_weight and norm_bias: expected None without normalize")
        for name, t in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
            if list(t.shape) != [2 * units]:
                raise ValueError(f"{name}: expected shape {[2 * units]}, got {list(t.shape)}")
        norm_weight = check_state(norm_weight, g, [2 * units], "norm_weight").contiguous()
        norm_bias = check_state(norm_bias, g, [2 * units], "norm_bias").contiguous()
        inputs = [g, weight, norm_weight, norm_bias]
        save = wants_gradients([g, weight, norm_weight, norm_bias], h0)
    else:
        inputs = [g, weight]
        save = wants_gradients([g, weight], h0)
    if torch.jit.is_scripting():
        out, h_last, _, _, _ = torch.ops.rnnkit_ligru.recurrence(
            inputs, h0, lengths, reset, mask, activation, bidirectional, normalize, eps, False, save
        )
    elif needs_plain_torch():
        out, h_last = _composite(inputs, h0, lengths, reset, mask, activation, bidirectional, normalize, eps)
    else:
        options = (activation, bidirectional, normalize, eps, _as_tf32(g), save)
        out, h_last, _, _, _ = _ops.CALLS.recurrence(inputs, h0, lengths, reset, mask, *options)
    return out, h_last


@torch.jit.unused
def recurrence_unchecked(
    g: Tensor, weight: Tensor, mask: Optional[Tensor], nonlinearity: str, bidirectional: bool
) -> Tuple[Tensor, Tensor]:
    """`recurrence` where `is_eager()`, of tensors that are known to fit, from the state 0, without padding or normalisation."""
    save = torch.is_grad_enabled() and (g.requires_grad or weight.requires_grad)
    options = (activation_name(nonlinearity), bidirectional, False, 1e-5, _as_tf32(g), save)
    out, h_last, _, _, _ = _ops.CALLS.recurrence([g, weight], None, None, None, mask, *options)
    return out, h_last


def activation_name(nonlinearity: str) -> str:
    """What `reference.ACTIVATIONS` calls a nonlinearity; raises ValueError if it is none of those."""
    if nonlinearity == "relu":
        return "relu"
    if nonlinearity == "leaky_relu" or nonlinearity == "leakyrelu":
        return "leaky_relu"
    if nonlinearity == "tanh":
        return "tanh"
    if nonlinearity == "sin" or nonlinearity == "sine":
        return "sin"
    raise ValueError(
        f"nonlinearity: expected 'relu', 'leaky_relu' ('leakyrelu'), 'tanh' or 'sin' ('sine'), got '{nonlinearity}'"
    )


@torch.jit.unused
def recurrence_of_a_call(
    g: Tensor,
    product: Callable[[Tensor], Tensor],
    h0: Optional[Tensor],
    mask: Optional[Tensor],
    lengths: Optional[Tensor],
    reset: Optional[Tensor],
    nonlinearity: str,
    bidirectional: bool,
) -> Tuple[Tensor, Tensor]:
    """`recurrence` whose product with U is whatever `product` makes of h (B, H): (B, 2 * H). A call a step, in plain PyTorch."""
    activation = activation_name(nonlinearity)
    shape = [2 if bidirectional else 1, g.shape[0], g.shape[2] // 2]
    h0 = g.new_zeros(shape, dtype=state_dtype(g)) if h0 is None else check_state(h0, g, shape, "h0")

    def called(h: Tensor) -> Tensor:
        return product(h.to(g.dtype)).to(h.dtype)

    out, h_last = reference.steps_of(g, called, h0, lengths, reset, mask, activation=activation, bidirectional=bidirectional)
    return out.to(g.dtype), h_last


@torch.jit.unused
def _composite(
    inputs: List[Tensor],
    h0: Optional[Tensor],
    lengths: Optional[Tensor],
    reset: Optional[Tensor],
    mask: Optional[Tensor],
    activation: str,
    bidirectional: bool,
    normalize: bool,
    eps: float,
) -> Tuple[Tensor, Tensor]:
    g = inputs[0]
    if h0 is None:
        shape = (2 if bidirectional else 1, g.shape[0], g.shape[2] // 2)
        h0 = g.new_zeros(shape, dtype=state_dtype(g))
    out, h_last = _ops.composite(inputs, h0, lengths, reset, mask, activation, bidirectional, normalize, eps, False)
    return out.to(g.dtype), h_last


@torch.jit.unused
def _as_tf32(g: Tensor) -> bool:
    return g.is_cuda and g.dtype is torch.float32 and allows_tf32()
