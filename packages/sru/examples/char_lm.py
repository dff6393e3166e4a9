"""A language model of characters: SRU, SRU++ and nn.LSTM, about as large, by the loss they reach in the same time.

The text is what comes with every Python: the topics of its language reference, some 465,000 characters of prose, grammars and
code. Each model reads 32 places of it at once, 128 characters at a time, and keeps its state (SRU++ also its last inputs, to
attend to) from one piece to the next. Ends with a plot of the validation loss against the seconds of training.

    python char_lm.py [--seconds 60] [--device cuda] [--models SRU SRU++ nn.LSTM]
"""

from __future__ import annotations

import argparse
import json
import math
import pydoc_data.topics
import time
from pathlib import Path
from typing import Any

import matplotlib
import torch
from sru import SRU, SRUpp
from torch import Tensor, nn
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"SRU": "#c8553d", "SRU++": "#3b6ea5", "nn.LSTM": "#8a8a8a"}


def text_of_python() -> Tensor:
    """The topics as a sequence of numbers, one for each different character."""
    topics = pydoc_data.topics.topics
    text = "\n\n".join(topics[name] for name in sorted(topics))
    alphabet = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([alphabet[character] for character in text])


def streams(text: Tensor, batch: int) -> Tensor:
    """(T, B): the text cut into B streams."""
    length = len(text) // batch
    return text[: length * batch].view(batch, length).t().contiguous()


class Model(nn.Module):
    """Embedding, recurrent layers and logits; `state` is whatever the layers want to see again."""

    def __init__(self, kind: str, symbols: int) -> None:
        super().__init__()
        self.kind = kind
        size = {"SRU": 384, "SRU++": 384, "nn.LSTM": 320}[kind]
        self.embedding = nn.Embedding(symbols, size)
        self.rnn: nn.Module
        if kind == "SRU":
            self.rnn = SRU(size, size, 4, dropout=0.1, highway_bias=-2.0, rescale=True, layer_norm=True)
        elif kind == "SRU++":
            self.rnn = SRUpp(size, size, 192, 4, dropout=0.1, num_heads=3, rescale=True)
        else:
            self.rnn = nn.LSTM(size, size, 2, dropout=0.1)
        self.logits = nn.Linear(size, symbols)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        e = self.embedding(x)
        if self.kind != "SRU++":
            h, state = self.rnn(e, state)
            return self.logits(h), state
        c, memory = (None, None) if state is None else state
        past = 0 if memory is None else memory[0].shape[0]
        mask = torch.ones(len(x), past + len(x), dtype=torch.bool, device=x.device).tril(past)
        h, c, bank = self.rnn(e, c, None, mask, memory)
        return self.logits(h), (c, bank["saved_inputs"])


def detached(state: Any) -> Any:
    """The same, cut from the graph that made it."""
    if isinstance(state, Tensor):
        return state.detach()
    return None if state is None else type(state)(detached(s) for s in state)


@torch.no_grad()
def validate(model: Model, stream: Tensor, steps: int) -> float:
    """Bits per character."""
    model.eval()
    total, state = 0.0, None
    for x, y in zip(stream[:-1].split(steps), stream[1:].split(steps), strict=True):
        logits, state = model(x, state)
        total += float(nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum"))
    model.train()
    return total / stream[1:].numel() / math.log(2)


def train(kind: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The parameters' number, and along the way: seconds of training, characters read, validation loss."""
    torch.manual_seed(options.seed)
    text = text_of_python()
    cut = int(0.95 * len(text))
    training, validation = streams(text[:cut], options.batch).to(device), streams(text[cut:], 8).to(device)
    model = Model(kind, int(text.max()) + 1).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=0.01)
    size = sum(p.numel() for p in model.parameters())
    curve: list[tuple[float, int, float]] = [(0.0, 0, validate(model, validation, options.steps))]
    spent, read, position, state, due = 0.0, 0, 0, None, 0.0
    with tqdm(total=round(options.seconds), desc=f"{kind} ({size / 1e6:.2f} M) on {device}", unit="s") as progress:
        while spent < options.seconds:
            start = time.perf_counter()
            if position + options.steps >= len(training):
                position, state = 0, None
            piece = training[position : position + options.steps + 1]
            for group in optimizer.param_groups:  # linearly to 0 at the end of the time
                group["lr"] = options.lr * min(1.0, (read / options.batch + 1) / 2000) * (1 - spent / options.seconds)
            logits, state = model(piece[:-1], state)
            state = detached(state)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), piece[1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            position += options.steps
            read += piece[1:].numel()
            if device.type == "cuda":
                torch.cuda.synchronize()
            spent += time.perf_counter() - start
            if spent >= due or spent >= options.seconds:
                curve.append((spent, read, validate(model, validation, options.steps)))
                progress.update(min(round(spent), progress.total) - progress.n)
                progress.set_postfix(bits=f"{curve[-1][2]:.3f}")
                due = spent + options.seconds / 30
    return {"parameters": size, "seconds, characters, bits per character": curve}


def plot(results: dict[str, Any], path: Path, where: str) -> None:
    """Validation loss over the seconds of training."""
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    for kind, result in results.items():
        seconds, read, bits = zip(*result["seconds, characters, bits per character"], strict=True)
        label = f"{kind}: {bits[-1]:.2f} bits, {read[-1] / 1e6:.1f} M characters read"
        axes.plot(seconds, bits, color=COLOURS[kind], linewidth=1.6, label=label)
    lowest = min(result["seconds, characters, bits per character"][-1][2] for result in results.values())
    axes.set(xlabel="seconds of training", ylabel="bits per character (validation)", ylim=(0.95 * lowest, 2.2 * lowest))
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"The text of Python's reference, {where}", fontsize=10)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parses the options, trains the models one after the other, and plots."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(COLOURS), default=list(COLOURS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=128, help="characters that are read at once")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--plot", type=Path, default=Path("char_lm.png"), help="where to write the curves")
    parser.add_argument("--json", type=Path, help="where to write the numbers, if anywhere")
    options = parser.parse_args()
    device = torch.device(options.device)
    results = {kind: train(kind, options, device) for kind in options.models}
    for kind, result in results.items():
        seconds, read, bits = result["seconds, characters, bits per character"][-1]
        print(
            f"{kind:8} {result['parameters'] / 1e6:5.2f} M parameters   {read / seconds:9.0f} characters/s   {bits:.3f} bits"
        )
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    plot(results, options.plot, where)
    if options.json is not None:
        options.json.write_text(json.dumps({"torch": torch.__version__, "on": where, **results}, indent=1) + "\n")
    print(options.plot.resolve())


if __name__ == "__main__":
    main()
