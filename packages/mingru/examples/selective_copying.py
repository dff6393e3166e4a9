"""Selective copying: a minGRU learns to pick a few tokens out of a sequence of blanks and to repeat them in order.

The task of Gu and Dao, "Mamba" (arXiv:2312.00752, section 4.1.1), in the small setting of upstream mingru: 64 blanks, 4 tokens
to memorise at random places, 6 symbols. Nothing but the content of a token tells the model to keep it, so a recurrence
with fixed dynamics cannot solve this; a gated one can. Ends with a plot of the learning curve, and with this machine's
timings of minGRU beside nn.GRU and nn.LSTM of the same size.

    python selective_copying.py [--length 64] [--memorize 4] [--steps 1500] [--device cuda]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import matplotlib
import torch
from mingru import MinGRU
from torch import Tensor, nn
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def copying_batch(batch: int, length: int, memorize: int, symbols: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Inputs (B, length + 2 * memorize): tokens 1..symbols-2 scattered among blanks 0, then `memorize` markers.

    Targets (B, memorize): those tokens, in order.
    """
    tokens = torch.randint(1, symbols - 1, (batch, memorize), device=device)
    places = torch.rand(batch, length + memorize, device=device).topk(memorize).indices.sort().values
    x = torch.zeros(batch, length + memorize, dtype=torch.long, device=device).scatter(1, places, tokens)
    markers = torch.full((batch, memorize), symbols - 1, device=device)
    return torch.cat([x, markers], dim=1), tokens


class Copier(nn.Module):
    """Embedding, stacked minGRU, and logits (B, memorize, symbols) at the markers."""

    def __init__(self, symbols: int, memorize: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.memorize = memorize
        self.embedding = nn.Embedding(symbols, embedding)
        self.rnn = MinGRU(embedding, hidden, num_layers=layers, residual=True, norm=True)
        self.logits = nn.Linear(hidden, symbols)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(self.embedding(x))
        return self.logits(out[:, -self.memorize :])


def train(options: argparse.Namespace, device: torch.device) -> tuple[Copier, list[tuple[int, float, float]]]:
    """The trained model, and (step, loss, accuracy) along the way."""
    task = (options.length, options.memorize, options.symbols, device)
    model = Copier(options.symbols, options.memorize, options.embedding, options.hidden, options.layers).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.steps, pct_start=0.1)
    history = []
    with tqdm(total=options.steps, desc=f"training on {device}", unit="step") as progress:
        for step in range(1, options.steps + 1):
            x, y = copying_batch(options.batch, *task)
            logits = model(x)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 10 == 0 or step == options.steps:
                accuracy = float((logits.argmax(-1) == y).float().mean())
                history.append((step, loss.item(), accuracy))
                progress.set_postfix(loss=f"{history[-1][1]:.4f}", accuracy=f"{accuracy:.1%}")
            progress.update()
    return model, history


@torch.no_grad()
def validate(model: Copier, options: argparse.Namespace, device: torch.device, batches: int = 20) -> float:
    """Accuracy per token on fresh sequences."""
    model.eval()
    correct = []
    for _ in range(batches):
        x, y = copying_batch(256, options.length, options.memorize, options.symbols, device)
        correct.append((model(x).argmax(-1) == y).float().mean())
    return float(torch.stack(correct).mean())


def plot(history: list[tuple[int, float, float]], accuracy: float, options: argparse.Namespace) -> None:
    """Loss and accuracy over the steps."""
    steps, losses, accuracies = zip(*history, strict=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.semilogy(steps, losses, color="#3b6ea5", linewidth=1.2)
    left.set(xlabel="step", ylabel="cross-entropy (nats per token)", title="loss")
    right.plot(steps, [100 * a for a in accuracies], color="#3b6ea5", linewidth=1.2, label="training batches")
    right.axhline(100 / (options.symbols - 2), color="0.6", linestyle=":", linewidth=1, label="chance")
    right.plot(steps[-1], 100 * accuracy, "o", color="#c8553d", label=f"validation: {accuracy:.2%}")
    right.set(xlabel="step", ylabel="tokens right (%)", title="accuracy", ylim=(0, 103))
    right.legend(frameon=False, loc="center right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(f"minGRU, selective copying: {options.memorize} tokens among {options.length} blanks")
    figure.savefig(options.plot, dpi=150)


def compare(device: torch.device, batch: int = 8, steps: int = 1024, size: int = 256) -> None:
    """Prints the time of one layer's training step and inference for minGRU, nn.GRU and nn.LSTM, measured in turn."""
    layers: dict[str, nn.Module] = {
        "minGRU": MinGRU(size, size),
        "nn.GRU": nn.GRU(size, size, batch_first=True),
        "nn.LSTM": nn.LSTM(size, size, batch_first=True),
    }
    x = torch.randn(batch, steps, size, device=device)
    grad = torch.randn(batch, steps, size, device=device)

    def seconds(layer: nn.Module, training: bool) -> float:
        start = time.perf_counter()
        with torch.set_grad_enabled(training):
            out, _ = layer(x)
            if training:
                out.backward(grad)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    times: dict[tuple[str, bool], list[float]] = {}
    for _ in range(8):
        for name, layer in layers.items():
            layer.to(device)
            for training in (True, False):
                times.setdefault((name, training), []).append(seconds(layer, training))
    print(f"\none layer, B={batch} T={steps} D={size}, float32, on {device} (median of 7, in turn)")
    print(f"{'':10}{'training step':>16}{'inference':>14}")
    base = {training: statistics.median(times["minGRU", training][1:]) for training in (True, False)}
    for name in layers:
        cells = []
        for training in (True, False):
            median = statistics.median(times[name, training][1:])
            cells.append(f"{1e3 * median:8.2f} ms {median / base[training]:5.1f}x")
        print(f"{name:10}{cells[0]:>18}{cells[1]:>18}")


def main() -> None:
    """Parses the options, trains, validates, plots and compares."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--length", type=int, default=64, help="blanks in a sequence")
    parser.add_argument("--memorize", type=int, default=4, help="tokens to copy")
    parser.add_argument("--symbols", type=int, default=6, help="vocabulary: the blank, the marker, and the tokens")
    parser.add_argument("--embedding", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--plot", type=Path, default=Path("selective_copying.png"), help="where to write the learning curve")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    start = time.perf_counter()
    model, history = train(options, device)
    accuracy = validate(model, options, device)
    print(f"validation accuracy {accuracy:.2%} after {options.steps} steps in {time.perf_counter() - start:.0f} s")
    plot(history, accuracy, options)
    print(f"learning curve: {options.plot.resolve()}")
    compare(device)


if __name__ == "__main__":
    main()
