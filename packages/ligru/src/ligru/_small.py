"""A small layer in one call each way, without torch's dispatcher, whose calls cost several times what there is to compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import _ops
from ._derivatives import dense, straight_apply
from ._modes import is_unwatched
from .functional import activation_name, recurrence


def small_layer(
    x: Tensor,
    w: Tensor,
    u: Tensor,
    norm: nn.BatchNorm1d,
    h0: Tensor | None,
    mask: Tensor | None,
    nonlinearity: str,
    normalize: bool,
    eps: float,
) -> tuple[Tensor, Tensor] | None:
    """`LiGRU_Layer` in one direction; or None, where the call is one for the dispatcher, or a wrong one.

    For where `is_eager()` and `is_unwatched()`. Nothing has to be checked before.

    Args:
        x: (B, T, K).
        w, u: (2H, K) and (2H, H).
        norm: with running statistics, which change as those of a call.
        h0, mask: (1, B, H), or None.
        nonlinearity: f.
        normalize: whether U h is normalised, without weight and bias.
        eps: added to the variance of U h.

    Returns:
        out (B, T, H), and h_last (1, B, H).
    """
    if norm.momentum is None or not _may_run(norm):
        return None
    parameters, buffers = norm._parameters, norm._buffers  # nn.Module's own way to them takes as long as a small kernel
    differentiated = (x, w, u, parameters["weight"], parameters["bias"], h0)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in differentiated)
    options = (activation_name(nonlinearity), normalize, eps)
    statistics = (buffers["running_mean"], buffers["running_var"])
    of_norm = (norm.eps, norm.momentum, norm.training)
    tensors = (*differentiated[:5], *statistics, buffers["num_batches_tracked"], h0, mask)
    made = _ops.CALLS.layer(*tensors, *options, *of_norm, save)
    if made is None:
        return None
    out, h_last, kept = made
    if not save:
        return out, h_last
    went_by = [None, None] if norm.training else [t.clone() for t in statistics if t is not None]
    return _record((out, h_last), kept, mask, options, (*went_by, norm.eps), *differentiated)


def _may_run(norm: nn.BatchNorm1d) -> bool:
    """Whether there are running statistics, which may be written."""
    for name in ("running_mean", "running_var"):
        statistic = norm._buffers.get(name)
        if statistic is None or statistic.requires_grad or (norm.training and statistic.is_inference()):
            return False
    return True


class _Layer(torch.autograd.Function):
    """Records what a call has made."""

    @staticmethod
    def forward(
        ctx: Any,
        made: tuple[Tensor, Tensor],
        kept: Tensor,
        mask: Tensor | None,
        options: tuple[Any, ...],
        of_norm: tuple[Tensor | None, Tensor | None, float],
        *differentiated: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        x, w, u, weight, _, h0 = differentiated
        needed = ctx.needs_input_grad[5:]
        ctx.save_for_backward(x if needed[1] else None, w if needed[0] else None, u, weight, h0, mask, kept, made[0])
        ctx.options, ctx.of_norm = options, of_norm
        # what only `_in_parts` takes, too, and how often it had been changed then
        ctx.given, ctx.versions = differentiated, _versions(differentiated)
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_h_last: Tensor | None) -> tuple[Any, ...]:
        x, w, u, weight, h0, mask, kept, out = ctx.saved_tensors
        mean, _, _ = ctx.of_norm
        needed = ctx.needs_input_grad[5:]
        again = torch.is_grad_enabled()
        grad_out = torch.zeros_like(out) if grad_out is None else dense(grad_out)
        if grad_h_last is not None:
            grad_h_last = grad_h_last.contiguous()
        grads = None
        if is_unwatched() and not again:
            tensors = (grad_out, grad_h_last, x, w, u, weight, h0, out, kept, mask)
            grads = _ops.CALLS.layer_backward(*tensors, *ctx.options, mean is None, needed[5])
        if grads is None:
            if _versions(ctx.given) != ctx.versions:
                raise RuntimeError(
                    "one of the tensors that a layer needs for its gradient has been modified by an inplace operation"
                )
            with torch.enable_grad():
                pairs = zip(ctx.given, needed, strict=True)
                given = [None if t is None else t.view_as(t) if n else t.detach() for t, n in pairs]
                arguments: Any = (*given, mask, *ctx.of_norm, *ctx.options)
                outputs = _in_parts(*arguments)
                seeds = [grad_out, torch.zeros_like(outputs[1]) if grad_h_last is None else grad_h_last]
                wanted: Any = [t for t, n in zip(given, needed, strict=True) if n]
                of_wanted = iter(torch.autograd.grad(outputs, wanted, seeds, create_graph=again))
                grads = [next(of_wanted) if n else None for n in needed]
        return None, None, None, None, None, *(grad if n else None for grad, n in zip(grads, needed, strict=True))


def _versions(tensors: tuple[Tensor | None, ...]) -> list[int]:
    return [-1 if t is None or t.is_inference() else t._version for t in tensors]


def _in_parts(
    x: Tensor,
    w: Tensor,
    u: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    mask: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    eps_of_norm: float,
    activation: str,
    normalize: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The same by operations that torch can differentiate again; mean and var are None while training."""
    rows = nn.functional.linear(x, w).flatten(0, 1)
    rows = nn.functional.batch_norm(rows, mean, var, weight, bias, mean is None, 0.0, eps_of_norm)
    return recurrence(
        rows.view(x.shape[0], x.shape[1], -1), u, h0, mask, nonlinearity=activation, normalize=normalize, eps=eps
    )


_record = straight_apply(_Layer)
