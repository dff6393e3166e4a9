"""The RNN-T loss of a band of rows (Kuang et al., arXiv:2206.13236), and the way to the band."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from . import _ops, reference
from ._arguments import (
    check_band,
    check_boundary,
    check_logits,
    check_options,
    check_ranges,
    check_reuse,
    check_symbols,
    may_read,
    with_unit_stride,
)
from ._checks import check_tensor
from ._derivatives import register_shapes
from ._modes import needs_plain_torch
from ._scores import joint_scores, options_of
from ._solving import Loss, as_logprobs, frames_of, loss_of, solve, spread


def rnnt_loss_pruned(
    logits: Tensor,
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
    label_smoothing: float = 0.0,
    reuse_logits: bool = False,
) -> Loss:
    """The RNN-T loss of the paths within a band of s_range rows a frame (Kuang et al., arXiv:2206.13236).

    Args:
        logits: (B, T, s_range, C), of the rows that `ranges` names: float64, float32, float16 or bfloat16.
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
        use_hat_loss: the blank is a Bernoulli variable of its own (Variani et al., arXiv:2003.07705). (It is k2's ninth
            argument, return_grad fast_rnnt's.)
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148); the
            loss is not.
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite; its gradients are 0 either way.
        label_smoothing: the share of the mean of all classes' log-probabilities in that of each arc, within 0..1, as
            torch.nn.functional.cross_entropy has it; not with use_hat_loss.
        reuse_logits: backward writes the gradient over the logits, which nothing may need afterwards: no other memory
            of their size is used. If something does, such as the tanh that made them, its backward raises a RuntimeError.
            Not for leaves; under torch.compile, which plans memory itself, it is without effect.

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced; with return_grad, (loss, (px_grad, py_grad)).

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.

    Example:
        >>> from rnnt_loss import rnnt_loss_smoothed
        >>> am, lm, symbols = torch.randn(2, 20, 30), torch.randn(2, 6, 30), torch.randint(1, 30, (2, 5))
        >>> boundary = torch.tensor([[0, 0, 5, 20], [0, 0, 3, 12]])
        >>> simple, (px_grad, py_grad) = rnnt_loss_smoothed(lm, am, symbols, 0, boundary=boundary, return_grad=True)
        >>> ranges = get_rnnt_prune_ranges(px_grad, py_grad, boundary, s_range=3)  # (B, T, s_range)
        >>> am_pruned, lm_pruned = do_rnnt_pruning(am, lm, ranges)
        >>> loss = rnnt_loss_pruned((am_pruned + lm_pruned).tanh(), symbols, ranges, 0, boundary)
    """
    logits, symbols, begin, boundary, blank = _checked_pruned(
        logits, symbols, ranges, termination_symbol, boundary, rnnt_type, reduction
    )
    reuse_logits = check_reuse(logits, reuse_logits)
    options = options_of(blank, use_hat_loss, label_smoothing)
    return loss_of(
        *joint_scores(logits, symbols, options, boundary, begin, reuse=reuse_logits),
        rnnt_type,
        boundary,
        begin,
        symbols=symbols.shape[1],
        reduction=reduction,
        zero_infinity=zero_infinity,
        return_grad=return_grad,
        delay_penalty=delay_penalty,
        fastemit_lambda=fastemit_lambda,
    )


def rnnt_align_pruned(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    *,
    use_hat_loss: bool = False,
) -> tuple[Tensor, Tensor]:
    """The best path (Viterbi) within the band of `rnnt_loss_pruned`.

    Args:
        logits: (B, T, s_range, C), of the rows that `ranges` names: float64, float32, float16 or bfloat16.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        ranges: (B, T, s_range), from `get_rnnt_prune_ranges`, or any others with consecutive rows that do not fall over
            time.
        termination_symbol: the blank's class, also counted from the end.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T].
        rnnt_type: where a label leads from (t, s): "regular", to (t, s + 1); "modified", to (t + 1, s + 1);
            "constrained", the same, and the blank of the next context at the same frame is taken with it.
        use_hat_loss: the blank is a Bernoulli variable of its own (Variani et al., arXiv:2003.07705).

    Returns:
        Its log-probability (B,), and the frame at which it emits each symbol, (B, S) int64; -1 in the padding, and
        where there is no path.

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    with torch.no_grad():
        logits, symbols, begin, boundary, blank = _checked_pruned(
            logits, symbols, ranges, termination_symbol, boundary, rnnt_type, "none"
        )
        scores = joint_scores(logits, symbols, options_of(blank, use_hat_loss), boundary, begin)
        score, taken, _ = solve(*scores, rnnt_type, boundary, begin, occupancies=True, viterbi=True)
        return score, frames_of(spread(taken, begin, symbols.shape[1], 0.0)[..., :-1])


def get_rnnt_prune_ranges(px_grad: Tensor, py_grad: Tensor, boundary: Tensor, s_range: int) -> Tensor:
    """The rows of each frame that hold most of the occupancy: the band for `rnnt_loss_pruned`.

    Kuang et al., arXiv:2206.13236, section 3.2. The first row is 0 at the first frame, never falls, and rises by less than
    s_range from frame to frame (by at most 1 if not regular); the last frame has the last symbol.

    Args:
        px_grad: occupancies, from a simple or smoothed loss with return_grad.
        py_grad: occupancies, from a simple or smoothed loss with return_grad.
        boundary: that loss's, (B, 4).
        s_range: rows a frame. More than S + 1 become S + 1. Fewer than a sequence's path needs, trunc((S_b - 1) / T_b)
            + 2 if regular, become as many, with a warning, where the boundary may be read (see `check_values`); else the
            pruned loss of that sequence is infinite.

    Returns:
        (B, T, s_range) int64.

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    for name, t in (("px_grad", px_grad), ("py_grad", py_grad)):
        check_logits(name, t, "B, S, T")
        if t.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name}: expected float32 or float64, got {t.dtype}")
    (batch, symbols, columns), frames = px_grad.shape, py_grad.shape[2]
    if columns not in (frames, frames + 1) or py_grad.shape[:2] != (batch, symbols + 1):
        raise ValueError(
            f"py_grad: expected shape (B, S + 1, T) for px_grad (B, S, T + 1) or (B, S, T), got {list(py_grad.shape)} for "
            f"{list(px_grad.shape)}"
        )
    if px_grad.dtype != py_grad.dtype:
        raise TypeError(f"py_grad: expected px_grad's {px_grad.dtype}, got {py_grad.dtype}")
    if px_grad.device != py_grad.device:
        raise ValueError(f"py_grad: expected px_grad's device {px_grad.device}, got {py_grad.device}")
    regular = columns != frames
    checked = check_boundary(boundary, batch, symbols, frames, py_grad)
    assert checked is not None
    begin, s_range = band_of(px_grad.mT, py_grad.mT, checked, s_range, regular)
    return begin[..., None] + torch.arange(s_range, device=begin.device)


def band_of(label: Tensor, blank: Tensor, boundary: Tensor, s_range: int, regular: bool) -> tuple[Tensor, int]:
    """The first row (B, T) of `get_rnnt_prune_ranges` for occupancies (B, T, S), (B, T, S + 1), and how many rows there are."""
    if s_range < (2 if regular else 1):
        raise ValueError(f"s_range: expected at least {2 if regular else 1}, got {s_range}")
    if regular and may_read(boundary) and len(boundary) > 0:
        needed = int(((boundary[:, 2] - 1).div(boundary[:, 3].clamp(min=1), rounding_mode="trunc") + 2).max())
        if s_range < needed:
            warnings.warn(f"s_range: {s_range} rows a frame cannot reach all symbols, {needed} are taken", stacklevel=3)
            s_range = needed
    s_range = min(s_range, blank.shape[2])
    find = reference.prune_ranges if needs_plain_torch() else torch.ops.rnnkit_rnnt_loss.prune_ranges
    return find(label.detach(), blank.detach(), boundary, s_range, s_range - 1 if regular else 1), s_range


def do_rnnt_pruning(am: Tensor, lm: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """What the joiner takes for the band.

    Args:
        am: (B, T, E), the encoder's output.
        lm: (B, S + 1, D), the predictor's.
        ranges: (B, T, s_range).

    Returns:
        am as (B, T, s_range, E), expanded without a copy, and the rows of lm that `ranges` names, (B, T, s_range, D).

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    check_logits("am", am, "B, T, E")
    check_logits("lm", lm, "B, S + 1, D")
    if ranges.dim() != 3 or ranges.shape[:2] != am.shape[:2]:
        raise ValueError(f"ranges: expected shape {[*am.shape[:2], 's_range']}, got {list(ranges.shape)}")
    check_ranges(ranges, am.shape[0], am.shape[1], ranges.shape[2], lm.shape[1] - 1, am)
    batch, frames, rows = ranges.shape
    at = ranges.to(lm.device).reshape(batch, frames * rows, 1).expand(-1, -1, lm.shape[2])
    return am[:, :, None].expand(-1, -1, rows, -1), lm.gather(1, at).view(batch, frames, rows, lm.shape[2])


def get_rnnt_logprobs_pruned(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    *,
    use_hat_loss: bool = False,
) -> tuple[Tensor, Tensor]:
    """(px, py) of `rnnt_loss_pruned`, differentiable, -inf outside of the ranges: what `mutual_information_recursion` takes.

    Args:
        logits: (B, T, s_range, C), of the rows that `ranges` names.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        ranges: (B, T, s_range), from `get_rnnt_prune_ranges`, or any others with consecutive rows that do not fall over
            time.
        termination_symbol: the blank's class, also counted from the end.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.
        rnnt_type: where a label leads from (t, s): "regular", to (t, s + 1); "modified", to (t + 1, s + 1);
            "constrained", the same, and the blank of the next context at the same frame is taken with it.
        use_hat_loss: the blank is a Bernoulli variable of its own (Variani et al., arXiv:2003.07705).

    Returns:
        px, (B, S, T + 1) if regular, with -inf at the end frame, else (B, S, T); and py, (B, S + 1, T). -inf outside
        the boundary.

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    logits, symbols, begin, boundary, blank = _checked_pruned(
        logits, symbols, ranges, termination_symbol, boundary, rnnt_type, "none"
    )
    scores = joint_scores(logits, symbols, options_of(blank, use_hat_loss), boundary, begin)
    label, blanks = (spread(t, begin, symbols.shape[1], -torch.inf) for t in (scores[0], scores[1][:, 0]))
    return as_logprobs(label[..., :-1], blanks, rnnt_type)


def get_hat_logprobs_pruned(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
) -> tuple[Tensor, Tensor]:
    """(px, py) of `rnnt_loss_pruned` with use_hat_loss; any class may be the blank (in k2, only 0).

    Args:
        logits: (B, T, s_range, C), of the rows that `ranges` names.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        ranges: (B, T, s_range), from `get_rnnt_prune_ranges`, or any others with consecutive rows that do not fall over
            time.
        termination_symbol: the blank's class, also counted from the end.
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
    return get_rnnt_logprobs_pruned(logits, symbols, ranges, termination_symbol, boundary, rnnt_type, use_hat_loss=True)


def _checked_pruned(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None,
    rnnt_type: str,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    check_logits("logits", logits, "B, T, s_range, C")
    check_tensor("symbols", symbols)
    batch, frames, rows, classes = logits.shape
    if symbols.dim() != 2 or symbols.shape[0] != batch:
        raise ValueError(f"symbols: expected shape [{batch}, S], got {list(symbols.shape)}")
    count = symbols.shape[1]
    blank = check_options(logits, termination_symbol, rnnt_type, reduction)
    checked = check_boundary(boundary, batch, count, frames, logits)
    begin = check_band(ranges, batch, frames, rows, count, checked, logits)
    boundary = _ops.whole(checked, batch, count, frames, logits)
    return with_unit_stride(logits), check_symbols(symbols, batch, count, classes, boundary, logits), begin, boundary, blank


@_ops.registration("prune_ranges")
def _register(namespace: str) -> None:
    def shapes(label, blank, boundary, s_range, max_step):  # type: ignore[no-untyped-def]
        return boundary.new_empty(blank.shape[:2])

    register_shapes(f"{namespace}::prune_ranges", shapes)
