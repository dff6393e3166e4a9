"""From a trained transducer to what is said: greedy and beam search, for RNN-T and TDT, with the frame of each symbol.

A model is two functions, whatever they are made of::

    predictor(symbols (N,), state) -> (decoded (N, D), state)      after the blank, with state None, at the beginning
    joiner(encoded (N, E), decoded (N, D)) -> logits (N, C), or (N, C + durations) of a TDT model

A state is a tensor, or a structure of tensors, with the sequences in dimension `state_dim`: 1 for nn.LSTM and nn.GRU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ._arguments import check_index, check_logits
from ._forms import check_ends
from .durations import check_durations

__all__ = ["Hypothesis", "beam", "greedy"]

State = Any
Predictor = Callable[[Tensor, State], tuple[Tensor, State]]
Joiner = Callable[[Tensor, Tensor], Tensor]


class Hypothesis(NamedTuple):
    """What may have been said.

    Attributes:
        symbols: the classes, without blanks.
        frames: the frame at which each was emitted; of a hypothesis that several paths lead to, on the best of them.
        score: its log-probability: of the one path that a greedy search takes, of all paths that a beam search meets.
    """

    symbols: list[int]
    frames: list[int]
    score: float


@torch.no_grad()
def greedy(
    encoded: Tensor,
    lengths: Tensor,
    predictor: Predictor,
    joiner: Joiner,
    blank: int,
    *,
    durations: Sequence[int] | None = None,
    most: int = 10,
    state_dim: int = 0,
) -> list[Hypothesis]:
    """The best arc of each node, from the first frame to the last, of all sequences side by side.

    By label looping (Bataev et al., arXiv:2406.06220): every sequence goes on to its next symbol, over as many blanks as it
    takes, before the predictor is called once for all.

    Args:
        encoded: (B, T, E), of the encoder.
        lengths: (B,) integers within 0..T.
        predictor, joiner: see the module.
        blank: its class, also counted from the end.
        durations: of a TDT model, how many frames each of its last logits lasts; a blank lasts at least 1.
        most: symbols that may be emitted at one frame.
        state_dim: the dimension of the sequences in the predictor's state.

    Returns:
        A hypothesis for each sequence.

    Raises:
        TypeError, ValueError: of tensors, durations, a blank or numbers that do not fit.

    Example:
        >>> embedding, rnn, output = torch.nn.Embedding(30, 64), torch.nn.GRU(64, 64), torch.nn.Linear(64, 30)
        >>> def predictor(symbols, state):
        ...     decoded, state = rnn(embedding(symbols)[None], state)
        ...     return decoded[0], state
        >>> def joiner(encoded, decoded):
        ...     return output(torch.tanh(encoded + decoded))
        >>> encoded, lengths = torch.randn(2, 20, 64), torch.tensor([20, 12])
        >>> first, second = greedy(encoded, lengths, predictor, joiner, blank=0, state_dim=1)
        >>> len(first.symbols) == len(first.frames), all(frame < 12 for frame in second.frames)
        (True, True)
    """
    model = _Model(encoded, lengths, predictor, joiner, blank, durations, most, state_dim)
    time, count = torch.zeros_like(model.lengths), torch.zeros_like(model.lengths)  # symbols at this frame
    last = torch.full_like(time, -1)  # where the last symbol was emitted
    score = torch.zeros(len(encoded), device=encoded.device, dtype=torch.float64)
    found: list[tuple[Tensor, Tensor, Tensor]] = []  # symbols, their frames, and whether a sequence has one
    decoded, state = model.begin(len(encoded))
    running = time < model.lengths
    while running.any():
        label, frame, searching = torch.full_like(time, model.blank), time, running
        while searching.any():  # for each sequence's next symbol
            chosen, steps, gain = model.best(time, decoded)
            label, frame = torch.where(searching, chosen, label), torch.where(searching, time, frame)
            score = torch.where(searching, score + gain, score)
            time = torch.where(searching, time + steps, time)
            searching = searching & (label == model.blank) & (time < model.lengths)
        emits = running & (label != model.blank)
        found.append((label, frame, emits))
        count = torch.where(emits & (frame == last), count + 1, 1)
        last = torch.where(emits, frame, last)
        time = torch.where(emits & (time == frame) & (count >= most), time + 1, time)
        running = time < model.lengths
        after, state_after = predictor(torch.where(emits, label, model.blank), state)
        decoded = torch.where(emits[:, None], after, decoded)
        state = model.chosen(emits, state_after, state)
    return _as_hypotheses(found, score)


@torch.no_grad()
def beam(
    encoded: Tensor,
    lengths: Tensor,
    predictor: Predictor,
    joiner: Joiner,
    blank: int,
    *,
    width: int = 4,
    durations: Sequence[int] | None = None,
    most: int = 4,
    state_dim: int = 0,
) -> list[list[Hypothesis]]:
    """The most likely sequences of symbols, from the first frame to the last: paths that say the same add up.

    Graves' search (arXiv:1211.3711, section 2.6) by frames: at each, the `width` best are kept, after each symbol. A sequence
    after the other; its hypotheses go through predictor and joiner side by side.

    Args:
        encoded: (B, T, E), of the encoder.
        lengths: (B,) integers within 0..T.
        predictor, joiner: see the module.
        blank: its class, also counted from the end.
        width: hypotheses that are kept.
        durations: of a TDT model, how many frames each of its last logits lasts; blanks of 0 are not taken, and what lasts
            longer than the sequence ends it.
        most: symbols that may be emitted at one frame.
        state_dim: the dimension of the sequences in the predictor's state.

    Returns:
        For each sequence at most `width` hypotheses, the best first.

    Raises:
        TypeError, ValueError: of tensors, durations, a blank or numbers that do not fit.
    """
    if width < 1:
        raise ValueError(f"width: expected at least 1, got {width}")
    model = _Model(encoded, lengths, predictor, joiner, blank, durations, most, state_dim)
    return [_search(model, row, frames, width) for row, frames in enumerate(model.lengths.tolist())]


def _as_hypotheses(found: list[tuple[Tensor, Tensor, Tensor]], score: Tensor) -> list[Hypothesis]:
    scores = score.tolist()
    if not found:
        return [Hypothesis([], [], value) for value in scores]
    labels, frames, emits = (torch.stack(parts, 1) for parts in zip(*found, strict=True))
    rows = zip(labels, frames, emits, scores, strict=True)
    return [Hypothesis(label[there].tolist(), frame[there].tolist(), value) for label, frame, there, value in rows]


class _Model:
    """A transducer, and what it is asked about."""

    def __init__(
        self,
        encoded: Tensor,
        lengths: Tensor,
        predictor: Predictor,
        joiner: Joiner,
        blank: int,
        durations: Sequence[int] | None,
        most: int,
        state_dim: int,
    ) -> None:
        check_logits("encoded", encoded, "B, T, E")
        self.lengths = check_ends("lengths", lengths, encoded.shape[1], encoded)
        if most < 1:
            raise ValueError(f"most: expected at least 1, got {most}")
        self.encoded, self.predictor, self.joiner, self.state_dim = encoded, predictor, joiner, state_dim
        self.durations = None if durations is None else torch.tensor(check_durations(durations), device=encoded.device)
        if isinstance(blank, bool) or not isinstance(blank, int):
            raise TypeError(f"blank: expected a class, an int, got {blank!r}")
        self.most = most
        self.blank = blank

    def begin(self, rows: int) -> tuple[Tensor, State]:
        """The predictor after the blank; a blank that counts from the end becomes one that counts from the start."""
        if self.blank < 0:
            some = self.encoded.new_zeros(1, self.encoded.shape[2])
            decoded, _ = self.predictor(torch.zeros(1, dtype=torch.int64, device=some.device), None)
            self.blank += self.logits(some, decoded)[0].shape[1]
        return self.predictor(torch.full((rows,), self.blank, device=self.encoded.device), None)

    def logits(self, encoded: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities (N, C) of classes, and (N, D) of durations."""
        made = self.joiner(encoded, decoded).double()
        classes = made.shape[1] - (0 if self.durations is None else len(self.durations))
        if classes < 1:
            raise ValueError(f"durations: expected fewer than the {made.shape[1]} logits that the joiner made")
        check_index("blank", self.blank, classes)
        if self.durations is None:
            return made.log_softmax(1), None
        return made[:, :classes].log_softmax(1), made[:, classes:].log_softmax(1)

    def best(self, time: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best class of each sequence, the frames that it takes, and its log-probability."""
        rows = torch.arange(len(time), device=time.device)
        tokens, lasting = self.logits(self.encoded[rows, time.clamp(max=self.encoded.shape[1] - 1)], decoded)
        gain, chosen = tokens.max(1)
        is_blank = chosen == self.blank
        if lasting is None or self.durations is None:
            return chosen, is_blank.long(), gain
        of_duration, which = lasting.max(1)
        steps = self.durations[which]
        return chosen, torch.where(is_blank, steps.clamp(min=1), steps), gain + of_duration

    def chosen(self, where: Tensor, new: State, old: State) -> State:
        """The states of some sequences, and the old ones of the others."""

        def choose(new: Tensor, old: Tensor) -> Tensor:
            shape = [-1 if dim == self.state_dim % new.dim() else 1 for dim in range(new.dim())]
            return torch.where(where.view(shape), new, old)

        return tree_map(choose, new, old)


@dataclass
class _Prefix:
    """Symbols that have been said by all paths up to a frame."""

    symbols: tuple[int, ...]
    frames: tuple[int, ...]  # on the best path
    score: float  # of all paths
    best: float  # of the best path
    decoded: Tensor | None  # (1, D), once the predictor has seen the last symbol
    state: State  # after it, or, until then, before it


def _meet(at: dict[tuple[int, ...], _Prefix], new: _Prefix) -> None:
    """Adds a path to those that have said the same."""
    old = at.get(new.symbols)
    if old is None:
        at[new.symbols] = new
        return
    if new.best > old.best:
        old.frames, old.best = new.frames, new.best
    if old.decoded is None:
        old.decoded, old.state = new.decoded, new.state
    high, low = max(old.score, new.score), min(old.score, new.score)
    old.score = high + math.log1p(math.exp(low - high)) if high > -math.inf else high


def _kept(at: dict[tuple[int, ...], _Prefix], width: int, model: _Model) -> list[_Prefix]:
    """The best, after the predictor has seen their last symbols."""
    kept = sorted(at.values(), key=lambda prefix: -prefix.score)[:width]
    waiting = [prefix for prefix in kept if prefix.decoded is None]
    if waiting:
        symbols = torch.tensor([prefix.symbols[-1] for prefix in waiting], device=model.encoded.device)
        state = tree_map(lambda *parts: torch.cat(parts, model.state_dim), *(prefix.state for prefix in waiting))
        decoded, state = model.predictor(symbols, state)
        for i, prefix in enumerate(waiting):
            prefix.decoded = decoded[i : i + 1]
            prefix.state = tree_map(lambda part, i=i: part.narrow(model.state_dim, i, 1), state)
    return kept


def _search(model: _Model, row: int, frames: int, width: int) -> list[Hypothesis]:
    durations = [0, 1] if model.durations is None else model.durations.tolist()
    stay = [i for i, d in enumerate(durations) if d == 0]
    at: list[dict[tuple[int, ...], _Prefix]] = [{} for _ in range(frames + 1)]
    _meet(at[0], _Prefix((), (), 0.0, 0.0, *model.begin(1)))
    for t in range(frames):
        here = _kept(at[t], width, model)
        for count in range(model.most + 1):
            again: dict[tuple[int, ...], _Prefix] = {}
            for prefix, arcs in zip(here, _arcs(model, model.encoded[row, t], here), strict=True):
                blanks = arcs[model.blank].tolist()
                arcs[model.blank] = -math.inf
                if count == model.most:
                    arcs[:, stay] = -math.inf
                for i, d in enumerate(durations):
                    if d > 0 and blanks[i] > -math.inf:
                        there = at[min(t + d, frames)]
                        score, best = prefix.score + blanks[i], prefix.best + blanks[i]
                        _meet(there, _Prefix(prefix.symbols, prefix.frames, score, best, prefix.decoded, prefix.state))
                gains, places = arcs.flatten().topk(min(width, arcs.numel()))
                for gain, place in zip(gains.tolist(), places.tolist(), strict=True):
                    symbol, d = place // len(durations), durations[place % len(durations)]
                    if gain == -math.inf:
                        continue
                    there = again if d == 0 else at[min(t + d, frames)]
                    said = (*prefix.symbols, symbol), (*prefix.frames, t)
                    _meet(there, _Prefix(*said, prefix.score + gain, prefix.best + gain, None, prefix.state))
            here = _kept(again, width, model)
        at[t] = {}  # its states are needed no more
    ended = sorted(at[frames].values(), key=lambda prefix: -prefix.score)[:width]
    return [Hypothesis(list(prefix.symbols), list(prefix.frames), prefix.score) for prefix in ended]


def _arcs(model: _Model, encoded: Tensor, prefixes: list[_Prefix]) -> Tensor:
    """Log-probabilities (N, C, durations) of all that may follow; of an RNN-T, labels last 0 and blanks 1."""
    if not prefixes:
        return encoded.new_empty(0, 0, 0)
    decoded = torch.cat([prefix.decoded for prefix in prefixes if prefix.decoded is not None])
    tokens, lasting = model.logits(encoded.expand(len(prefixes), -1), decoded)
    if lasting is not None:
        return tokens[:, :, None] + lasting[:, None]
    arcs = torch.stack([tokens, torch.full_like(tokens, -math.inf)], 2)
    arcs[:, model.blank] = arcs[:, model.blank].flip(1)
    return arcs
