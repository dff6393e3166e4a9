"""Li-GRU and SLi-GRU beside their peers and limits. `nox -s "bench(ligru)" [-- --device cuda]`, or `python benchmarks/bench_ligru.py`.

CPU: a layer with batch normalisation beside SpeechBrain's (as it is, under jit.script, and with the quadratic slicing of its
backward mended), nn.GRU, nn.LSTM and the layer's matrix products alone, all steps at once; one step of a stream; and time per
step against the number of steps.
GPU: the same peers over the shapes that users have, in microseconds per step, with cuDNN's nn.LSTM in float16 among them.
All candidates of a row take turns in one run. SpeechBrain is fetched into peers/, which git ignores; only its RNN.py is loaded.
Writes results/ligru-<device>.{json,png}.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import suite
import torch
from ligru import LiGRU, SLiGRU
from plots import bars
from rnnkit_common.testing import alternate, inference, keep_freed_memory, training_step
from suite import PEERS
from torch import Tensor, nn

Times = dict[str, dict[str, float]]

SHAPES = {"H = 512": (8, 400, 256, 512), "H = 128": (8, 400, 64, 128)}  # B, T, F, H
GPU_SHAPES = [
    (b, t, f, h) for h in (128, 256, 512, 550, 768, 1024) for b, t, f in ((8, 400, 256), (16, 1024, h), (48, 400, h))
]
LENGTHS = (500, 1000, 2000, 4000)
OURS: dict[str, type[nn.Module]] = {"LiGRU": LiGRU, "SLiGRU": SLiGRU}


class Products(nn.Module):
    """The layer's matrix products, U's for all steps at once: what no recurrence can be faster than."""

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(features, 2 * units, bias=False), nn.Linear(units, 2 * units, bias=False)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return self.w(x), self.u(h)


def speechbrain(*, mended: bool = False) -> Any:
    """SpeechBrain's module nnet.RNN, alone; `mended`: its loop takes its steps from one unbind, so that backward is linear in T."""
    folder = PEERS / "speechbrain-1.1.0"
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(PEERS), "speechbrain==1.1.0"]
        subprocess.run(command, check=True)
        zipfile.ZipFile(PEERS / "speechbrain-1.1.0-py3-none-any.whl").extractall(folder)
    source = (folder / "speechbrain" / "nnet" / "RNN.py").read_text()
    if mended:
        assert source.count("w[:, k]") == 2
        source = source.replace("hiddens = []", "hiddens = []\n        steps = w.unbind(1)").replace("w[:, k]", "steps[k]")
    path = folder / f"rnn{'_mended' if mended else ''}.py"
    path.write_text(source)
    attention, logger = types.ModuleType("speechbrain.nnet.attention"), types.ModuleType("speechbrain.utils.logger")
    for name in ("ContentBasedAttention", "KeyValueAttention", "LocationAwareAttention"):
        setattr(attention, name, object)
    logger.get_logger = logging.getLogger  # type: ignore[attr-defined]
    sys.modules |= {m.__name__: m for m in (attention, logger)}
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def modules(shape: tuple[int, int, int, int], *, peers: bool = True, **options: Any) -> dict[str, nn.Module]:
    """The candidates for a layer, or for several."""
    batch, steps, features, units = shape
    arguments: dict[str, Any] = {"hidden_size": units, "input_shape": (batch, steps, features), **options}
    found = {name: cls(**arguments) for name, cls in OURS.items()}
    if peers:
        theirs, mended = speechbrain(), speechbrain(mended=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            scripted = torch.jit.script(theirs.LiGRU(**arguments))
        found |= {
            "SpeechBrain LiGRU": theirs.LiGRU(**arguments),
            "same, jit.script": scripted,
            "same, mended": mended.LiGRU(**arguments),
            "SpeechBrain SLiGRU": theirs.SLiGRU(**arguments),
        }
    found["nn.GRU"] = nn.GRU(features, units, batch_first=True, **options)
    found["nn.LSTM"] = nn.LSTM(features, units, batch_first=True, **options)
    return found


def products_step(products: Products, x: Tensor, h: Tensor, grad: Tensor) -> Callable[[], None]:
    def run() -> None:
        torch.autograd.backward(products(x, h), [grad, grad])

    return run


def layer(shape: tuple[int, int, int, int], seconds: float) -> dict[str, Times]:
    """Training step and inference of a layer, with an input that needs its gradient."""
    batch, steps, features, units = shape
    x, grad = torch.randn(batch, steps, features, requires_grad=True), torch.randn(batch, steps, units)
    h, grad_products = torch.randn(batch, steps, units, requires_grad=True), torch.randn(batch, steps, 2 * units)
    found, products = modules(shape), Products(features, units)
    runs = {k: training_step(m, x, grad) for k, m in found.items()}
    runs["products alone"] = products_step(products, x, h, grad_products)
    train = alternate(runs, seconds=seconds, warmup=1)
    calls = {k: inference(m.eval(), x) for k, m in found.items()}
    calls["products alone"] = inference(products, x, h)
    return {"training step": train, "inference": alternate(calls, seconds=seconds, warmup=2)}


def stream(seconds: float) -> Times:
    """One step, one sequence."""
    _, _, features, units = SHAPES["H = 512"]
    x, h = torch.randn(1, 1, features), torch.zeros(1, 1, units)
    nets = {name: cls(units, x.shape).eval() for name, cls in OURS.items()}
    calls = {name: inference(net, x, h) for name, net in nets.items()}
    calls["nn.GRU"] = inference(nn.GRU(features, units, batch_first=True), x, h)
    calls["nn.LSTM"] = inference(nn.LSTM(features, units, batch_first=True), x, (h, h))
    calls["SpeechBrain"] = inference(speechbrain().LiGRU(units, x.shape).eval(), x, h)
    return alternate(calls, seconds=seconds)


def per_step(name: str, seconds: float) -> dict[str, float]:
    """Microseconds of a training step for each step in time."""
    batch, _, features, units = SHAPES["H = 128"]
    runs = {}
    for steps in LENGTHS:
        x, grad = torch.randn(batch, steps, features), torch.randn(batch, steps, units)
        runs[str(steps)] = training_step(OURS[name](units, x.shape), x, grad)
    times = alternate(runs, seconds=seconds, warmup=1)
    return {steps: 1e6 * t["median"] / int(steps) for steps, t in times.items()}


def cpu(seconds: float) -> dict[str, Any]:
    keep_freed_memory()
    result: dict[str, Any] = {"layers": {}, "shapes (B, T, F, H)": SHAPES}
    for size, shape in SHAPES.items():
        result["layers"][size] = layer(shape, seconds)
    result["one step of a stream, H = 512"] = stream(seconds)
    result["training, us per step in time, H = 128"] = {name: per_step(name, seconds) for name in OURS}
    return result


def gpu(seconds: float) -> dict[str, Any]:
    """Microseconds per step, for each shape, dtype and number of directions and layers."""
    seconds /= 20  # there are many rows
    rows = []
    for batch, steps, features, units in GPU_SHAPES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for options in ({}, {"bidirectional": True}, {"num_layers": 4}):
                shape = (batch, steps, features, units)
                x = torch.randn(batch, steps, features, device="cuda", dtype=dtype, requires_grad=True)
                width = units * (2 if options.get("bidirectional") else 1)
                grad = torch.randn(batch, steps, width, device="cuda", dtype=dtype)
                row: dict[str, Any] = {"shape (B, T, F, H)": shape, "dtype": str(dtype).removeprefix("torch."), **options}
                peers = steps <= 400 and not options  # theirs take minutes else
                found = {k: m.to("cuda", dtype) for k, m in modules(shape, peers=peers, **options).items()}
                train = {k: training_step(m, x, grad) for k, m in found.items()}
                row["training step"] = alternate(train, seconds=seconds, warmup=2, cuda=True)
                calls = {k: inference(m.eval(), x) for k, m in found.items()}
                row["inference"] = alternate(calls, seconds=seconds, warmup=2, cuda=True)
                for kind in ("training step", "inference"):
                    row[kind] = {k: 1e6 * t["median"] / steps for k, t in row[kind].items()}
                rows.append(row)
                print(json.dumps(row), flush=True)
    return {"us per step in time": rows}


def report(result: dict[str, Any]) -> None:
    """Prints the ratios that the targets speak of."""
    for size, kinds in result.get("layers", {}).items():
        for kind, times in kinds.items():
            print(f"\n{size}, {kind}")
            for name, t in times.items():
                ratios = (t["median"] / times[other]["median"] for other in ("products alone", *OURS))
                print(
                    f"  {name:20}{1e3 * t['median']:9.2f} ms   {{:6.2f}} x products alone {{:7.2f}} x LiGRU {{:7.2f}} x SLiGRU".format(
                        *ratios
                    )
                )
    for name, t in result.get("one step of a stream, H = 512", {}).items():
        print(f"  one step, {name:12}{1e6 * t['median']:9.1f} us")
    for name, times in result.get("training, us per step in time, H = 128", {}).items():
        print(f"  {name}, us per step by T: " + ", ".join(f"{steps}: {us:.1f}" for steps, us in times.items()))


def draw(document: dict[str, Any], stem: Path) -> None:
    """Bars of one layer; of a GPU's rows there are too many for a picture."""
    if "layers" in document:
        batch, steps, features, units = SHAPES["H = 512"]
        title = f"Li-GRU and SLi-GRU, (B, T, F, H) = {batch, steps, features, units}, {suite.machine_name(document)}"
        bars(document["layers"]["H = 512"], list(OURS), title, suite.beside(stem, ".png"))


if __name__ == "__main__":
    suite.main("ligru", cpu=cpu, gpu=gpu, report=report, draw=draw, seconds=12.0)
