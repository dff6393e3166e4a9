"""The executable specification: QRNN's pooling step by step in plain PyTorch, in any floating dtype.

Slow, differentiable any number of times, and the oracle of the tests. Equations: arXiv:1611.01576, section 2.1, with the
sense of f that torchqrnn gave it: the gate that lets in, where the paper's keeps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._recurrence import absent_steps, first_backward, present, run_steps

LOW_32_BITS = 0xFFFFFFFF


def philox(counter: list[Tensor], key: list[Tensor]) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al., SC 2011): four words of 32 random bits, in int64 tensors, as are its arguments."""

    def multiply(x: Tensor, m: int) -> tuple[Tensor, Tensor]:
        low, high = x & 0xFFFF, x >> 16
        return (x * m) & LOW_32_BITS, (high * m + (low * m >> 16)) >> 16

    for _ in range(10):
        (low0, high0), (low1, high1) = multiply(counter[0], 0xD2511F53), multiply(counter[2], 0xCD9E8D57)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) & LOW_32_BITS, (key[1] + 0xBB67AE85) & LOW_32_BITS]
    return counter


def draws(seed: Tensor, batch: int, steps: int, channels: int) -> Tensor:
    """Integers within 0..2^24 - 1, (B, T, D), from a seed (1,); their steps are counted in the order of processing."""
    d = seed.device
    b, fours, c = (torch.arange(n, device=d) for n in (batch, (steps + 3) // 4, channels))
    counter = [t.expand(batch, len(fours), channels) for t in (fours[:, None], c, b[:, None, None], torch.zeros_like(seed))]
    words = philox(counter, [seed & LOW_32_BITS, (seed >> 32) & LOW_32_BITS])  # each serves four steps
    return torch.stack(words, dim=2).flatten(1, 2)[:, :steps] >> 8


def scan(
    planes: list[Tensor],
    h0: Tensor,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    seed: Tensor | None = None,
    pooling: str = "fo",
    zoneout: float = 0.0,
    scale: float = 1.0,
    direction: str = "forward",
) -> tuple[Tensor, Tensor]:
    """out (B, T, D) and the last state (B, D), from planes (B, T, D), h0 (B, D), lengths (B,) and reset (B, T).

    Planes: (a, b) for pooling "linear", (f, x) for "mult"; pre-activations (Z, F), (Z, F, O) and (Z, F, I, O) for "f", "fo" and "ifo".
    With a seed, an element keeps its state with probability `zoneout`; else what lets in is multiplied by `scale`.
    """
    batch, steps, channels = planes[0].shape
    absent = absent_steps(planes[0], lengths)
    planes = present(planes, absent, h0.dtype)

    open_ = torch.full_like(planes[0], scale)
    if seed is not None:
        t = torch.arange(steps, device=h0.device).expand(batch, steps)
        last = t.new_full((batch, 1), steps) if lengths is None else lengths[:, None]
        drawn = draws(seed, batch, steps, channels)  # in the order of processing
        backward = drawn.gather(1, torch.where(t < last, last - 1 - t, t)[..., None].expand(-1, -1, channels))
        first = first_backward(channels, direction)
        drawn = torch.cat([drawn[..., :first], backward[..., first:]], -1)
        open_ = open_.masked_fill(drawn < round(zoneout * 2**24), 0.0)
    if pooling == "linear":
        a, b = planes
    elif pooling == "mult":
        f, x = planes
        a, b = 1 - f, f * x
    else:
        f, keep, z = torch.sigmoid(planes[1]), torch.sigmoid(-planes[1]), torch.tanh(planes[0])
        a = keep * open_ + (1 - open_)
        b = open_ * (torch.sigmoid(planes[2]) if pooling == "ifo" else f) * z

    def step(values: Sequence[Tensor], c_prev: Tensor) -> tuple[Tensor, Tensor]:
        c = values[0] * c_prev + values[1]
        return c, c

    out, last_state = run_steps(step, [a, b], h0, absent, reset=reset, direction=direction)
    return torch.sigmoid(planes[-1]) * out if pooling in ("fo", "ifo") else out, last_state
