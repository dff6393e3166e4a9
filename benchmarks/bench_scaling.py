"""How time and memory of a training step grow with each size, beside what the mathematics asks for. `nox -s bench -- scaling`.

One size at a time is doubled, the others stay. The slope of a log-log line through the larger half of the points is the exponent: 1
for steps and sequences, 2 for the width of a recurrent layer, whose products grow with its square. Families that are not
installed are left out.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import suite
import torch
from rnnkit_common.testing import training_step
from suite import Group, Machine, Run

Sizes = dict[str, int]
Maker = Callable[[Sizes, str], Run]


def layer(make: Callable[[Any, Sizes], Any], family: str, time_first: bool) -> Maker:
    """Forward and backward, the input's gradient included."""

    def run(n: Sizes, device: str) -> Run:
        module = make(importlib.import_module(family), n)
        shape = (n["T"], n["B"], n["H"]) if time_first else (n["B"], n["T"], n["H"])
        return training_step(module.to(device), torch.randn(shape, device=device, requires_grad=True))

    return run


def rnnt_loss(n: Sizes, device: str) -> Run:
    losses = importlib.import_module("rnnt_loss")
    logits = torch.randn(n["B"], n["T"], n["S"] + 1, n["C"], device=device, requires_grad=True)
    symbols = torch.randint(1, n["C"], (n["B"], n["S"]), device=device)
    return lambda: torch.autograd.grad(losses.rnnt_loss(logits, symbols, 0), logits)


# The middle of each sweep, and the exponents that the mathematics has.
LAYER = ({"T": 256, "B": 4, "H": 128}, {"T": 1, "B": 1, "H": 2})
CASES: dict[str, tuple[Maker, Sizes, Sizes]] = {
    "mingru": (layer(lambda m, n: m.MinGRU(n["H"], n["H"]), "mingru", False), *LAYER),
    "qrnn": (layer(lambda m, n: m.QRNN(n["H"], n["H"]), "qrnn", True), *LAYER),
    "sru": (layer(lambda m, n: m.SRU(n["H"], n["H"], 1), "sru", True), *LAYER),
    "ligru": (layer(lambda m, n: m.LiGRU(n["H"], (n["B"], n["T"], n["H"])), "ligru", False), *LAYER),
    "rnnt_loss": (rnnt_loss, {"T": 64, "B": 2, "S": 32, "C": 128}, {"T": 1, "B": 1, "S": 1, "C": 1}),
}
FACTORS, GPU_FACTORS = (0.25, 0.5, 1, 2, 4, 8), (1, 2, 4, 8, 16, 32)


def sweep(family: str, axis: str, machine: Machine) -> Group:
    maker, middle, exponents = CASES[family]
    sizes = [max(1, round(middle[axis] * factor)) for factor in (GPU_FACTORS if machine.name == "cuda" else FACTORS)]
    make = lambda: {str(size): maker({**middle, axis: size}, machine.device) for size in sizes}  # noqa: E731
    others = {name: size for name, size in middle.items() if name != axis}
    return Group(family, axis, others, make, about={"exponent of the mathematics": exponents[axis]})


def groups(machine: Machine) -> list[Group]:
    families = [family for family in CASES if importlib.util.find_spec(family)]
    return [sweep(family, axis, machine) for family in families for axis in CASES[family][1]]


if __name__ == "__main__":
    suite.main("scaling", groups, seconds=4.0)
