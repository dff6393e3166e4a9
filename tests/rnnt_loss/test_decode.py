"""Decoding: against a loop that a reader can follow, and against the sum over all paths."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from rnnt_loss import decode, rnnt_loss
from torch import Tensor, nn

E, BLANK = 8, 0


class Model:
    """A random one, whose predictor is an LSTM: states are pairs of (layers, N, E)."""

    def __init__(self, classes: int, durations: int = 0) -> None:
        torch.manual_seed(0)
        self.embedding, self.rnn, self.output = nn.Embedding(classes, E), nn.LSTM(E, E, 2), nn.Linear(E, classes + durations)
        nn.init.normal_(self.output.weight, std=1.5)

    def predictor(self, symbols: Tensor, state: Any) -> tuple[Tensor, Any]:
        decoded, state = self.rnn(self.embedding(symbols)[None], state)
        return decoded[0], state

    def joiner(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        return self.output(torch.tanh(encoded + 3 * decoded))


def by_a_loop(model: Model, encoded: Tensor, durations: list[int] | None, most: int) -> tuple[list[int], list[int], float]:
    """Of one sequence (T, E)."""
    symbols, frames, score = [], [], 0.0
    decoded, state = model.predictor(torch.tensor([BLANK]), None)
    t, count = 0, 0
    while t < len(encoded):
        logits = model.joiner(encoded[t : t + 1], decoded)[0].double()
        classes = len(logits) - (0 if durations is None else len(durations))
        tokens = logits[:classes].log_softmax(0)
        symbol = int(tokens.argmax())
        steps = 1 if symbol == BLANK else 0
        score += tokens[symbol].item()
        if durations is not None:
            lasting = logits[classes:].log_softmax(0)
            steps = max(durations[int(lasting.argmax())], steps)
            score += lasting.max().item()
        if symbol != BLANK:
            symbols.append(symbol)
            frames.append(t)
            decoded, state = model.predictor(torch.tensor([symbol]), state)
            count += 1
            if steps == 0 and count == most:
                steps = 1
        if steps > 0:
            count = 0
        t += steps
    return symbols, frames, score


@pytest.mark.parametrize("durations", [None, [0, 1, 2, 4], [2, 1]], ids=str)
@pytest.mark.parametrize("most", [1, 3])
@torch.no_grad()
def test_greedy_is_a_loop_over_each_sequence(durations: list[int] | None, most: int) -> None:
    model = Model(7, 0 if durations is None else len(durations))
    lengths = torch.tensor([20, 0, 13, 1, 20, 7])
    encoded = 2 * torch.randn(len(lengths), 20, E)
    found = decode.greedy(
        encoded, lengths, model.predictor, model.joiner, BLANK, durations=durations, most=most, state_dim=1
    )
    for row, length, (symbols, frames, score) in zip(encoded, lengths.tolist(), found, strict=True):
        expected = by_a_loop(model, row[:length], durations, most)
        assert (symbols, frames) == expected[:2]
        assert math.isclose(score, expected[2], rel_tol=1e-6, abs_tol=1e-9)
    assert sum(len(symbols) for symbols, *_ in found) > 10


def all_paths(model: Model, encoded: Tensor, durations: list[int], most: int) -> dict[tuple[int, ...], float]:
    """The probability of every sequence of symbols, by walking every path; blanks that last 0 are none, and the end is the end."""
    totals: dict[tuple[int, ...], float] = {}
    classes = model.embedding.num_embeddings

    def walk(t: int, count: int, said: tuple[int, ...], decoded: Tensor, state: Any, probability: float) -> None:
        if t >= len(encoded):
            totals[said] = totals.get(said, 0.0) + probability
            return
        logits = model.joiner(encoded[t : t + 1], decoded)[0].double()
        lasting = logits[classes:].softmax(0).tolist()
        for symbol, of_symbol in enumerate(logits[:classes].softmax(0).tolist()):
            arcs = list(zip(durations, lasting, strict=True)) if lasting else [(1 if symbol == BLANK else 0, 1.0)]
            for d, of_duration in arcs:
                if symbol == BLANK and d > 0:
                    walk(t + d, 0, said, decoded, state, probability * of_symbol * of_duration)
                if symbol != BLANK and (d > 0 or count < most):
                    after = model.predictor(torch.tensor([symbol]), state)
                    walk(t + d, 0 if d > 0 else count + 1, (*said, symbol), *after, probability * of_symbol * of_duration)

    walk(0, 0, (), *model.predictor(torch.tensor([BLANK]), None), 1.0)
    return totals


@pytest.mark.parametrize(("durations", "frames", "most"), [(None, 3, 2), ([0, 1, 2], 3, 1), ([0, 2, 1], 2, 2)], ids=str)
@torch.no_grad()
def test_a_wide_beam_finds_all_paths(durations: list[int] | None, frames: int, most: int) -> None:
    model = Model(3, 0 if durations is None else len(durations))
    encoded = torch.randn(1, frames, E)
    options: dict[str, Any] = {"durations": durations, "most": most, "state_dim": 1}
    (found,) = decode.beam(encoded, torch.tensor([frames]), model.predictor, model.joiner, BLANK, width=10_000, **options)
    expected = all_paths(model, encoded[0], durations or [], most)
    assert {tuple(hypothesis.symbols) for hypothesis in found} == set(expected)
    for hypothesis in found:
        assert math.isclose(math.exp(hypothesis.score), expected[tuple(hypothesis.symbols)], rel_tol=1e-5)
        assert all(a <= b < frames for a, b in itertools.pairwise([*hypothesis.frames, frames - 1]))
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


@torch.no_grad()
def test_the_scores_of_a_beam_are_those_of_the_loss() -> None:
    model = Model(3)
    encoded = torch.randn(1, 3, E)
    (found,) = decode.beam(encoded, torch.tensor([3]), model.predictor, model.joiner, BLANK, width=2000, most=3, state_dim=1)
    for hypothesis in found:
        if not 0 < len(hypothesis.symbols) <= 3:  # with more, the loss knows paths with more at a frame
            continue
        decoded, state = model.predictor(torch.tensor([BLANK]), None)
        rows = [decoded]
        for symbol in hypothesis.symbols:
            decoded, state = model.predictor(torch.tensor([symbol]), state)
            rows.append(decoded)
        logits = model.joiner(encoded[0, :, None], torch.stack(rows, 1))[None]
        loss = rnnt_loss(logits.double(), torch.tensor([hypothesis.symbols]), BLANK, reduction="sum")
        assert math.isclose(-hypothesis.score, loss.item(), rel_tol=1e-5)


@torch.no_grad()
def test_several_sequences_and_blanks_that_count_from_the_end() -> None:
    model = Model(7)
    encoded, lengths = torch.randn(2, 12, E), torch.tensor([12, 9])
    arguments = (encoded, lengths, model.predictor, model.joiner, BLANK)
    wide = decode.beam(*arguments, width=8, state_dim=1)
    assert [len(found) for found in wide] == [8, 8]
    assert wide[1] == decode.beam(encoded[1:, :9], lengths[1:], *arguments[2:], width=8, state_dim=1)[0]
    assert decode.beam(*arguments[:4], BLANK - 7, width=8, state_dim=1) == wide
    assert decode.greedy(*arguments[:4], BLANK - 7, state_dim=1) == decode.greedy(*arguments, state_dim=1)


def test_a_beam_does_not_keep_what_may_not_follow() -> None:
    """Symbols that would last no frame, after as many as a frame may have, are not among the few that are looked at."""
    logits = torch.log(torch.tensor([1e-6, 0.5, 0.3, 0.2, 0.7, 0.3]))  # the blank, three symbols, durations 0 and 1
    zeros = lambda symbols, state: (torch.zeros(len(symbols), 1), torch.zeros(len(symbols), 1))
    given = (torch.zeros(1, 1, 1), torch.tensor([1]), zeros, lambda encoded, decoded: logits.expand(len(decoded), -1), 0)
    narrow, wide = (decode.beam(*given, width=width, durations=[0, 1], most=1)[0] for width in (2, 9))
    assert narrow[0].symbols == [1, 1]  # of the two that were kept, one lasts none, the other one frame
    assert wide[0].symbols == [1]


def test_a_blank_that_is_no_class_is_refused_after_the_first_logits() -> None:
    zeros = lambda symbols, state: (torch.zeros(len(symbols), 1), torch.zeros(len(symbols), 1))
    given = (torch.zeros(1, 3, 1), torch.tensor([3]), zeros, lambda encoded, decoded: torch.zeros(len(decoded), 7), 100)
    for search in (decode.greedy, decode.beam):
        with pytest.raises(ValueError, match=r"blank: expected a class within 0..6, got 100"):
            search(*given)


@pytest.mark.parametrize(
    ("error", "words", "changes"),
    [
        (ValueError, r"encoded: expected shape \(B, T, E\), got \[4, 8\]", {"encoded": torch.randn(4, E)}),
        (ValueError, r"lengths: expected values within 0..4, got 5..5", {"lengths": torch.tensor([5, 5])}),
        (ValueError, r"most: expected at least 1, got 0", {"most": 0}),
        (ValueError, r"width: expected at least 1, got 0", {"width": 0}),
        (ValueError, r"durations: expected different numbers", {"durations": [0]}),
        (ValueError, r"blank: .* got -8", {"blank": -8}),
        (TypeError, r"blank: expected a class, an int, got True", {"blank": True}),
        (ValueError, r"durations: expected fewer than the 7 logits", {"durations": list(range(7))}),
    ],
)
def test_bad_input_is_named(error: type[Exception], words: str, changes: dict[str, Any]) -> None:
    model = Model(7)
    arguments: dict[str, Any] = {
        "encoded": torch.randn(2, 4, E),
        "lengths": torch.tensor([4, 2]),
        "predictor": model.predictor,
        "joiner": model.joiner,
        "blank": BLANK,
        "state_dim": 1,
    }
    with pytest.raises(error, match=words):
        decode.beam(**{**arguments, **changes})
