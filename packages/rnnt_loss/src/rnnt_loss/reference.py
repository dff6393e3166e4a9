"""The executable specification: node by node, in plain PyTorch, in any dtype. Everything else is held against it.

What belongs to the nodes (t, s) of the lattice, or to the arcs that leave them, is (B, T, rows), with s in row k = s - begin;
without `begin`, a band's first row at each frame (B, T), there are S + 1 rows. `boundary` (B, 4) has s0, t0, s1, t1 of each
sequence: its paths lead from (t0, s0) to (t1, s1). What lies outside is never used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MODES = ("softmax", "hat", "log_probs")


def inside(boundary: Tensor, begin: Tensor | None, frames: int, rows: int) -> Tensor:
    """(B, T, rows): whether the node is one of its sequence's, before its last frame."""
    s0, t0, s1, t1 = (x[:, None, None] for x in boundary.unbind(1))
    t = torch.arange(frames, device=boundary.device)[:, None]
    s = torch.arange(rows, device=boundary.device) + (0 if begin is None else begin[:, :, None])
    return (t0 <= t) & (t < t1) & (s0 <= s) & (s <= s1)


def without_padding(am: Tensor, lm: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor]:
    """am (B, T, H) and lm (B, S + 1, H), 0 where no node of the sequence needs them."""
    valid = inside(boundary, None, am.shape[1], lm.shape[1])
    return torch.where(valid.any(2)[..., None], am, 0.0), torch.where(valid.any(1)[..., None], lm, 0.0)


def dense(x: Tensor, begin: Tensor | None, symbols: int) -> Tensor:
    """A band's (B, N, T, rows) as (B, N, T, symbols + 1), -inf outside of it; without a band, x."""
    if begin is None:
        return x
    k = torch.arange(symbols + 1, device=x.device) - begin[:, None, :, None]
    k = k.expand(x.shape[0], x.shape[1], x.shape[2], symbols + 1)
    values = x.gather(3, k.clamp(0, x.shape[3] - 1))
    return torch.where((k >= 0) & (k < x.shape[3]), values, -torch.inf)


def log_sum_exp(terms: list[Tensor]) -> Tensor:
    """Of tensors of one shape; its gradient is 0, not NaN, where all are -inf."""
    x = torch.stack(terms)
    most = x.detach().amax(0)
    most = torch.where(most == -torch.inf, 0.0, most)
    total = (x - most).exp().sum(0)
    return torch.where(total == 0, -torch.inf, torch.where(total == 0, 1.0, total).log() + most)


def joint_scores(
    logits: Tensor,
    symbols: Tensor,
    boundary: Tensor,
    begin: Tensor | None,
    blanks: Sequence[int],
    mode: str = "softmax",
    durations: int = 0,
    smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the arcs, from logits (B, T, rows, C + D): labels (B, T, S or rows), blanks (B, N + D, T, rows).

    After the N blanks come the D durations, with a log_softmax of their own.

    softmax: log_softmax over all classes. hat (Variani et al., arXiv:2003.07705): the blank is a Bernoulli variable of its own,
    and log_softmax is over the other classes, which no label is. log_probs: the logits are log-probabilities already.
    Smoothed, each score is (1 - smoothing) times that and smoothing times the mean of all classes', as torch.nn.functional.
    cross_entropy has it; softmax only.
    """
    frames, rows = logits.shape[1:3]
    valid = inside(boundary, begin, frames, rows)
    z = torch.where(valid[..., None], logits, 0.0)
    z, lasting = z[..., : z.shape[-1] - durations], z[..., z.shape[-1] - durations :]
    first = begin if begin is not None else boundary.new_zeros(boundary.shape[0], frames)
    s = (first[:, :, None] + torch.arange(rows, device=z.device)).expand(z.shape[:3])
    emits = valid & (s < boundary[:, None, None, 2])
    padded = torch.cat([symbols, symbols.new_zeros(symbols.shape[0], 1)], 1)
    target = padded[:, None, :].expand(-1, frames, -1).gather(2, s.clamp(0, symbols.shape[1]))
    target = torch.where(emits, target, 0)
    of_blank = z[..., list(blanks)]
    if mode == "softmax":
        norm = z.logsumexp(-1, keepdim=True)
        if smoothing != 0:
            norm = norm - smoothing * z.mean(-1, keepdim=True)
            z, of_blank = (1 - smoothing) * z, (1 - smoothing) * of_blank
        of_blank = of_blank - norm
    elif mode == "hat":
        others = torch.arange(z.shape[-1], device=z.device) != blanks[0]
        of_others = torch.where(others, z, -torch.inf) if others.any() else torch.zeros_like(z)
        norm = of_others.logsumexp(-1, keepdim=True) - torch.nn.functional.logsigmoid(-of_blank)
        emits = emits & (target != blanks[0])
        of_blank = torch.nn.functional.logsigmoid(of_blank)
    else:
        norm = torch.zeros_like(z[..., :1])
    label = torch.where(emits, (z.gather(-1, target[..., None]) - norm)[..., 0], -torch.inf)
    if durations > 0:
        of_blank = torch.cat([of_blank, lasting.log_softmax(-1)], -1)
    blank = torch.where(valid[..., None], of_blank, -torch.inf)
    return (label if begin is not None else label[..., :-1]), blank.permute(0, 3, 1, 2)


def unpacked(logits: Tensor, boundary: Tensor, frames: int, symbols: int) -> Tensor:
    """Packed logits (nodes, C) as (B, T, S + 1, C), with zeros in the padding."""
    sequences, at = [], 0
    for s0, t0, s1, t1 in boundary.tolist():
        count = (t1 - t0) * (s1 - s0 + 1)
        nodes = logits[at : at + count].view(t1 - t0, s1 - s0 + 1, -1)
        sequences.append(torch.nn.functional.pad(nodes, (0, 0, s0, symbols - s1, t0, frames - t1)))
        at += count
    return torch.stack(sequences)


def simple_scores(lm: Tensor, am: Tensor, symbols: Tensor, boundary: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """`joint_scores` of the logits lm + am: lm (B, S + 1, C), am (B, T, C)."""
    am, lm = without_padding(am, lm, boundary)
    label, blanks = joint_scores(am[:, :, None] + lm[:, None], symbols, boundary, None, [blank])
    return label, blanks[:, 0]


def lattice(
    label: Tensor,
    blank: Tensor,
    label_durations: Sequence[int],
    blank_durations: Sequence[int],
    boundary: Tensor,
    begin: Tensor | None = None,
    label_end: bool = False,
) -> Tensor:
    """The log-probability (B,) of all paths from (t0, s0) to (t1, s1).

    Arcs of a node (t, s): label[:, i, t, s] leads to (t + label_durations[i], s + 1), blank[:, j, t, s] to
    (t + blank_durations[j], s). Unless `label_end`, labels do not lead to frame t1.

        alpha(t, s) = log sum over all arcs into (t, s) of e^(alpha(where it comes from) + its score)

    (Graves, arXiv:1211.3711, eq. 16, for durations 0 and 1.)
    """
    symbols = label.shape[3]
    if begin is not None:
        symbols = int(boundary[:, 2].max()) if len(boundary) > 0 else 0
    label, blank = dense(label, begin, symbols), dense(blank, begin, symbols)
    s0, t0, s1, t1 = boundary.unbind(1)
    none = torch.full_like(blank[:, 0, 0, 0] if blank.shape[2] else blank.new_empty(blank.shape[0]), -torch.inf)
    alpha: dict[tuple[int, int], Tensor] = {}
    for t in range(blank.shape[2] + 1):
        for s in range(symbols + 1):
            here = (t0 <= t) & (t <= t1) & (s0 <= s) & (s <= s1)
            terms = [none]
            for i, d in enumerate(label_durations):
                if (t - d, s - 1) in alpha and t - d < label.shape[2]:
                    allowed = here & (alpha[t - d, s - 1] > -torch.inf) & ((t < t1) | label_end)
                    terms.append(torch.where(allowed, alpha[t - d, s - 1] + label[:, i, t - d, s - 1], -torch.inf))
            for j, d in enumerate(blank_durations):
                if (t - d, s) in alpha:
                    allowed = here & (alpha[t - d, s] > -torch.inf)
                    terms.append(torch.where(allowed, alpha[t - d, s] + blank[:, j, t - d, s], -torch.inf))
            node = log_sum_exp(terms).masked_fill((t0 == t) & (s0 == s), 0.0)
            alpha[t, s] = torch.where(here, node, -torch.inf)
    grid = torch.stack([torch.stack([alpha[t, s] for s in range(symbols + 1)]) for t in range(blank.shape[2] + 1)])
    return grid[t1, s1, torch.arange(len(t1), device=t1.device)]


def prune_ranges(label_occupancy: Tensor, blank_occupancy: Tensor, boundary: Tensor, s_range: int, max_step: int) -> Tensor:
    """The first row (B, T) of the band of `s_range` rows that holds most of the occupancy of each frame.

    From occupancies (B, T, S) and (B, T, S + 1); Kuang et al., arXiv:2206.13236, section 3.2. From one frame to the next the
    band does not fall, and rises by at most `max_step`; it begins at 0, and its last frame has the last symbol.
    """
    frames = blank_occupancy.shape[1]
    kept = blank_occupancy.unfold(2, s_range, 1).sum(-1)
    left = torch.nn.functional.pad(label_occupancy[:, :frames], (1, 0))[..., : kept.shape[2]]
    begin = (kept - left).argmax(-1)
    t = torch.arange(frames, device=begin.device)
    last = (boundary[:, 2, None] - s_range + 1).clamp(min=0)
    begin = torch.where(t < boundary[:, 3, None] - 1, begin, last)

    def lowest_to_come(x: Tensor) -> Tensor:
        return x.flip(1).cummin(1).values.flip(1) if frames else x

    begin = lowest_to_come(begin)
    return max_step * t - lowest_to_come(max_step * t - begin).clamp(min=0)
