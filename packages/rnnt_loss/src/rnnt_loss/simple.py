"""The RNN-T loss of the joiner lm + am, without a tensor of (B, T, S, C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _ops, reference
from ._arguments import check_boundary, check_logits, check_options, check_rows, check_symbols
from ._derivatives import one_by_one, register_shapes, with_backward
from ._modes import needs_plain_torch, without_autocast
from ._scores import gradients_of_scores
from ._solving import Loss, as_logprobs, loss_of
from ._tensors import state_dtype


def rnnt_loss_simple(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str = "mean",
    return_grad: bool = False,
    *,
    fastemit_lambda: float = 0.0,
    zero_infinity: bool = False,
) -> Loss:
    """The RNN-T loss of the joiner lm + am, without a tensor of (B, T, S, C).

    Exact however far apart lm and am peak, where upstream's normaliser underflows.

    Args:
        lm: (B, S + 1, C), the predictor's part of the logits.
        am: (B, T, C), the encoder's.
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
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148); the
            loss is not.
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite; its gradients are 0 either way.

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced; with return_grad, (loss, (px_grad, py_grad)).

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    return rnnt_loss_smoothed(
        lm,
        am,
        symbols,
        termination_symbol,
        0.0,
        0.0,
        boundary,
        rnnt_type,
        delay_penalty,
        reduction,
        return_grad,
        fastemit_lambda=fastemit_lambda,
        zero_infinity=zero_infinity,
    )


def rnnt_loss_smoothed(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    lm_only_scale: float = 0.1,
    am_only_scale: float = 0.1,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str = "mean",
    return_grad: bool = False,
    *,
    fastemit_lambda: float = 0.0,
    zero_infinity: bool = False,
) -> Loss:
    """The simple loss, with log-probabilities interpolated (Kuang et al., arXiv:2206.13236, section 3.1)::

        (1 - lm_only_scale - am_only_scale) * simple + lm_only_scale * log_softmax(lm)
            + am_only_scale * log_softmax(am + log q),     q the mean of softmax(lm) over the batch

    Upstream's q counts padding; this one does not, so that with am_only_scale > 0 the loss does not depend on it.

    Args:
        lm: (B, S + 1, C).
        am: (B, T, C).
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        termination_symbol: the blank's class, also counted from the end.
        lm_only_scale: how much of lm alone is mixed in.
        am_only_scale: how much of am alone is mixed in.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.
        rnnt_type: where a label leads from (t, s): "regular", to (t, s + 1); "modified", to (t + 1, s + 1);
            "constrained", the same, and the blank of the next context at the same frame is taken with it.
        delay_penalty: if > 0, added to the label's score at frame t: delay_penalty * ((end_frame - 1) / 2 - t) (Kang et
            al., arXiv:2211.00490).
        reduction: "none": (B,), "mean" over the batch, or "sum".
        return_grad: also returns (px_grad, py_grad), the occupancies: the probability that a path takes the arc, given
            the sequence. (B, S, T + 1) if regular, else (B, S, T); and (B, S + 1, T). Detached.
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148); the
            loss is not.
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite; its gradients are 0 either way.

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced; with return_grad, (loss, (px_grad, py_grad)).

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    lm, am, symbols, boundary, blank = checked_simple(lm, am, symbols, termination_symbol, boundary, rnnt_type, reduction)
    label, blanks = smoothed_scores(lm, am, symbols, blank, lm_only_scale, am_only_scale, boundary)
    return loss_of(
        label,
        blanks,
        rnnt_type,
        boundary,
        symbols=symbols.shape[1],
        reduction=reduction,
        zero_infinity=zero_infinity,
        return_grad=return_grad,
        delay_penalty=delay_penalty,
        fastemit_lambda=fastemit_lambda,
    )


def get_rnnt_logprobs(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    rnnt_type: str = "regular",
    boundary: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(px, py) of `rnnt_loss_simple`, differentiable: what `mutual_information_recursion` takes.

    Args:
        lm: (B, S + 1, C), the predictor's part of the logits.
        am: (B, T, C), the encoder's part.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        termination_symbol: the blank's class, also counted from the end.
        rnnt_type: where a label leads from (t, s): "regular", to (t, s + 1); "modified", to (t + 1, s + 1);
            "constrained", the same, and the blank of the next context at the same frame is taken with it.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.

    Returns:
        px, (B, S, T + 1) if regular, with -inf at the end frame, else (B, S, T); and py, (B, S + 1, T). -inf outside
        the boundary.

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    return get_rnnt_logprobs_smoothed(lm, am, symbols, termination_symbol, 0.0, 0.0, boundary, rnnt_type)


def get_rnnt_logprobs_smoothed(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    lm_only_scale: float = 0.1,
    am_only_scale: float = 0.1,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
) -> tuple[Tensor, Tensor]:
    """(px, py) of `rnnt_loss_smoothed`, differentiable: what `mutual_information_recursion` takes.

    Args:
        lm: (B, S + 1, C), the predictor's part of the logits.
        am: (B, T, C), the encoder's part.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        termination_symbol: the blank's class, also counted from the end.
        lm_only_scale: how much of lm alone is mixed in.
        am_only_scale: how much of am alone is mixed in.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.
        rnnt_type: where a label leads from (t, s): "regular", to (t, s + 1); "modified", to (t + 1, s + 1);
            "constrained", the same, and the blank of the next context at the same frame is taken with it.

    Returns:
        px, (B, S, T + 1) if regular, with -inf at the end frame, else (B, S, T); and py, (B, S + 1, T). -inf outside
        the boundary.

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    lm, am, symbols, boundary, blank = checked_simple(lm, am, symbols, termination_symbol, boundary, rnnt_type, "none")
    return as_logprobs(*smoothed_scores(lm, am, symbols, blank, lm_only_scale, am_only_scale, boundary), rnnt_type)


def checked_simple(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None,
    rnnt_type: str,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, int]:
    """lm, am, symbols, boundary and blank as the ops take them."""
    check_logits("lm", lm, "B, S + 1, C")
    check_logits("am", am, "B, T, C")
    (batch, frames, classes), rows = am.shape, lm.shape[1]
    if lm.shape != (batch, rows, classes):
        raise ValueError(f"lm: expected shape (B, S + 1, C) for am (B, T, C) = {list(am.shape)}, got {list(lm.shape)}")
    if lm.dtype != am.dtype:
        raise TypeError(f"lm: expected am's {am.dtype}, got {lm.dtype}")
    if lm.device != am.device:
        raise ValueError(f"lm: expected am's device {am.device}, got {lm.device}")
    check_rows("lm", lm, symbols)
    blank = check_options(am, termination_symbol, rnnt_type, reduction)
    boundary = check_boundary(boundary, batch, rows - 1, frames, am)
    return lm, am, check_symbols(symbols, batch, rows - 1, classes, boundary, am), boundary, blank


def smoothed_scores(
    lm: Tensor, am: Tensor, symbols: Tensor, blank: int, lm_only: float, am_only: float, boundary: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Labels (B, T, S) and blanks (B, T, S + 1)."""
    label, blanks = simple_scores(lm, am, symbols, boundary, blank, 1 - lm_only - am_only, lm_only)
    if am_only == 0:
        return label, blanks
    # the mean distribution of lm, without context, in lm's place
    bounds = _ops.whole(boundary, am.shape[0], symbols.shape[1], am.shape[1], am)
    s = torch.arange(lm.shape[1], device=lm.device)
    rows = ((bounds[:, :1] <= s) & (s <= bounds[:, 2:3]))[..., None]
    mean = torch.where(rows, torch.where(rows, lm, 0.0).to(label.dtype).softmax(-1), 0.0).sum((0, 1)) / rows.sum()
    log_mean = (mean + torch.finfo(mean.dtype).tiny).log().expand_as(lm)  # which 16 bits would round
    am_label, am_blank = simple_scores(log_mean, am.to(mean.dtype), symbols, boundary, blank, am_only, 0.0)
    return label + am_label, blanks + am_blank


def simple_scores(
    lm: Tensor, am: Tensor, symbols: Tensor, boundary: Tensor | None, blank: int, of_both: float, of_lm: float
) -> tuple[Tensor, Tensor]:
    """Labels (B, T, S) and blanks (B, T, S + 1): `of_both` times those of the logits lm + am, and `of_lm` times those of lm alone.

    By the op or, under torch.func, by the reference.
    """
    given = (lm, am, symbols, boundary, blank, of_both, of_lm)
    if needs_plain_torch():
        return _simple_reference(*given)
    with without_autocast(am.device):  # its product needs the precision of its inputs
        return _ops.CALLS.simple_scores(*given)[:2]


def _simple_reference(
    lm: Tensor, am: Tensor, symbols: Tensor, boundary: Tensor | None, blank: int, of_both: float, of_lm: float
) -> tuple[Tensor, Tensor]:
    boundary = _ops.whole(boundary, am.shape[0], symbols.shape[1], am.shape[1], am)
    label, blanks = reference.simple_scores(lm, am, symbols, boundary, blank)
    if of_both != 1 or of_lm != 0:
        alone = reference.simple_scores(lm, torch.zeros_like(am), symbols, boundary, blank)
        label, blanks = (_weighted(of_both, x) + _weighted(of_lm, y) for x, y in zip((label, blanks), alone, strict=True))
        valid = reference.inside(boundary, None, am.shape[1], lm.shape[1])
        label = torch.where(valid[..., :-1] & valid[..., 1:], label, -torch.inf)
        blanks = torch.where(valid, blanks, -torch.inf)
    return label.to(state_dtype(am)), blanks.to(state_dtype(am))


def _weighted(weight: float, scores: Tensor) -> Tensor:
    return torch.zeros_like(scores) if weight == 0 else weight * scores  # what has no weight may be infinite


@_ops.registration("simple_scores")
def _register(namespace: str) -> Callable[..., Any]:
    ops = getattr(torch.ops, namespace)

    def shapes_of_scores(lm, am, *_):  # type: ignore[no-untyped-def]
        (batch, frames, classes), rows, dtype = am.shape, lm.shape[1], state_dtype(am)
        shapes: list[tuple[int, ...]] = [(frames, rows - 1), (frames, rows), (frames, rows)]
        shapes += [(rows, classes), (frames, classes), (rows,), (frames,), (rows,)]
        return tuple(am.new_empty(batch, *shape, dtype=dtype) for shape in shapes)

    register_shapes(f"{namespace}::simple_scores", shapes_of_scores)

    def shapes_of_backward(grad_label, grad_blank, lm, am, *_):  # type: ignore[no-untyped-def]
        return [t.new_empty(t.shape) for t in (lm, am)]

    register_shapes(f"{namespace}::simple_scores_backward", shapes_of_backward)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        lm, am, symbols, boundary, *ctx.rest = inputs
        ctx.save_for_backward(lm, am, symbols, boundary, *output[2:])
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[2:])

    def backward(ctx: Any, grad_label: Tensor | None, grad_blank: Tensor | None, *_: None) -> tuple[Any, ...]:
        lm, am, symbols, boundary, *kept = ctx.saved_tensors
        nothing = [None] * 5
        if torch.is_grad_enabled():
            rest = (symbols, boundary, *ctx.rest)
            return *_ops.gradients(_simple_reference, [lm, am], [grad_label, grad_blank], rest), *nothing
        with without_autocast(am.device):
            label, blanks = gradients_of_scores(
                grad_label, grad_blank if grad_blank is None else grad_blank[:, None], kept[0], 1, symbols
            )
            grads = ops.simple_scores_backward(label, blanks[:, 0], lm, am, symbols, *kept, boundary, *ctx.rest)
        return *grads, *nothing

    one_by_one(f"{namespace}::simple_scores_backward")
    return with_backward(f"{namespace}::simple_scores", setup, backward)
