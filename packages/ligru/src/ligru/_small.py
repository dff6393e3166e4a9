"""A small layer in one call each way, without torch's dispatcher, whose calls cost several times what there is to compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import _ops
from ._derivatives import straight_apply
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
    if norm.momentum is None:
        return None
    affine = (norm.weight, norm.bias)
    differentiated = (x, w, u, *affine, h0)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in differentiated)
    options = (activation_name(nonlinearity), normalize, eps)
    statistics = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    of_norm = (norm.eps, norm.momentum, norm.training)
    made = _ops.CALLS.layer(x, w, u, *affine, *statistics, h0, mask, *options, *of_norm, save)
    if made is None:
        return None
    out, h_last, kept = made
    if not save:
        return out, h_last
    return _record((out, h_last), kept, mask, options, norm, *differentiated)


class _Layer(torch.autograd.Function):
    """Records what a call has made."""

    @staticmethod
    def forward(
        ctx: Any,
        made: tuple[Tensor, Tensor],
        kept: Tensor,
        mask: Tensor | None,
        options: tuple[Any, ...],
        norm: nn.BatchNorm1d,
        *differentiated: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*differentiated, mask, kept, made[0])
        ctx.options, ctx.norm, ctx.training = options, norm, norm.training
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_h_last: Tensor | None) -> tuple[Any, ...]:
        x, w, u, weight, bias, h0, mask, kept, out = ctx.saved_tensors
        needed = ctx.needs_input_grad[5:]
        again = torch.is_grad_enabled()
        grad_out = torch.zeros_like(out) if grad_out is None else grad_out
        grads = None
        if is_unwatched() and not again:
            options = (*ctx.options, ctx.training, *needed[:2], needed[5])
            grads = _ops.CALLS.layer_backward(grad_out, grad_h_last, x, w, u, weight, h0, out, kept, mask, *options)
        if grads is None:
            with torch.enable_grad():
                saved = zip((x, w, u, weight, bias, h0), needed, strict=True)
                given: list[Any] = [None if t is None else t.view_as(t) if n else t.detach() for t, n in saved]
                x, w, u, weight, bias, h0 = given
                outputs = _in_parts(x, w, u, weight, bias, h0, mask, ctx.norm, ctx.training, *ctx.options)
                seeds = [grad_out, torch.zeros_like(outputs[1]) if grad_h_last is None else grad_h_last]
                wanted = [t for t, n in zip(given, needed, strict=True) if n]
                of_wanted = iter(torch.autograd.grad(outputs, wanted, seeds, create_graph=again))
                grads = [next(of_wanted) if n else None for n in needed]
        return None, None, None, None, None, *(grad if n else None for grad, n in zip(grads, needed, strict=True))


def _in_parts(
    x: Tensor,
    w: Tensor,
    u: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    mask: Tensor | None,
    norm: nn.BatchNorm1d,
    training: bool,
    activation: str,
    normalize: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The same by operations that torch can differentiate again; running statistics stay as they are."""
    statistics = (None, None) if training else (norm.running_mean, norm.running_var)
    rows = nn.functional.linear(x, w).flatten(0, 1)
    rows = nn.functional.batch_norm(rows, *statistics, weight, bias, training, 0.0, norm.eps)
    return recurrence(
        rows.view(x.shape[0], x.shape[1], -1), u, h0, mask, nonlinearity=activation, normalize=normalize, eps=eps
    )


_record = straight_apply(_Layer)
