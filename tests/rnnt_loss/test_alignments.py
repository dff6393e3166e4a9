"""The best paths within a band, and with durations, against all paths."""

from __future__ import annotations

import itertools

import pytest
import rnnt_loss as rl
import torch

T, S, C = 5, 2, 4


def frames_in_order(count: int) -> itertools.combinations_with_replacement:
    return itertools.combinations_with_replacement(range(T), count)


@pytest.mark.parametrize("begin", [[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]], ids=str)
def test_within_a_band(begin: list[int]) -> None:
    """A path is the frames of its two labels; it stays within two rows of each frame."""
    torch.manual_seed(0)
    rows = 3 if max(begin) == 0 else 2
    logits, symbols = torch.randn(1, T, S + 1, C, dtype=torch.float64), torch.tensor([[2, 3]])
    log_probs, found = logits[0].log_softmax(-1), {}
    for path in frames_in_order(S):
        score, s, inside = 0.0, 0, True
        for t in range(T):
            while s < S and path[s] == t:
                inside &= begin[t] <= s and s + 1 < begin[t] + rows
                score += log_probs[t, s, symbols[0, s]].item()
                s += 1
            inside &= begin[t] <= s < begin[t] + rows
            score += log_probs[t, s, 0].item()
        if inside:
            found[path] = score
    ranges = torch.tensor(begin)[None, :, None] + torch.arange(rows)
    pruned = torch.stack([logits[:, t, begin[t] : begin[t] + rows] for t in range(T)], 1)
    score, frames = rl.rnnt_align_pruned(pruned, symbols, ranges, 0)
    best = max(found, key=found.__getitem__)
    assert tuple(frames[0].tolist()) == best
    assert score.item() == pytest.approx(found[best])


@pytest.mark.parametrize("durations", [[0, 1], [0, 1, 2, 4], [2, 1]], ids=str)
def test_with_durations(durations: list[int]) -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, T, S + 1, C + len(durations), dtype=torch.float64)
    symbols, lengths = torch.randint(1, C, (2, S)), [(S, T), (1, 4)]
    boundary = torch.tensor([[0, 0, *ends] for ends in lengths])
    score, frames, lasted = rl.tdt_align(logits, symbols, durations, 0, boundary)
    for b, (count, end) in enumerate(lengths):
        tokens, lasts = logits[b, ..., :C].log_softmax(-1), logits[b, ..., C:].log_softmax(-1)
        paths: list[tuple[float, list[int], list[int]]] = []

        def walk(t: int, s: int, total: float, at: list[int], lasted: list[int]) -> None:
            if t == end:
                paths.extend([(total, at, lasted)] if s == count else [])
                return
            for i, d in enumerate(durations):
                step = lasts[t, s, i].item()
                if d > 0 and t + d <= end:
                    walk(t + d, s, total + tokens[t, s, 0].item() + step, at, lasted)
                if s < count and t + d < end:
                    walk(t + d, s + 1, total + tokens[t, s, symbols[b, s]].item() + step, [*at, t], [*lasted, d])

        walk(0, 0, 0.0, [], [])
        best = max(paths)
        padding = [-1] * (S - count)
        assert score[b].item() == pytest.approx(best[0])
        assert frames[b].tolist() == best[1] + padding
        assert lasted[b].tolist() == best[2] + padding


def test_logits_without_columns_of_durations_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"logits: expected the C classes, with termination_symbol=0 among them, and 5 durations"
    ):
        rl.tdt_align(torch.randn(1, T, S + 1, 3), torch.ones(1, S, dtype=torch.int64), [0, 1, 2, 3, 4], 0)
