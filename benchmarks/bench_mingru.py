"""minGRU beside its peers and its limits. `nox -s "bench(mingru)" [-- --device cuda]`, or `python benchmarks/bench_mingru.py`.

CPU: the whole layer beside its nn.Linear alone, nn.GRU and minGRU-pytorch; the op alone on one core; one step beside
nn.GRUCell. GPU: the op's traffic over the measured copy bandwidth (3 elements per output forward, 5 backward), and the
layer beside cuDNN's nn.GRU. All candidates of a row take turns in one run. Writes results/mingru-<device>.{json,png}.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import suite
import torch
from mingru import MinGRU, MinGRUCell, functional
from plots import bars
from rnnkit_common.testing import alternate, copy_bandwidth, inference, keep_freed_memory, training_step
from torch import nn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

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
Times = dict[str, dict[str, float]]


def layers(shape: tuple[int, int, int], device: str, dtype: torch.dtype, peer: bool, seconds: float) -> dict[str, Times]:
    """Training step and inference of a whole layer, with an input that needs its gradient."""
    b, t, d = shape
    x = torch.randn(b, t, d, device=device, dtype=dtype, requires_grad=True)
    candidates: dict[str, nn.Module] = {
        "minGRU": MinGRU(d, d),
        "Linear alone": nn.Linear(d, 2 * d),
        "nn.GRU": nn.GRU(d, d, batch_first=True),
    }
    if peer:
        from minGRU_pytorch.minGRU import minGRU

        candidates["minGRU-pytorch"] = minGRU(d)
    candidates = {name: module.to(device, dtype) for name, module in candidates.items()}
    grads = {
        name: torch.randn(b, t, 2 * d if name == "Linear alone" else d, device=device, dtype=dtype) for name in candidates
    }
    cuda = device == "cuda"
    return {
        "training step": alternate(
            {name: training_step(m, x, grads[name]) for name, m in candidates.items()}, seconds=seconds, cuda=cuda
        ),
        "inference": alternate({name: inference(m, x) for name, m in candidates.items()}, seconds=seconds, cuda=cuda),
    }


def op(shape: tuple[int, int, int], device: str, dtype: torch.dtype, seconds: float) -> Times:
    """The scan alone: inference, forward for training, and backward."""
    b, t, d = shape
    planes = torch.randn(b, t, 2 * d, device=device, dtype=dtype)
    leaf = planes.clone().requires_grad_()
    grad = torch.randn(b, t, d, device=device, dtype=dtype)
    out, _ = functional.scan_packed(leaf)
    return alternate(
        {
            "inference": inference(functional.scan_packed, planes),
            "forward": lambda: functional.scan_packed(leaf),
            "backward": lambda: torch.autograd.grad(out, leaf, grad, retain_graph=True),
        },
        seconds=seconds,
        cuda=device == "cuda",
    )


def cpu(seconds: float) -> dict[str, Any]:
    keep_freed_memory()
    shape = (8, 1024, 256)
    result: dict[str, Any] = {"shape": shape, "layer": layers(shape, "cpu", torch.float32, True, seconds)}
    elements = shape[0] * shape[1] * shape[2]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        times = op(shape, "cpu", dtype, seconds)
        name = str(dtype).removeprefix("torch.")
        result[f"op, one core, {name}, ns per element"] = {k: 1e9 * v["median"] / elements for k, v in times.items()}
    torch.set_num_threads(threads)
    x, h = torch.randn(1, 256), torch.randn(1, 256)
    result["step, B=1, D=256"] = alternate(
        {
            "MinGRU.step": inference(MinGRU(256, 256).step, x, h.view(1, 1, 1, 256)),
            "MinGRUCell.step": inference(MinGRUCell(256, 256).step, x, h.view(1, 1, 256)),
            "nn.GRUCell": inference(nn.GRUCell(256, 256), x, h),
        },
        seconds=seconds,
        warmup=200,
    )
    return result


def gpu(seconds: float) -> dict[str, Any]:
    bandwidth = copy_bandwidth(seconds)
    one = torch.zeros(1, device="cuda")
    launch = alternate({"launch": lambda: one.add_(1)}, seconds=seconds, cuda=True)["launch"]["median"]
    result: dict[str, Any] = {"copy bandwidth, bytes per second": bandwidth, "one launch, seconds": launch, "shapes": []}
    for shape in GPU_SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            times = op(shape, "cuda", dtype, seconds)
            size = torch.tensor([], dtype=dtype).element_size() * shape[0] * shape[1] * shape[2]
            fraction = {
                name: elements * size / times[name]["median"] / bandwidth
                for name, elements in (("inference", 3), ("forward", 3), ("backward", 5))
            }
            row = {"shape": shape, "dtype": str(dtype).removeprefix("torch."), "op": times, "of copy bandwidth": fraction}
            row["layer"] = layers(shape, "cuda", dtype, False, seconds)
            result["shapes"].append(row)
            torch.cuda.empty_cache()
            print(shape, row["dtype"], {k: f"{v:.0%}" for k, v in fraction.items()}, flush=True)
    return result


def report(result: dict[str, Any]) -> None:
    """Prints the ratios that the targets speak of."""
    for kind, times in result.get("layer", {}).items():
        linear = times["Linear alone"]["median"]
        print(f"\n{kind}, (B, T, D) = {tuple(result['shape'])}")
        for name, t in times.items():
            print(f"  {name:16}{1e3 * t['median']:9.2f} ms   {t['median'] / linear:6.2f} x Linear alone")
    for key, value in result.items():
        if key.startswith("op,"):
            print(f"\n{key}\n  " + "   ".join(f"{name} {ns:.2f}" for name, ns in value.items()))
    for name, t in result.get("step, B=1, D=256", {}).items():
        print(f"  step, B=1, D=256, {name:16}{1e6 * t['median']:9.1f} us")


def draw(document: dict[str, Any], stem: Path) -> None:
    """Bars of one layer; on a GPU, shares of the copy bandwidth."""
    if "layer" in document:
        title = f"One layer, (B, T, D) = {tuple(document['shape'])}, float32, {suite.machine_name(document)}"
        bars(document["layer"], ["minGRU"], title, suite.beside(stem, ".png"))
        return
    figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
    rows = [row for row in document["shapes"] if row["dtype"] == "bfloat16"]
    for offset, kind, color in ((-0.2, "forward", "#c8553d"), (0.2, "backward", "#3b6ea5")):
        heights = [100 * row["of copy bandwidth"][kind] for row in rows]
        axis.bar([i + offset for i in range(len(rows))], heights, 0.38, label=kind, color=color)
    axis.set_xticks(range(len(rows)), ["x".join(map(str, row["shape"])) for row in rows], rotation=20)
    axis.set(ylabel="% of copy bandwidth", title=f"minGRU scan, bfloat16, {suite.machine_name(document)}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(suite.beside(stem, ".png"), dpi=150)


if __name__ == "__main__":
    suite.main("mingru", cpu=cpu, gpu=gpu, report=report, draw=draw)
