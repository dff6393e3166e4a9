"""QRNN beside its peers and its limits. `nox -s "bench(qrnn)" [-- --device cuda]`, or `python benchmarks/bench_qrnn.py`.

CPU: the layer of the paper's language model beside its matrix product alone and nn.LSTM; ForgetMult beside torchqrnn's loop;
the fused op alone on one core. GPU: the op's traffic over the measured copy bandwidth, and beside a serial kernel with a
thread per channel. Both: the paper's Figure 4, right, that is the inference of a layer of 320 units beside nn.LSTM (cuDNN's
on a GPU). All candidates of a row take turns in one run. Writes results/qrnn-<device>.{json,png} and
qrnn-<device>-figure4.png.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import suite
import torch
from plots import bars, grid
from qrnn import QRNN, functional
from rnnkit_common.testing import alternate, copy_bandwidth, inference, keep_freed_memory, training_step
from torch import Tensor, nn

Times = dict[str, dict[str, float]]

LANGUAGE_MODEL = (105, 20, 640)  # T, B, H of the paper's Figure 4, left
BATCHES, LENGTHS, UNITS = (8, 16, 32, 64, 128, 256), (32, 64, 128, 256, 512), 320  # and right
GPU_SHAPES = [(512, 8, 320), (105, 20, 640), (140, 60, 2500), (1445, 32, 1552), (4096, 8, 1024), (65536, 1, 1024)]

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


def layers(shape: tuple[int, int, int], window: int, device: str, seconds: float) -> dict[str, Times]:
    """Training step and inference of a whole layer, with an input that needs its gradient."""
    t, b, h = shape
    candidates: dict[str, Callable[..., Any]] = {
        "QRNN": QRNN(h, h, window=window).to(device),
        "Linear alone": nn.Linear(window * h, 3 * h).to(device),
        "nn.LSTM": nn.LSTM(h, h).to(device),
    }
    inputs = {name: torch.randn(t, b, h, device=device, requires_grad=True) for name in candidates}
    inputs["Linear alone"] = torch.randn(t, b, window * h, device=device, requires_grad=True)
    grads = {name: torch.randn(t, b, 3 * h if name == "Linear alone" else h, device=device) for name in candidates}
    steps = {name: training_step(m, inputs[name], grads[name]) for name, m in candidates.items()}
    calls = {name: inference(m, inputs[name]) for name, m in candidates.items()}
    return {
        "training step": alternate(steps, seconds=seconds, cuda=device == "cuda"),
        "inference": alternate(calls, seconds=seconds, cuda=device == "cuda"),
    }


def op(shape: tuple[int, int, int], device: str, dtype: torch.dtype, seconds: float) -> Times:
    """The fused op alone, fo-pooling: inference, with zoneout, forward for training, and backward."""
    t, b, h = shape
    gates = torch.randn(t, b, 3 * h, device=device, dtype=dtype)
    leaf, grad = gates.clone().requires_grad_(), torch.randn(t, b, h, device=device, dtype=dtype)
    out, _ = functional.pool(leaf)
    return alternate(
        {
            "inference": inference(functional.pool, gates),
            "inference with zoneout drawn": inference(lambda g: functional.pool(g, zoneout=0.1, training=True), gates),
            "forward": lambda: functional.pool(leaf),
            "backward": lambda: torch.autograd.grad(out, leaf, grad, retain_graph=True),
        },
        seconds=seconds,
        cuda=device == "cuda",
    )


def forget_mult_loop(f: Tensor, x: Tensor) -> Tensor:
    """The loop that torchqrnn has for the CPU."""
    states, h = [], None
    for gate, value in zip(f, (f * x).split(1), strict=True):
        h = (value if h is None else value + (1 - gate) * h).view(value.shape[1:])
        states.append(h)
    return torch.stack(states)


def forget_mult(shape: tuple[int, int, int], seconds: float) -> Times:
    """Forward and backward of the recurrence alone."""
    f, x = torch.rand(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
    grad = torch.randn(shape)
    candidates = {"ForgetMult": lambda f, x: functional.forget_mult(f, x)[0], "Python loop": forget_mult_loop}
    return alternate(
        {name: lambda m=m: torch.autograd.grad(m(f, x), [f, x], grad) for name, m in candidates.items()}, seconds=seconds
    )


def figure4(device: str, dtype: torch.dtype, seconds: float) -> list[dict[str, Any]]:
    """nn.LSTM's time over QRNN's, inference of one layer, for every batch and length of the paper."""
    qrnn, lstm = QRNN(UNITS, UNITS).to(device, dtype), nn.LSTM(UNITS, UNITS).to(device, dtype)
    cells = []
    for b in BATCHES:
        for t in LENGTHS:
            x = torch.randn(t, b, UNITS, device=device, dtype=dtype)
            times = alternate(
                {"QRNN": inference(qrnn, x), "nn.LSTM": inference(lstm, x)}, seconds=seconds, cuda=device == "cuda"
            )
            ratio = times["nn.LSTM"]["median"] / times["QRNN"]["median"]
            cells.append({"B": b, "T": t, "times": times, "speed-up": ratio})
            print(f"  B {b:3} T {t:3}  {1e3 * times['QRNN']['median']:8.3f} ms  {ratio:5.1f} x nn.LSTM", flush=True)
    return cells


def cpu(seconds: float) -> dict[str, Any]:
    keep_freed_memory()
    t, b, h = LANGUAGE_MODEL
    result: dict[str, Any] = {"shape (T, B, H)": LANGUAGE_MODEL}
    for window in (1, 2):
        result[f"layer, window {window}"] = layers(LANGUAGE_MODEL, window, "cpu", seconds)
    result["ForgetMult, forward and backward"] = {
        str(shape): forget_mult(shape, seconds) for shape in (LANGUAGE_MODEL, (2000, 1, 256))
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        times = op(LANGUAGE_MODEL, "cpu", dtype, seconds)
        name = str(dtype).removeprefix("torch.")
        result[f"op, one core, {name}, ns per element"] = {k: 1e9 * v["median"] / (t * b * h) for k, v in times.items()}
    torch.set_num_threads(threads)
    result["figure 4"] = figure4("cpu", torch.float32, seconds / 20)
    return result


def serial_kernel(seconds: float) -> Times:
    """ForgetMult at (T, B, H) = (512, 8, 320) beside a serial kernel, forward."""
    t, b, h = 512, 8, UNITS
    f, x, out = torch.rand(t, b, h, device="cuda"), torch.randn(t, b, h, device="cuda"), torch.empty(t, b, h, device="cuda")
    kernel = torch.cuda._compile_kernel(SERIAL, "serial")
    run = lambda: kernel(grid=(b, 1, 1), block=(h, 1, 1), args=(f, x, out, t, b * h))  # noqa: E731
    run()
    torch.testing.assert_close(out, functional.forget_mult(f, x)[0], rtol=1e-4, atol=1e-4)
    return alternate({"ForgetMult": inference(functional.forget_mult, f, x), "serial": run}, seconds=seconds, cuda=True)


def gpu(seconds: float) -> dict[str, Any]:
    seconds /= 5  # there are many rows
    bandwidth = copy_bandwidth(seconds)
    result: dict[str, Any] = {"copy bandwidth, bytes per second": bandwidth, "shapes": []}
    for shape in GPU_SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            times = op(shape, "cuda", dtype, seconds)
            size = torch.tensor([], dtype=dtype).element_size() * shape[0] * shape[1] * shape[2]
            counts = {"inference": 4, "inference with zoneout drawn": 4, "forward": 4, "backward": 7}
            fraction = {name: n * size / times[name]["median"] / bandwidth for name, n in counts.items()}
            row = {"shape (T, B, H)": shape, "dtype": str(dtype).removeprefix("torch."), "op": times}
            result["shapes"].append({**row, "of copy bandwidth": fraction})
            print(shape, row["dtype"], {k: f"{v:.0%}" for k, v in fraction.items()}, flush=True)
    result["layer, window 1"] = layers(LANGUAGE_MODEL, 1, "cuda", seconds)
    result["serial kernel, (T, B, H) = (512, 8, 320)"] = serial_kernel(seconds)
    result["figure 4"] = figure4("cuda", torch.float32, seconds / 5)
    result["figure 4, float16"] = figure4("cuda", torch.float16, seconds / 5)
    return result


def report(result: dict[str, Any]) -> None:
    """Prints the ratios that the targets speak of."""
    for key, groups in result.items():
        if key.startswith("layer"):
            for kind, times in groups.items():
                print(f"\n{key}, {kind}, (T, B, H) = {LANGUAGE_MODEL}")
                for name, t in times.items():
                    ratio = t["median"] / times["Linear alone"]["median"]
                    print(f"  {name:14}{1e3 * t['median']:9.2f} ms   {ratio:6.2f} x Linear alone")
        if key.startswith("ForgetMult"):
            for shape, times in groups.items():
                ratio = times["Python loop"]["median"] / times["ForgetMult"]["median"]
                print(f"\n{key}, {shape}: {1e3 * times['ForgetMult']['median']:.2f} ms, the Python loop {ratio:.1f} x")
        if key.startswith("op"):
            print(f"\n{key}\n  " + "   ".join(f"{name} {ns:.2f}" for name, ns in groups.items()))


def draw(document: dict[str, Any], stem: Path) -> None:
    """Bars of one layer, and the paper's figure 4."""
    name = suite.machine_name(document)
    title = f"One layer, (T, B, H) = {LANGUAGE_MODEL}, float32, {name}"
    bars(document["layer, window 1"], "QRNN", title, suite.beside(stem, ".png"))
    factors = [[c["speed-up"] for c in document["figure 4"] if c["B"] == b] for b in BATCHES]
    title = f"QRNN over nn.LSTM, inference, {UNITS} units, {name}"
    rows, columns = [f"B = {b}" for b in BATCHES], [f"T = {t}" for t in LENGTHS]
    grid(factors, rows, columns, title, suite.beside(stem, "-figure4.png"))


if __name__ == "__main__":
    suite.main("qrnn", cpu=cpu, gpu=gpu, report=report, draw=draw)
