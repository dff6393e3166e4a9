"""AWD-QRNN: a language model of words, beside the same with nn.LSTM, by the perplexity they reach in the same time.

The recipe is Merity et al.'s (arXiv:1708.02182): weights of the recurrent layers are dropped (DropConnect), so are whole words,
and channels of all layers, the same for all steps of a piece; input and output share the embedding; activations and their
changes are kept small; the weights are averaged (here AdamW's, exponentially; theirs SGD's). The first QRNN layer has a window
of 2, the others of 1, as theirs. What they drop of an LSTM is its recurrent matrix, which a QRNN has not: it drops the matrix
of its gates.

The text is what comes with every Python: the topics of its language reference, some 100,000 words and signs.

    python word_lm.py [--seconds 90] [--models AWD-QRNN AWD-LSTM] [--plot word_lm.png] [--json word_lm.json]
"""

from __future__ import annotations

import argparse
import json
import math
import pydoc_data.topics
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import torch
from qrnn import QRNN
from torch import Tensor, nn
from torch.nn.utils import parametrize
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"AWD-QRNN": "#c8553d", "AWD-LSTM": "#8a8a8a"}
EMBEDDING, HIDDEN, LAYERS = 200, 400, 3
BATCH, STEPS = 20, 70
CHANNELS, WORDS, WEIGHTS = 0.3, 0.1, 0.2  # probabilities of being dropped


def words_of_python() -> tuple[Tensor, int]:
    """The topics as a sequence of numbers, one for each word or sign that stands there twice, 0 for others; and how many numbers."""
    topics = pydoc_data.topics.topics
    words = re.findall(r"\w+|[^\w\s]|\n", "\n\n".join(topics[name] for name in sorted(topics)))
    counts = Counter(words)
    known = {word: i for i, word in enumerate(sorted(word for word, n in counts.items() if n > 1), start=1)}
    return torch.tensor([known.get(word, 0) for word in words]), len(known) + 1


def streams(text: Tensor, batch: int) -> Tensor:
    """(T, B): the text cut into B streams."""
    length = len(text) // batch
    return text[: length * batch].view(batch, length).t().contiguous()


class Drop(nn.Module):
    """DropConnect, as a parametrization of a weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return nn.functional.dropout(weight, WEIGHTS, self.training)


def drop_channels(x: Tensor, training: bool) -> Tensor:
    """Of (T, B, channels), the same channels at all steps."""
    return x * nn.functional.dropout(torch.ones_like(x[:1]), CHANNELS, training)


class DroppedLSTM(nn.LSTM):
    """A layer whose recurrent matrix is dropped."""

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:  # type: ignore[override]
        if state is None:
            state = (x.new_zeros(1, x.shape[1], self.hidden_size),) * 2
        recurrent = nn.functional.dropout(self.weight_hh_l0, WEIGHTS, self.training)
        weights = [self.weight_ih_l0, recurrent, self.bias_ih_l0, self.bias_hh_l0]
        out, h, c = torch.lstm(x, state, weights, True, 1, 0.0, self.training, False, False)
        return out, (h, c)


def layer(kind: str, i: int) -> nn.Module:
    sizes = (EMBEDDING if i == 0 else HIDDEN, EMBEDDING if i == LAYERS - 1 else HIDDEN)
    if kind == "AWD-LSTM":
        return DroppedLSTM(*sizes)
    made = QRNN(*sizes, window=2 if i == 0 else 1)
    parametrize.register_parametrization(made.layers[0].linear, "weight", Drop())
    return made


class Model(nn.Module):
    """Logits of the next word at each step; and what the activations add to the loss."""

    def __init__(self, kind: str, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, EMBEDDING)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.layers = nn.ModuleList(layer(kind, i) for i in range(LAYERS))
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, x: Tensor, states: list[Any]) -> tuple[Tensor, list[Any], Tensor]:
        kept = nn.functional.dropout(torch.ones(len(self.bias), 1), WORDS, self.training)
        h = drop_channels(nn.functional.embedding(x, self.embedding.weight * kept), self.training)
        raw = h
        after = []
        for rnn, state in zip(self.layers, states, strict=True):
            raw, state = rnn(h, state)
            h = drop_channels(raw, self.training)
            after.append(state)
        small = 2 * h.square().mean() + (raw[1:] - raw[:-1]).square().mean()
        return nn.functional.linear(h, self.embedding.weight, self.bias), after, small


def detached(state: Any) -> Any:
    """The same, cut from the graph that made it."""
    return state.detach() if isinstance(state, Tensor) else tuple(s.detach() for s in state)


@torch.no_grad()
def perplexity(model: nn.Module, stream: Tensor) -> float:
    model.eval()
    total, states = 0.0, [None] * LAYERS
    for x, y in zip(stream[:-1].split(STEPS), stream[1:].split(STEPS), strict=True):
        logits, states, _ = model(x, states)
        total += nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item()
    model.train()
    return math.exp(total / stream[1:].numel())


def train(kind: str, seconds: float, seed: int) -> dict[str, Any]:
    """The parameters' number, and along the way: seconds of training, words read, perplexity of the rest of the text."""
    torch.manual_seed(seed)
    text, words = words_of_python()
    pieces = text.split(1000)
    held = [i % 20 == 10 for i in range(len(pieces))]  # every 20th thousand, because topics differ
    training = streams(torch.cat([p for p, out in zip(pieces, held, strict=True) if not out]), BATCH)
    validation = streams(torch.cat([p for p, out in zip(pieces, held, strict=True) if out]), 4)
    model = Model(kind, words)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98))
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.02)
    size = sum(p.numel() for p in model.parameters())
    curve: list[tuple[float, int, float]] = []
    spent, read, position, due = 0.0, 0, 0, 0.0
    states: list[Any] = [None] * LAYERS
    with tqdm(total=round(seconds), desc=f"{kind} ({size / 1e6:.2f} M)", unit="s") as progress:
        while spent < seconds:
            start = time.perf_counter()
            if position + STEPS >= len(training):
                position = 0
                states = [None] * LAYERS
            piece = training[position : position + STEPS + 1]
            for group in optimizer.param_groups:  # to 0 at the end of the time
                group["lr"] = 4e-3 * min(1.0, (read / BATCH + 1) / 2000) * (1 - spent / seconds)
            logits, states, small = model(piece[:-1], states)
            states = [detached(state) for state in states]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), piece[1:].flatten()) + small
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.4)
            optimizer.step()
            average.update_parameters(model)
            position += STEPS
            read += piece[1:].numel()
            spent += time.perf_counter() - start
            if spent >= due or spent >= seconds:
                curve.append((spent, read, perplexity(average, validation)))
                progress.update(min(round(spent), progress.total) - progress.n)
                progress.set_postfix(perplexity=f"{curve[-1][2]:.1f}")
                due = spent + seconds / 30
    return {"parameters": size, "seconds, words, perplexity": curve}


def plot(results: dict[str, Any], path: Path, where: str) -> None:
    """Perplexity over the seconds of training."""
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for kind, result in results.items():
        seconds, read, perplexities = zip(*result["seconds, words, perplexity"], strict=True)
        label = f"{kind}: {perplexities[-1]:.0f} after {read[-1] / 1e6:.2f} M words"
        axes.plot(seconds, perplexities, color=COLOURS[kind], linewidth=1.6, label=label)
    lowest = min(result["seconds, words, perplexity"][-1][2] for result in results.values())
    axes.set(xlabel="seconds of training", ylabel="perplexity (validation)", ylim=(0.9 * lowest, 4 * lowest))
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"Words of Python's reference, {where}", fontsize=10)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parses the options, trains the models one after the other, and plots."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(COLOURS), default=list(COLOURS))
    parser.add_argument("--seconds", type=float, default=90.0, help="of training, for each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=Path("word_lm.png"), help="where to write the curves")
    parser.add_argument("--json", type=Path, help="where to write the numbers, if anywhere")
    options = parser.parse_args()
    results = {kind: train(kind, options.seconds, options.seed) for kind in options.models}
    for kind, result in results.items():
        seconds, read, reached = result["seconds, words, perplexity"][-1]
        print(
            f"{kind}: {result['parameters'] / 1e6:.2f} M parameters, {read / seconds:.0f} words/s, perplexity {reached:.1f}"
        )
    where = f"{torch.get_num_threads()} CPU threads, {torch.backends.cpu.get_cpu_capability()}"
    plot(results, options.plot, where)
    if options.json is not None:
        options.json.write_text(json.dumps({"torch": torch.__version__, "on": where, **results}, indent=1) + "\n")
    print(options.plot.resolve())


if __name__ == "__main__":
    main()
