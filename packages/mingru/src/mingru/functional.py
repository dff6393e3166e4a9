"""minGRU and minLSTM as functions of pre-activations, for those who build their own block on them (arXiv:2410.01201)::

    minGRU   h_t = (1 - z_t) h_{t-1} + z_t c(v_t),       z = sigmoid(gate), v = hidden
    minLSTM  h_t = f'_t h_{t-1} + i'_t c(v_t),           f' = f / (f + i), i' = i / (f + i), f, i = sigmoid of their gates
             c(v) = v + 1/2 (v >= 0), sigmoid(v) (v < 0) unless `activation` says otherwise

One fused kernel each way, in linear space: states may have any sign, and nothing overflows however long the sequence is.
Second derivatives, and everything under torch.func (grad, vmap, jacrev, ...), are exact too, but computed step by step by
`mingru.reference`. Under autocast the functions run in the dtype of their inputs, which is what nn.Linear made them; states
are kept in float32 (float64 for float64 inputs) in any case.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from . import _ops, reference
from ._checks import check_alike, check_floating, check_lengths, check_reset, check_state, check_tensor
from ._distributed import split_scan
from ._modes import autocast_enabled, is_eager, needs_plain_torch, wants_gradients
from ._tensors import channels_of, run_reference

__all__ = [
    "g",
    "log_g",
    "mingru",
    "mingru_gate_hidden",
    "mingru_scan",
    "minlstm_scan",
    "scan",
    "scan_packed",
    "split_scan",
    "step",
]


def g(x: Tensor) -> Tensor:
    """The candidate activation of the paper's appendix B: x + 1/2 where x >= 0, else sigmoid(x)."""
    return reference.candidate(x, "g")


def log_g(x: Tensor) -> Tensor:
    """log(g(x)), without forming g(x)."""
    return torch.where(x >= 0, (torch.relu(x) + 0.5).log(), torch.nn.functional.logsigmoid(x))


def mingru_scan(
    gate: Tensor,
    hidden: Tensor,
    h0: Optional[Tensor] = None,
    *,
    lengths: Optional[Tensor] = None,
    reset: Optional[Tensor] = None,
    reverse: bool = False,
    activation: str = "g",
    initial: Optional[float] = None,
) -> Tuple[Tensor, Tensor]:
    """minGRU over a batch of sequences, from the pre-activations of its gate and of its candidate.

    Args:
        gate: (B, T, D) pre-activation k of the update gate z; float64, float32, float16 or bfloat16. Any strides;
            halves of one packed projection are read in place. Trailing dimensions (B, T, C, H, W, ...) are allowed.
        hidden: like `gate`: pre-activation v of the candidate.
        h0: state before the first step, of any sign; anything that expands to (B, D). Default: `initial`.
        lengths: (B,) integers within 0..T. Steps from lengths[b] on are padding: never read, output 0, gradient 0.
        reset: (B, T) bool. Where True, a sequence begins, from `initial`: no state passes into that step from the one before,
            nor, if `reverse`, out of it.
        reverse: runs every sequence from its last valid step to its first; `out` stays aligned with the input.
        activation: candidate c: "g", "identity" or "tanh".
        initial: state of a fresh sequence, at the start if h0 is None and at every reset. Default: c(0), which is 1/2 for
            "g" and 0 for the others.

    Returns:
        out (B, T, D) in the inputs' dtype: h_t for every t; and h_last (B, D): the state after the last valid step, in
        float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, device, length or option that does not fit; the message names it.
        TypeError: dtypes that are not floating or differ.

    Example:
        >>> gate, hidden = torch.nn.Linear(64, 2 * 256)(torch.randn(8, 100, 64)).chunk(2, dim=-1)
        >>> out, h_last = mingru_scan(gate, hidden, lengths=[100, 7, 50, 0, 3, 99, 1, 20])
        >>> out.shape, h_last.shape
        (torch.Size([8, 100, 256]), torch.Size([8, 256]))
    """
    return scan([gate, hidden], 1, h0, lengths, reset, reverse, activation, initial)


def minlstm_scan(
    forget_gate: Tensor,
    input_gate: Tensor,
    hidden: Tensor,
    h0: Optional[Tensor] = None,
    *,
    lengths: Optional[Tensor] = None,
    reset: Optional[Tensor] = None,
    reverse: bool = False,
    activation: str = "g",
    initial: Optional[float] = None,
) -> Tuple[Tensor, Tensor]:
    """minLSTM over a batch of sequences, from the pre-activations of its two gates and of its candidate.

    The gates are normalised, f' = f / (f + i) and i' = i / (f + i), and stay exact where both underflow.

    Args:
        forget_gate: (B, T, D) pre-activation of f; float64, float32, float16 or bfloat16. Any strides; parts of one packed
            projection are read in place. Trailing dimensions (B, T, C, H, W, ...) are allowed.
        input_gate: like `forget_gate`: pre-activation of i.
        hidden: like `forget_gate`: pre-activation v of the candidate.
        h0: state before the first step, of any sign; anything that expands to (B, D). Default: `initial`.
        lengths: (B,) integers within 0..T. Steps from lengths[b] on are padding: never read, output 0, gradient 0.
        reset: (B, T) bool. Where True, a sequence begins, from `initial`: no state passes into that step from the one before,
            nor, if `reverse`, out of it.
        reverse: runs every sequence from its last valid step to its first; `out` stays aligned with the input.
        activation: candidate c: "g", "identity" or "tanh".
        initial: state of a fresh sequence, at the start if h0 is None and at every reset. Default: c(0), which is 1/2 for
            "g" and 0 for the others.

    Returns:
        out (B, T, D) in the inputs' dtype: h_t for every t; and h_last (B, D): the state after the last valid step, in
        float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, device, length or option that does not fit; the message names it.
        TypeError: dtypes that are not floating or differ.
    """
    return scan([forget_gate, input_gate, hidden], 2, h0, lengths, reset, reverse, activation, initial)


def scan_packed(
    planes: Tensor,
    h0: Optional[Tensor] = None,
    *,
    gates: int = 1,
    lengths: Optional[Tensor] = None,
    reset: Optional[Tensor] = None,
    reverse: bool = False,
    activation: str = "g",
    initial: Optional[float] = None,
) -> Tuple[Tensor, Tensor]:
    """`mingru_scan` (gates=1) or `minlstm_scan` (gates=2) on pre-activations packed along the last dimension.

    Args:
        planes: (B, T, (gates + 1) * D), as one nn.Linear produces them: [gate | hidden] or [forget | input | hidden]. The
            gradient comes back packed too, so that neither pass copies anything.
        gates: 1 for minGRU, 2 for minLSTM.
        h0: state before the first step, of any sign; anything that expands to (B, D). Default: `initial`.
        lengths: (B,) integers within 0..T. Steps from lengths[b] on are padding: never read, output 0, gradient 0.
        reset: (B, T) bool. Where True, a sequence begins, from `initial`: no state passes into that step from the one before,
            nor, if `reverse`, out of it.
        reverse: runs every sequence from its last valid step to its first; `out` stays aligned with the input.
        activation: candidate c: "g", "identity" or "tanh".
        initial: state of a fresh sequence, at the start if h0 is None and at every reset. Default: c(0), which is 1/2 for
            "g" and 0 for the others.

    Returns:
        out (B, T, D) in the inputs' dtype: h_t for every t; and h_last (B, D): the state after the last valid step, in
        float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, device, length or option that does not fit; the message names it.
        TypeError: dtypes that are not floating or differ.
    """
    return scan([planes], gates, h0, lengths, reset, reverse, activation, initial)


def mingru_gate_hidden(gate: Tensor, hidden: Tensor, h: Tensor) -> Tensor:
    """minGRU from its pre-activations and a state, as mingru 1.4 names and shapes them. More: `mingru_scan`.

    Args:
        gate, hidden: (B, S, ...).
        h: (B, 1, ...), or what expands to it.

    Returns:
        h at each step, (B, S, ...).

    Raises:
        ValueError, TypeError: as `mingru_scan`.
    """
    _check_planes([gate, hidden], 1)
    h0 = check_state(h, gate, [gate.shape[0], 1] + list(gate.shape[2:])).squeeze(1)
    return scan([gate, hidden], 1, h0)[0]


def mingru(x: Tensor, h: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """One minGRU layer, as mingru 1.3 names and shapes it.

    Args:
        x: (B, S, I).
        h: state before the first step, (B, 1, D), or what expands to it.
        weight: (2 * D, I), the rows of the gate first.
        bias: (2 * D,), or None.

    Returns:
        h at each step, (B, S, D).

    Raises:
        ValueError: a shape or device that does not fit.
        TypeError: a dtype that does not.
    """
    check_tensor("x", x)
    if x.dim() != 3 or weight.dim() != 2 or x.shape[2] != weight.shape[1]:
        raise ValueError(f"x and weight: expected (B, S, I) and (2 * D, I), got {list(x.shape)} and {list(weight.shape)}")
    if x.device != weight.device:
        raise ValueError(f"x: expected device {weight.device}, got {x.device}")
    if not torch.jit.is_scripting():
        if x.dtype != weight.dtype and not autocast_enabled(x.device):
            raise TypeError(f"x: expected {weight.dtype}, got {x.dtype}")
    planes = torch.nn.functional.linear(x, weight, bias)
    h0 = check_state(h, planes, [x.shape[0], 1, weight.shape[0] // 2]).squeeze(1)
    return scan([planes], 1, h0)[0]


def scan(
    planes: List[Tensor],
    gates: int,
    h0: Optional[Tensor] = None,
    lengths: Optional[Tensor] = None,
    reset: Optional[Tensor] = None,
    reverse: bool = False,
    activation: str = "g",
    initial: Optional[float] = None,
) -> Tuple[Tensor, Tensor]:
    """`scan_packed` with positional arguments, which torch.jit.script can compile, of packed or of separate planes.

    Args:
        planes: one tensor (B, T, (gates + 1) * D), or gates + 1 of (B, T, D): gates, then the candidate.
        gates: 1 for minGRU, 2 for minLSTM.
        h0: state before the first step, of any sign; anything that expands to (B, D). Default: `initial`.
        lengths: (B,) integers within 0..T. Steps from lengths[b] on are padding: never read, output 0, gradient 0.
        reset: (B, T) bool. Where True, a sequence begins, from `initial`: no state passes into that step from the one before,
            nor, if `reverse`, out of it.
        reverse: runs every sequence from its last valid step to its first; `out` stays aligned with the input.
        activation: candidate c: "g", "identity" or "tanh".
        initial: state of a fresh sequence, at the start if h0 is None and at every reset. Default: c(0), which is 1/2 for
            "g" and 0 for the others.

    Returns:
        out (B, T, D) in the inputs' dtype: h_t for every t; and h_last (B, D): the state after the last valid step, in
        float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, device, length or option that does not fit; the message names it.
        TypeError: dtypes that are not floating or differ.
    """
    _check_planes(planes, gates)
    x = planes[0]
    feature_shape = list(x.shape[2:])
    if len(planes) == 1:
        feature_shape[0] = feature_shape[0] // (gates + 1)
    state_shape = [x.shape[0]] + feature_shape
    if x.dim() > 3:
        planes = [plane.flatten(2) for plane in planes]

    start = initial_state(activation)  # also where another is given: it refuses unknown ones
    if initial is not None:
        start = initial
    direction = "backward" if reverse else "forward"
    cell = cell_name(gates)
    if h0 is not None:
        h0 = check_state(h0, x, state_shape)
        if x.dim() > 3:
            h0 = h0.flatten(1)
        h0 = h0.contiguous()
    if lengths is not None:
        lengths = check_lengths(lengths, x, x.shape[0], x.shape[1])
    if reset is not None:
        reset = check_reset(reset, x)

    save = wants_gradients(planes, h0)
    if torch.jit.is_scripting():
        out, h_last, _ = torch.ops.rnnkit_mingru.scan(planes, h0, lengths, reset, cell, activation, start, direction, save)
    elif needs_plain_torch():
        out, h_last = _composite(planes, h0, lengths, reset, gates, activation, start, direction)
        return out.reshape(x.shape[:2] + tuple(feature_shape)), h_last.reshape(state_shape)
    else:
        out, h_last, _ = _ops.CALLS.scan(planes, h0, lengths, reset, cell, activation, start, direction, save)
    if x.dim() > 3:
        out, h_last = out.unflatten(2, feature_shape), h_last.unflatten(1, feature_shape)
    return out, h_last


@torch.jit.unused
def layer_unchecked(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gates: int,
    h0: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    reverse: bool,
    activation: str,
    batch_first: bool,
    state_shape: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    """`scan` of linear(x, weight, bias), in one op, of tensors that are known to fit; x is (B, T, K), or (T, B, K).

    The last state has `state_shape`; default: (B, D).
    """
    start = initial_state(activation)
    if h0 is not None:
        h0 = check_state(h0, x, [x.shape[0 if batch_first else 1], weight.shape[0] // (gates + 1)]).contiguous()
    if reset is not None:
        reset = check_reset(reset, x if batch_first else x.transpose(0, 1))
    wants = x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    save = torch.is_grad_enabled() and (wants or (h0 is not None and h0.requires_grad))
    direction = "backward" if reverse else "forward"
    options = (cell_name(gates), activation, start, direction, batch_first, save)
    out, h_last, *_ = _ops.CALLS.layer(x, weight, bias, h0, lengths, reset, *options, state_shape=state_shape)
    return out, h_last


@torch.jit.unused
def _composite(
    planes: list[Tensor],
    h0: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    gates: int,
    activation: str,
    start: float,
    direction: str,
) -> tuple[Tensor, Tensor]:
    options = (lengths, reset, cell_name(gates), activation, start, direction)
    return run_reference(_ops.composite, channels_of(planes, gates + 1), start, planes, h0, *options)


def step(
    planes: Tensor, gates: int, h: Optional[Tensor] = None, activation: str = "g", initial: Optional[float] = None
) -> Tuple[Tensor, Tensor]:
    """One step: `scan` over a sequence of one step, at less overhead where no gradient is wanted.

    Args:
        planes: packed pre-activations, (B, (gates + 1) * D), as `scan_packed` has them at each step.
        gates: 1 (minGRU) or 2 (minLSTM).
        h: state before the step, anything that expands to (B, D). Default: `initial`.
        activation, initial: as for `mingru_scan`.

    Returns:
        out (B, D), and the next h (B, D), in float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, device or option that does not fit.
        TypeError: dtypes that are not floating or differ.
    """
    check_tensor("planes", planes)
    if planes.dim() != 2:
        raise ValueError(f"planes: expected shape (B, {gates + 1} * D), got {list(planes.shape)}")
    _check_packed(planes, gates, 1)
    if h is not None:
        h = check_state(h, planes, [planes.shape[0], planes.shape[1] // (gates + 1)]).contiguous()
    return step_unchecked(planes.contiguous(), gates, h, activation, initial)


def step_unchecked(
    planes: Tensor, gates: int, h: Optional[Tensor], activation: str, initial: Optional[float] = None
) -> Tuple[Tensor, Tensor]:
    """`step` on contiguous tensors of the right shapes and dtypes: at one step, checks cost as much as the kernel."""
    differentiated = torch.is_grad_enabled() and (planes.requires_grad or (h is not None and h.requires_grad))
    if not torch.jit.is_scripting():
        differentiated = differentiated or needs_plain_torch()
    if differentiated:
        out, h_next = scan([planes.unsqueeze(1)], gates, h, None, None, False, activation, initial)
        return out.squeeze(1), h_next
    start = initial_state(activation)
    if initial is not None:
        start = initial
    if not torch.jit.is_scripting():
        if is_eager():
            return _ops.CALLS.step(planes, h, cell_name(gates), activation, start)
    return torch.ops.rnnkit_mingru.step(planes, h, cell_name(gates), activation, start)


@torch.jit.unused
def stack_step_unchecked(
    x: Tensor, weights: List[Tensor], biases: List[Tensor], gates: int, h: Optional[Tensor], activation: str
) -> Tuple[Tensor, Tensor]:
    """A step of layers of one width, in one op, without gradients; x (B, K), h (L, B, 1, D)."""
    h = None if h is None else h.contiguous()
    start = initial_state(activation)
    return _ops.CALLS.stack_step(x, weights, biases, h, cell_name(gates), activation, start)


def _check_planes(planes: List[Tensor], gates: int) -> None:
    x = planes[0]
    check_tensor("pre-activations", x)
    if x.dim() < 3:
        raise ValueError(f"pre-activations: expected at least 3 dimensions (B, T, D), got shape {list(x.shape)}")
    check_alike("pre-activations", planes)
    if len(planes) == 1:
        _check_packed(x, gates, 2)
    else:
        _check_gates(gates)
        check_floating("pre-activations", x)


def _check_packed(planes: Tensor, gates: int, dim: int) -> None:
    check_floating("pre-activations", planes)
    _check_gates(gates)
    if planes.shape[dim] % (gates + 1) != 0:
        raise ValueError(f"planes: expected a size divisible by {gates + 1} in dimension {dim}, got {planes.shape[dim]}")


def _check_gates(gates: int) -> None:
    if gates != 1 and gates != 2:
        raise ValueError(f"gates: expected 1 (minGRU) or 2 (minLSTM), got {gates}")


def cell_name(gates: int) -> str:
    """What the ops call the cell with so many gates."""
    return "mingru" if gates == 1 else "minlstm"


def initial_state(activation: str) -> float:
    """c(0), of a candidate activation; raises ValueError if there is none of this name."""
    if activation == "g":
        return 0.5
    if activation == "identity" or activation == "tanh":
        return 0.0
    raise ValueError(f"activation: expected 'g', 'identity' or 'tanh', got '{activation}'")
