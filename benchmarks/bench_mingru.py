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
from suite import Group, Run
from torch import nn

PEER = "minGRU-pytorch==0.2.1"
LAYER = (8, 1024, 256)  # B, T, D
LENGTHS = {"cpu": (64, 128, 256, 512, 1024, 2048), "cuda": (64, 256, 1024, 4096, 16384)}
# (B, T, D): the paper's; two of users' reports; FLA's; reinforcement learning; language models
GPU_SHAPES = [
    (64, 512, 256),
    (64, 4096, 256),
    (64, 1000, 100),
    (16, 2048, 128),
    (16, 16384, 128),
    (512, 64, 256),
    (8, 512, 256),
    (8, 4096, 1024),
    (1, 65536, 1024),
]


def their_layer() -> Any:
    from minGRU_pytorch.minGRU import minGRU

    return minGRU


def layer(
    part: str, shape: tuple[int, int, int], peer: Any, device: str, *, lstm: bool = False, **options: Any
) -> list[Group]:
    b, t, d = shape

    def modules() -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {"minGRU": MinGRU(d, d)}
        if lstm:
            found["minLSTM"] = MinLSTM(d, d)
        found["nn.GRU"] = nn.GRU(d, d, batch_first=True)
        if lstm:
            found["nn.LSTM"] = nn.LSTM(d, d, batch_first=True)
        if peer is not None:
            found["minGRU-pytorch"] = peer(d)
        return found

    ours = ["minGRU", "minLSTM"] if lstm else ["minGRU"]
    sizes = {"B": b, "T": t, "D": d}
    return suite.layer(part, sizes, modules, shape, [(b * t, d, 2 * d)], ours=ours, device=device, **options)


def op(shape: tuple[int, int, int], device: str, dtype: torch.dtype, threads: int | None) -> list[Group]:
    b, t, d = shape
    return suite.op(
        "op",
        {"B": b, "T": t, "D": d},
        lambda planes: functional.scan_packed(planes)[0],
        lambda: [torch.randn(b, t, 2 * d, device=device, dtype=dtype)],
        {"inference": 3, "forward": 3, "backward": 5},
        name="scan",
        device=device,
        dtype=dtype,
        threads=threads,
        share=0.5,
    )


def step(device: str) -> Group:
    def make() -> dict[str, Run]:
        x, h = torch.randn(1, 256, device=device), torch.randn(1, 256, device=device)
        return {
            "MinGRU.step": inference(MinGRU(256, 256).to(device).step, x, h.view(1, 1, 1, 256)),
            "MinGRUCell.step": inference(MinGRUCell(256, 256).to(device).step, x, h.view(1, 1, 256)),
            "nn.GRUCell": inference(nn.GRUCell(256, 256).to(device), x, h),
            "products alone": inference(suite.Products([(1, 256, 512)], {"device": device})),
        }

    return Group(
        "step", "one step of a stream", {"B": 1, "D": 256}, make, ["MinGRU.step", "MinGRUCell.step"], "products alone"
    )


def groups(device: str) -> list[Group]:
    peer = suite.peer(PEER, their_layer)
    found = layer("layer", LAYER, peer, device)
    for length in LENGTHS[device]:
        shape = (64, length, 64)
        found += layer("by length", shape, peer, device, lstm=True, kinds=["training step"], share=0.6)
    if device == "cpu":
        for dtype in (torch.float32, torch.bfloat16):
            found += op(LAYER, device, dtype, 1)
    else:
        for shape, dtype in itertools.product(GPU_SHAPES, (torch.float32, torch.bfloat16)):
            found += op(shape, device, dtype, None)
            found += layer("layers", shape, None, device, dtype=dtype, share=0.2)
    return [*found, step(device)]


if __name__ == "__main__":
    suite.main("mingru", groups)
