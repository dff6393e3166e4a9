"""The executable specification: Li-GRU and SLi-GRU step by step, in any dtype. Kernels are tested against it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
    g, u, *affine = inputs
    weight, bias = affine if affine else (None, None)

    def product(h: Tensor) -> Tensor:
        made = (h.to(u.dtype) @ u.t()).to(h.dtype)
        return torch.nn.functional.layer_norm(made, made.shape[-1:], weight, bias, eps) if normalize else made

    return steps_of(g, product, h0, lengths, reset, mask, activation=activation, bidirectional=bidirectional)


def steps_of(
    g: Tensor,
    product: Callable[[Tensor], Tensor],
    h0: Tensor,
    lengths: Tensor | None,
    reset: Tensor | None,
    mask: Tensor | None,
    *,
    activation: str,
    bidirectional: bool,
) -> tuple[Tensor, Tensor]:
    """`recurrence`, with u_t = product(h_{t-1}): h (B, H) -> u (B, 2H)."""
    batch, steps, _ = g.shape
    t = torch.arange(steps, device=g.device).expand(batch, steps)
    valid = t < (steps if lengths is None else lengths[:, None])
    g = g.masked_fill(~valid[..., None], 0)  # padding may be NaN
    outs, h_last = [], []
    for direction in range(2 if bidirectional else 1):
        order = t
        if direction == 1:  # the same permutation brings a sequence into the order of its steps, and back
            last = steps - 1 if lengths is None else lengths[:, None] - 1
            order = torch.where(valid, last - t, t)
        ordered = g.gather(1, order[..., None].expand_as(g)).to(h0.dtype)
        begins = torch.zeros_like(valid)  # in the order of the steps
        if reset is not None:
            begins = reset & valid
            if direction == 1:
                following = torch.cat([begins[:, 1:], torch.zeros_like(begins[:, :1])], 1)
                begins = following.gather(1, order)
        h, hs = h0[direction], []
        for s in range(steps):
            h = h.masked_fill(begins[:, s, None], 0.0)
            a, z = (ordered[:, s] + product(h)).chunk(2, dim=-1)
            z = torch.sigmoid(z)
            candidate = activate(a, activation)
            if mask is not None:
                candidate = candidate * mask[direction]
            h = torch.where(valid[:, s, None], z * h + (1 - z) * candidate, h)
            hs.append(h)
        out = torch.stack(hs, dim=1) if steps > 0 else h[:, None][:, :0]
        outs.append(out.gather(1, order[..., None].expand_as(out)).masked_fill(~valid[..., None], 0))
        h_last.append(h)
    return torch.cat(outs, dim=-1), torch.stack(h_last)
