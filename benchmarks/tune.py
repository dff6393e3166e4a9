"""Tries what a GPU's engines choose from, scans' shapes of a launch or Li-GRU's engines: python benchmarks/tune.py scan

Each candidate (for `scan`, threads along time in a block, and blocks in a cluster or, with g, in the grid, as RNNKIT_SCAN
has it, of which `rnnkit/cuda/tuning.h` chooses; for `ligru`, an RNNKIT_LIGRU_ENGINE, of which its choice.h does) runs in a
process of its own, first for its results, which have to be those of the choice that is made, then for its time. The table
has a row for each problem, a column for each candidate, and device microseconds of forward and backward; the choice itself
is the first column. What a candidate cannot do is a nan.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rnnkit_common.testing import alternate
from suite import Machine
from torch import Tensor

Problems = Iterator[tuple[str, Callable[..., Tensor], list[Tensor]]]  # name, what is run, and its inputs

MINGRU = ((8, 4096, 1024), (64, 512, 256), (512, 64, 256), (16, 2048, 128), (1, 65536, 1024), (1, 16384, 256))
OTHERS = ((32, 128, 512), (8, 512, 256))
LIGRU = ((4, 400, 64), (8, 400, 256), (16, 400, 512), (128, 200, 512), (48, 400, 1024), (16, 400, 2048))  # B, T, H


def scans(machine: Machine) -> Problems:
    """Many channels, and few; kinds of two, three and four planes; 16 and 32 bits."""
    import mingru
    import qrnn
    import sru

    for dtype in (torch.bfloat16, torch.float32):
        where = {"device": machine.device, "dtype": dtype}
        bits = f"{8 * dtype.itemsize} bits"
        for shape in MINGRU:
            b, t, d = machine.fit(*shape)
            torch.manual_seed(0)
            planes = torch.randn(b, t, 2 * d, **where)
            yield f"minGRU {(b, t, d)}, {bits}", lambda x: mingru.functional.scan_packed(x)[0], [planes]
        for shape in OTHERS:
            b, t, d = machine.fit(*shape)
            torch.manual_seed(0)
            gates, u = torch.randn(b, t, 3 * d, **where), torch.randn(b, t, 3 * d, **where)
            yield f"fo-pooling {(b, t, d)}, {bits}", lambda x: qrnn.functional.pool(x, batch_first=True)[0], [gates]
            bias = torch.zeros(2 * d, device=machine.device)
            run = lambda u, x, bias=bias: sru.functional.recurrence(u, bias, None, x, batch_first=True)[0]  # noqa: E731
            yield f"SRU {(b, t, d)}, {bits}", run, [u, torch.randn(b, t, d, **where)]


def recurrences(machine: Machine) -> Problems:
    """Of Li-GRU and SLi-GRU, small and large, in 16 and 32 bits."""
    import ligru

    for dtype in (torch.bfloat16, torch.float32):
        for shape in LIGRU:
            b, t, h = machine.fit(*shape)
            torch.manual_seed(0)
            g = torch.randn(b, t, 2 * h, device=machine.device, dtype=dtype)
            u = torch.randn(2 * h, h, device=machine.device, dtype=dtype) / h**0.5
            for name, normalize in (("Li-GRU", False), ("SLi-GRU", True)):
                run = lambda g, u, n=normalize: ligru.functional.recurrence(g, u, normalize=n, nonlinearity="tanh")[0]  # noqa: E731
                yield f"{name} {(b, t, h)}, {8 * dtype.itemsize} bits", run, [g, u]


# The environment variable, its values, and what they are tried on.
TUNED: dict[str, tuple[str, tuple[str, ...], Callable[[Machine], Problems]]] = {
    "scan": (
        "RNNKIT_SCAN",
        ("1x1", "2x1", "4x1", "6x1", "8x1", "4x2", "8x2", "8x4", "8x8", "8x16", "8x32g", "8x64g"),
        scans,
    ),
    "ligru": ("RNNKIT_LIGRU_ENGINE", ("cluster", "async", "grid", "steps"), recurrences),
}


def microseconds(run: Callable[[], object], seconds: float, cuda: bool) -> float:
    """The median of a call; on a GPU of its kernels alone, captured in a CUDA graph."""
    calls = 10 if cuda else 1
    replay: Callable[[], object] = run
    if cuda:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()
        replay = graph.replay
    times = alternate({"run": replay}, seconds=seconds, cuda=cuda)
    return 1e6 * float(times["run"]["median"]) / calls


def measure(machine: Machine, problems: Problems, expected: Path, seconds: float) -> dict[str, tuple[float, float]]:
    """Microseconds, forward and backward, by problem; the results are written where they are not there yet."""
    known = torch.load(expected) if expected.exists() else {}
    times = {}
    for name, run, inputs in problems:
        leaves = [t.detach().requires_grad_() for t in inputs]

        def forward(run: Callable[..., Tensor] = run, leaves: list[Tensor] = leaves) -> Tensor:
            return run(*leaves)

        try:
            out = forward()
        except RuntimeError as error:
            if "cannot hold" not in str(error):
                raise
            times[name] = (float("nan"), float("nan"))
            continue
        weights = torch.linspace(-1, 1, out.shape[-1], device=out.device, dtype=out.dtype).expand_as(out)

        def backward(out: Tensor = out, leaves: list[Tensor] = leaves, weights: Tensor = weights) -> object:
            return torch.autograd.grad(out, leaves, weights, retain_graph=True)

        results = [t.detach().cpu()[..., -64:, -8:] for t in (out, *backward())]  # type: ignore[misc]
        tolerance = 2e-2 if out.dtype == torch.bfloat16 else 1e-4
        torch.testing.assert_close(results, known.setdefault(name, results), rtol=tolerance, atol=tolerance)
        cuda = machine.device == "cuda"
        times[name] = (microseconds(forward, seconds, cuda), microseconds(backward, seconds, cuda))
    torch.save(known, expected)
    return times


def main() -> None:
    """Runs all candidates and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("engine", choices=TUNED, help="what is tuned")
    parser.add_argument("--device", choices=["cpu", "cuda", "emulated"], default="cuda")
    parser.add_argument("--seconds", type=float, default=0.05, help="for each measurement")
    parser.add_argument("--folder", type=Path, help="where tune_ENGINE.json goes")
    parser.add_argument("--expected", type=Path, help=argparse.SUPPRESS)  # of one candidate's process
    options = parser.parse_args()
    if options.expected is not None:
        machine = Machine(options.device)
        print(json.dumps(measure(machine, TUNED[options.engine][2](machine), options.expected, options.seconds)))
        return
    variable, candidates, _ = TUNED[options.engine]
    columns: dict[str, dict[str, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for candidate in ("", *candidates):
            environment = {**os.environ, **({variable: candidate} if candidate else {})}
            command = [
                sys.executable,
                __file__,
                options.engine,
                "--device",
                options.device,
                "--seconds",
                str(options.seconds),
            ]
            done = subprocess.run(
                [*command, "--expected", f"{folder}/expected.pt"], env=environment, capture_output=True, text=True
            )
            if done.returncode:
                print(f"{candidate or 'chosen'} failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            columns[candidate or "chosen"] = json.loads(done.stdout.splitlines()[-1])
            if options.folder is not None:
                (options.folder / f"tune_{options.engine}.json").write_text(json.dumps(columns, indent=1) + "\n")
    print("| device us, forward / backward | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in columns["chosen"]:
        cells = [f"{column[name][0]:.1f} / {column[name][1]:.1f}" for column in columns.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
