"""RNN-T losses under the names and with the arguments of fast_rnnt and k2, and what those lack.

Shapes: B sequences, T frames, S symbols (without blank), C classes, H the joiner's width. `termination_symbol` is the blank.
A node (t, s) of the lattice has consumed t frames and emitted s symbols; from it lead a label, px[b, s, t] =
log P(symbols[b, s]), and the blank, py[b, s, t]. `rnnt_type` says where the label leads::

    "regular"      to (t, s + 1): any number of symbols a frame (Graves, arXiv:1211.3711)
    "modified"     to (t + 1, s + 1): a symbol consumes a frame, which needs T >= S
    "constrained"  the same, and the blank of the next context at the same frame is taken with it

Arguments that all losses share::

    symbols          (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything
    boundary         (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What lies
                     outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.
    delay_penalty    if > 0, added to the label's score at frame t: delay_penalty * ((end_frame - 1) / 2 - t) (Kang et al.,
                     arXiv:2211.00490)
    reduction        "none": (B,), "mean" over the batch, or "sum"
    return_grad      also returns (px_grad, py_grad), the occupancies: the probability that a path takes the arc, given the
                     sequence. (B, S, T + 1) if regular, else (B, S, T); and (B, S + 1, T). Detached.
    fastemit_lambda  the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148); the loss is not
    zero_infinity    the loss of a sequence that has no path (T too short, symbols without probability) is 0 instead of
                     infinite; its gradients are 0 either way
    emission_window  (B, S, 2) integers: the first and last frame at which each symbol may be emitted (alignment-restricted
                     RNN-T, Mahadeokar et al., arXiv:2011.03072)

Logits may be float64, float32, float16 or bfloat16; all sums are float32 (float64), gradients have the logits' dtype. Errors:
TypeError for a dtype, ValueError for a shape, device, option or value, with the argument's name. Values on a GPU are not
read, unless `check_values(True)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import _ops, reference
from ._checks import check_tensor
from ._lattice import (
    REDUCTIONS,
    RNNT_TYPES,
    check_band,
    check_boundary,
    check_choice,
    check_index,
    check_logits,
    check_options,
    check_ranges,
    check_rows,
    check_symbols,
    check_values,
    checked_joint,
    fold_constrained,
    may_read,
    reduce,
    solve,
    with_unit_stride,
)
from ._modes import autocast_enabled, needs_plain_torch, wants_gradients
from ._plain import linear_parameters
from .durations import multiblank_rnnt_loss, tdt_loss

__all__ = [
    "check_values",
    "do_rnnt_pruning",
    "expected_emission_times",
    "get_hat_logprobs_pruned",
    "get_rnnt_logprobs",
    "get_rnnt_logprobs_joint",
    "get_rnnt_logprobs_pruned",
    "get_rnnt_logprobs_smoothed",
    "get_rnnt_prune_ranges",
    "joint_mutual_information_recursion",
    "multiblank_rnnt_loss",
    "mutual_information_recursion",
    "rnnt_align",
    "rnnt_loss",
    "rnnt_loss_fused",
    "rnnt_loss_packed",
    "rnnt_loss_pruned",
    "rnnt_loss_pruned_fused",
    "rnnt_loss_simple",
    "rnnt_loss_smoothed",
    "tdt_loss",
    "with_cuda",
]

Loss = Tensor | tuple[Tensor, tuple[Tensor, Tensor]]
Joiner = nn.Linear | Callable[[Tensor, Tensor], Tensor]


def with_cuda() -> bool:
    """Whether this build has CUDA kernels."""
    return _ops.WITH_CUDA


def rnnt_loss(
    logits: Tensor,
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
    reuse_logits: bool = False,
) -> Loss:
    """The RNN-T loss, exact, from the joiner's logits.

    Args:
        logits: (B, T, S + 1, C), before log_softmax.
        use_hat_loss: the blank is a Bernoulli variable of its own (Variani et al., arXiv:2003.07705).
        reuse_logits: backward writes the gradient over the logits, which nothing may need afterwards: no other memory of
            their size is used. If something does, such as the tanh that made them, its backward raises a RuntimeError.
            Not for leaves; under torch.compile, which plans memory itself, it is without effect.
        others: see `rnnt_loss.functional`.

    Returns:
        -log P(symbols), reduced; with return_grad, (loss, (px_grad, py_grad)).

    Example:
        >>> logits = torch.randn(2, 20, 6, 30, requires_grad=True)  # (B, T, S + 1, C), the joiner's
        >>> symbols = torch.randint(1, 30, (2, 5))
        >>> boundary = torch.tensor([[0, 0, 5, 20], [0, 0, 3, 12]])  # the second sequence has 3 symbols and 12 frames
        >>> rnnt_loss(logits, symbols, termination_symbol=0, boundary=boundary, reduction="sum").backward()
    """
    logits, symbols, boundary, blank = checked_joint(logits, symbols, termination_symbol, boundary, rnnt_type, reduction)
    reuse_logits = _check_reuse(logits, reuse_logits)
    mode = "hat" if use_hat_loss else "softmax"
    frames = logits.shape[1]
    label, blanks = _ops.joint_scores(logits, symbols, boundary, None, None, frames, [blank], mode, 0.0, 1.0, reuse_logits)
    score, *occupancies = solve(
        label,
        blanks,
        rnnt_type,
        boundary,
        delay_penalty=delay_penalty,
        fastemit_lambda=fastemit_lambda,
        emission_window=emission_window,
        occupancies=return_grad,
    )
    loss = reduce(score, reduction, zero_infinity)
    return (loss, _as_upstream(occupancies, rnnt_type)) if return_grad else loss


def rnnt_loss_packed(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str = "mean",
    *,
    num_frames: int | None = None,
    fastemit_lambda: float = 0.0,
    zero_infinity: bool = False,
    reuse_logits: bool = False,
) -> Tensor:
    """The same loss from logits without padding.

    Args:
        logits: (N, C), the nodes of one sequence after the other, each with its (end_frame - begin_frame) frames of
            (end_symbol - begin_symbol + 1) rows.
        num_frames: at least the largest end_frame. Default: it is read from the boundary, which synchronises a GPU.
        others: see `rnnt_loss`.
    """
    check_logits("logits", logits, "N, C")
    check_tensor("symbols", symbols)
    check_tensor("boundary", boundary)
    if symbols.dim() != 2:
        raise ValueError(f"symbols: expected shape (B, S), got {list(symbols.shape)}")
    batch, count = symbols.shape
    if list(boundary.shape) != [batch, 4]:
        raise ValueError(f"boundary: expected shape {[batch, 4]}, got {list(boundary.shape)}")
    if num_frames is None:
        num_frames = int(boundary[:, 3].max()) if batch > 0 else 0
    if num_frames < 0:
        raise ValueError(f"num_frames: expected at least 0, got {num_frames}")
    blank = check_options(logits, termination_symbol, rnnt_type, reduction)
    checked = check_boundary(boundary, batch, count, num_frames, logits)
    assert checked is not None
    symbols = check_symbols(symbols, batch, count, logits.shape[-1], checked, logits)
    reuse_logits = _check_reuse(logits, reuse_logits)
    s0, t0, s1, t1 = checked.unbind(1)
    nodes = (t1 - t0) * (s1 - s0 + 1)
    offsets = nodes.cumsum(0) - nodes
    if may_read(boundary) and int(nodes.sum()) != logits.shape[0]:
        raise ValueError(f"logits: expected {int(nodes.sum())} nodes, as the boundary says, got {logits.shape[0]}")
    options = (num_frames, [blank], "softmax", 0.0, 1.0, reuse_logits)
    label, blanks = _ops.joint_scores(logits.contiguous(), symbols, checked, None, offsets, *options)
    score, _, _ = solve(label, blanks, rnnt_type, checked, delay_penalty=delay_penalty, fastemit_lambda=fastemit_lambda)
    return reduce(score, reduction, zero_infinity)


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
        others: see `rnnt_loss.functional`.
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
        others: see `rnnt_loss.functional`.
    """
    lm, am, symbols, boundary, blank = _checked_simple(lm, am, symbols, termination_symbol, boundary, rnnt_type, reduction)
    label, blanks = _smoothed_scores(lm, am, symbols, blank, lm_only_scale, am_only_scale, boundary)
    score, *occupancies = solve(
        label,
        blanks,
        rnnt_type,
        boundary,
        delay_penalty=delay_penalty,
        fastemit_lambda=fastemit_lambda,
        occupancies=return_grad,
    )
    loss = reduce(score, reduction, zero_infinity)
    return (loss, _as_upstream(occupancies, rnnt_type)) if return_grad else loss


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
    reuse_logits: bool = False,
) -> Loss:
    """The RNN-T loss of the paths within a band of s_range rows a frame (Kuang et al., arXiv:2206.13236).

    Args:
        logits: (B, T, s_range, C), of the rows that `ranges` names.
        ranges: (B, T, s_range), from `get_rnnt_prune_ranges`, or any others with consecutive rows that do not fall over time.
        use_hat_loss: see `rnnt_loss`. (It is k2's ninth argument, return_grad fast_rnnt's.)
        others: see `rnnt_loss`.

    Example:
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
    reuse_logits = _check_reuse(logits, reuse_logits)
    mode = "hat" if use_hat_loss else "softmax"
    frames = logits.shape[1]
    label, blanks = _ops.joint_scores(logits, symbols, boundary, begin, None, frames, [blank], mode, 0.0, 1.0, reuse_logits)
    score, *occupancies = solve(
        label,
        blanks,
        rnnt_type,
        boundary,
        begin,
        delay_penalty=delay_penalty,
        fastemit_lambda=fastemit_lambda,
        occupancies=return_grad,
    )
    loss = reduce(score, reduction, zero_infinity)
    if not return_grad:
        return loss
    dense = [_spread(t, begin, symbols.shape[1], 0.0) for t in occupancies]
    return loss, _as_upstream([dense[0][..., :-1], dense[1]], rnnt_type)


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
        joiner: the output nn.Linear(H, C), after a tanh; or any callable that takes (B, t, S + 1, H) twice, frames of am and
            rows of lm, and returns logits (B, t, S + 1, C): it is called again in backward, a few frames at a time.
        rows_at_once: how many nodes' logits exist at a time. Default: 512 on a CPU, 65536 on a GPU. 0 keeps all of them, and with an
            nn.Linear backward does not compute them again: faster, with two tensors of (nodes, H) and (nodes, C).
        others: see `rnnt_loss`.

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
    """`do_rnnt_pruning`, the joiner and `rnnt_loss_pruned` in one, without their tensors: see `rnnt_loss_fused`."""
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


def get_rnnt_logprobs(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    rnnt_type: str = "regular",
    boundary: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(px, py) of `rnnt_loss_simple`, differentiable: what `mutual_information_recursion` takes.

    px is (B, S, T + 1) if regular, with -inf at the end frame, else (B, S, T); py is (B, S + 1, T). -inf outside the boundary.
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
    """(px, py) of `rnnt_loss_smoothed`: see `get_rnnt_logprobs`."""
    lm, am, symbols, boundary, blank = _checked_simple(lm, am, symbols, termination_symbol, boundary, rnnt_type, "none")
    return _logprobs(*_smoothed_scores(lm, am, symbols, blank, lm_only_scale, am_only_scale, boundary), rnnt_type)


def get_rnnt_logprobs_joint(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
) -> tuple[Tensor, Tensor]:
    """(px, py) of `rnnt_loss`: see `get_rnnt_logprobs`."""
    logits, symbols, boundary, blank = checked_joint(logits, symbols, termination_symbol, boundary, rnnt_type, "none")
    options = (logits.shape[1], [blank], "softmax", 0.0, 1.0, False)
    label, blanks = _ops.joint_scores(logits, symbols, boundary, None, None, *options)
    return _logprobs(label, blanks[:, 0], rnnt_type)


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
    """(px, py) of `rnnt_loss_pruned`, -inf outside of the ranges: see `get_rnnt_logprobs`."""
    logits, symbols, begin, boundary, blank = _checked_pruned(
        logits, symbols, ranges, termination_symbol, boundary, rnnt_type, "none"
    )
    options = (logits.shape[1], [blank], "hat" if use_hat_loss else "softmax", 0.0, 1.0, False)
    scores = _ops.joint_scores(logits, symbols, boundary, begin, None, *options)
    label, blanks = (_spread(t, begin, symbols.shape[1], -torch.inf) for t in (scores[0], scores[1][:, 0]))
    return _logprobs(label[..., :-1], blanks, rnnt_type)


def get_hat_logprobs_pruned(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
) -> tuple[Tensor, Tensor]:
    """(px, py) of `rnnt_loss_pruned` with use_hat_loss; any class may be the blank (in k2, only 0)."""
    return get_rnnt_logprobs_pruned(logits, symbols, ranges, termination_symbol, boundary, rnnt_type, use_hat_loss=True)


def get_rnnt_prune_ranges(px_grad: Tensor, py_grad: Tensor, boundary: Tensor, s_range: int) -> Tensor:
    """The rows of each frame that hold most of the occupancy: the band for `rnnt_loss_pruned`.

    Kuang et al., arXiv:2206.13236, section 3.2. The first row is 0 at the first frame, never falls, and rises by less than
    s_range from frame to frame (by at most 1 if not regular); the last frame has the last symbol.

    Args:
        px_grad, py_grad: occupancies, from a simple or smoothed loss with return_grad.
        boundary: that loss's.
        s_range: rows a frame. More than S + 1 become S + 1. Fewer than a sequence's path needs, trunc((S_b - 1) / T_b) + 2 if
            regular, become as many, with a warning, where the boundary may be read (see `check_values`); else the
            pruned loss of that sequence is infinite.

    Returns:
        (B, T, s_range) int64.
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
    if s_range < (2 if regular else 1):
        raise ValueError(f"s_range: expected at least {2 if regular else 1}, got {s_range}")
    if regular and may_read(boundary) and batch > 0:
        needed = int(((boundary[:, 2] - 1).div(boundary[:, 3].clamp(min=1), rounding_mode="trunc") + 2).max())
        if s_range < needed:
            warnings.warn(f"s_range: {s_range} rows a frame cannot reach all symbols, {needed} are taken", stacklevel=2)
            s_range = needed
    s_range = min(s_range, symbols + 1)
    planes = (px_grad.detach().transpose(1, 2), py_grad.detach().transpose(1, 2))
    find = reference.prune_ranges if needs_plain_torch() else torch.ops.rnnkit_rnnt_loss.prune_ranges
    begin = find(*planes, checked, s_range, s_range - 1 if regular else 1)
    return begin[..., None] + torch.arange(s_range, device=begin.device)


def do_rnnt_pruning(am: Tensor, lm: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """What the joiner takes for the band.

    Args:
        am: (B, T, E), the encoder's output.
        lm: (B, S + 1, D), the predictor's.
        ranges: (B, T, s_range).

    Returns:
        am as (B, T, s_range, E), expanded without a copy, and the rows of lm that `ranges` names, (B, T, s_range, D).
    """
    check_logits("am", am, "B, T, E")
    check_logits("lm", lm, "B, S + 1, D")
    if ranges.dim() != 3 or ranges.shape[:2] != am.shape[:2]:
        raise ValueError(f"ranges: expected shape {[*am.shape[:2], 's_range']}, got {list(ranges.shape)}")
    check_ranges(ranges, am.shape[0], am.shape[1], ranges.shape[2], lm.shape[1] - 1, am)
    batch, frames, rows = ranges.shape
    at = ranges.to(lm.device).reshape(batch, frames * rows, 1).expand(-1, -1, lm.shape[2])
    return am[:, :, None].expand(-1, -1, rows, -1), lm.gather(1, at).view(batch, frames, rows, lm.shape[2])


def mutual_information_recursion(
    px: Tensor, py: Tensor, boundary: Tensor | None = None, return_grad: bool = False
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
    """log of the sum over all paths of e^(the scores along the path)::

        p[s, t] = log_add(p[s - 1, t'] + px[s - 1, t'], p[s, t - 1] + py[s, t - 1]),    p[begin] = 0, result p[end]

    with t' = t where px is (B, S, T + 1), and t - 1 where it is (B, S, T).

    Args:
        px: (B, S, T + 1) or (B, S, T), float32 or float64.
        py: (B, S + 1, T), the same dtype.
        boundary, return_grad: see `rnnt_loss.functional`.

    Returns:
        (B,); with return_grad, (scores, (px_grad, py_grad)).
    """
    for name, t in (("px", px), ("py", py)):
        check_logits(name, t, "B, S, T")
        if t.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name}: expected float32 or float64, got {t.dtype}")
    (batch, symbols, columns), frames = px.shape, py.shape[2]
    if columns not in (frames, frames + 1) or py.shape[:2] != (batch, symbols + 1):
        raise ValueError(
            f"py: expected shape (B, S + 1, T) for px (B, S, T + 1) or (B, S, T), got {list(py.shape)} for {list(px.shape)}"
        )
    if px.dtype != py.dtype or px.device != py.device:
        raise TypeError(f"py: expected {px.dtype} on {px.device}, got {py.dtype} on {py.device}")
    boundary = check_boundary(boundary, batch, symbols, frames, px)
    wanted = return_grad or wants_gradients([px, py], None)
    arcs = ([0 if columns > frames else 1], [1], boundary, None, True, False, wanted, 1.0)
    score, *occupancies = _ops.lattice(px.transpose(1, 2), py.transpose(1, 2), *arcs)
    if not return_grad:
        return score
    px_grad, py_grad = (t.transpose(1, 2) for t in occupancies)
    return score, (px_grad, py_grad)


def joint_mutual_information_recursion(px: Sequence[Tensor], py: Sequence[Tensor], boundary: Tensor | None = None) -> Tensor:
    """`mutual_information_recursion` of sum(px), sum(py), told apart by term.

    Args:
        px, py: as many of each, see `mutual_information_recursion`.
        boundary: see `rnnt_loss.functional`.

    Returns:
        (len(px), B), whose sum over the terms is the score: of each term its mean along the paths, and in the first also
        the difference between the log of a sum and the sum of logs.
    """
    if len(px) != len(py) or len(px) == 0:
        raise ValueError(f"px and py: expected as many of each, and at least one, got {len(px)} and {len(py)}")
    px_all, py_all = torch.stack(list(px)), torch.stack(list(py))
    with torch.no_grad():
        result = mutual_information_recursion(px_all.sum(0), py_all.sum(0), boundary, return_grad=True)
    score, (px_grad, py_grad) = result
    finite = [torch.where(grad == 0, 0.0, t) for t, grad in ((px_all, px_grad), (py_all, py_grad))]
    terms = (finite[0] * px_grad).sum((2, 3)) + (finite[1] * py_grad).sum((2, 3))
    offset = score - terms.detach().sum(0)
    return torch.cat([terms[:1] + offset, terms[1:]])


def rnnt_align(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
) -> tuple[Tensor, Tensor]:
    """The best path (Viterbi).

    Args:
        logits, others: see `rnnt_loss`.

    Returns:
        Its log-probability (B,), and the frame at which it emits each symbol, (B, S) int64; -1 in the padding, and where
        there is no path.

    Example:
        >>> logits = torch.zeros(1, 4, 3, 5)
        >>> logits[0, 1, 0, 2] = logits[0, 3, 1, 4] = 10  # symbol 2 at frame 1, symbol 4 at frame 3
        >>> rnnt_align(logits, torch.tensor([[2, 4]]), termination_symbol=0)[1].tolist()
        [[1, 3]]
    """
    with torch.no_grad():
        logits, symbols, boundary, blank = checked_joint(logits, symbols, termination_symbol, boundary, rnnt_type, "none")
        options = (logits.shape[1], [blank], "softmax", 0.0, 1.0, False)
        label, blanks = _ops.joint_scores(logits, symbols, boundary, None, None, *options)
        score, taken, _ = solve(label, blanks, rnnt_type, boundary, occupancies=True, viterbi=True)
        if taken.shape[1] == 0:
            return score, symbols.new_full(symbols.shape, -1)
        most, frame = taken.max(1)
        return score, torch.where(most > 0, frame, -1)


def expected_emission_times(px_grad: Tensor) -> Tensor:
    """The mean frame at which each symbol is emitted, (B, S), from occupancies px_grad (B, S, T or T + 1); 0 in the padding."""
    return px_grad @ torch.arange(px_grad.shape[2], device=px_grad.device, dtype=px_grad.dtype)


def _check_reuse(logits: Tensor, reuse: bool) -> bool:
    """Whether to reuse the logits."""
    if reuse and logits.is_leaf and logits.requires_grad:
        raise ValueError("reuse_logits: expected logits that a joiner computed, not a leaf, whose values would be lost")
    return reuse and not torch.compiler.is_compiling()


def _checked_simple(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None,
    rnnt_type: str,
    reduction: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, int]:
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


def _smoothed_scores(
    lm: Tensor, am: Tensor, symbols: Tensor, blank: int, lm_only: float, am_only: float, boundary: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Labels (B, T, S) and blanks (B, T, S + 1)."""
    label, blanks = _ops.simple_scores(lm, am, symbols, boundary, blank)
    if lm_only == 0 and am_only == 0:
        return label, blanks
    both = 1 - lm_only - am_only
    label, blanks = both * label, both * blanks
    batch, count, frames = am.shape[0], symbols.shape[1], am.shape[1]
    bounds = _ops.whole(boundary, batch, count, frames, am)
    if lm_only != 0:  # the rows of lm are the logits of a lattice of one frame
        one = torch.stack([bounds[:, 0], torch.zeros_like(bounds[:, 0]), bounds[:, 2], (bounds[:, 3] > 0).long()], 1)
        options = (one, None, None, 1, [blank], "softmax", 0.0, 1.0, False)
        lm_label, lm_blank = _ops.joint_scores(lm[:, None].contiguous(), symbols, *options)
        label, blanks = label + lm_only * lm_label, blanks + lm_only * lm_blank[:, 0]
    if am_only != 0:  # the mean distribution of lm, without context, in lm's place
        s = torch.arange(count + 1, device=lm.device)
        rows = ((bounds[:, :1] <= s) & (s <= bounds[:, 2:3]))[..., None]
        mean = torch.where(rows, torch.where(rows, lm, 0.0).to(label.dtype).softmax(-1), 0.0).sum((0, 1)) / rows.sum()
        log_mean = (mean + torch.finfo(mean.dtype).tiny).log().expand_as(lm)  # which 16 bits would round
        am_label, am_blank = _ops.simple_scores(log_mean, am.to(mean.dtype), symbols, boundary, blank)
        label, blanks = label + am_only * am_label, blanks + am_only * am_blank
    return label, blanks


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
    score, *occupancies = solve(
        *scores,
        rnnt_type,
        bounds,
        begin,
        delay_penalty=delay_penalty,
        fastemit_lambda=fastemit_lambda,
        emission_window=emission_window,
        occupancies=return_grad,
    )
    loss = reduce(score, reduction, zero_infinity)
    if not return_grad:
        return loss
    if begin is not None:
        occupancies = [_spread(t, begin, count, 0.0) for t in occupancies]
        occupancies[0] = occupancies[0][..., :-1]
    return loss, _as_upstream(occupancies, rnnt_type)


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


def _spread(x: Tensor, begin: Tensor, symbols: int, value: float) -> Tensor:
    """A band's (B, T, rows) as (B, T, symbols + 1), with `value` outside of it."""
    rows = torch.arange(x.shape[2], device=x.device)
    return x.new_full((*x.shape[:2], symbols + 1), value).scatter(2, begin[..., None] + rows, x)


def _logprobs(label: Tensor, blank: Tensor, rnnt_type: str) -> tuple[Tensor, Tensor]:
    """(B, T, S), (B, T, S + 1) as (px, py)."""
    if rnnt_type == "constrained":
        label = fold_constrained(label, blank, band=False)
    px = label.transpose(1, 2)
    if rnnt_type == "regular":
        px = torch.nn.functional.pad(px, (0, 1), value=-torch.inf)
    return px, blank.transpose(1, 2)


def _as_upstream(occupancies: Sequence[Tensor], rnnt_type: str) -> tuple[Tensor, Tensor]:
    """Occupancies (B, T, S), (B, T, S + 1) as (px_grad, py_grad)."""
    px_grad, py_grad = (t.transpose(1, 2) for t in occupancies)
    return torch.nn.functional.pad(px_grad, (0, 1)) if rnnt_type == "regular" else px_grad, py_grad
