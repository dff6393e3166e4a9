"""Why SLi-GRU exists: Li-GRU, whose states are unbounded, breaks down in training where SLi-GRU does not.

Both learn to name the phone that was spoken some frames ago, from features of synthesised speech: sequences of phones, each a
voiced or unvoiced spectrum with three formants, on 40 mel channels at 100 frames a second, with speakers of different sizes,
transitions and noise. Same data, same initial W and U, no clipping of gradients; for several learning rates, each until a loss
or gradient is no number any more, or to the end, on the GPU or the CPU that is there. Draws the error against the
learning rate, and the losses at the first at which one of them breaks down.

    python packages/ligru/examples/stability.py [--steps 100] [--out stability.png]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from ligru import LiGRU, SLiGRU
from torch import Tensor, nn
from tqdm import tqdm

CHANNELS, DELAY = 40, 8  # mel channels; frames between a phone and its name
# Formants in Hz, after the averages for men of Peterson and Barney (1952); the fricatives have broad bumps of noise.
FORMANTS = torch.tensor(
    [
        [270, 2290, 3010],  # i
        [390, 1990, 2550],  # I
        [530, 1840, 2480],  # E
        [660, 1720, 2410],  # ae
        [730, 1090, 2440],  # a
        [570, 840, 2410],  # O
        [440, 1020, 2240],  # U
        [300, 870, 2240],  # u
        [640, 1190, 2390],  # V
        [490, 1350, 1690],  # 3
        [4500, 5500, 6500],  # s
        [2500, 3500, 5000],  # S
        [1500, 4000, 7000],  # f
    ],
    dtype=torch.float32,
)
PHONES, UNVOICED = len(FORMANTS), 3
SILENCE = PHONES


def mel(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz / 700)


def utterances(count: int, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features (B, T, 40), and the phone of each frame (B, T)."""
    segments = frames // 5 + 1
    phones = torch.randint(PHONES + 1, (count, segments), generator=generator)
    lengths = torch.randint(5, 16, (count, segments), generator=generator)
    ends = lengths.cumsum(1)
    label = phones.gather(1, torch.searchsorted(ends, torch.arange(frames).expand(count, frames).contiguous(), right=True))
    size = 0.85 + 0.35 * torch.rand(count, 1, 1, generator=generator)  # of the speaker's vocal tract
    formants = mel(torch.cat([FORMANTS, torch.zeros(1, 3)])[label] * size)
    width = torch.where(label >= PHONES - UNVOICED, 300.0, 90.0)[..., None, None]
    centres = torch.linspace(0, float(mel(torch.tensor(8000.0))), CHANNELS)
    level = torch.tensor([1.0, 0.7, 0.4])
    bumps = level * torch.exp(-(((centres[:, None] - formants[..., None, :]) / width) ** 2) / 2)
    energy = bumps.sum(-1) * (label != SILENCE)[..., None]
    kernel = torch.hann_window(7, periodic=False)[1:-1].div(3).expand(CHANNELS, 1, 5)  # a phone flows into the next
    smooth = nn.functional.conv1d(energy.transpose(1, 2), kernel, padding=2, groups=CHANNELS).transpose(1, 2)
    noise = 0.05 * torch.rand(smooth.shape, generator=generator)
    return torch.log(smooth + noise + 1e-3), label


class Tagger(nn.Module):
    """Names phones, DELAY frames later."""

    def __init__(self, cls: type[nn.Module], units: int, layers: int) -> None:
        super().__init__()
        self.rnn = cls(units, (1, 1, CHANNELS), num_layers=layers)
        self.head = nn.Linear(units, PHONES + 1)

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and the fraction of frames that are named wrongly."""
        out, _ = self.rnn(x)
        logits = self.head(out[:, DELAY:])
        wanted = label[:, :-DELAY]
        return nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()), (
            logits.argmax(-1) != wanted
        ).float().mean()


def train(cls: type[nn.Module], lr: float, options: argparse.Namespace, device: str) -> dict[str, list[float]]:
    """Loss, error and gradient norm of each step, up to the first that is not finite."""
    torch.manual_seed(0)
    tagger = Tagger(cls, options.units, options.layers).to(device)
    optimizer = torch.optim.Adam(tagger.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(1)
    history: dict[str, list[float]] = {"loss": [], "error": [], "gradient norm": []}
    progress = tqdm(range(options.steps), desc=f"{cls.__name__:6} at {lr:g}")
    for _ in progress:
        x, label = (t.to(device) for t in utterances(options.batch, options.frames, generator))
        loss, error = tagger(x, label)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in tagger.parameters() if p.grad is not None])
        optimizer.step()
        for name, value in (("loss", loss), ("error", error), ("gradient norm", norm)):
            history[name].append(float(value.detach()))
        progress.set_postfix({name: f"{values[-1]:.3g}" for name, values in history.items()})
        if broke(history):
            break
    return history


def broke(history: dict[str, list[float]]) -> bool:
    return not math.isfinite(history["gradient norm"][-1] + history["loss"][-1])


def final_error(history: dict[str, list[float]]) -> float:
    """Of the last ten steps; that of a guess where training broke down."""
    return PHONES / (PHONES + 1) if broke(history) else sum(history["error"][-10:]) / 10


def draw(histories: dict[str, dict[float, dict[str, list[float]]]], options: argparse.Namespace) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    shown = next((lr for lr in options.lr for runs in histories.values() if broke(runs[lr])), options.lr[-1])
    for (net, runs), colour in zip(histories.items(), ("#7d97ab", "#c8553d"), strict=True):
        left.plot(options.lr, [final_error(runs[lr]) for lr in options.lr], ".-", label=net, color=colour)
        ended = [lr for lr in options.lr if broke(runs[lr])]
        left.plot(ended, [final_error(runs[lr]) for lr in ended], "x", color=colour, markersize=9, markeredgewidth=2)
        losses = [v for v in runs[shown]["loss"] if math.isfinite(v)]
        right.plot(losses, label=net, color=colour, linewidth=1)
        if broke(runs[shown]):
            right.plot(len(losses) - 1, losses[-1], "x", color=colour, markersize=9, markeredgewidth=2)
    left.set(title=f"frame error after {options.steps} steps", xlabel="learning rate", xscale="log", ylim=(0, 1))
    right.set(title=f"loss at learning rate {shown:g}", xlabel="training step", xlim=(0, options.steps), ylim=(0, None))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, loc="center left")
    figure.suptitle(f"Naming phones {DELAY} frames late ({options.frames} frames); x: no number any more", fontsize=10)
    figure.savefig(options.out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--lr", type=float, nargs="+", default=[0.003, 0.01, 0.03, 0.05, 0.1, 0.2])
    parser.add_argument("--out", type=Path, default=Path("stability.png"), help="the plot; numbers go beside it as .json")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    histories = {cls.__name__: {lr: train(cls, lr, options, device) for lr in options.lr} for cls in (LiGRU, SLiGRU)}
    for net, runs in histories.items():
        for lr, history in runs.items():
            end = (
                f"broke down at step {len(history['loss'])}"
                if broke(history)
                else f"{final_error(history):6.1%} of frames wrong"
            )
            print(f"{net:6} at {lr:<6g} {end}")
    draw(histories, options)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    settings = {k: v for k, v in vars(options).items() if k != "out"}
    record = {"torch": torch.__version__, "on": where, "settings": settings, "histories": histories}
    options.out.with_suffix(".json").write_text(json.dumps(record).replace("NaN", "null").replace("Infinity", "null") + "\n")


if __name__ == "__main__":
    main()
