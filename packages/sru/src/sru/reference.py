"""The specification of SRU's recurrence: plain PyTorch, step by step, in any floating dtype.

It is what the kernels are held against, what second derivatives are computed with, and the oracle of the tests. Equations:
arXiv:1709.02755, 3 to 7, with the dropout mask on the whole of g(c) - x', as the `sru` package has it since version 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._recurrence import absent_steps, present, run_steps

ACTIVATIONS = ("identity", "tanh", "relu")
SKIPS = ("none", "input", "column")
PEEPHOLES = ("none", "parameter", "plane")


def scan(
    inputs: list[Tensor],
    c0: Tensor,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    pad: Tensor | None = None,
    mask: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    activation: str = "identity",
    skip: str = "input",
    peephole: str = "parameter",
    direction: str = "forward",
) -> tuple[Tensor, Tensor]:
    """h (B, T, D) and the last c (B, D).

    Args:
        inputs: v_f (B, T, D), for the peephole "plane"; U (B, T, k * D), with the k values of a channel side by side: candidate,
            forget gate, reset gate and, for the skip "column", x'; then x (B, T, D), for the skip "input"; then v_r (B, T, D), for
            the peephole "plane"; and the parameters b_f, b_r and, for the peephole "parameter", v_f, v_r: D values each, in one
            tensor (2 * D), (2, D), (4, D), ..., or in several.
        c0: (B, D).
        lengths: (B,); steps from there on are padding, whose outputs are 0.
        reset: (B, T) bool; c before such a step is 0.
        pad: (B, T) bool; such steps leave c as it is, and their outputs are 0.
        mask: (B, D), multiplies g(c) - x'.
        scale: (1,), multiplies x for the skip "input".
        activation: g, among ACTIVATIONS.
        skip: where x' comes from, among SKIPS.
        peephole: where v comes from, among PEEPHOLES.
        direction: "forward"; "backward", from the last step to the first; or "both": the second half of the channels backward.
    """
    channels = c0.shape[1]
    absent = absent_steps(inputs[0], lengths, pad)
    sequences = present([t for t in inputs if t.dim() == 3], absent, c0.dtype)
    rows = [t.reshape(-1, channels) if channels else t.new_zeros(4, 0) for t in inputs if t.dim() < 3]
    parameters = torch.cat(rows).to(c0.dtype)
    v_f, v_r = (parameters[2], parameters[3]) if peephole == "parameter" else (c0.new_zeros(()), c0.new_zeros(()))
    kept = torch.ones_like(c0) if mask is None else mask.to(c0.dtype)
    per_step: list[Tensor] = []
    if peephole == "plane":
        first, *sequences, last = sequences
        per_step = [first, last]
    columns = list(sequences[0].unflatten(2, (channels, 4 if skip == "column" else 3)).unbind(-1))
    if skip == "none":
        columns.append(torch.zeros_like(columns[0]))
    elif skip == "input":
        columns.append(sequences[1] if scale is None else sequences[1] * scale.to(c0.dtype))

    def step(
        values: Sequence[Tensor], c_prev: Tensor, b_f: Tensor, b_r: Tensor, v_f: Tensor, v_r: Tensor, kept: Tensor
    ) -> tuple[Tensor, Tensor]:
        u, forget, reset_, highway, *v = values
        w_f, w_r = v if v else (v_f, v_r)
        f = torch.sigmoid(forget + w_f * c_prev + b_f)
        r = torch.sigmoid(reset_ + w_r * c_prev + b_r)
        c = f * c_prev + (1 - f) * u
        g = {"identity": c, "tanh": torch.tanh(c), "relu": torch.relu(c)}[activation]
        return c, highway + (g - highway) * kept * r

    constants = [parameters[0], parameters[1], v_f, v_r, kept]
    return run_steps(step, [*columns, *per_step], c0, absent, constants=constants, reset=reset, direction=direction)
