"""Joiner and loss in one: the logits never exist all at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import _ops
from ._arguments import REDUCTIONS, RNNT_TYPES, check_band, check_boundary, check_logits, check_rows
from ._checks import check_choice, check_tensor
from ._forms import named
from ._joiner import Joiner, joined_scores
from ._scores import options_of, options_of_durations
from ._solving import Loss, loss_of
from .durations import check_blanks, check_durations, multiblank_loss_of, tdt_loss_of


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
    label_smoothing: float = 0.0,
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
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU; where it does, an
            nn.Linear multiplies no padding, on a GPU too.
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
        rows_at_once: how many nodes' logits exist at a time. Default: 512 on a CPU, 65536 on a GPU. 0 keeps all of
            them, and with an nn.Linear backward does not compute them again: faster, with two tensors of (nodes, H) and
            (nodes, C).

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced; with return_grad, (loss, (px_grad, py_grad)).

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.

    Example:
        >>> am, lm, symbols = torch.randn(2, 20, 64), torch.randn(2, 6, 64), torch.randint(1, 30, (2, 5))
        >>> loss = rnnt_loss_fused(am, lm, torch.nn.Linear(64, 30), symbols, termination_symbol=0)
    """
    lengths = boundary
    boundary = _checked(am, lm, symbols, boundary, rnnt_type, reduction)
    options = options_of(termination_symbol, use_hat_loss, label_smoothing)
    return loss_of(
        *joined_scores(am, lm, joiner, symbols, options, boundary, None, lengths, lm.shape[1], rows_at_once),
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
    label_smoothing: float = 0.0,
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
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU; where it does, an
            nn.Linear multiplies no padding, on a GPU too.
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
        label_smoothing: the share of the mean of all classes' log-probabilities in that of each arc, within 0..1, as
            torch.nn.functional.cross_entropy has it; not with use_hat_loss.
        rows_at_once: how many nodes' logits exist at a time. Default: 512 on a CPU, 65536 on a GPU. 0 keeps all of
            them, and with an nn.Linear backward does not compute them again: faster, with two tensors of (nodes, H) and
            (nodes, C).

    Returns:
        The loss, float32 (float64 for float64 logits): (B,), or reduced; with return_grad, (loss, (px_grad, py_grad)).

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    check_tensor("ranges", ranges)
    if ranges.dim() != 3:
        raise ValueError(f"ranges: expected shape (B, T, s_range), got {list(ranges.shape)}")
    lengths = boundary
    boundary = _checked(am, lm, symbols, boundary, rnnt_type, reduction)
    batch, frames, count, rows = am.shape[0], am.shape[1], symbols.shape[1], ranges.shape[2]
    begin = check_band(ranges, batch, frames, rows, count, boundary, am)
    boundary = _ops.whole(boundary, batch, count, frames, am)
    options = options_of(termination_symbol, use_hat_loss, label_smoothing)
    return loss_of(
        *joined_scores(am, lm, joiner, symbols, options, boundary, begin, lengths, rows, rows_at_once),
        rnnt_type,
        boundary,
        begin,
        symbols=count,
        reduction=reduction,
        zero_infinity=zero_infinity,
        return_grad=return_grad,
        delay_penalty=delay_penalty,
        fastemit_lambda=fastemit_lambda,
    )


def tdt_loss_fused(
    am: Tensor,
    lm: Tensor,
    joiner: Joiner,
    symbols: Tensor,
    durations: Sequence[int],
    termination_symbol: int,
    boundary: Tensor | None = None,
    sigma: float = 0.0,
    omega: float = 0.0,
    reduction: str = "mean",
    *,
    clamp: float = 0.0,
    fastemit_lambda: float = 0.0,
    zero_infinity: bool = False,
    rows_at_once: int | None = None,
) -> Tensor:
    """`tdt_loss` of joiner(tanh(am + lm)), without ever having all logits, forward or backward (Xu et al., arXiv:2304.06795).

    Args:
        am: (B, T, H), the encoder's side of the joiner.
        lm: (B, S + 1, H), the predictor's.
        joiner: the output nn.Linear(H, C + D), after a tanh; or any callable that takes (B, t, S + 1, H) twice, frames of
            am and rows of lm, and returns logits (B, t, S + 1, C + D): it is called again in backward, a few frames at a time.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        durations: D numbers of frames that a label or blank may last; blanks do not last 0, so one is above 0. Those beyond T
            cost nothing.
        termination_symbol: the blank's class.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU; where it does, an
            nn.Linear multiplies no padding, on a GPU too.
        sigma: subtracted from the log-probabilities of classes (logit under-normalisation).
        omega: the probability that a call computes the plain RNN-T loss of the classes instead; drawn on the CPU.
        reduction: "none": (B,), "mean" over the batch, or "sum".
        clamp: if > 0, the gradient of each of the C classes' logits, of a sequence's loss, is limited to -clamp..clamp, after
            FastEmit (NeMo's; it leaves those of durations alone).
        fastemit_lambda: the gradients of labels' classes, as NeMo's not those of durations, are multiplied by 1 + fastemit_lambda
            (Yu et al., arXiv:2010.11148); the loss is not.
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite; its gradients are 0 either way.
        rows_at_once: how many nodes' logits exist at a time. Default: 512 on a CPU, 65536 on a GPU. 0 keeps all of
            them, and with an nn.Linear backward does not compute them again: faster, with two tensors of (nodes, H) and
            (nodes, C).

    Returns:
        The loss, float32 (float64 for float64 am): (B,), or reduced.

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.

    Example:
        >>> am, lm, symbols = torch.randn(2, 20, 64), torch.randn(2, 6, 64), torch.randint(0, 29, (2, 5))
        >>> loss = tdt_loss_fused(am, lm, torch.nn.Linear(64, 30 + 5), symbols, [0, 1, 2, 3, 4], termination_symbol=29)
    """
    durations = check_durations(durations)
    lengths = boundary
    boundary = _checked(am, lm, symbols, boundary, "regular", reduction)
    options = options_of_durations([termination_symbol], len(durations), clamp, fastemit_lambda)
    scores = joined_scores(am, lm, joiner, symbols, options, boundary, None, lengths, lm.shape[1], rows_at_once)
    return tdt_loss_of(*scores, durations, boundary, sigma, omega, reduction, fastemit_lambda, zero_infinity)


def multiblank_rnnt_loss_fused(
    am: Tensor,
    lm: Tensor,
    joiner: Joiner,
    symbols: Tensor,
    blanks: Sequence[int],
    blank_durations: Sequence[int],
    boundary: Tensor | None = None,
    sigma: float = 0.0,
    reduction: str = "mean",
    *,
    clamp: float = 0.0,
    fastemit_lambda: float = 0.0,
    zero_infinity: bool = False,
    rows_at_once: int | None = None,
) -> Tensor:
    """`multiblank_rnnt_loss` of joiner(tanh(am + lm)), without ever having all logits (Xu et al., arXiv:2211.03541).

    Args:
        am: (B, T, H), the encoder's side of the joiner.
        lm: (B, S + 1, H), the predictor's.
        joiner: the output nn.Linear(H, C), after a tanh; or any callable that takes (B, t, S + 1, H) twice, frames of
            am and rows of lm, and returns logits (B, t, S + 1, C): it is called again in backward, a few frames at a time.
        symbols: (B, S) integers within 0..C - 1; what lies beyond a sequence's end may be anything.
        blanks: the classes of the blanks, the plain one among them.
        blank_durations: how many frames each consumes; one of them 1.
        boundary: (B, 4) integers, rows [begin_symbol, begin_frame, end_symbol, end_frame]; default [0, 0, S, T]. What
            lies outside is never read, may be NaN, and has gradient 0. It and the symbols may lie on the CPU; where it does, an
            nn.Linear multiplies no padding, on a GPU too.
        sigma: subtracted from all log-probabilities (logit under-normalisation).
        reduction: "none": (B,), "mean" over the batch, or "sum".
        clamp: if > 0, the gradient of each logit, of a sequence's loss, is limited to -clamp..clamp, after FastEmit.
        fastemit_lambda: the labels' gradients are multiplied by 1 + fastemit_lambda (Yu et al., arXiv:2010.11148); the loss is not.
        zero_infinity: the loss of a sequence that has no path is 0 instead of infinite; its gradients are 0 either way.
        rows_at_once: how many nodes' logits exist at a time. Default: 512 on a CPU, 65536 on a GPU. 0 keeps all of
            them, and with an nn.Linear backward does not compute them again: faster, with two tensors of (nodes, H) and
            (nodes, C).

    Returns:
        The loss, float32 (float64 for float64 am): (B,), or reduced.

    Raises:
        TypeError, ValueError: of dtypes, shapes, devices, options or values other than the above, with the argument's name.
    """
    blanks, blank_durations = check_blanks(blanks, blank_durations)
    lengths = boundary
    boundary = _checked(am, lm, symbols, boundary, "regular", reduction)
    options = options_of_durations(blanks, 0, clamp, fastemit_lambda)
    with named(termination_symbol="blanks"):
        scores = joined_scores(am, lm, joiner, symbols, options, boundary, None, lengths, lm.shape[1], rows_at_once)
    return multiblank_loss_of(*scores, blank_durations, boundary, sigma, reduction, fastemit_lambda, zero_infinity)


def _checked(
    am: Tensor, lm: Tensor, symbols: Tensor, boundary: Tensor | None, rnnt_type: str, reduction: str
) -> Tensor | None:
    """The boundary as the ops take it; raises unless am and lm fit together, and the options are known."""
    check_logits("am", am, "B, T, H")
    check_logits("lm", lm, "B, S + 1, H")
    check_rows("lm", lm, symbols)
    check_choice("rnnt_type", rnnt_type, RNNT_TYPES)
    check_choice("reduction", reduction, REDUCTIONS)
    return check_boundary(boundary, am.shape[0], symbols.shape[1], am.shape[1], am)
