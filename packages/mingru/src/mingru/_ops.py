"""The ops `scan`, `scan_backward` and `step` of `torch.ops.rnnkit_mingru`, as torch sees them.

Importing this module loads the compiled library and teaches torch what C++ cannot say through the stable ABI: shapes for
tracing (`register_fake`) and derivatives (`register_autograd`). Arguments:

    planes      gate and hidden pre-activations: one tensor (B, T, P * D), packed along its last dimension, or P tensors
                (B, T, D). P = gates + 1: (gate, hidden), or (forget gate, input gate, hidden)
    h0          (B, D), or None: `initial` everywhere
    lengths     (B,) int64, or None: every sequence has T steps
    reset       (B, T) bool, or None
    gates       1: minGRU, 2: minLSTM
    activation  index into ACTIVATIONS
    save        keeps what backward needs: `carries`, the state before every 16th step, (B, ceil(T / 16) * D)

States (h0, h_last, carries) are float32, or float64 where the planes are. `step` is `scan` over one step, planes (B, P * D),
without derivatives: it serves streaming, where the calls around a kernel cost more than the kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _C as _C  # type: ignore[attr-defined]  # the compiled library: loading it defines the ops
from . import reference

NAMESPACE = "rnnkit_mingru"
ACTIVATIONS = ("g", "identity", "tanh")
STEPS_PER_CARRY = 16


def register(namespace: str) -> None:
    """Registers shapes and derivatives for the ops of a library that was compiled under `namespace`."""
    ops = getattr(torch.ops, namespace)

    def empty_rows(like: Tensor, width: int) -> Tensor:
        batch, steps = like.shape[:2]
        if like.stride(0) >= like.stride(1):
            return like.new_empty(batch, steps, width)
        return like.new_empty(steps, batch, width).transpose(0, 1)

    def state_dtype(like: Tensor) -> torch.dtype:
        return torch.float64 if like.dtype == torch.float64 else torch.float32

    def channels(planes: list[Tensor], gates: int) -> int:
        return planes[0].shape[2] // (gates + 1) if len(planes) == 1 else planes[0].shape[2]

    def unpack(packed: Tensor, planes: list[Tensor], gates: int) -> list[Tensor]:
        return [packed] if len(planes) == 1 else list(packed.chunk(gates + 1, dim=-1))

    @torch.library.register_fake(f"{namespace}::scan")
    def _(planes, h0, lengths, reset, gates, activation, initial, reverse, save):  # type: ignore[no-untyped-def]
        x, width = planes[0], channels(planes, gates)
        batch, steps = x.shape[:2]
        h_last = x.new_empty(batch, width, dtype=state_dtype(x))
        kept = (steps + STEPS_PER_CARRY - 1) // STEPS_PER_CARRY if save else 0
        return empty_rows(x, width), h_last, h_last.new_empty(batch, kept * width)

    @torch.library.register_fake(f"{namespace}::scan_backward")
    def _(grad_out, grad_h_last, planes, carries, h0, lengths, reset, gates, activation, initial, reverse):  # type: ignore[no-untyped-def]
        x, width = planes[0], channels(planes, gates)
        return empty_rows(x, width * (gates + 1)), x.new_empty(x.shape[0], width, dtype=state_dtype(x))

    @torch.library.register_fake(f"{namespace}::step")
    def _(planes, h, gates, activation, initial):  # type: ignore[no-untyped-def]
        out = planes.new_empty(planes.shape[0], planes.shape[1] // (gates + 1))
        return out, torch.empty_like(out, dtype=state_dtype(planes))

    def setup_scan(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        planes, h0, lengths, reset, *options = inputs
        ctx.options = tuple(options[:-1])
        ctx.save_for_backward(output[2], h0, lengths, reset, *planes)
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)

    def scan_backward(ctx: Any, grad_out: Tensor | None, grad_h_last: Tensor | None, _: None) -> tuple[Any, ...]:
        carries, h0, lengths, reset, *planes = ctx.saved_tensors
        gates = ctx.options[0]
        if grad_out is None:
            grad_out = torch.zeros_like(planes[0][..., : channels(planes, gates)])
        if grad_h_last is not None:
            grad_h_last = grad_h_last.contiguous()
        packed, grad_h0 = ops.scan_backward(grad_out, grad_h_last, planes, carries, h0, lengths, reset, *ctx.options)
        return unpack(packed, planes, gates), None if h0 is None else grad_h0, *[None] * 7

    torch.library.register_autograd(f"{namespace}::scan", scan_backward, setup_context=setup_scan)

    # Second and higher derivatives are exact but slow: the gradients are computed again, step by step, by operations
    # that torch can differentiate.
    def setup_scan_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        grad_out, grad_h_last, planes, _, h0, lengths, reset, *ctx.options = inputs
        ctx.save_for_backward(grad_out, grad_h_last, h0, lengths, reset, *planes)

    def scan_double_backward(ctx: Any, grad_packed: Tensor, grad_grad_h0: Tensor) -> tuple[Any, ...]:
        grad_out, grad_h_last, h0, lengths, reset, *planes = ctx.saved_tensors
        gates, activation, initial, reverse = ctx.options
        differentiable = torch.is_grad_enabled()
        given = (True, grad_h_last is not None, h0 is not None)
        h0 = torch.full_like(grad_grad_h0, initial) if h0 is None else h0
        grad_h_last = torch.zeros_like(grad_grad_h0) if grad_h_last is None else grad_h_last
        with torch.enable_grad():
            # views, so that each is an input of its own, and needs a gradient whatever the tensor itself needs
            inputs = [
                t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
                for t in (grad_out, grad_h_last, h0, *planes)
            ]
            grad_out, grad_h_last, h0, *planes = inputs
            split = list(planes[0].chunk(gates + 1, dim=-1)) if len(planes) == 1 else planes
            out, h_last = reference.scan(
                split, h0, lengths, reset, activation=ACTIVATIONS[activation], initial=initial, reverse=reverse
            )
            seeds = [grad_out.to(out.dtype), grad_h_last]
            first = torch.autograd.grad([out, h_last], [*planes, h0], seeds, create_graph=True)
            against = [*unpack(grad_packed, planes, gates), grad_grad_h0]
            second = torch.autograd.grad(first, inputs, against, create_graph=differentiable, allow_unused=True)
        d_grad_out, d_grad_h_last, d_h0 = (d if exists else None for d, exists in zip(second, given, strict=False))
        return d_grad_out, d_grad_h_last, list(second[3:]), None, d_h0, *[None] * 6

    torch.library.register_autograd(f"{namespace}::scan_backward", scan_double_backward, setup_context=setup_scan_backward)


register(NAMESPACE)
