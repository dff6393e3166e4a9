"""minGRU beside its peers and its limits. `nox -s bench -- mingru`, or `python benchmarks/bench_mingru.py`.

The whole layer beside its matrix product alone, nn.GRU and minGRU-pytorch; the paper's figure, a training step of 64 sequences
against their length, with minLSTM; the op alone beside a copy that moves as many bytes (3 elements per output forward, 5
backward), on one core of a CPU; one step of a stream beside nn.GRUCell.
"""

from __future__ import annotations

import itertools
from typing import Any

import suite
import torch
from mingru import MinGRU, MinGRUCell, MinLSTM, functional
from rnnkit_common.testing import inference
from suite import Group, Machine, Run
from torch import nn

PEER = "minGRU-pytorch==0.2.1"
LAYER = (8, 1024, 256)  # B, T, D
LENGTHS, GPU_LENGTHS = (64, 128, 256, 512, 1024, 2048), (64, 256, 1024, 4096)
# (B, T, D): language models; FLA's; the paper's; reinforcement learning; few channels and many steps
GPU_SHAPES = [
    (8, 4096, 1024),
    (64, 512, 256),
    (512, 64, 256),
    (16, 2048, 128),
    (1, 65536, 1024),
    (1, 16384, 256),
]


def their_layer() -> Any:
    from minGRU_pytorch.minGRU import minGRU

    return minGRU


def layer(
    part: str, shape: tuple[int, ...], peer: Any, machine: Machine, *, lstm: bool = False, **options: Any
) -> list[Group]:
    b, t, d = shape

    def modules() -> dict[str, nn.Module]:
        models: dict[str, nn.Module] = {"minGRU": MinGRU(d, d)}
        if lstm:
            models["minLSTM"] = MinLSTM(d, d)
        models["nn.GRU"] = nn.GRU(d, d, batch_first=True)
        if lstm:
            models["nn.LSTM"] = nn.LSTM(d, d, batch_first=True)
        if peer is not None:
            models["minGRU-pytorch"] = peer(d)
        return models

    ours = ["minGRU", "minLSTM"] if lstm else ["minGRU"]
    sizes = {"B": b, "T": t, "D": d}
    return suite.layer(part, sizes, modules, shape, [(b * t, d, 2 * d)], ours=ours, machine=machine, **options)


def op(shape: tuple[int, ...], machine: Machine, dtype: torch.dtype, threads: int | None) -> list[Group]:
    b, t, d = shape
    return suite.op(
        "op",
        {"B": b, "T": t, "D": d},
        lambda planes: functional.scan_packed(planes)[0],
        lambda: [torch.randn(b, t, 2 * d, device=machine.device, dtype=dtype)],
        {"inference": 3, "backward": 5} if machine.gpu else {"inference": 3, "forward": 3, "backward": 5},
        name="scan",
        machine=machine,
        dtype=dtype,
        threads=threads,
        share=0.5,
    )


def step(device: str) -> Group:
    def make() -> dict[str, Run]:
        x, h = torch.randn(1, 256, device=device), torch.randn(1, 256, device=device)
        return {
            "MinGRU.step": inference(MinGRU(256, 256).to(device).step, x, h.view(1, 1, 1, 256)),
            "MinGRUCell.step": inference(MinGRUCell(256, 256).to(device).step, x, [h.view(1, 1, 256)]),
            "nn.GRUCell": inference(nn.GRUCell(256, 256).to(device), x, h),
            "products alone": inference(suite.Products([(1, 256, 512)], {"device": device})),
        }

    return Group(
        "step", "one step of a stream", {"B": 1, "D": 256}, make, ["MinGRU.step", "MinGRUCell.step"], "products alone"
    )


def groups(machine: Machine) -> list[Group]:
    peer = suite.peer(PEER, their_layer)
    all_groups = layer("layer", machine.fit(*LAYER), peer, machine)
    if not machine.gpu:
        for length in LENGTHS:
            shape = (64, length, 64)
            all_groups += layer("by length", shape, peer, machine, lstm=True, kinds=["training step"], share=0.6)
        for dtype in (torch.float32, torch.bfloat16):
            all_groups += op(LAYER, machine, dtype, 1)
        return [*all_groups, step(machine.device)]
    all_groups.append(step(machine.device))
    for shape, dtype in itertools.product(GPU_SHAPES, (torch.bfloat16, torch.float32)):
        all_groups += op(machine.fit(*shape), machine, dtype, None)
    for length in GPU_LENGTHS:
        shape = machine.fit(64, length, 64)
        all_groups += layer("by length", shape, peer, machine, lstm=True, kinds=["training step"], share=0.6)
    for shape in GPU_SHAPES[:4]:
        all_groups += layer("layers", machine.fit(*shape), None, machine, dtype=torch.bfloat16, share=0.2)
    return all_groups


if __name__ == "__main__":
    suite.main("mingru", groups)
