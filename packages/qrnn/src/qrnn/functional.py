"""QRNN's recurrences as functions, for those who build their own layer on them.

linear_scan   h_t = a_t h_{t-1} + b_t
forget_mult   h_t = f_t x_t + (1 - f_t) h_{t-1}
pool          c_t = f_t z_t + (1 - f_t) c_{t-1},  out_t = o_t c_t,  with z = tanh(Z), f = sigmoid(F), o = sigmoid(O)

(Bradbury et al., "Quasi-Recurrent Neural Networks", arXiv:1611.01576, with torchqrnn's sense of f: it lets in.) One fused
kernel each way. States are float32, and float64 for float64 inputs. Second derivatives, and everything under torch.func,
are exact too, but computed step by step by `qrnn.reference`. Arguments are positional or by keyword, so that
torch.jit.script can compile calls.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from . import _ops
from ._checks import check_alike, check_floating, check_lengths, check_reset, check_state, check_tensor
from ._distributed import split_scan
from ._modes import needs_plain_torch, wants_gradients
from ._tensors import run_reference

__all__ = ["forget_mult", "linear_scan", "pool", "split_scan"]


def linear_scan(
    a: Tensor,
    b: Tensor,
    h0: Optional[Tensor] = None,
    lengths: Optional[Tensor] = None,
    reset: Optional[Tensor] = None,
    reverse: bool = False,
    batch_first: bool = False,
) -> Tuple[Tensor, Tensor]:
    """h_t = a_t h_{t-1} + b_t, over a batch of sequences: the recurrence of every linear RNN with a real, diagonal matrix.

    Where threads share a sequence, they compose its steps: products of the a of some hundred neighbouring steps should be
    finite.

    Args:
        a: (T, B, H) factors, or (B, T, H) if `batch_first`: any real values, of either sign. float64, float32, float16 or
            bfloat16, any strides; trailing dimensions (T, B, C, H, W, ...) are allowed.
        b: like a: what is added.
        h0: h before the first step, anything that expands to (B, H). Default: 0.
        lengths: (B,) integers within 0..T. Steps from lengths[b] on are padding: never read, output 0, gradient 0.
        reset: (T, B), or (B, T), of bool. Where True, a sequence begins, from 0: no state passes into that step from the one
            before, nor, if `reverse`, out of it.
        reverse: runs each sequence from its last valid step to its first; the output stays aligned with the input.
        batch_first: a, b and the output are (B, T, H).

    Returns:
        h like a: h_t for every t; and (B, H): h after the last valid step, in float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, device or length that does not fit; the message names it.
        TypeError: dtypes that are not floating or differ, or a reset that is not bool.

    Example:
        >>> h, h_last = linear_scan(torch.full((4, 1, 1), 2.0), torch.ones(4, 1, 1))
        >>> h.flatten().tolist()
        [1.0, 3.0, 7.0, 15.0]
    """
    return _scan_values("a", a, "b", b, "linear", h0, "h0", lengths, reset, batch_first, reverse)


def forget_mult(
    f: Tensor,
    x: Tensor,
    hidden: Optional[Tensor] = None,
    lengths: Optional[Tensor] = None,
    batch_first: bool = False,
    reverse: bool = False,
    reset: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """h_t = f_t x_t + (1 - f_t) h_{t-1}, over a batch of sequences.

    Args:
        f: (T, B, H) gates, or (B, T, H) if `batch_first`: any real values, though [0, 1] makes h an average. float64,
            float32, float16 or bfloat16, any strides; trailing dimensions (T, B, C, H, W, ...) are allowed.
        x: like f: what is averaged.
        hidden: h before the first step, anything that expands to (B, H). Default: 0.
        lengths: (B,) integers within 0..T. Steps from lengths[b] on are padding: never read, output 0, gradient 0.
        batch_first: f, x and the output are (B, T, H).
        reverse: runs each sequence from its last valid step to its first; the output stays aligned with the input.
        reset: (T, B), or (B, T), of bool. Where True, a sequence begins, from 0: no state passes into that step from the one
            before, nor, if `reverse`, out of it.

    Returns:
        h like x: h_t for every t; and (B, H): h after the last valid step, in float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, device or length that does not fit; the message names it.
        TypeError: dtypes that are not floating or differ, or a reset that is not bool.

    Example:
        >>> f, x = torch.rand(7, 20, 128), torch.randn(7, 20, 128)
        >>> out, h_last = forget_mult(f, x, lengths=[7] * 19 + [3])
        >>> out.shape, h_last.shape
        (torch.Size([7, 20, 128]), torch.Size([20, 128]))
    """
    return _scan_values("f", f, "x", x, "mult", hidden, "hidden", lengths, reset, batch_first, reverse)


def pool(
    gates: Tensor,
    hidden: Optional[Tensor] = None,
    pooling: str = "fo",
    lengths: Optional[Tensor] = None,
    batch_first: bool = False,
    reverse: bool = False,
    zoneout: float = 0.0,
    zoneout_mode: str = "salesforce",
    training: bool = False,
    reset: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """QRNN's pooling, with its activations, zoneout and output gate, from packed pre-activations.

    Args:
        gates: (T, B, P * H), or (B, T, P * H) if `batch_first`: [Z | F] for pooling "f", [Z | F | O] for "fo",
            [Z | F | I | O] for "ifo", as one nn.Linear produces them.
        hidden: c before the first step, anything that expands to (B, H). Default: 0.
        pooling: "f"    c_t = f_t z_t + (1 - f_t) c_{t-1},  out = c
                 "fo"   the same,                           out = sigmoid(O) c
                 "ifo"  c_t = i_t z_t + (1 - f_t) c_{t-1},  i = sigmoid(I),  out = sigmoid(O) c
        lengths: (B,) integers within 0..T. Steps from lengths[b] on are padding: never read, output 0, gradient 0.
        batch_first: gates and the output are (B, T, .).
        reverse: runs each sequence from its last valid step to its first; the output stays aligned with the input.
        zoneout: probability in [0, 1] of an element of c to keep its value over a step. Which do is drawn anew for every
            step, from a seed that comes from torch's generator of the device.
        zoneout_mode: "salesforce" keeps at random in training, and multiplies f (and i) by 1 - zoneout otherwise; "fastai"
            multiplies those that are not kept by 1 / (1 - zoneout) in training; "paper" does neither.
        training: whether to draw.
        reset: (T, B), or (B, T), of bool. Where True, a sequence begins, from 0: no state passes into that step from the one
            before, nor, if `reverse`, out of it.

    Returns:
        out (T, B, H), or (B, T, H), in the dtype of `gates`; and c (B, H) after the last valid step, in float32 (float64
        for float64 inputs).

    Raises:
        ValueError: a shape, device, length or option that does not fit; the message names it.
        TypeError: a dtype that is not floating, or a reset that is not bool.
    """
    check_tensor("gates", gates)
    if gates.dim() != 3:
        raise ValueError(f"gates: expected 3 dimensions (T, B, P * H), got shape {list(gates.shape)}")
    check_floating("gates", gates)
    count = plane_count(pooling)
    if gates.shape[2] % count != 0:
        raise ValueError(f"gates: expected {count} * H features for pooling '{pooling}', got {gates.shape[2]}")
    check_zoneout(zoneout, zoneout_mode)
    scale, seed = _zoneout(gates, zoneout, zoneout_mode, training)
    return _scan([gates], pooling, hidden, "hidden", lengths, reset, batch_first, reverse, zoneout, scale, seed)


@torch.jit.unused
def layer_unchecked(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    pooling: str,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    zoneout: float,
    zoneout_mode: str,
    training: bool,
    batch_first: bool,
    state_shape: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    """`pool` of linear(x, weight, bias), in one op, of tensors that are known to fit; x is (B, T, K), or (T, B, K).

    The last state has `state_shape`; default: (B, H).
    """
    count = plane_count(pooling)
    scale, seed = _zoneout(x, zoneout, zoneout_mode, training) if zoneout > 0.0 else (1.0, None)
    if hidden is not None:
        shape = [x.shape[0 if batch_first else 1], weight.shape[0] // count]
        hidden = check_state(hidden, x, shape, "hidden").contiguous()
    if reset is not None:
        reset = check_reset(reset, x if batch_first else x.transpose(0, 1), batch_first)
    wants = x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    save = torch.is_grad_enabled() and (wants or (hidden is not None and hidden.requires_grad))
    direction = "backward" if reverse else "forward"
    options = (pooling, zoneout, scale, direction, batch_first, save)
    tensors = (x, weight, bias, hidden, lengths, reset, seed)
    out, last, _, _ = _ops.CALLS.layer(*tensors, *options, state_shape=state_shape)
    return out, last


@torch.jit.unused
def stack_step_unchecked(
    x: Tensor, weights: List[Tensor], biases: List[Tensor], hidden: Optional[Tensor], pooling: str
) -> Tuple[Tensor, Tensor]:
    """A step of layers of one width, in one op, without gradients or zoneout; x (B, K), hidden (L, B, H)."""
    h = None if hidden is None else hidden.contiguous().unsqueeze(2)
    out, last = _ops.CALLS.stack_step(x, weights, biases, h, None, pooling, 0.0, 1.0)
    return out, last.squeeze(2)


def _zoneout(like: Tensor, zoneout: float, mode: str, training: bool) -> Tuple[float, Optional[Tensor]]:
    """The factor of the gates, and the seed of what is drawn, or None."""
    scale = 1.0
    seed: Optional[Tensor] = None
    if zoneout > 0.0:
        if training:
            seed = torch.randint(0x7FFFFFFFFFFFFFFF, [1], dtype=torch.int64, device=like.device)
            if mode == "fastai" and zoneout < 1.0:
                scale = 1.0 / (1.0 - zoneout)
        elif mode == "salesforce":
            scale = 1.0 - zoneout
    return scale, seed


def _scan_values(
    first_name: str,
    first: Tensor,
    second_name: str,
    second: Tensor,
    pooling: str,
    hidden: Optional[Tensor],
    hidden_name: str,
    lengths: Optional[Tensor],
    reset: Optional[Tensor],
    batch_first: bool,
    reverse: bool,
) -> Tuple[Tensor, Tensor]:
    """The recurrence of two planes (T, B, ...) that are values, under their names."""
    check_tensor(first_name, first)
    if first.dim() < 3:
        raise ValueError(f"{first_name}: expected at least 3 dimensions (T, B, H), got shape {list(first.shape)}")
    check_alike(f"{first_name} and {second_name}", [first, second])
    check_floating(first_name, first)
    features = first.shape[2:]
    if first.dim() > 3:
        first, second = first.flatten(2), second.flatten(2)
        if hidden is not None:
            shape = [first.shape[0 if batch_first else 1]] + list(features)
            hidden = check_state(hidden, first, shape, hidden_name).flatten(1)
    planes = [first, second]
    out, last = _scan(planes, pooling, hidden, hidden_name, lengths, reset, batch_first, reverse, 0.0, 1.0, None)
    return out.reshape(out.shape[:2] + features), last.reshape(last.shape[:1] + features)


def _scan(
    planes: List[Tensor],
    pooling: str,
    hidden: Optional[Tensor],
    hidden_name: str,
    lengths: Optional[Tensor],
    reset: Optional[Tensor],
    batch_first: bool,
    reverse: bool,
    zoneout: float,
    scale: float,
    seed: Optional[Tensor],
) -> Tuple[Tensor, Tensor]:
    if not batch_first:
        planes = [plane.transpose(0, 1) for plane in planes]
    x = planes[0]
    if hidden is not None:
        width = x.shape[2] if len(planes) > 1 else x.shape[2] // plane_count(pooling)
        hidden = check_state(hidden, x, [x.shape[0], width], hidden_name).contiguous()
    if lengths is not None:
        lengths = check_lengths(lengths, x, x.shape[0], x.shape[1])
    if reset is not None:
        reset = check_reset(reset, x, batch_first)
    save = wants_gradients(planes, hidden)
    direction = "backward" if reverse else "forward"
    if torch.jit.is_scripting():
        out, last, _ = torch.ops.rnnkit_qrnn.scan(
            planes, hidden, lengths, reset, seed, pooling, zoneout, scale, direction, save
        )
    elif needs_plain_torch():
        out, last = _composite(planes, hidden, lengths, reset, seed, pooling, zoneout, scale, direction)
    else:
        options = (pooling, zoneout, scale, direction, save)
        out, last, _ = _ops.CALLS.scan(planes, hidden, lengths, reset, seed, *options)
    return out if batch_first else out.transpose(0, 1), last


@torch.jit.unused
def _composite(
    planes: list[Tensor],
    hidden: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    seed: Tensor | None,
    pooling: str,
    zoneout: float,
    scale: float,
    direction: str,
) -> tuple[Tensor, Tensor]:
    options = (lengths, reset, seed, pooling, zoneout, scale, direction)
    width = planes[0].shape[2] if len(planes) > 1 else planes[0].shape[2] // plane_count(pooling)
    return run_reference(_ops.composite, width, 0.0, planes, hidden, *options)


def plane_count(pooling: str) -> int:
    """Of a pooling of pre-activations; raises ValueError if there is none of this name."""
    if pooling == "f":
        return 2
    if pooling == "fo":
        return 3
    if pooling == "ifo":
        return 4
    raise ValueError(f"pooling: expected 'f', 'fo' or 'ifo', got '{pooling}'")


def check_zoneout(zoneout: float, mode: str) -> None:
    """Raises unless the probability and the mode of zoneout can be."""
    if not (zoneout >= 0.0 and zoneout <= 1.0):
        raise ValueError(f"zoneout: expected a probability in [0, 1], got {zoneout}")
    if mode != "salesforce" and mode != "fastai" and mode != "paper":
        raise ValueError(f"zoneout_mode: expected 'salesforce', 'fastai' or 'paper', got '{mode}'")
