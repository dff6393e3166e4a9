"""SRU beside its peers and its limits. `nox -s bench -- sru`, or `python benchmarks/bench_sru.py`.

Two layers beside their matrix products alone, sru 2.6.0 and nn.LSTM; the first paper's figure: one layer beside nn.LSTM and
convolutions of widths 2 and 3; steps of a stream, on one core; the op alone beside a copy that moves as many bytes, on one core of a CPU. On a GPU
also layers of the shapes that upstream's users have. sru 2.6.0's kernels get the changes that make them compile on today's torch.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import warnings
from typing import Any

import suite
import torch
from rnnkit_common.testing import inference, several, training_step
from sru import SRU, functional
from suite import Group, Machine, Run
from torch import Tensor, nn

PEER = "sru==2.6.0"
SHAPE, LAYERS = (128, 32, 512), 2  # T, B, D of the first paper's figure
FIGURE = [(32, 32, 256), (128, 32, 512)]
GPU_SHAPES = [(128, 32, 512), (2048, 32, 1024), (512, 8, 512), (2048, 1, 1024), (32, 32, 256)]
TRAFFIC = {"inference": 5, "forward": 5, "backward": 9}  # elements per output, and 1/16 of a state


def upstream() -> Any:
    """The module `sru` of sru 2.6.0, imported beside ours."""
    folder = suite.unpacked(PEER)
    suite.mend(folder.glob("sru/csrc/sru_cuda*"))
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "sru"}
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("sru")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == "sru"]:
            del sys.modules[name]
        sys.modules.update(ours)


def layers(part: str, shape: tuple[int, ...], count: int, peer: Any, machine: Machine, **options: Any) -> list[Group]:
    t, b, d = shape

    def modules() -> dict[str, nn.Module]:
        models: dict[str, nn.Module] = {"SRU": SRU(d, d, count), "nn.LSTM": nn.LSTM(d, d, count)}
        if peer is not None and options.get("dtype") != torch.bfloat16:  # which upstream has not
            models["sru 2.6.0"] = peer.SRU(d, d, count, amp_recurrence_fp16=True)
        return models

    sizes = {"T": t, "B": b, "D": d, "layers": count}
    return suite.layer(part, sizes, modules, shape, [(t * b, d, 3 * d)] * count, ours=["SRU"], machine=machine, **options)


def figure(shape: tuple[int, ...], device: str, what: str) -> Group:
    """A layer beside nn.LSTM and word-level convolutions, which take [B, D, T]."""
    t, b, d = shape

    def make() -> dict[str, Run]:
        x = torch.randn(t, b, d, device=device, requires_grad=True)
        columns = torch.randn(b, d, t, device=device, requires_grad=True)
        modules: dict[str, tuple[nn.Module, Tensor]] = {
            "SRU": (SRU(d, d, 1), x),
            "convolution, width 2": (nn.Conv1d(d, d, 2), columns),
            "convolution, width 3": (nn.Conv1d(d, d, 3), columns),
            "nn.LSTM": (nn.LSTM(d, d), x),
        }
        run = training_step if what == "training step" else inference
        runs = {name: run(module.to(device), given) for name, (module, given) in modules.items()}
        products = suite.Products([(t * b, d, 3 * d)], {"device": device})
        runs["products alone"] = products.training_step if what == "training step" else inference(products)
        return runs

    return Group("figure", what, {"T": t, "B": b, "D": d}, make, ["SRU"], "products alone")


def step(peer: Any, device: str) -> Group:
    """Steps of two layers, one sequence: of a stream, whose weights stay in the caches."""
    d = SHAPE[2]

    def make() -> dict[str, Run]:
        x, c = torch.randn(1, d, device=device), torch.randn(LAYERS, 1, d, device=device)
        runs = {"SRU.step": inference(SRU(d, d, LAYERS).to(device).eval().step, x, c)}
        if peer is not None:
            runs["sru 2.6.0"] = inference(peer.SRU(d, d, LAYERS).to(device).eval(), x[None], c)
        runs["nn.LSTM"] = inference(nn.LSTM(d, d, LAYERS).to(device), x[None], (c, c))
        runs["products alone"] = inference(suite.Products([(1, d, 3 * d)] * LAYERS, {"device": device}))
        return {name: several(run) for name, run in runs.items()}

    sizes = {"B": 1, "D": d, "layers": LAYERS}
    return Group("step", "20 steps of a stream", sizes, make, ["SRU.step"], "products alone", threads=1)


def op(
    shape: tuple[int, ...], machine: Machine, dtype: torch.dtype, threads: int | None, *, v1: bool, share: float
) -> list[Group]:
    t, b, d = shape

    def forward(u: Tensor, x: Tensor, bias: Tensor, weight_c: Tensor | None = None) -> Tensor:
        return functional.recurrence(u, bias, weight_c, x)[0]

    def inputs() -> list[Tensor]:
        where: dict[str, Any] = {"device": machine.device, "dtype": dtype}
        u, x = torch.randn(t, b, 3 * d, **where), torch.randn(t, b, d, **where)
        weights = [torch.zeros(2 * d, device=machine.device), torch.rand(2 * d, device=machine.device) - 0.5]
        return [u, x, *weights[: 1 if v1 else 2]]

    part, sizes = "op, first version" if v1 else "op", {"T": t, "B": b, "D": d}
    options: dict[str, Any] = {"machine": machine, "dtype": dtype, "threads": threads, "share": share}
    traffic = {what: moved for what, moved in TRAFFIC.items() if not machine.gpu or what != "forward"}
    return suite.op(part, sizes, forward, inputs, traffic, name="recurrence", **options)


def groups(machine: Machine) -> list[Group]:
    peer = suite.peer(PEER, upstream, compiles=True)
    all_groups = layers("layers", machine.fit(*SHAPE), LAYERS, peer, machine)
    for shape, what in itertools.product(FIGURE, ("training step", "inference")):
        all_groups.append(figure(machine.fit(*shape), machine.device, what))
    all_groups.append(step(peer, machine.device))
    if not machine.gpu:
        for dtype, v1 in itertools.product((torch.float32, torch.bfloat16), (False, True)):
            all_groups += op(SHAPE, machine, dtype, 1, v1=v1, share=0.5)
        return all_groups
    for shape, dtype, v1 in itertools.product(GPU_SHAPES, (torch.bfloat16, torch.float32), (False, True)):
        all_groups += op(machine.fit(*shape), machine, dtype, None, v1=v1, share=0.1)
    for shape in GPU_SHAPES:
        all_groups += layers("grid", machine.fit(*shape), 1, peer, machine, kinds=["training step"], share=0.1)
    return all_groups


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Running SRU on CPU with grad_enabled")
    suite.main("sru", groups)
