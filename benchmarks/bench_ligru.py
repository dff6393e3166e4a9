"""Li-GRU and SLi-GRU beside their peers and limits. `nox -s bench -- ligru`, or `python benchmarks/bench_ligru.py`.

A layer with batch normalisation beside SpeechBrain's (as it is, under jit.script, and with the quadratic slicing of its backward
mended), nn.GRU, nn.LSTM and the layer's matrix products alone, all steps at once; time of a step against hidden size and against the
number of steps; steps of a stream, on one core; bfloat16; training on cores that other processes use. On a GPU also the shapes that
users have, both directions, and four layers.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import subprocess
import sys
import warnings
from typing import Any

import suite
import torch
from ligru import LiGRU, SLiGRU
from rnnkit_common.testing import inference, several, training_step
from suite import Group, Machine, Record, Run
from torch import nn

PEER = "speechbrain==1.1.0"
LAYERS = [(8, 400, 256, 512), (8, 400, 64, 128)]  # B, T, F, H
BUSY = [(8, 200, 64, 256), (1, 200, 64, 512)]
BFLOAT16 = (8, 200, 256, 512)
UNITS, GPU_UNITS = (64, 128, 256, 512, 1024), (64, 256, 550, 1024, 2048)
LENGTHS = (500, 1000, 2000, 4000)
GPU_SHAPES = [(4, 400, 64), (8, 400, 256), (16, 400, 512), (128, 200, 512), (48, 400, 1024), (16, 400, 2048)]  # B, T, H = F
OURS: dict[str, type[nn.Module]] = {"LiGRU": LiGRU, "SLiGRU": SLiGRU}


def speechbrain(*, mended: bool = False) -> Any:
    """SpeechBrain's module nnet.RNN, alone; `mended`: its loop takes its steps from one unbind, so that backward is linear in T."""
    folder = suite.unpacked(PEER)
    source = (folder / "speechbrain" / "nnet" / "RNN.py").read_text()
    if mended:
        assert source.count("w[:, k]") == 2
        source = source.replace("hiddens = []", "hiddens = []\n        steps = w.unbind(1)").replace("w[:, k]", "steps[k]")
    path = folder / f"rnn{'_mended' if mended else ''}.py"
    path.write_text(source)
    attention = dict.fromkeys(("ContentBasedAttention", "KeyValueAttention", "LocationAwareAttention"), object)
    logger = {"get_logger": logging.getLogger}
    needs = {"speechbrain.nnet.attention": attention, "speechbrain.utils.logger": logger}
    return suite.module_of_file(path, path.stem, needs)


def layer(
    part: str,
    shape: tuple[int, ...],
    peers: tuple[Any, Any] | None,
    machine: Machine,
    *,
    rnn: dict[str, Any],
    **options: Any,
) -> list[Group]:
    """`rnn`: of all modules, as num_layers; `peers`: SpeechBrain's module, and the mended one."""
    batch, steps, features, units = shape
    directions, count = 2 if rnn.get("bidirectional") else 1, rnn.get("num_layers", 1)
    arguments: dict[str, Any] = {"hidden_size": units, "input_shape": (batch, steps, features), **rnn}

    def modules() -> dict[str, nn.Module]:
        models = {name: cls(**arguments) for name, cls in OURS.items()}
        if peers is not None:
            theirs, mended = peers
            models["SpeechBrain LiGRU"] = theirs.LiGRU(**arguments)
            if part == "layer":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    models["same, jit.script"] = torch.jit.script(theirs.LiGRU(**arguments))
            models["same, mended"] = mended.LiGRU(**arguments)
            models["SpeechBrain SLiGRU"] = theirs.SLiGRU(**arguments)
        models["nn.GRU"] = nn.GRU(features, units, batch_first=True, **rnn)
        models["nn.LSTM"] = nn.LSTM(features, units, batch_first=True, **rnn)
        return models

    rows = batch * steps
    inputs = [features] + [directions * units] * (count - 1)
    products = [p for width in inputs for p in ((rows, width, 2 * units), (directions * rows, units, 2 * units))]
    sizes = {"B": batch, "T": steps, "F": features, "H": units, **{name: int(value) for name, value in rnn.items()}}
    x = (batch, steps, features)
    return suite.layer(part, sizes, modules, x, products, ours=list(OURS), machine=machine, **options)


def step(peers: tuple[Any, Any] | None, device: str) -> Group:
    _, _, features, units = LAYERS[0]

    def make() -> dict[str, Run]:
        x, h = torch.randn(1, 1, features, device=device), torch.zeros(1, 1, units, device=device)
        runs = {
            f"{name}.step": inference(cls(units, x.shape).to(device).eval().step, x[:, 0], h) for name, cls in OURS.items()
        }
        runs["nn.GRU"] = inference(nn.GRU(features, units, batch_first=True).to(device), x, h)
        runs["nn.LSTM"] = inference(nn.LSTM(features, units, batch_first=True).to(device), x, (h, h))
        if peers is not None:
            runs["SpeechBrain LiGRU"] = inference(peers[0].LiGRU(units, x.shape).to(device).eval(), x, h)
        products = [(1, features, 2 * units), (1, units, 2 * units)]
        runs["products alone"] = inference(suite.Products(products, {"device": device}))
        return {name: several(run) for name, run in runs.items()}

    sizes, ours = {"B": 1, "F": features, "H": units}, [f"{name}.step" for name in OURS]
    return Group("step", "20 steps of a stream", sizes, make, ours, "products alone", threads=1)


@dataclasses.dataclass(frozen=True)
class Busy(Group):
    """Beside processes that never rest, one more than there are cores, as data loaders would be."""

    def measure(self, seconds: float, device: str, least: int = 5) -> Record:
        idle = [sys.executable, "-c", "while True: pass"]
        others = [subprocess.Popen(idle) for _ in range((os.cpu_count() or 1) + 1)]
        try:
            return super().measure(seconds, device, least)
        finally:
            for process in others:
                process.kill()


def busy(shape: tuple[int, ...]) -> Group:
    batch, steps, features, units = shape

    def make() -> dict[str, Run]:
        x = torch.randn(batch, steps, features)
        modules = {"LiGRU": LiGRU(units, x.shape), "nn.LSTM": nn.LSTM(features, units, batch_first=True)}
        return {name: training_step(module, x) for name, module in modules.items()}

    sizes = {"B": batch, "T": steps, "F": features, "H": units}
    return Busy("busy", "training step on busy cores", sizes, make, ["LiGRU"])


def groups(machine: Machine) -> list[Group]:
    peers = suite.peer(PEER, lambda: (speechbrain(), speechbrain(mended=True)))
    all_groups = [step(peers, machine.device)] if machine.gpu else []
    if machine.gpu:  # theirs take seconds a step
        for (b, t, h), dtype in itertools.product(GPU_SHAPES, (torch.float16, torch.float32)):
            all_groups += layer("layers", machine.fit(b, t, h, h), None, machine, rnn={}, dtype=dtype, share=0.2)
    for shape in LAYERS:
        all_groups += layer("layer", machine.fit(*shape), peers, machine, rnn={}, share=1.2)
    for units in GPU_UNITS if machine.gpu else UNITS:
        all_groups += layer("by size", machine.fit(8, 100, 256, units), peers, machine, rnn={}, share=0.4)
    for steps in LENGTHS:  # SpeechBrain's is quadratic
        shape = machine.fit(8, steps, 64, 128)
        all_groups += layer("by length", shape, None, machine, rnn={}, kinds=["training step"], share=0.5)
    if machine.gpu:
        for rnn in ({"bidirectional": True}, {"num_layers": 4}):
            all_groups += layer("layers", machine.fit(16, 400, 512, 512), None, machine, rnn=rnn, share=0.2)
    else:
        all_groups.append(step(peers, machine.device))
        all_groups += layer("bfloat16", BFLOAT16, None, machine, rnn={}, dtype=torch.bfloat16, share=0.5)
        all_groups += [busy(shape) for shape in BUSY]
    return all_groups


if __name__ == "__main__":
    suite.main("ligru", groups)
