"""The exact loss of small lattices without torch's dispatcher, whose calls cost several times what there is to compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _ops
from ._derivatives import directly, straight_apply
from ._modes import is_eager, is_unwatched
from ._scores import Options, joint_scores
from ._solving import loss_of


def exact_loss(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None,
    kind: str,
    label_smoothing: float,
    rnnt_type: str,
    reduction: str,
    zero_infinity: bool,
    fastemit_lambda: float,
) -> Tensor | None:
    """`rnnt_loss`; or None, where the call is one for the dispatcher, or a wrong one: nothing was checked before."""
    known = type(termination_symbol) is int and type(fastemit_lambda) in (int, float)
    if not (known and is_eager() and is_unwatched()):
        return None
    options = (kind, label_smoothing, rnnt_type, reduction, zero_infinity)
    save = torch.is_grad_enabled() and isinstance(logits, Tensor) and logits.requires_grad
    made = _ops.CALLS.exact_loss(logits, symbols, boundary, termination_symbol, *options, save)
    if made is None:
        return None
    if not save:
        return made[0]
    return _record(made, logits, symbols, boundary, (termination_symbol, *options), 1 + fastemit_lambda)


class _Exact(torch.autograd.Function):
    """Records a loss that was made, with what backward needs."""

    @staticmethod
    def forward(
        ctx: Any,
        made: tuple[Tensor, Tensor],
        logits: Tensor,
        symbols: Tensor,
        boundary: Tensor | None,
        options: tuple[Any, ...],
        label_weight: float,
    ) -> Tensor:
        loss, planes = made
        ctx.save_for_backward(logits, symbols, boundary, planes)
        ctx.options, ctx.label_weight = options, label_weight
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        logits, symbols, boundary, planes = ctx.saved_tensors
        blank, kind, smoothing, rnnt_type, reduction, zero_infinity = ctx.options
        of_logits = None
        again = torch.is_grad_enabled()
        if is_unwatched() and not again:
            options = (blank, kind, smoothing, reduction, ctx.label_weight)
            of_logits = _ops.CALLS.exact_loss_backward(grad, logits, symbols, boundary, planes, *options)
        if of_logits is None:
            with torch.enable_grad():
                view = logits.view_as(logits) if logits.requires_grad else logits.detach().requires_grad_()
                loss = loss_of(
                    *joint_scores(view, symbols, Options([blank], kind, smoothing=smoothing), boundary),
                    rnnt_type,
                    boundary,
                    symbols=symbols.shape[1],
                    reduction=reduction,
                    zero_infinity=zero_infinity,
                    return_grad=False,
                    fastemit_lambda=ctx.label_weight - 1,
                )
                (of_logits,) = torch.autograd.grad(loss, view, grad, create_graph=again)  # type: ignore[arg-type]
        return None, of_logits, None, None, None, None


_record = straight_apply(_Exact)


def _method(name: str) -> Callable[[str], Callable[..., Any]]:
    return lambda namespace: directly(_ops.library_of(namespace), name)


for _name in ("exact_loss", "exact_loss_backward"):  # no ops, but ways to call the library, as those of ops
    _ops.registration(_name)(_method(_name))
