"""RNN-T losses beside their peers. `nox -s "bench(rnnt_loss)" [-- --device cuda]`, or `python benchmarks/bench_rnnt_loss.py`.

CPU, (B, T, S, C) = (8, 200, 50, 500) in float32: the exact loss from logits, the smoothed loss, and the whole pruned step of
icefall's recipes (smoothed loss, ranges, pruning, a tanh joiner of width 512, pruned loss; both losses go backward), beside
torchaudio 2.11 and fast_rnnt 1.3, and beside the joiner's products alone; time, and peak memory beyond the inputs.
GPU: the protocol of csukuangfj/transducer-loss-benchmarking, whose table fast_rnnt's README has, with shapes drawn to the same
means and maxima instead of LibriSpeech's: batches of 30, or sorted up to 10,000 frames, and a joiner before each loss.
All candidates of a row take turns in one run. Peers are fetched into peers/, which git ignores; fast_rnnt is compiled from its
sources as C++17, which its own build, made for C++14, does not do with today's torch.
Writes results/rnnt_loss-<device>.{json,png}.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import subprocess
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rnnt_loss as ours
import suite
import torch
from plots import bars
from rnnkit_common.testing import alternate, copy_bandwidth, keep_freed_memory
from suite import PEERS
from torch import Tensor, nn

SHAPE = (8, 200, 50, 500)  # B, T, S, C
WIDTH, S_RANGE = 512, 5
Run = Callable[[], Any]


def fetch(requirement: str, *options: str) -> Path:
    """A file of PyPI in peers/."""
    name = requirement.split("==")[0]
    if not list(PEERS.glob(f"{name}-*.whl")) + list(PEERS.glob(f"{name}-*.tar.gz")):
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(PEERS), *options, requirement]
        subprocess.run(pip, check=True)
    (found,) = [*PEERS.glob(f"{name}-*.whl"), *PEERS.glob(f"{name}-*.tar.gz")]
    return found


def torchaudio() -> Any:
    """torchaudio.functional.rnnt_loss's op. Its wheel on PyPI wants CUDA's libraries, of which CPU-only torch gets empty ones."""
    wheel = fetch("torchaudio==2.11.0")
    folder = PEERS / "torchaudio-2.11.0"
    if not folder.exists():
        zipfile.ZipFile(wheel).extractall(folder)
    if torch.version.cuda is None:
        source = PEERS / "empty.c"
        missing = ["aoti_torch_device_type_cuda", "aoti_torch_get_current_cuda_stream", "torch_c10_cuda_check_msg"]
        missing += ["torch_c10_cuda_free_error_msg", "torch_cuda_stream_synchronize", "torch_get_cuda_stream_from_pool"]
        missing += ["torch_set_current_cuda_stream"]
        runtime = ["__cudaGetKernel", "__cudaLaunchKernel", "__cudaPopCallConfiguration", "__cudaPushCallConfiguration"]
        runtime += ["__cudaRegisterFatBinary", "__cudaRegisterFatBinaryEnd", "__cudaRegisterFunction", "__cudaRegisterVar"]
        runtime += ["__cudaUnregisterFatBinary", "cudaGetLastError", "cudaMemcpyAsync", "cudaMemset", "cudaSetDevice"]
        for name, symbols in (("libc10_cuda.so", missing), ("libtorch_cuda.so", []), ("libcudart.so.13", runtime)):
            source.write_text("\n".join(f"int {symbol}(void) {{ return 0; }}" for symbol in symbols))
            version = PEERS / "empty.map"
            version.write_text("libcudart.so.13 { global: *; };\n")
            script = [f"-Wl,--version-script={version}"] if name.startswith("libcudart") else []
            options = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", *script, str(source), "-o", str(PEERS / name)]
            subprocess.run(["gcc", *options], check=True)
            ctypes.CDLL(str(PEERS / name), mode=ctypes.RTLD_GLOBAL)
    torch.ops.load_library(str(folder / "torchaudio" / "lib" / "libtorchaudio.abi3.so"))

    class Loss(torch.autograd.Function):
        """As torchaudio registers it: gradients are computed with the costs."""

        @staticmethod
        def forward(ctx: Any, logits: Tensor, targets: Tensor, frames: Tensor, symbols: Tensor) -> Tensor:
            costs, ctx.grads = torch.ops.torchaudio.rnnt_loss_forward(logits, targets, frames, symbols, 0, -1.0, True)
            return costs

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
            return grad[:, None, None, None] * ctx.grads, None, None, None

    return lambda logits, targets, frames, symbols: Loss.apply(logits, targets, frames, symbols).sum()


def fast_rnnt(cuda: bool) -> Any:
    """fast_rnnt 1.3, from its sources."""
    from torch.utils import cpp_extension

    folder = PEERS / "fast_rnnt-1.3"
    if not folder.exists():
        archive = next(PEERS.glob("fast_rnnt-*.tar.gz"), None)
        archive = archive or fetch("fast_rnnt==1.3", "--no-binary=:all:", "--no-build-isolation")
        with tarfile.open(archive) as file:
            file.extractall(PEERS, filter="data")
    names = ["fast_rnnt/csrc/mutual_information_cpu.cu", "fast_rnnt/python/csrc/fast_rnnt.cu"]
    names += ["fast_rnnt/python/csrc/mutual_information.cu"]
    if cuda:
        sources = [folder / name for name in [*names, "fast_rnnt/csrc/mutual_information_cuda.cu"]]
    else:
        sources = []
        for name in names:
            sources.append(folder / (Path(name).stem + str(len(sources)) + ".cpp"))
            sources[-1].write_text(f'#include "{folder / name}"\n')
    flags = ["-O3", "-w", *(["-DFT_WITH_CUDA"] if cuda else [])]
    build = folder / ("build-cuda" if cuda else "build")
    build.mkdir(exist_ok=True)
    os.environ.setdefault("MAX_JOBS", "2")
    cpp_extension.load(
        "_fast_rnnt", [str(s) for s in sources], extra_cflags=flags, extra_cuda_cflags=flags, extra_include_paths=[str(folder)],
        build_directory=str(build), with_cuda=cuda,
    )  # fmt: skip
    sys.path.insert(0, str(build))
    package = types.ModuleType("fast_rnnt")
    package.__path__ = [str(folder / "fast_rnnt" / "python" / "fast_rnnt")]
    sys.modules["fast_rnnt"] = package
    return importlib.import_module("fast_rnnt.rnnt_loss")


def backward(loss: Tensor, *leaves: Tensor) -> None:
    torch.autograd.grad(loss, leaves)  # which keeps nothing, unlike loss.backward()


class Step:
    """The pruned step, with any package of fast_rnnt's interface; the smoothed loss is of the joiner's inputs, as in the protocol."""

    def __init__(self, am: Tensor, lm: Tensor, symbols: Tensor, boundary: Tensor, classes: int) -> None:
        self.am, self.lm, self.symbols, self.boundary = am, lm, symbols, boundary
        self.output = nn.Linear(WIDTH, classes, device=am.device)
        self.leaves = [am, lm, *self.output.parameters()]

    def simple(self, package: Any) -> tuple[Tensor, Tensor]:
        loss, grads = package.rnnt_loss_smoothed(
            lm=self.lm, am=self.am, symbols=self.symbols, termination_symbol=0,
            lm_only_scale=0.25, am_only_scale=0.0, boundary=self.boundary, reduction="sum", return_grad=True,
        )  # fmt: skip
        return loss, package.get_rnnt_prune_ranges(*grads, self.boundary, S_RANGE)

    def in_turn(self, package: Any) -> None:
        simple, ranges = self.simple(package)
        am, lm = package.do_rnnt_pruning(am=self.am, lm=self.lm, ranges=ranges)
        logits = self.output(torch.tanh(am + lm))
        pruned = package.rnnt_loss_pruned(logits, self.symbols, ranges, 0, self.boundary, reduction="sum")
        backward(0.5 * simple + pruned, *self.leaves)

    def products(self) -> None:
        """The joiner's three matrix products, which all candidates make."""
        rows = self.am.shape[0] * self.am.shape[1] * S_RANGE
        hidden = self.am.new_empty(rows, WIDTH).fill_(0.5).requires_grad_()
        logits = self.output(hidden)
        torch.autograd.grad(logits, [hidden, *self.output.parameters()], logits.detach())

    def fused(self, **options: Any) -> None:
        simple, ranges = self.simple(ours)
        given = (self.am, self.lm, self.output, self.symbols, ranges, 0, self.boundary)
        backward(0.5 * simple + ours.rnnt_loss_pruned_fused(*given, reduction="sum", **options), *self.leaves)


def cpu(seconds: float) -> dict[str, Any]:
    batch, frames, symbols, classes = SHAPE
    theirs, audio = fast_rnnt(False), torchaudio()
    torch.manual_seed(0)
    targets = torch.randint(1, classes, (batch, symbols))
    boundary = torch.tensor([[0, 0, symbols, frames]]).repeat(batch, 1)
    logits = torch.randn(batch, frames, symbols + 1, classes, requires_grad=True)
    lengths = (torch.full((batch,), frames).int(), torch.full((batch,), symbols).int())
    lm, am = (
        torch.randn(batch, symbols + 1, classes, requires_grad=True),
        torch.randn(batch, frames, classes, requires_grad=True),
    )

    full: dict[str, Run] = {
        "rnnt_loss": lambda: backward(ours.rnnt_loss(logits, targets, 0, boundary, reduction="sum"), logits),
        "fast_rnnt": lambda: backward(theirs.rnnt_loss(logits, targets, 0, boundary, reduction="sum"), logits),
        "torchaudio": lambda: backward(audio(logits, targets.int(), *lengths), logits),
    }

    def smoothed(package: Any) -> Tensor:
        return package.rnnt_loss_smoothed(lm, am, targets, 0, 0.25, 0.0, boundary, reduction="sum", return_grad=True)[0]

    def forward_only(package: Any) -> Run:
        def run() -> None:
            with torch.no_grad():
                smoothed(package)

        return run

    step = Step(
        torch.randn(batch, frames, WIDTH, requires_grad=True),
        torch.randn(batch, symbols + 1, WIDTH, requires_grad=True),
        targets,
        boundary,
        classes,
    )
    pruned: dict[str, Run] = {
        "rnnt_loss": lambda: step.in_turn(ours),
        "rnnt_loss, fused": step.fused,
        "rnnt_loss, logits kept": lambda: step.fused(rows_at_once=0),
        "fast_rnnt": lambda: step.in_turn(theirs),
        "products alone": step.products,
    }
    groups: dict[str, dict[str, Run]] = {
        "exact loss of logits": full,
        "smoothed, forward": {"rnnt_loss": forward_only(ours), "fast_rnnt": forward_only(theirs)},
        "smoothed": {
            "rnnt_loss": lambda: backward(smoothed(ours), lm, am),
            "fast_rnnt": lambda: backward(smoothed(theirs), lm, am),
        },
        "pruned step": pruned,
    }
    memory = {}
    for kind in ("exact loss of logits", "pruned step"):
        memory[kind] = {name: suite.peak_beyond(run) for name, run in groups[kind].items()}
    result: dict[str, Any] = {"shape (B, T, S, C)": SHAPE, "logits, MB": logits.nbytes / 1e6, "peak memory, MB": memory}
    keep_freed_memory()
    result["seconds"] = {kind: alternate(runs, seconds=seconds, warmup=1) for kind, runs in groups.items()}
    median = result["seconds"]["exact loss of logits"]["rnnt_loss"]["median"]
    result["exact loss, ns per logit"] = 1e9 * median / logits.numel()
    with torch.no_grad():
        check = {name: float(loss) for name, loss in (("ours", smoothed(ours)), ("fast_rnnt", smoothed(theirs)))}
        result["smoothed losses"] = check
    return result


def shapes(count: int) -> Tensor:
    """(frames, symbols) of utterances: means 318 and 68, at most 680 and 151, symbols in proportion to frames, with noise."""
    torch.manual_seed(20220227)
    frames = (680 * torch.distributions.Beta(2.4, 2.7).sample((count,))).clamp(30, 680)
    symbols = (frames * (0.214 + 0.03 * torch.randn(count))).clamp(3, 151)
    return torch.stack([frames, symbols], 1).int()


def batches(order: str, count: int) -> list[Tensor]:
    """As the protocol makes them: 30 in a row; or frames and symbols each sorted on their own, up to 10,000 frames."""
    drawn = shapes(30 * count)
    if order == "30 in a row":
        return list(drawn.split(30))
    rows, found = drawn.sort(0, descending=True).values, []
    while len(rows) > 0 and len(found) < count:
        size = max(1, int((rows[:, 0].cumsum(0) <= 10_000).sum()))
        found.append(rows[:size])
        rows = rows[size:]
    return found


def joint_losses(ends: Tensor, audio: Any, theirs: Any) -> dict[str, Run]:
    """The candidates of one batch, each after its joiner."""
    frames, symbols = (int(n) for n in ends.amax(0))
    targets = torch.randint(1, 500, (len(ends), symbols), device="cuda")
    boundary = torch.cat([torch.zeros(len(ends), 2, dtype=torch.int64), ends.flip(1).long()], 1).cuda()
    lengths = (ends[:, 0].cuda().int(), ends[:, 1].cuda().int())
    am = torch.rand(len(ends), frames, WIDTH, device="cuda", requires_grad=True)
    lm = torch.rand(len(ends), symbols + 1, WIDTH, device="cuda", requires_grad=True)
    step = Step(am, lm, targets, boundary, 500)
    given = (targets, 0, boundary)

    def joined(loss: Callable[[Tensor], Tensor]) -> Run:
        def run() -> None:
            backward(loss(step.output(torch.tanh(am[:, :, None] + lm[:, None]))), *step.leaves)

        return run

    return {
        "rnnt_loss": joined(lambda z: ours.rnnt_loss(z, *given, reduction="sum")),
        "rnnt_loss, over the logits": joined(lambda z: ours.rnnt_loss(z, *given, reduction="sum", reuse_logits=True)),
        "rnnt_loss, fused": lambda: backward(
            ours.rnnt_loss_fused(am, lm, step.output, *given, reduction="sum"), *step.leaves
        ),
        "fast_rnnt": joined(lambda z: theirs.rnnt_loss(z, *given, reduction="sum")),
        "torchaudio": joined(lambda z: audio(z, targets.int(), *lengths)),
        "rnnt_loss, pruned": lambda: step.in_turn(ours),
        "rnnt_loss, pruned and fused": step.fused,
        "rnnt_loss, pruned, logits kept": lambda: step.fused(rows_at_once=0),
        "fast_rnnt, pruned": lambda: step.in_turn(theirs),
    }


def share_of_roofline(ends: Tensor, dtype: torch.dtype, audio: Any, bandwidth: float, seconds: float) -> dict[str, float]:
    """The loss alone, without a joiner: the time of three passes over the logits, of what it takes."""
    frames, symbols = (int(n) for n in ends.amax(0))
    logits = torch.randn(len(ends), frames, symbols + 1, 500, device="cuda", dtype=dtype, requires_grad=True)
    targets = torch.randint(1, 500, (len(ends), symbols), device="cuda")
    lengths = (ends[:, 0].cuda().int(), ends[:, 1].cuda().int())
    boundary = torch.cat([torch.zeros(len(ends), 2, dtype=torch.int64), ends.flip(1).long()], 1).cuda()
    runs: dict[str, Run] = {"rnnt_loss": lambda: backward(ours.rnnt_loss(logits, targets, 0, boundary), logits)}
    if dtype == torch.float32:
        runs["torchaudio"] = lambda: backward(audio(logits, targets.int(), *lengths), logits)
    times = alternate(runs, seconds=seconds, warmup=2, cuda=True)
    return {name: 3 * logits.nbytes / bandwidth / t["median"] for name, t in times.items()}


def gpu(seconds: float) -> dict[str, Any]:
    seconds /= 20  # there are many rows
    bandwidth, audio, theirs = copy_bandwidth(1.0), torchaudio(), fast_rnnt(True)
    rows = []
    for order in ("30 in a row", "sorted"):
        for ends in batches(order, 4)[1:3]:
            runs = joint_losses(ends, audio, theirs)
            row: dict[str, Any] = {"batches": order, "B, T, S": [len(ends), *(int(n) for n in ends.amax(0))]}
            row["seconds"] = {k: t["median"] for k, t in alternate(runs, seconds=seconds, warmup=2, cuda=True).items()}
            row["peak memory, MB"] = {name: suite.peak_beyond(run) for name, run in runs.items()}
            for dtype in (torch.float32, torch.bfloat16):
                share = share_of_roofline(ends, dtype, audio, bandwidth, seconds)
                row[f"share of the 3-pass roofline, {dtype}"] = share
            rows.append(row)
            print(json.dumps(row), flush=True)
    return {"copy bandwidth, GB/s": bandwidth / 1e9, "rows": rows}


def report(result: dict[str, Any]) -> None:
    """Prints the ratios that the targets speak of."""
    for kind, times in result.get("seconds", {}).items():
        print(f"\n{kind}")
        for name, t in times.items():
            memory = result["peak memory, MB"].get(kind, {}).get(name)
            print(
                f"  {name:28}{1e3 * t['median']:9.2f} ms {t['median'] / times['rnnt_loss']['median']:7.2f} x rnnt_loss"
                + (f"{memory:9.1f} MB" if memory is not None else "")
            )
    if "exact loss, ns per logit" in result:
        print(f"\nexact loss: {result['exact loss, ns per logit']:.2f} ns per logit")


def draw(document: dict[str, Any], stem: Path) -> None:
    """Bars of the exact loss and of a pruned step; on a GPU, of the protocol's batches."""
    if "rows" in document:
        title = f"a joiner of 512 and its RNN-T loss, C = 500, {suite.machine_name(document)}"
        groups = {
            f"{row['batches']}, (B, T, S) = {tuple(row['B, T, S'])}": {k: {"median": t} for k, t in row["seconds"].items()}
            for row in document["rows"][::2]
        }
    else:
        title = f"RNN-T losses, (B, T, S, C) = {SHAPE}, {suite.machine_name(document)}"
        groups = {kind: document["seconds"][kind] for kind in ("exact loss of logits", "pruned step")}
    names = {name for times in groups.values() for name in times if name.startswith("rnnt_loss")}
    bars(groups, names, title, suite.beside(stem, ".png"))


if __name__ == "__main__":
    suite.main("rnnt_loss", cpu=cpu, gpu=gpu, report=report, draw=draw, seconds=12.0)
