"""SRU beside its peers and its limits. `nox -s "bench(sru)" [-- --device cuda]`, or `python benchmarks/bench_sru.py`.

CPU: two layers beside their matrix products alone, sru 2.6.0 and nn.LSTM; a decoding step; the fused op alone on one core.
GPU: a layer's forward and backward over the grid of shapes that upstream's users have, beside cuDNN's nn.LSTM, upstream's
kernels (with the one change that makes them compile on today's torch) and the op's traffic over the measured copy
bandwidth. All candidates of a row take turns in one run. Upstream is fetched into peers/, which git ignores. Writes
results/sru-<device>.{json,png}.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import suite
import torch
from plots import bars
from rnnkit_common.testing import alternate, copy_bandwidth, inference, keep_freed_memory, training_step
from sru import SRU, functional
from suite import PEERS
from torch import Tensor, nn

Times = dict[str, dict[str, float]]

SHAPE, LAYERS = (128, 32, 512), 2  # T, B, D of the first paper's figure
GPU_SHAPES = [(t, b, d) for t in (32, 128, 512, 2048) for b in (1, 8, 32) for d in (128, 256, 512, 1024, 2048)]
TRAFFIC = {"inference": 5, "forward": 5, "backward": 9}  # elements per output, and 1/16 of a state


class Products(nn.Module):
    """The layers' matrix products, each with an input and a gradient of its own: what no recurrence can be faster than."""

    def __init__(self, size: int, layers: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(size, 3 * size) / size**0.5 for _ in range(layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x @ weight for weight in self.weights]


def upstream() -> Any:
    """The module `sru` of sru 2.6.0, imported beside ours."""
    folder = PEERS / "sru-2.6.0"
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(PEERS), "sru==2.6.0"]
        subprocess.run(command, check=True)
        zipfile.ZipFile(PEERS / "sru-2.6.0-py3-none-any.whl").extractall(folder)
        kernels = folder / "sru" / "csrc" / "sru_cuda_impl.cpp"
        kernels.write_text(kernels.read_text().replace("U.type()", "U.scalar_type()"))
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "sru"}
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("sru")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == "sru"]:
            del sys.modules[name]
        sys.modules.update(ours)


def products_step(products: Products, x: Tensor, grad: Tensor) -> Callable[[], None]:
    def run() -> None:
        torch.autograd.backward(products(x), [grad] * len(products.weights))

    return run


def stacks(seconds: float, peer: Any) -> dict[str, Times]:
    """Training step and inference of two layers, with an input that needs its gradient."""
    t, b, d = SHAPE
    modules = {"SRU": SRU(d, d, LAYERS), "sru 2.6.0": peer.SRU(d, d, LAYERS), "nn.LSTM": nn.LSTM(d, d, LAYERS)}
    products = Products(d, LAYERS)
    x, grad = torch.randn(t, b, d, requires_grad=True), torch.randn(t, b, d)
    steps = {name: training_step(module, x, grad) for name, module in modules.items()}
    steps["products alone"] = products_step(products, x, torch.randn(t, b, 3 * d))
    calls = {name: inference(module, x) for name, module in {**modules, "products alone": products}.items()}
    return {"training step": alternate(steps, seconds=seconds), "inference": alternate(calls, seconds=seconds)}


def decoding(seconds: float, peer: Any) -> Times:
    """A step of two layers, one sequence."""
    d = SHAPE[2]
    ours, theirs, lstm = SRU(d, d, LAYERS).eval(), peer.SRU(d, d, LAYERS).eval(), nn.LSTM(d, d, LAYERS)
    x, c = torch.randn(1, d), torch.randn(LAYERS, 1, d)
    row = x[None]
    return alternate(
        {
            "SRU.step": inference(ours.step, x, c),
            "sru 2.6.0": inference(theirs, row, c),
            "nn.LSTM": inference(lstm, row, (c, c)),
        },
        seconds=seconds,
    )


def op(shape: tuple[int, int, int], device: str, dtype: torch.dtype, v1: bool, seconds: float) -> Times:
    """The fused op alone: inference, forward for training, and backward."""
    t, b, d = shape
    u, x = torch.randn(t, b, 3 * d, device=device, dtype=dtype), torch.randn(t, b, d, device=device, dtype=dtype)
    bias, weight_c = torch.zeros(2 * d, device=device), None if v1 else torch.rand(2 * d, device=device) - 0.5
    leaves = [u.clone().requires_grad_(), x.clone().requires_grad_()]
    parameters = [p.clone().requires_grad_() for p in (bias, weight_c) if p is not None]
    grad = torch.randn(t, b, d, device=device, dtype=dtype)

    def forward() -> Tensor:
        return functional.recurrence(leaves[0], parameters[0], None if v1 else parameters[1], leaves[1])[0]

    out = forward()
    return alternate(
        {
            "inference": inference(functional.recurrence, u, bias, weight_c, x),
            "forward": forward,
            "backward": lambda: torch.autograd.grad(out, [*leaves, *parameters], grad, retain_graph=True),
        },
        seconds=seconds,
        cuda=device == "cuda",
    )


def cpu(seconds: float) -> dict[str, Any]:
    keep_freed_memory()
    peer = upstream()
    t, b, d = SHAPE
    result: dict[str, Any] = {"shape (T, B, D)": SHAPE, "layers": LAYERS, "stack": stacks(seconds, peer)}
    result["one step, B = 1"] = decoding(seconds, peer)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        for v1 in (False, True):
            name = f"op{', first version' if v1 else ''}, one core, {str(dtype).removeprefix('torch.')}, ns per element"
            times = op(SHAPE, "cpu", dtype, v1, seconds)
            result[name] = {k: 1e9 * v["median"] / (t * b * d) for k, v in times.items()}
    torch.set_num_threads(threads)
    return result


def gpu(seconds: float) -> dict[str, Any]:
    seconds /= 10  # there are many rows
    bandwidth, peer = copy_bandwidth(seconds), upstream()
    result: dict[str, Any] = {"copy bandwidth, bytes per second": bandwidth, "shapes": []}
    for t, b, d in GPU_SHAPES:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            options = {"device": "cuda", "dtype": dtype}
            modules: dict[str, nn.Module] = {"SRU": SRU(d, d, 1, **options), "nn.LSTM": nn.LSTM(d, d, **options)}
            if dtype != torch.bfloat16:  # upstream has none
                modules["sru 2.6.0"] = peer.SRU(d, d, 1, amp_recurrence_fp16=True).to("cuda", dtype)
            x, grad = torch.randn(t, b, d, **options, requires_grad=True), torch.randn(t, b, d, **options)
            steps = {name: training_step(module, x, grad) for name, module in modules.items()}
            layer = alternate(steps, seconds=seconds, cuda=True)
            times = {"v2": op((t, b, d), "cuda", dtype, False, seconds), "v1": op((t, b, d), "cuda", dtype, True, seconds)}
            size = grad.element_size() * t * b * d
            fractions = {
                kind: {name: n * size / row[name]["median"] / bandwidth for name, n in TRAFFIC.items()}
                for kind, row in times.items()
            }
            row = {"shape (T, B, D)": (t, b, d), "dtype": str(dtype).removeprefix("torch."), "layer": layer, "op": times}
            result["shapes"].append({**row, "of copy bandwidth": fractions})
            ratios = {name: f"{entry['median'] / layer['SRU']['median']:.1f} x" for name, entry in layer.items()}
            print((t, b, d), row["dtype"], ratios, {k: f"{v:.0%}" for k, v in fractions["v2"].items()}, flush=True)
    return result


def report(result: dict[str, Any]) -> None:
    """Prints the ratios that the targets speak of."""
    for kind, times in result.get("stack", {}).items():
        print(f"\n{LAYERS} layers, {kind}, (T, B, D) = {SHAPE}")
        for name, t in times.items():
            ratio, ours = (t["median"] / times[other]["median"] for other in ("products alone", "SRU"))
            print(f"  {name:16}{1e3 * t['median']:9.2f} ms   {ratio:6.2f} x products alone   {ours:6.2f} x SRU")
    for name, t in result.get("one step, B = 1", {}).items():
        print(f"  one step, {name:12}{1e6 * t['median']:9.1f} us")
    for key, groups in result.items():
        if key.startswith("op"):
            print(f"\n{key}\n  " + "   ".join(f"{name} {ns:.2f}" for name, ns in groups.items()))


def draw(document: dict[str, Any], stem: Path) -> None:
    """Bars of the stack; on a GPU, of one layer in each dtype."""
    layers, groups = LAYERS, document.get("stack")
    if groups is None:
        wanted = [row for row in document["shapes"] if row["shape (T, B, D)"] == list(SHAPE)]
        layers, groups = 1, {f"training step, {row['dtype']}": row["layer"] for row in wanted}
    title = f"SRU, {layers} layer(s), (T, B, D) = {SHAPE}, {suite.machine_name(document)}"
    bars(groups, ["SRU"], title, suite.beside(stem, ".png"))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Running SRU on CPU with grad_enabled")
    suite.main("sru", cpu=cpu, gpu=gpu, report=report, draw=draw)
