"""The specification of SRU's recurrence: plain PyTorch, step by step, in any floating dtype.

It is what the kernels are held against, what second derivatives are computed with, and the oracle of the tests. Equations:
arXiv:1709.02755, 3 to 7, with the dropout mask on the whole of g(c) - x', as the `sru` package has it since version 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVATIONS = ("identity", "tanh", "relu")
SKIPS = ("none", "input", "column")
PEEPHOLES = ("none", "parameter", "plane")


def scan(
    inputs: list[Tensor],
    c0: Tensor,
    lengths: Tensor | None = None,
    pad: Tensor | None = None,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    activation: str = "identity",
    skip: str = "input",
    peephole: str = "parameter",
    bidirectional: bool = False,
) -> tuple[Tensor, Tensor]:
    """h (B, T, D) and the last c (B, D).

    Args:
        inputs: U (B, T, k * D), with the k values of a channel side by side: candidate, forget gate, reset gate and, for the
            skip "column", x'; then x (B, T, D), for the skip "input"; then v_f and v_r (B, T, D), for the peephole "plane"; and
            the parameters: rows b_f, b_r (2, D), or b_f, b_r, v_f, v_r (4, D) for the peephole "parameter".
        c0: (B, D).
        lengths: (B,); steps from there on are padding, whose outputs are 0.
        pad: (B, T) bool; such steps leave c as it is, and their outputs are 0.
        mask: (B, D), multiplies g(c) - x'.
        scale: (1,), multiplies x for the skip "input".
        activation: g, among ACTIVATIONS.
        skip: where x' comes from, among SKIPS.
        peephole: where v comes from, among PEEPHOLES.
        bidirectional: the second half of the channels goes from the last step to the first.
    """
    *sequences, parameters = inputs
    batch, steps = sequences[0].shape[:2]
    channels = parameters.shape[1]
    skipped = torch.zeros(batch, steps, dtype=torch.bool, device=c0.device) if pad is None else pad
    if lengths is not None:
        skipped = skipped | (torch.arange(steps, device=c0.device) >= lengths[:, None])
    sequences = [t.masked_fill(skipped[..., None], 0.0).to(c0.dtype) for t in sequences]
    u = sequences[0].unflatten(2, (channels, 4 if skip == "column" else 3))
    parameters = parameters.to(c0.dtype)
    zero = c0.new_zeros(())
    if peephole == "parameter":
        (b_f, b_r, v_f, v_r), v = parameters, None
    else:
        (b_f, b_r), v_f, v_r = parameters, zero, zero
        v = sequences[-2:] if peephole == "plane" else None
    if skip == "input":
        highway = sequences[1] if scale is None else sequences[1] * scale.to(c0.dtype)
    else:
        highway = u[..., 3] if skip == "column" else torch.zeros_like(u[..., 0])
    mask = torch.ones_like(c0) if mask is None else mask.to(c0.dtype)

    c, rows = c0, []
    backward = torch.arange(channels, device=c0.device) >= (channels // 2 if bidirectional else channels)
    for i in range(steps):
        # step i of the channels that go forward, and its mirror image of those that go backward

        def at(t: Tensor, i: int = i) -> Tensor:
            return torch.where(backward, t[:, steps - 1 - i], t[:, i])

        w_f, w_r = (v_f, v_r) if v is None else (at(v[0]), at(v[1]))
        f = torch.sigmoid(at(u[..., 1]) + w_f * c + b_f)
        r = torch.sigmoid(at(u[..., 2]) + w_r * c + b_r)
        after = f * c + (1 - f) * at(u[..., 0])
        g = {"identity": after, "tanh": torch.tanh(after), "relu": torch.relu(after)}[activation]
        h = at(highway) + (g - at(highway)) * mask * r
        absent = at(skipped[..., None].expand(batch, steps, channels))
        rows.append(h.masked_fill(absent, 0.0))
        c = torch.where(absent, c, after)
    if not rows:
        return u[..., 0], c
    out = torch.stack(rows, dim=1)
    return torch.where(backward, out.flip(1), out), c
