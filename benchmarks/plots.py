"""The plots that several benchmarks draw."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, OTHERS = "#c8553d", "#9db4c8"


def bars(groups: Mapping[str, Mapping[str, Mapping[str, float]]], ours: Collection[str], title: str, path: Path) -> None:
    """One panel per group (training step, inference), one bar per candidate, in ms; those of `ours` stand out."""
    figure, axes = plt.subplots(
        1,
        len(groups),
        figsize=(9, 1.4 + 0.3 * max(len(times) for times in groups.values())),
        layout="constrained",
        sharey=len({tuple(times) for times in groups.values()}) == 1,
    )
    for axis, (kind, times) in zip(axes, groups.items(), strict=True):
        names = list(times)[::-1]
        values = [1e3 * times[n]["median"] for n in names]
        drawn = axis.barh(names, values, color=[OURS if n in ours else OTHERS for n in names])
        axis.bar_label(drawn, [f"{v:.1f}" for v in values], padding=3)
        axis.set(title=kind, xlabel="ms", xlim=(0, 1.15 * max(values)))
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150)


def grid(values: list[list[float]], rows: list[str], columns: list[str], title: str, path: Path) -> None:
    """A table of factors, coloured: above 1 is faster."""
    figure, axis = plt.subplots(figsize=(1.1 + 0.9 * len(columns), 1.2 + 0.42 * len(rows)), layout="constrained")
    axis.imshow(values, cmap="Oranges", aspect="auto", vmin=0, vmax=2.5 * max(map(max, values)))
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.tick_params(length=0)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            axis.text(j, i, f"{value:.1f}x", ha="center", va="center")
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=10)
    figure.savefig(path, dpi=150)
