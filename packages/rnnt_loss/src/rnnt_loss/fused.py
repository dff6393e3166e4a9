"""Joiner and loss in one: the logits never exist all at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import _ops
from ._arguments import (
    REDUCTIONS,
    RNNT_TYPES,
    check_band,
    check_boundary,
    check_choice,
    check_index,
    check_logits,
    check_rows,
    check_symbols,
    with_unit_stride,
)
from ._modes import autocast_enabled, needs_plain_torch
from ._plain import linear_parameters
from ._solving import Loss, loss_of
from .pruned import do_rnnt_pruning

Joiner = nn.Linear | Callable[[Tensor, Tensor], Tensor]


def rnnt_loss_fused(
    am: Tensor,
    lm: Tensor,
    joiner: Joiner,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str = "mean",
    return_grad: bool = False,
    *,
    use_hat_loss: bool = False,
    fastemit_lambda: float = 0.0,
    zero_infinity: bool = False,
    emission_window: Tensor | None = None,
    rows_at_once: int | None = None,
) -> Loss:
    """`rnnt_loss` of joiner(tanh(am + lm)), without ever having all logits, forward or backward.

    Args:
        am: (B, T, H), the encoder's side of the joiner.
        lm: (B, S + 1, H), the predictor's.
        joiner: the output nn.Linear(H, C), after a tanh; or any callable that takes (B, t, S + 1, H) twice, frames of
            am and rows of lm, and returns logits (B, t, S + 1, C): it is called again in backward, a few frames at a time.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        termination_symbol: the blank's class, also counted from the end.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.
        rnnt_type: where a label leads from (t, s): "regular", to (t, s + 1); "modified", to (t + 1, s + 1);
            "constrained", the same, and the blank of the next context at the same frame is taken with it.
        delay_penalty: if > 0, added to the label's score at frame t: delay_penalty * ((end_frame - 1) / 2 - t) (Kang et
            al., arXiv:2211.00490).
        reduction: "none": (B,), "mean" over the batch, or "sum".
        return_grad: also returns (px_grad, py_grad), the occupancies: the probability that a path takes the arc, given
            the sequence. (B, S, T + 1) if regular, else (B, S, T); and (B, S + 1, T). Detached.
        use_hat_loss: the blank is a Bernoulli variable of its own (Variani et al., arXiv:2003.07705).
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148); the
            loss is not.
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite; its gradients are 0 either way.
        emission_window: (B, S, 2) integers: the first and last frame at which each symbol may be emitted (alignment-
            restricted RNN-T, Mahadeokar et al., arXiv:2011.03072).
        rows_at_once: how many nodes' logits exist at a time. Default: 512 on a CPU, 65536 on a GPU. 0 keeps all of
            them, and with an nn.Linear backward does not compute them again: faster, with two tensors of (nodes, H) and
            (nodes, C).

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced; with return_grad, (loss, (px_grad, py_grad)).

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.

    Example:
        >>> am, lm, symbols = torch.randn(2, 20, 64), torch.randn(2, 6, 64), torch.randint(1, 30, (2, 5))
        >>> loss = rnnt_loss_fused(am, lm, nn.Linear(64, 30), symbols, termination_symbol=0)
    """
    return _fused(
        am,
        lm,
        joiner,
        symbols,
        None,
        termination_symbol,
        boundary,
        rnnt_type,
        reduction,
        return_grad,
        use_hat_loss,
        rows_at_once,
        zero_infinity,
        delay_penalty=delay_penalty,
        fastemit_lambda=fastemit_lambda,
        emission_window=emission_window,
    )


def rnnt_loss_pruned_fused(
    am: Tensor,
    lm: Tensor,
    joiner: Joiner,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str = "mean",
    return_grad: bool = False,
    use_hat_loss: bool = False,
    *,
    fastemit_lambda: float = 0.0,
    zero_infinity: bool = False,
    rows_at_once: int | None = None,
) -> Loss:
    """`do_rnnt_pruning`, the joiner and `rnnt_loss_pruned` in one, without their tensors (Kuang et al., arXiv:2206.13236).

    Args:
        am: (B, T, H), the encoder's side of the joiner.
        lm: (B, S + 1, H), the predictor's.
        joiner: the output nn.Linear(H, C), after a tanh; or any callable that takes (B, t, s_range, H) twice, and
            returns logits (B, t, s_range, C): it is called again in backward, a few frames at a time.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        ranges: (B, T, s_range), from `get_rnnt_prune_ranges`, or any others with consecutive rows that do not fall over
            time.
        termination_symbol: the blank's class, also counted from the end.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.
        rnnt_type: where a label leads from (t, s): "regular", to (t, s + 1); "modified", to (t + 1, s + 1);
            "constrained", the same, and the blank of the next context at the same frame is taken with it.
        delay_penalty: if > 0, added to the label's score at frame t: delay_penalty * ((end_frame - 1) / 2 - t) (Kang et
            al., arXiv:2211.00490).
        reduction: "none": (B,), "mean" over the batch, or "sum".
        return_grad: also returns (px_grad, py_grad), the occupancies: the probability that a path takes the arc, given
            the sequence. (B, S, T + 1) if regular, else (B, S, T); and (B, S + 1, T). Detached.
        use_hat_loss: the blank is a Bernoulli variable of its own (Variani et al., arXiv:2003.07705).
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148); the
            loss is not.
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite; its gradients are 0 either way.
        rows_at_once: how many nodes' logits exist at a time. Default: 512 on a CPU, 65536 on a GPU. 0 keeps all of
            them, and with an nn.Linear backward does not compute them again: faster, with two tensors of (nodes, H) and
            (nodes, C).

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced; with return_grad, (loss, (px_grad, py_grad)).

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    return _fused(
        am,
        lm,
        joiner,
        symbols,
        ranges,
        termination_symbol,
        boundary,
        rnnt_type,
        reduction,
        return_grad,
        use_hat_loss,
        rows_at_once,
        zero_infinity,
        delay_penalty=delay_penalty,
        fastemit_lambda=fastemit_lambda,
    )


def _fused(
    am: Tensor,
    lm: Tensor,
    joiner: Joiner,
    symbols: Tensor,
    ranges: Tensor | None,
    termination_symbol: int,
    boundary: Tensor | None,
    rnnt_type: str,
    reduction: str,
    return_grad: bool,
    use_hat_loss: bool,
    rows_at_once: int | None,
    zero_infinity: bool,
    *,
    delay_penalty: float,
    fastemit_lambda: float,
    emission_window: Tensor | None = None,
) -> Loss:
    check_logits("am", am, "B, T, H")
    check_logits("lm", lm, "B, S + 1, H")
    batch, frames, count = am.shape[0], am.shape[1], lm.shape[1] - 1
    if lm.shape[0] != batch:
        raise ValueError(f"lm: expected {batch} sequences, as am has, got {list(lm.shape)}")
    check_rows("lm", lm, symbols)
    if ranges is not None and ranges.dim() != 3:
        raise ValueError(f"ranges: expected shape (B, T, s_range), got {list(ranges.shape)}")
    rows = count + 1 if ranges is None else ranges.shape[2]
    checked = check_boundary(boundary, batch, count, frames, am)
    begin = None if ranges is None else check_band(ranges, batch, frames, rows, count, checked, am)
    bounds = checked if begin is None else _ops.whole(checked, batch, count, frames, am)
    if rows_at_once is None:
        rows_at_once = 512 if am.device.type == "cpu" else 1 << 16
    if rows_at_once < 0:
        raise ValueError(f"rows_at_once: expected at least 0, got {rows_at_once}")
    check_choice("rnnt_type", rnnt_type, RNNT_TYPES)
    check_choice("reduction", reduction, REDUCTIONS)
    mode = "hat" if use_hat_loss else "softmax"
    given = (symbols, termination_symbol, bounds, begin, rows, mode, rows_at_once)
    linear = linear_parameters(joiner) if isinstance(joiner, nn.Linear) else None
    if linear is not None:
        scores = _linear_scores(am, lm, linear, *given)
    elif isinstance(joiner, nn.Linear):  # hooked, sharded, quantised, ...: it has to be called
        scores = _callable_scores(am, lm, lambda am, lm: joiner(torch.tanh(am + lm)), *given)
    else:
        scores = _callable_scores(am, lm, joiner, *given)
    return loss_of(
        *scores,
        rnnt_type,
        bounds,
        begin,
        symbols=count,
        reduction=reduction,
        zero_infinity=zero_infinity,
        return_grad=return_grad,
        delay_penalty=delay_penalty,
        fastemit_lambda=fastemit_lambda,
        emission_window=emission_window,
    )


def _linear_scores(
    am: Tensor,
    lm: Tensor,
    linear: tuple[Tensor, Tensor | None],
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None,
    begin: Tensor | None,
    rows: int,
    mode: str,
    rows_at_once: int,
) -> tuple[Tensor, Tensor]:
    weight, bias = linear
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    if autocast_enabled(am.device) and am.dtype != torch.float64:
        am, lm, weight, bias = (t.to(torch.get_autocast_dtype(am.device.type)) for t in (am, lm, weight, bias))
    if am.shape[2] != weight.shape[1] or lm.shape[2] != weight.shape[1]:
        raise ValueError(f"am and lm: expected the joiner's width {weight.shape[1]}, got {am.shape[2]} and {lm.shape[2]}")
    for name, t in (("lm", lm), ("joiner.weight", weight)):
        if t.dtype != am.dtype or t.device != am.device:
            raise TypeError(f"{name}: expected am's {am.dtype} on {am.device}, got {t.dtype} on {t.device}")
    blank = check_index("termination_symbol", termination_symbol, weight.shape[0])
    symbols = check_symbols(symbols, am.shape[0], lm.shape[1] - 1, weight.shape[0], boundary, am)
    given = (am, lm, weight, bias, symbols, boundary, begin, rows, blank, mode, rows_at_once)
    label, blanks = _ops.joiner_scores(*given)
    return label, blanks


def _callable_scores(
    am: Tensor,
    lm: Tensor,
    joiner: Callable[[Tensor, Tensor], Tensor],
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None,
    begin: Tensor | None,
    rows: int,
    mode: str,
    rows_at_once: int,
) -> tuple[Tensor, Tensor]:
    batch, frames, count = am.shape[0], am.shape[1], lm.shape[1] - 1
    bounds = _ops.whole(boundary, batch, count, frames, am)
    k = torch.arange(rows, device=am.device)

    def scores(am: Tensor, lm: Tensor, first: int) -> tuple[Tensor, Tensor]:
        part = None if begin is None else begin[:, first : first + am.shape[1]].contiguous()
        ranges = (k if part is None else part[..., None] + k).expand(batch, am.shape[1], rows)
        logits = joiner(*do_rnnt_pruning(am, lm, ranges))
        check_logits("joiner", logits, "B, T, S + 1, C")
        blank = check_index("termination_symbol", termination_symbol, logits.shape[3])
        targets = check_symbols(symbols, batch, count, logits.shape[3], bounds, am)
        s0, t0, s1, t1 = bounds.unbind(1)
        t0, t1 = ((t - first).clamp(0, am.shape[1]) for t in (t0, t1))
        options = (None, am.shape[1], [blank], mode, 0.0, 1.0, False)
        scores = _ops.joint_scores(with_unit_stride(logits), targets, torch.stack([s0, t0, s1, t1], 1), part, *options)
        return scores[0], scores[1][:, 0]

    if needs_plain_torch():  # which checkpoint is not
        return scores(am, lm, 0)
    chunks = [
        checkpoint(scores, am[:, first : first + step], lm, first, use_reentrant=False)
        for first, step in _ops.chunks(max(frames, 1), batch * rows, rows_at_once)
    ]
    return torch.cat([c[0] for c in chunks], 1), torch.cat([c[1] for c in chunks], 1)
