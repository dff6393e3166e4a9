"""What a call costs where there is hardly anything to compute. `nox -s bench -- calls`, or `python benchmarks/bench_calls.py`.

Training steps and inference of a small layer of each family beside nn.Linear, as which it has one product, and nn.LSTM; a small exact
RNN-T loss; a step of a stream beside nn.GRUCell and nn.LSTM. On one core, where on a GPU the calls come first, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import suite
import torch
from ligru import LiGRU
from mingru import MinGRU
from qrnn import QRNN
from rnnkit_common.testing import inference, several, training_step
from rnnt_loss import rnnt_loss
from sru import SRU
from suite import Group, Machine, Run
from torch import Tensor, nn

BATCH, STEPS, WIDTH = 4, 8, 64
LOSS = (2, 6, 3, 8)  # B, T, S, C
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "MinGRU": lambda: MinGRU(WIDTH, WIDTH),
    "QRNN": lambda: QRNN(WIDTH, WIDTH),
    "SRU": lambda: SRU(WIDTH, WIDTH, 1),
    "LiGRU": lambda: LiGRU(WIDTH, (BATCH, STEPS, WIDTH)),
    "nn.LSTM": lambda: nn.LSTM(WIDTH, WIDTH),
}


def layers(device: str, timed: Callable[[nn.Module, Tensor], Run]) -> dict[str, Run]:
    """nn.Linear, which is the limit, and all layers."""
    made = {"nn.Linear": nn.Linear(WIDTH, 2 * WIDTH), **{name: make() for name, make in LAYERS.items()}}
    x = torch.randn(BATCH, STEPS, WIDTH, device=device)
    return {name: several(timed(module.to(device), x)) for name, module in made.items()}


def loss(device: str) -> dict[str, Run]:
    """The exact loss, beside nn.Linear."""
    batch, frames, symbols, classes = LOSS
    logits = torch.randn(batch, frames, symbols + 1, classes, device=device, requires_grad=True)
    targets = torch.randint(1, classes, (batch, symbols), device=device)
    linear = training_step(nn.Linear(WIDTH, 2 * WIDTH).to(device), torch.randn(BATCH, STEPS, WIDTH, device=device))
    return {"nn.Linear": several(linear), "rnnt_loss": several(lambda: rnnt_loss(logits, targets, 0).backward())}


def stream(device: str, width: int, layer_count: int) -> dict[str, Run]:
    """One step of one stream, with its state."""
    x = torch.randn(1, width, device=device)
    made: dict[str, Any] = {"MinGRU": MinGRU(width, width, num_layers=layer_count), "SRU": SRU(width, width, layer_count)}
    runs = {}
    for name, module in made.items():
        module.to(device).eval()
        runs[f"{name}.step"] = inference(module.step, x, module.step(x)[1].detach())
    lstm = nn.LSTM(width, width, layer_count).to(device).eval()
    runs["nn.LSTM"] = inference(lstm, x[None], tuple(t.detach() for t in lstm(x[None])[1]))
    if layer_count == 1:
        runs["nn.GRUCell"] = inference(nn.GRUCell(width, width).to(device), x, torch.zeros(1, width, device=device))
    return {name: several(run) for name, run in runs.items()}


def groups(machine: Machine) -> list[Group]:
    sizes, device = {"B": BATCH, "T": STEPS, "H": WIDTH}, machine.device
    ours = list(LAYERS)[:-1]
    about: dict[str, Any] = {"threads": 1, "about": {"calls a run": 20}}

    def timed(what: str) -> Callable[[nn.Module, Tensor], Run]:
        return training_step if what == "training step" else lambda module, x: inference(module.eval(), x)

    all_groups = [
        Group("layers", what, sizes, lambda what=what: layers(device, timed(what)), ours, "nn.Linear", **about)
        for what in ("training step", "inference")
    ]
    names = dict(zip("BTSC", LOSS, strict=True))
    all_groups.append(Group("loss", "training step", names, lambda: loss(device), ["rnnt_loss"], "nn.Linear", **about))
    for width, count in ((64, 1), (512, 2)):
        steps = {"B": 1, "H": width, "layers": count}
        all_groups.append(
            Group(
                "stream", "step", steps, lambda w=width, c=count: stream(device, w, c), ["MinGRU.step", "SRU.step"], **about
            )
        )
    return all_groups


if __name__ == "__main__":
    suite.main("calls", groups, seconds=8)
