"""SRU's recurrence as functions, for those who build their own layer::

    f_t = sigmoid(U1_t + v_f c_{t-1} + b_f)       c_t = f_t c_{t-1} + (1 - f_t) U0_t
    r_t = sigmoid(U2_t + v_r c_{t-1} + b_r)       h_t = x'_t + (g(c_t) - x'_t) mask r_t

(Lei et al., "Simple Recurrent Units for Highly Parallelizable Recurrence", arXiv:1709.02755, equations 3 to 7.) One fused
kernel each way. States are float32, and float64 for float64 inputs. Second derivatives, and everything under torch.func,
are exact too, but computed step by step by `sru.reference`. Arguments are positional or by keyword, so that
torch.jit.script can compile calls.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from . import _ops
from ._checks import check_floating, check_lengths, check_reset, check_state, check_tensor
from ._modes import autocast_enabled, is_eager, needs_plain_torch, wants_gradients, without_autocast
from ._tensors import run_reference, state_dtype

__all__ = ["layer", "recurrence"]


def recurrence(
    U: Tensor,
    bias: Tensor,
    weight_c: Optional[Tensor] = None,
    x: Optional[Tensor] = None,
    c0: Optional[Tensor] = None,
    mask_pad: Optional[Tensor] = None,
    lengths: Optional[Tensor] = None,
    mask_c: Optional[Tensor] = None,
    scale_x: Optional[Tensor] = None,
    activation: str = "identity",
    bidirectional: bool = False,
    batch_first: bool = False,
    reset: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """The recurrence, from what the matrix product made.

    Args:
        U: (T, B, k * D), or (B, T, k * D) if `batch_first`; the k values of a channel lie side by side: U0, U1, U2, and for
            k = 4 x'. float64, float32, float16 or bfloat16.
        bias: (2 * D,): b_f, then b_r.
        weight_c: (2 * D,): v_f, then v_r; or (T, B, 2 * D), v_f and v_r of a channel side by side, for each step its own; or
            None: 0, the first version's recurrence, which is parallel in time forward too.
        x: (T, B, D): x', where k = 3. Without it, x' = 0.
        c0: c before the first step, anything that expands to (B, D). Default: 0.
        mask_pad: (T, B), nonzero where a step is padding: it is never read, leaves c as it is, and its output is 0.
        lengths: (B,) integers within 0..T. Steps from lengths[b] on are padding.
        mask_c: (B, D), usually a dropout mask; it has no gradient.
        scale_x: (1,), multiplies x; it has no gradient.
        activation: g: "identity", "tanh" or "relu".
        bidirectional: the second half of the D channels goes from the last step to the first.
        batch_first: sequences are (B, T, ...), mask_pad is (B, T).
        reset: (T, B), or (B, T) if `batch_first`, of bool. Where True, a sequence begins, from 0: no state passes into that
            step from the one before, nor, for channels that go backward, out of it.

    Returns:
        h (T, B, D), or (B, T, D); and c after the last valid step (the first, for channels that go backward), (B, D), in
        float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, device, length or option that does not fit; the message names it.
        TypeError: a dtype that does not fit.
    """
    check_tensor("U", U)
    check_floating("U", U)
    channels = bias.numel() // 2
    if U.dim() != 3 or channels == 0 or (U.shape[2] != 3 * channels and U.shape[2] != 4 * channels):
        raise ValueError(f"U: expected 3 dimensions, the last of 3 or 4 times {channels} (bias / 2), got {list(U.shape)}")
    k = U.shape[2] // channels
    if x is not None and k == 4:
        raise ValueError("x: expected None where U has four values a channel, x' among them")
    peephole = "none" if weight_c is None else ("parameter" if weight_c.dim() == 1 else "plane")
    if weight_c is not None and weight_c.dim() != 1 and weight_c.dim() != 3:
        raise ValueError(f"weight_c: expected 1 dimension, or 3 for each step its own, got {list(weight_c.shape)}")
    if not batch_first:
        U = U.transpose(0, 1)
    highway: List[Tensor] = []
    if x is not None:
        highway = [_check_like("x", x if batch_first else x.transpose(0, 1), U, channels)]
    inputs = [U] + highway
    if weight_c is not None and peephole == "plane":
        _check_like("weight_c", weight_c if batch_first else weight_c.transpose(0, 1), U, 2 * channels)
        v = weight_c.unflatten(2, [channels, 2])
        v_f, v_r = v[..., 0].contiguous(), v[..., 1].contiguous()
        if not batch_first:
            v_f, v_r = v_f.transpose(0, 1), v_r.transpose(0, 1)
        inputs = [v_f] + inputs + [v_r]
    inputs = inputs + [_parameters(bias, weight_c if peephole == "parameter" else None, U)]
    skip = "column" if k == 4 else ("none" if x is None else "input")
    c0, lengths, pad, mask, scale = _check_others(U, channels, c0, lengths, mask_pad, mask_c, scale_x, batch_first)
    if reset is not None:
        reset = check_reset(reset, U, batch_first)
    _check_directions(bidirectional, channels)
    _check_activation(activation)
    direction = "both" if bidirectional else "forward"
    # not of `inputs`, which torch.jit.script loses on the way
    save = wants_gradients([U, bias, bias if x is None else x, bias if weight_c is None else weight_c], c0)
    if torch.jit.is_scripting():
        h, c, _ = torch.ops.rnnkit_sru.scan(
            inputs, c0, lengths, reset, pad, mask, scale, activation, skip, peephole, direction, save
        )
    elif needs_plain_torch():
        h, c = _composite(inputs, c0, lengths, reset, pad, mask, scale, activation, skip, peephole, direction)
    else:
        options = (activation, skip, peephole, direction, save)
        h, c, _ = _ops.CALLS.scan(inputs, c0, lengths, reset, pad, mask, scale, *options)
    return h if batch_first else h.transpose(0, 1), c


def layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    weight_c: Optional[Tensor] = None,
    c0: Optional[Tensor] = None,
    mask_pad: Optional[Tensor] = None,
    lengths: Optional[Tensor] = None,
    mask_c: Optional[Tensor] = None,
    scale_x: Optional[Tensor] = None,
    activation: str = "identity",
    bidirectional: bool = False,
    batch_first: bool = False,
    reset: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """`recurrence(x @ weight, bias, weight_c, x, ...)`, where backward adds the two gradients of x in the matrix product.

    Args:
        x: (T, B, D), or (B, T, D) if `batch_first`: input and highway.
        weight: (D, 3 * D), columns as U's in `recurrence`; of x's dtype.
        weight_c: (2 * D,), or None: 0.
        bias: (2 * D,): b_f, then b_r.
        c0: c before the first step, anything that expands to (B, D). Default: 0.
        mask_pad: (T, B), nonzero where a step is padding: it leaves c as it is, and its output is 0. What lies there is
            multiplied with the weight like the rest: keep NaN out of it.
        lengths: (B,) integers within 0..T. Steps from lengths[b] on are padding.
        mask_c: (B, D), usually a dropout mask; it has no gradient.
        scale_x: (1,), multiplies x in the highway; it has no gradient.
        activation: g: "identity", "tanh" or "relu".
        bidirectional: the second half of the D channels goes from the last step to the first.
        batch_first: sequences are (B, T, ...), mask_pad is (B, T).
        reset: (T, B), or (B, T) if `batch_first`, of bool. Where True, a sequence begins, from 0: no state passes into that
            step from the one before, nor, for channels that go backward, out of it.

    Returns:
        h (T, B, D), or (B, T, D); and c after the last valid step (the first, for channels that go backward), (B, D), in
        float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, device, length or option that does not fit; the message names it.
        TypeError: a dtype that does not fit.
    """
    check_tensor("x", x)
    check_floating("x", x)
    channels = bias.numel() // 2
    if x.dim() != 3 or x.shape[2] != channels or list(weight.shape) != [channels, 3 * channels]:
        raise ValueError(
            f"x and weight: expected (T, B, {channels}) and ({channels}, {3 * channels}), "
            f"got {list(x.shape)} and {list(weight.shape)}"
        )
    if weight.dtype != x.dtype:
        raise TypeError(f"weight: expected {x.dtype}, got {weight.dtype}")
    if weight_c is not None and weight_c.dim() != 1:
        raise ValueError(f"weight_c: expected shape ({2 * channels},), got {list(weight_c.shape)}")
    _check_parameters(bias, weight_c, x)
    rows = x if batch_first else x.transpose(0, 1)
    c0, lengths, pad, mask, scale = _check_others(rows, channels, c0, lengths, mask_pad, mask_c, scale_x, batch_first)
    if reset is not None:
        reset = check_reset(reset, rows, batch_first)
    _check_directions(bidirectional, channels)
    _check_activation(activation)
    direction = "both" if bidirectional else "forward"
    if not torch.jit.is_scripting():
        if needs_plain_torch():
            inputs = [rows @ weight, rows, _parameters(bias, weight_c, x)]
            peephole = "none" if weight_c is None else "parameter"
            h, c = _composite(inputs, c0, lengths, reset, pad, mask, scale, activation, "input", peephole, direction)
            return h if batch_first else h.transpose(0, 1), c
    bias = bias.to(state_dtype(x)).contiguous()
    weight_c = None if weight_c is None else weight_c.to(state_dtype(x)).contiguous()
    save = wants_gradients([x, weight, bias, bias if weight_c is None else weight_c], c0)
    if not torch.jit.is_scripting():
        call = _ops.CALLS.layer if is_eager() else torch.ops.rnnkit_sru.layer
        with without_autocast(x.device):  # which would change the dtype of U alone
            options = (activation, direction, batch_first, save)
            h, c, _, _ = call(x, weight, bias, weight_c, c0, lengths, reset, pad, mask, scale, *options)
    else:
        h, c, _, _ = torch.ops.rnnkit_sru.layer(
            x, weight, bias, weight_c, c0, lengths, reset, pad, mask, scale, activation, direction, batch_first, save
        )
    return h, c


@torch.jit.unused
def layer_unchecked(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    weight_c: Optional[Tensor],
    activation: str,
    bidirectional: bool,
    batch_first: bool,
    state_shape: Tuple[int, ...] = (),
) -> Tuple[Tensor, Tensor]:
    """`layer` where `is_eager()`, of tensors that are known to fit and all of x's dtype, from the state 0 and without padding.

    The last state has `state_shape`; default: (B, D).
    """
    _check_activation(activation)
    wanted = state_dtype(x)
    if bias.dtype is not wanted or not bias.is_contiguous():
        bias = bias.to(wanted).contiguous()
    if weight_c is not None and (weight_c.dtype is not wanted or not weight_c.is_contiguous()):
        weight_c = weight_c.to(wanted).contiguous()
    wants = (
        x.requires_grad or weight.requires_grad or bias.requires_grad or (weight_c is not None and weight_c.requires_grad)
    )
    save = wants and torch.is_grad_enabled()
    direction = "both" if bidirectional else "forward"
    options = (activation, direction, batch_first, save)
    tensors = (x, weight, bias, weight_c, None, None, None, None, None, None)
    h, c, _, _ = _ops.CALLS.layer(*tensors, *options, state_shape=state_shape)
    return h, c


@torch.jit.unused
def stack_step_unchecked(
    x: Tensor,
    weights: List[Tensor],
    biases: List[Tensor],
    weights_c: List[Tensor],
    scales: List[Tensor],
    c: Optional[Tensor],
    has_skip_term: bool,
    activation: str,
) -> Tuple[Tensor, Tensor]:
    """A step of layers of one width and kind, in one op, without gradients; x (B, K), c (L, B, D) or None, contiguous."""
    _check_activation(activation)
    return _ops.CALLS.stack_step(x, weights, biases, weights_c, scales, c, has_skip_term, activation)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight for x (., ., K) and weight (K, M), by the op where that can be faster: see csrc/products.h."""
    if not torch.jit.is_scripting():
        if needs_plain_torch() or autocast_enabled(x.device):
            return torch.matmul(x, weight)
    if x.device.type != "cpu":
        return torch.matmul(x, weight)
    if torch.jit.is_scripting():
        rows = torch.ops.rnnkit_sru.product(x.flatten(0, 1), weight)
    else:
        rows = _ops.CALLS.product(x.flatten(0, 1), weight)
    return rows.view(x.shape[0], x.shape[1], weight.shape[1])


def _check_directions(bidirectional: bool, channels: int) -> None:
    if bidirectional and channels % 2 != 0:
        raise ValueError(f"bidirectional: expected an even number of channels, got {channels}")


def _check_activation(activation: str) -> None:
    if activation != "identity" and activation != "tanh" and activation != "relu":
        raise ValueError(f"activation: expected 'identity', 'tanh' or 'relu', got '{activation}'")


def check_mask_pad(mask_pad: Tensor, batch: int, steps: int, batch_first: bool) -> Tensor:
    """mask_pad as a contiguous (B, T) tensor of bool."""
    check_tensor("mask_pad", mask_pad)
    shape = [batch, steps] if batch_first else [steps, batch]
    if list(mask_pad.shape) != shape:
        raise ValueError(f"mask_pad: expected shape {shape}, got {list(mask_pad.shape)}")
    return (mask_pad if batch_first else mask_pad.transpose(0, 1)).to(torch.bool).contiguous()


def _check_like(name: str, t: Tensor, U: Tensor, width: int) -> Tensor:
    if list(t.shape) != [U.shape[0], U.shape[1], width]:
        raise ValueError(
            f"{name}: expected the sequences of U with {width} features, got {list(t.shape)} as (B, T, features)"
        )
    if t.device != U.device:
        raise ValueError(f"{name}: expected device {U.device}, got {t.device}")
    if t.dtype != U.dtype:
        raise TypeError(f"{name}: expected {U.dtype}, got {t.dtype}")
    return t


def _parameters(bias: Tensor, weight_c: Optional[Tensor], like: Tensor) -> Tensor:
    """b_f, b_r (2, D), or b_f, b_r, v_f, v_r (4, D), in the dtype of states."""
    _check_parameters(bias, weight_c, like)
    rows = bias if weight_c is None else torch.cat([bias, weight_c])
    return rows.to(state_dtype(like)).contiguous().view(-1, bias.shape[0] // 2)


def _check_parameters(bias: Tensor, weight_c: Optional[Tensor], like: Tensor) -> None:
    check_tensor("bias", bias)
    check_floating("bias", bias)
    if bias.dim() != 1 or bias.shape[0] % 2 != 0:
        raise ValueError(f"bias: expected shape (2 * D,), got {list(bias.shape)}")
    if bias.device != like.device:
        raise ValueError(f"bias: expected device {like.device}, got {bias.device}")
    if weight_c is not None:
        if weight_c.shape != bias.shape or weight_c.device != bias.device:
            raise ValueError(
                f"weight_c: expected the shape and device of bias, {list(bias.shape)}, got {list(weight_c.shape)}"
            )


def _check_others(
    U: Tensor,
    channels: int,
    c0: Optional[Tensor],
    lengths: Optional[Tensor],
    mask_pad: Optional[Tensor],
    mask_c: Optional[Tensor],
    scale_x: Optional[Tensor],
    batch_first: bool,
) -> Tuple[Optional[Tensor], Optional[Tensor], Optional[Tensor], Optional[Tensor], Optional[Tensor]]:
    """What the op takes of c0, lengths, mask_pad, mask_c and scale_x."""
    batch, steps = U.shape[0], U.shape[1]
    if c0 is not None:
        c0 = check_state(c0, U, [batch, channels], "c0").contiguous()
    if lengths is not None:
        lengths = check_lengths(lengths, U, batch, steps)
    pad: Optional[Tensor] = None
    if mask_pad is not None:
        if mask_pad.device != U.device:
            raise ValueError(f"mask_pad: expected device {U.device}, got {mask_pad.device}")
        pad = check_mask_pad(mask_pad, batch, steps, batch_first)
    for name, t in (("mask_c", mask_c), ("scale_x", scale_x)):
        if t is not None and t.requires_grad:
            raise ValueError(f"{name}: expected a tensor without requires_grad, for which there is no gradient")
    if mask_c is not None:
        mask_c = check_state(mask_c, U, [batch, channels], "mask_c").contiguous()
    if scale_x is not None:
        scale_x = check_state(scale_x, U, [1], "scale_x")
    return c0, lengths, pad, mask_c, scale_x


@torch.jit.unused
def _composite(
    inputs: List[Tensor],
    c0: Optional[Tensor],
    lengths: Optional[Tensor],
    reset: Optional[Tensor],
    pad: Optional[Tensor],
    mask: Optional[Tensor],
    scale: Optional[Tensor],
    activation: str,
    skip: str,
    peephole: str,
    direction: str,
) -> Tuple[Tensor, Tensor]:
    options = (lengths, reset, pad, mask, scale, activation, skip, peephole, direction)
    return run_reference(_ops.composite, inputs[-1].shape[1], 0.0, inputs, c0, *options)
