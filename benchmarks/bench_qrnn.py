"""QRNN beside its peers and its limits. `nox -s bench -- qrnn`, or `python benchmarks/bench_qrnn.py`.

The layer of the paper's language model beside its matrix product alone, nn.LSTM and fastai's QRNN; the paper's Figure 4, right: the
inference of a layer of 320 units beside nn.LSTM (cuDNN's on a GPU) by batch and length; ForgetMult beside torchqrnn's loop, on
a GPU beside a serial kernel; the op alone beside a copy that moves as many bytes, on one core of a CPU.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any, Optional

import suite
import torch
from qrnn import QRNN, functional
from rnnkit_common.testing import inference
from suite import Group, Machine, Run
from torch import Tensor, nn

PEER = "fastai==1.0.61"
LANGUAGE_MODEL = (105, 20, 640)  # T, B, H of the paper's Figure 4, left
BATCHES, LENGTHS, UNITS = (8, 16, 32, 64, 128, 256), (32, 64, 128, 256, 512), 320  # and right
GPU_SHAPES = [(4096, 8, 1024), (105, 20, 640), (512, 8, 320), (140, 60, 2500), (65536, 1, 1024)]

# What torchqrnn and fastai run: a thread walks along time with its state in global memory. Here in a register, even.
SERIAL = """
extern "C" __global__ void serial(const float* f, const float* x, float* h, int steps, int channels) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= channels) return;
  float state = 0;
  for (int t = 0; t < steps; ++t) {
    const float gate = f[t * channels + c];
    state = gate * x[t * channels + c] + (1 - gate) * state;
    h[t * channels + c] = state;
  }
}
"""


def fastai() -> Any:
    """fastai's module text.models.qrnn, alone; its gates are activated in place, which today's autograd refuses on pieces of a split."""
    path = suite.unpacked(PEER) / "fastai" / "text" / "models" / "qrnn.py"
    source = path.read_text()
    for old, new in (
        ("from ...torch_core import *", "from torch_core import *"),
        ("z_gate.tanh_()", "z_gate = z_gate.tanh()"),
        ("f_gate.sigmoid_()", "f_gate = f_gate.sigmoid()"),
    ):
        assert source.count(old) == 1
        source = source.replace(old, new)
    suite.mend([*path.parent.glob("*forget_mult*.cpp"), *path.parent.glob("*forget_mult*.cu")])
    mended = path.with_name("qrnn_mended.py")
    mended.write_text(source)
    core = {"torch": torch, "Tensor": Tensor, "nn": nn, "Module": nn.Module, "Optional": Optional, "Path": Path}
    core |= {"partial": functools.partial, "ifnone": lambda value, otherwise: otherwise if value is None else value}
    package = {"__path__": [str(path.parents[2])]}
    return suite.module_of_file(mended, "fastai_qrnn", {"fastai": package, "torch_core": core})


def layer(shape: tuple[int, ...], window: int, peer: Any, machine: Machine) -> list[Group]:
    t, b, h = shape

    def modules() -> dict[str, nn.Module]:
        models: dict[str, nn.Module] = {"QRNN": QRNN(h, h, window=window), "nn.LSTM": nn.LSTM(h, h)}
        if peer is not None:
            models["fastai 1.0.61"] = peer.QRNN(h, h, window=window, batch_first=False)
        return models

    sizes = {"T": t, "B": b, "H": h, "window": window}
    return suite.layer("layer", sizes, modules, shape, [(t * b, window * h, 3 * h)], ours=["QRNN"], machine=machine)


def op(shape: tuple[int, ...], machine: Machine, dtype: torch.dtype, threads: int | None) -> list[Group]:
    """fo-pooling from pre-activations; drawing zoneout's bits moves nothing more."""
    t, b, h = shape
    options: dict[str, Any] = {"machine": machine, "dtype": dtype, "threads": threads, "share": 0.5}

    def pooling(name: str, traffic: dict[str, float], **zoneout: Any) -> list[Group]:
        return suite.op(
            "op",
            {"T": t, "B": b, "H": h},
            lambda gates: functional.pool(gates, **zoneout)[0],
            lambda: [torch.randn(t, b, 3 * h, device=machine.device, dtype=dtype)],
            traffic,
            name=name,
            **options,
        )

    if machine.gpu:
        return pooling("fo-pooling", {"inference": 4, "backward": 7})
    drawn = pooling("fo-pooling, zoneout drawn", {"inference": 4}, zoneout=0.1, training=True)
    drawn = [dataclasses.replace(group, what="inference, zoneout drawn") for group in drawn]
    return [*pooling("fo-pooling", {"inference": 4, "forward": 4, "backward": 7}), *drawn]


def forget_mult_loop(f: Tensor, x: Tensor) -> Tensor:
    """The loop that torchqrnn has for the CPU."""
    states, h = [], None
    for gate, value in zip(f, (f * x).split(1), strict=True):
        h = (value if h is None else value + (1 - gate) * h).view(value.shape[1:])
        states.append(h)
    return torch.stack(states)


def forget_mult(shape: tuple[int, ...], device: str) -> Group:
    """Forward and backward of the recurrence alone; 3 elements per output forward, and 6 backward."""

    def make() -> dict[str, Run]:
        f = torch.rand(shape, device=device, requires_grad=True)
        x, grad = torch.randn(shape, device=device, requires_grad=True), torch.randn(shape, device=device)
        return {
            "ForgetMult": lambda: torch.autograd.grad(functional.forget_mult(f, x)[0], [f, x], grad),
            "torchqrnn's loop": lambda: torch.autograd.grad(forget_mult_loop(f, x), [f, x], grad),
            "copy": suite.copy(9 * f.nbytes, device),
        }

    return Group("ForgetMult", "forward and backward", dict(zip("TBH", shape, strict=True)), make, ["ForgetMult"], "copy")


def serial_kernel() -> Group:
    """ForgetMult's forward beside a serial kernel."""
    t, b, h = 512, 8, UNITS

    def make() -> dict[str, Run]:
        f, x = torch.rand(t, b, h, device="cuda"), torch.randn(t, b, h, device="cuda")
        out = torch.empty_like(x)
        kernel = torch.cuda._compile_kernel(SERIAL, "serial")
        serial = lambda: kernel(grid=(b, 1, 1), block=(h, 1, 1), args=(f, x, out, t, b * h))  # noqa: E731
        serial()
        torch.testing.assert_close(out, functional.forget_mult(f, x)[0], rtol=1e-4, atol=1e-4)
        return {
            "ForgetMult": inference(functional.forget_mult, f, x),
            "serial": serial,
            "copy": suite.copy(3 * x.nbytes, "cuda"),
        }

    return Group("ForgetMult", "forward", {"T": t, "B": b, "H": h}, make, ["ForgetMult"], "copy")


def figure4(machine: Machine, dtype: torch.dtype) -> list[Group]:
    """Inference of one layer beside nn.LSTM, for every batch and length of the paper."""

    def make(b: int, t: int, units: int) -> dict[str, Run]:
        where: dict[str, Any] = {"device": machine.device, "dtype": dtype}
        x = torch.randn(t, b, units, **where)
        modules = {"QRNN": QRNN(units, units), "nn.LSTM": nn.LSTM(units, units)}
        products = suite.Products([(t * b, units, 3 * units)], where)
        runs = {name: inference(module.to(**where), x) for name, module in modules.items()}
        return {**runs, "products alone": inference(products)}

    groups = []
    for b, t in itertools.product(BATCHES, LENGTHS):
        sizes = dict(zip("BTH", machine.fit(b, t, UNITS), strict=True))
        run = functools.partial(make, *sizes.values())
        sizes = {name: sizes[name] for name in "TBH"}
        groups.append(Group("figure 4", "inference", sizes, run, ["QRNN"], "products alone", dtype, share=0.05))
    return groups


def groups(machine: Machine) -> list[Group]:
    peer = suite.peer(PEER, fastai, compiles=machine.name == "cuda")
    all_groups = [group for window in (1, 2) for group in layer(machine.fit(*LANGUAGE_MODEL), window, peer, machine)]
    all_groups += [forget_mult(machine.fit(*shape), machine.device) for shape in (LANGUAGE_MODEL, (2000, 1, 256))]
    if not machine.gpu:
        for dtype in (torch.float32, torch.bfloat16):
            all_groups += op(LANGUAGE_MODEL, machine, dtype, 1)
        return all_groups + figure4(machine, torch.float32)
    for shape, dtype in itertools.product(GPU_SHAPES, (torch.bfloat16, torch.float32)):
        all_groups += op(machine.fit(*shape), machine, dtype, None)
    if machine.name == "cuda":
        all_groups.append(serial_kernel())
    return [*all_groups, *figure4(machine, torch.float16)]


if __name__ == "__main__":
    suite.main("qrnn", groups)
