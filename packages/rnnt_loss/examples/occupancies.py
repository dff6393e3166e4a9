"""Where a transducer's paths go, and the band that pruning keeps: the picture of Kuang et al. (arXiv:2206.13236), from one call.

An encoder and a predictor that know the alignment roughly are made up, since nothing needs to be trained for it: each symbol
has a time around which the encoder prefers it. The simple loss tells how likely paths leave each node of the lattice, frame by
frame; the band is drawn over that.

    python occupancies.py [--frames 300] [--symbols 60] [--s-range 5] [--out occupancies.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from rnnt_loss import get_rnnt_prune_ranges, rnnt_loss_simple
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def made_up(frames: int, symbols: int, classes: int = 100, blank: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """lm (1, S + 1, C), am (1, T, C) and symbols (1, S)."""
    targets = torch.randint(1, classes, (1, symbols))
    times = (torch.rand(symbols).add(0.2).cumsum(0)).mul(frames / (0.7 * symbols + 1)).clamp(max=frames - 1)
    t = torch.arange(frames)[:, None]
    near = torch.exp(-0.5 * ((t - times) / 2).square())  # (T, S)
    am = 0.3 * torch.randn(1, frames, classes)
    am[0].scatter_add_(1, targets.expand(frames, -1), 9 * near)
    am[..., blank] += 4
    lm = 0.3 * torch.randn(1, symbols + 1, classes)
    lm[0, torch.arange(symbols), targets[0]] += 1
    return lm, am, targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--symbols", type=int, default=60)
    parser.add_argument("--s-range", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("occupancies.png"))
    options = parser.parse_args()
    torch.manual_seed(0)
    lm, am, symbols = made_up(options.frames, options.symbols)
    boundary = torch.tensor([[0, 0, options.symbols, options.frames]])
    _, (px_grad, py_grad) = rnnt_loss_simple(lm, am, symbols, 0, boundary, return_grad=True)
    ranges = get_rnnt_prune_ranges(px_grad, py_grad, boundary, options.s_range)

    leaving = py_grad[0].clone()  # (S + 1, T)
    leaving[:-1] += px_grad[0, :, :-1]
    kept = py_grad[0].gather(0, ranges[0].T).sum() / py_grad.sum()
    frames = torch.arange(options.frames)
    figure, axis = plt.subplots(figsize=(11, 3.6), layout="constrained")
    image = axis.imshow(leaving, origin="lower", aspect="auto", cmap="magma", interpolation="nearest")
    for edge, label in ((ranges[0, :, 0] - 0.5, f"band of {ranges.shape[2]} rows"), (ranges[0, :, -1] + 0.5, None)):
        axis.step(frames, edge, where="mid", color="#35c4c8", linewidth=1, label=label)
    axis.set(xlabel="frame", ylabel="symbols emitted")
    axis.set_title(
        f"probability that a path leaves a node; the band keeps {100 * kept:.1f} % of it, "
        f"in {100 * ranges.shape[2] / (options.symbols + 1):.0f} % of the nodes",
        fontsize=10,
    )
    axis.legend(loc="lower right")
    figure.colorbar(image, ax=axis)
    figure.savefig(options.out, dpi=150)
    print(f"{100 * kept:.1f} % of the occupancy within the band; drawn in {options.out}")


if __name__ == "__main__":
    main()
