"""The executable specification: Li-GRU and SLi-GRU step by step, in any dtype. Kernels are tested against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._recurrence import absent_steps, present, run_steps

ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sin")


def activate(a: Tensor, activation: str) -> Tensor:
    """f(a); leaky_relu has the slope 0.01 below 0."""
    if activation == "leaky_relu":
        return torch.nn.functional.leaky_relu(a)
    return {"relu": torch.relu, "tanh": torch.tanh, "sin": torch.sin}[activation](a)


def recurrence(
    inputs: list[Tensor],
    h0: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    mask: Tensor | None,
    *,
    activation: str = "relu",
    bidirectional: bool = False,
    normalize: bool = False,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Runs g through the recurrence of arXiv:1803.10225; with `normalize`, through that of arXiv:2302.10144.

    u_t = U h_{t-1}, or LayerNorm(U h_{t-1}) over its 2H values;  (a_t, z'_t) = g_t + u_t;  z_t = sigmoid(z'_t)
    h_t = z_t h_{t-1} + (1 - z_t) f(a_t) mask

    Args:
        inputs: g (B, T, 2H), rows [a | z]; U (2H, H); with `normalize` also, or not, weight and bias (2H,).
        h0: (D, B, H), D directions; its dtype is that of the state. The product has the dtype of U.
        lengths: (B,), or None: all are T. Beyond, nothing is read and outputs are 0.
        reset: (B, T) bool, or None. Where True, a sequence begins: no state passes between that step and the one before.
        mask: (D, B, H), or None: 1.

    Returns:
        out (B, T, D * H), in the dtype of the state, and h after each sequence's last step (D, B, H).
    """
    g, *parameters = inputs

    def product(h: Tensor, u: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        made = (h.to(u.dtype) @ u.t()).to(h.dtype)
        return torch.nn.functional.layer_norm(made, made.shape[-1:], weight, bias, eps) if normalize else made

    more = (lengths, reset, mask)
    return steps_of(g, product, h0, *more, parameters=parameters, activation=activation, bidirectional=bidirectional)


def steps_of(
    g: Tensor,
    product: Callable[..., Tensor],
    h0: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    mask: Tensor | None,
    *,
    parameters: Sequence[Tensor] = (),
    activation: str,
    bidirectional: bool,
) -> tuple[Tensor, Tensor]:
    """`recurrence`, with u_t = product(h_{t-1}, *parameters): h (B, H) -> u (B, 2H)."""
    absent = absent_steps(g, lengths)
    (g,) = present([g], absent, h0.dtype)

    def step(values: Sequence[Tensor], h: Tensor, kept: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        u_a, u_z = product(h, *parameters).chunk(2, dim=-1)
        z = torch.sigmoid(values[1] + u_z)
        h = z * h + (1 - z) * activate(values[0] + u_a, activation) * kept
        return h, h

    outs, h_last = [], []
    for i, direction in enumerate(("forward", "backward") if bidirectional else ("forward",)):
        constants = [h0.new_ones(()) if mask is None else mask[i], *parameters]
        out, last = run_steps(step, g.chunk(2, -1), h0[i], absent, constants=constants, reset=reset, direction=direction)
        outs.append(out)
        h_last.append(last)
    return torch.cat(outs, dim=-1), torch.stack(h_last)
