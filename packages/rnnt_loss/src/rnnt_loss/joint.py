"""The RNN-T loss of logits (B, T, S + 1, C): exact, packed, and its best paths."""

from __future__ import annotations

import torch
from torch import Tensor

from ._arguments import (
    check_boundary,
    check_logits,
    check_options,
    check_reuse,
    check_symbols,
    checked_joint,
    may_read,
)
from ._checks import check_tensor
from ._exact import exact_loss
from ._scores import joint_scores, options_of
from ._solving import Loss, as_logprobs, frames_of, loss_of, reduce, solve


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
    label_smoothing: float = 0.0,
    reuse_logits: bool = False,
) -> Loss:
    """The RNN-T loss (Graves, arXiv:1211.3711), exact, from the joiner's logits.

    Args:
        logits: (B, T, S + 1, C), before log_softmax.
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
        >>> logits = torch.randn(2, 20, 6, 30, requires_grad=True)  # (B, T, S + 1, C), the joiner's
        >>> symbols = torch.randint(1, 30, (2, 5))
        >>> boundary = torch.tensor([[0, 0, 5, 20], [0, 0, 3, 12]])  # the second sequence has 3 symbols and 12 frames
        >>> rnnt_loss(logits, symbols, termination_symbol=0, boundary=boundary, reduction="sum").backward()
    """
    if not (return_grad or reuse_logits or delay_penalty > 0 or emission_window is not None):
        kind = "hat" if use_hat_loss else "softmax"
        options = (kind, label_smoothing, rnnt_type, reduction, zero_infinity, fastemit_lambda)
        loss = exact_loss(logits, symbols, termination_symbol, boundary, *options)
        if loss is not None:
            return loss
    logits, symbols, boundary, blank = checked_joint(logits, symbols, termination_symbol, boundary, rnnt_type, reduction)
    reuse_logits = check_reuse(logits, reuse_logits)
    scores_as = options_of(blank, use_hat_loss, label_smoothing)
    return loss_of(
        *joint_scores(logits, symbols, scores_as, boundary, reuse=reuse_logits),
        rnnt_type,
        boundary,
        symbols=symbols.shape[1],
        reduction=reduction,
        zero_infinity=zero_infinity,
        return_grad=return_grad,
        delay_penalty=delay_penalty,
        fastemit_lambda=fastemit_lambda,
        emission_window=emission_window,
    )


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
    label_smoothing: float = 0.0,
    reuse_logits: bool = False,
) -> Tensor:
    """The same loss from logits without padding.

    Args:
        logits: (N, C), the nodes of one sequence after the other, each with its (end_frame - begin_frame) frames of
            (end_symbol - begin_symbol + 1) rows.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        termination_symbol: the blank's class, also counted from the end.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]. It and the symbols may lie
            on the CPU.
        rnnt_type: where a label leads from (t, s): "regular", to (t, s + 1); "modified", to (t + 1, s + 1);
            "constrained", the same, and the blank of the next context at the same frame is taken with it.
        delay_penalty: if > 0, added to the label's score at frame t: delay_penalty * ((end_frame - 1) / 2 - t) (Kang et
            al., arXiv:2211.00490).
        reduction: "none": (B,), "mean" over the batch, or "sum".
        num_frames: at least the largest end_frame. Default: it is read from the boundary, which synchronises a GPU.
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148); the
            loss is not.
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite; its gradients are 0 either way.
        label_smoothing: the share of the mean of all classes' log-probabilities in that of each arc, within 0..1, as
            torch.nn.functional.cross_entropy has it.
        reuse_logits: backward writes the gradient over the logits, which nothing may need afterwards: no other memory
            of their size is used. If something does, such as the tanh that made them, its backward raises a RuntimeError.
            Not for leaves; under torch.compile, which plans memory itself, it is without effect.

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced.

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
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
    reuse_logits = check_reuse(logits, reuse_logits)
    s0, t0, s1, t1 = checked.unbind(1)
    nodes = (t1 - t0) * (s1 - s0 + 1)
    offsets = nodes.cumsum(0) - nodes
    if may_read(boundary) and int(nodes.sum()) != logits.shape[0]:
        raise ValueError(f"logits: expected {int(nodes.sum())} nodes, as the boundary says, got {logits.shape[0]}")
    options = options_of(blank, label_smoothing=label_smoothing)
    given = (logits.contiguous(), symbols, options, checked, None, offsets)
    scores = joint_scores(*given, packed_frames=num_frames, reuse=reuse_logits)
    score, _, _ = solve(*scores, rnnt_type, checked, delay_penalty=delay_penalty, fastemit_lambda=fastemit_lambda)
    return reduce(score, reduction, zero_infinity)


def get_rnnt_logprobs_joint(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
) -> tuple[Tensor, Tensor]:
    """(px, py) of `rnnt_loss`, differentiable: what `mutual_information_recursion` takes.

    Args:
        logits: (B, T, S + 1, C), before log_softmax: float64, float32, float16 or bfloat16.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
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
    logits, symbols, boundary, blank = checked_joint(logits, symbols, termination_symbol, boundary, rnnt_type, "none")
    label, blanks = joint_scores(logits, symbols, options_of(blank), boundary)
    return as_logprobs(label, blanks[:, 0], rnnt_type)


def rnnt_align(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
) -> tuple[Tensor, Tensor]:
    """The best path (Viterbi) of the RNN-T (Graves, arXiv:1211.3711).

    Args:
        logits: (B, T, S + 1, C), before log_softmax: float64, float32, float16 or bfloat16.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        termination_symbol: the blank's class, also counted from the end.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU.
        rnnt_type: where a label leads from (t, s): "regular", to (t, s + 1); "modified", to (t + 1, s + 1);
            "constrained", the same, and the blank of the next context at the same frame is taken with it.

    Returns:
        Its log-probability (B,), and the frame at which it emits each symbol, (B, S) int64; -1 in the padding, and
        where there is no path.

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.

    Example:
        >>> logits = torch.zeros(1, 4, 3, 5)
        >>> logits[0, 1, 0, 2] = logits[0, 3, 1, 4] = 10  # symbol 2 at frame 1, symbol 4 at frame 3
        >>> rnnt_align(logits, torch.tensor([[2, 4]]), termination_symbol=0)[1].tolist()
        [[1, 3]]
    """
    with torch.no_grad():
        logits, symbols, boundary, blank = checked_joint(logits, symbols, termination_symbol, boundary, rnnt_type, "none")
        scores = joint_scores(logits, symbols, options_of(blank), boundary)
        score, taken, _ = solve(*scores, rnnt_type, boundary, occupancies=True, viterbi=True)
        return score, frames_of(taken)


def expected_emission_times(px_grad: Tensor) -> Tensor:
    """The mean frame at which each symbol is emitted.

    Args:
        px_grad: occupancies (B, S, T or T + 1), as `return_grad` gives them.

    Returns:
        (B, S); 0 in the padding.

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    return px_grad @ torch.arange(px_grad.shape[2], device=px_grad.device, dtype=px_grad.dtype)
