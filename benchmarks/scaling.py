"""How time and memory of a training step grow with each size, beside what the mathematics asks for. `python benchmarks/scaling.py`.

One size at a time is doubled, the others stay. The slope of a log-log line through the larger half of the points is the exponent: 1
for steps and sequences, 2 for the width of a recurrent layer, whose products grow with its square. Families that are not
installed are left out. Writes results/scaling-<device>.{json,png}.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import suite
import torch
from rnnkit_common.testing import alternate, keep_freed_memory
from torch import Tensor
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Sizes = dict[str, int]
Run = Callable[[], Any]


def layer(module: Any, x: Tensor) -> Run:
    """Forward and backward, the input's gradient included."""
    leaves = [x.requires_grad_(), *module.parameters()]

    def run() -> None:
        out = module(x)[0]
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    return run


def mingru(n: Sizes) -> Run:
    from mingru import MinGRU

    return layer(MinGRU(n["H"], n["H"]), torch.randn(n["B"], n["T"], n["H"]))


def qrnn(n: Sizes) -> Run:
    from qrnn import QRNN

    return layer(QRNN(n["H"], n["H"]), torch.randn(n["T"], n["B"], n["H"]))


def sru(n: Sizes) -> Run:
    from sru import SRU

    return layer(SRU(n["H"], n["H"], 1), torch.randn(n["T"], n["B"], n["H"]))


def ligru(n: Sizes) -> Run:
    from ligru import LiGRU

    x = torch.randn(n["B"], n["T"], n["H"])
    return layer(LiGRU(n["H"], x.shape), x)


def rnnt_loss(n: Sizes) -> Run:
    import rnnt_loss as losses

    logits = torch.randn(n["B"], n["T"], n["S"] + 1, n["C"], requires_grad=True)
    symbols = torch.randint(1, n["C"], (n["B"], n["S"]))
    return lambda: torch.autograd.grad(losses.rnnt_loss(logits, symbols, 0), logits)


# The middle of each sweep, and the exponents that the mathematics has.
LAYER = ({"T": 256, "B": 4, "H": 128}, {"T": 1, "B": 1, "H": 2})
CASES: dict[str, tuple[Callable[[Sizes], Run], Sizes, Sizes]] = {
    "mingru": (mingru, *LAYER),
    "qrnn": (qrnn, *LAYER),
    "sru": (sru, *LAYER),
    "ligru": (ligru, *LAYER),
    "rnnt_loss": (rnnt_loss, {"T": 64, "B": 2, "S": 32, "C": 128}, {"T": 1, "B": 1, "S": 1, "C": 1}),
}
FACTORS = (0.25, 0.5, 1, 2, 4, 8)


def slope(x: list[float], y: list[float]) -> float:
    """Of the line through the logarithms of the larger half: below it, what does not grow still counts."""
    half = len(x) // 2
    logs = ([math.log(v) for v in values[half:]] for values in (x, y))
    return statistics.linear_regression(*logs).slope


def cpu(seconds: float) -> dict[str, Any]:
    found = {name: case for name, case in CASES.items() if importlib.util.find_spec(name)}
    sweeps = [(name, axis) for name, (_, middle, _) in found.items() for axis in middle]
    points: dict[tuple[str, str], list[tuple[int, Run]]] = {}
    for name, axis in sweeps:
        make, middle, _ = found[name]
        sizes = [max(1, round(middle[axis] * factor)) for factor in FACTORS]
        points[name, axis] = [(size, make({**middle, axis: size})) for size in sizes]
    memory = {key: [suite.peak_beyond(run) for _, run in runs] for key, runs in tqdm(points.items(), "memory", disable=None)}
    keep_freed_memory()
    result: dict[str, Any] = {name: {} for name in found}
    for (name, axis), runs in tqdm(points.items(), "time", disable=None):
        times = alternate({str(size): run for size, run in runs}, seconds=seconds, warmup=1)
        sizes, medians = [size for size, _ in runs], [times[str(size)]["median"] for size, _ in runs]
        result[name][axis] = {
            "sizes": sizes,
            "seconds": medians,
            "peak memory, MB": memory[name, axis],
            "exponent of time": slope(sizes, medians),
            "exponent of memory": slope(sizes, [max(m, 1e-3) for m in memory[name, axis]]),
            "exponent of the mathematics": found[name][2][axis],
            "others": {k: v for k, v in found[name][1].items() if k != axis},
        }
    return {"sweeps": result}


def gpu(seconds: float) -> dict[str, Any]:
    torch.set_default_device("cuda")
    return cpu(seconds)


def report(result: dict[str, Any]) -> None:
    """Prints the exponents."""
    for name, axes in result["sweeps"].items():
        for axis, sweep in axes.items():
            grows = f"time {sweep['exponent of time']:.2f}, memory {sweep['exponent of memory']:.2f}"
            print(f"  {name:10} {axis}: {grows}; the mathematics {sweep['exponent of the mathematics']}")


def draw(document: dict[str, Any], stem: Path) -> None:
    """A log-log line of time for each family and size, with its exponent, and of memory."""
    sweeps = document["sweeps"]
    columns = max(len(axes) for axes in sweeps.values())
    figure, panels = plt.subplots(
        len(sweeps), columns, figsize=(2.6 * columns, 2.1 * len(sweeps)), layout="constrained", squeeze=False
    )
    for row, (name, axes) in zip(panels, sweeps.items(), strict=True):
        for panel in row[len(axes) :]:
            panel.set_visible(False)
        for panel, (axis, sweep) in zip(row, axes.items(), strict=False):
            panel.loglog(sweep["sizes"], [1e3 * t for t in sweep["seconds"]], "o-", color="#c8553d", markersize=3)
            panel.loglog(sweep["sizes"], sweep["peak memory, MB"], "s--", color="#9db4c8", markersize=3)
            text = f"time ~ {axis}^{sweep['exponent of time']:.2f}\nmemory ~ {axis}^{sweep['exponent of memory']:.2f}"
            panel.text(0.04, 0.96, text, transform=panel.transAxes, va="top", fontsize=7)
            panel.set_title(f"{name}, {axis}", fontsize=8)
            panel.minorticks_off()
            panel.set_xticks(sweep["sizes"][::2], [str(size) for size in sweep["sizes"][::2]])
            everything = [*(1e3 * t for t in sweep["seconds"]), *sweep["peak memory, MB"]]
            decades = range(math.floor(math.log10(min(everything))), math.ceil(math.log10(max(everything))) + 1)
            panel.set_yticks([10.0**d for d in decades], [f"{10.0**d:g}" for d in decades])
            panel.tick_params(labelsize=6)
            panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"training step: ms (line) and peak MB (dashed) by size, {suite.machine_name(document)}", fontsize=9)
    figure.savefig(suite.beside(stem, ".png"), dpi=150)


if __name__ == "__main__":
    suite.main("scaling", cpu=cpu, gpu=gpu, report=report, draw=draw, seconds=3.0)
