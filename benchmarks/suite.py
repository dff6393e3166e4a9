"""What every benchmark is beside its candidates: options, turns, time and memory, ratios, JSON, and a progress bar."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import importlib.util
import json
import math
import re
import subprocess
import sys
import time
import types
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import publish
import torch
from records import RESULTS, Record, sizes_of
from rnnkit_common.testing import alternate, hardware, inference, keep_freed_memory, training_step
from rnnkit_common.testing.cases import torch_threads
from torch import Tensor, nn
from tqdm import tqdm

PEERS = Path(__file__).parents[1] / "peers"  # fetched; git ignores it
QUICK = 1 / 40  # of the usual seconds
EMULATED_SIZE = 24  # the most, where the groups of a GPU are only tried

# What peers' C++ and CUDA sources use and torch has dropped since.
_DROPPED = [
    (re.compile(r"\.type\(\)\.is_cuda\(\)"), ".is_cuda()"),
    (re.compile(r"\b([Ux])\.type\(\)"), r"\1.scalar_type()"),
    (re.compile(r"\.data<scalar_t>"), ".data_ptr<scalar_t>"),
    (re.compile(r"<THC/THC\.h>"), "<c10/cuda/CUDAException.h>"),
    (re.compile(r"\bTHCudaCheck\("), "C10_CUDA_CHECK("),
    (re.compile(r"<torch/torch\.h>"), "<torch/extension.h>"),
]

Run = Callable[[], Any]
_peers: dict[str, str] = {}  # requirement -> "measured", or why not
_compile_peers = True


@dataclasses.dataclass(frozen=True)
class Machine:
    """What is measured on: "cpu", "cuda", or "emulated", the groups of a GPU tried on the CPU, with small sizes."""

    name: str

    @property
    def device(self) -> str:
        """As torch knows it."""
        return "cuda" if self.name == "cuda" else "cpu"

    @property
    def gpu(self) -> bool:
        """Whether a GPU's groups are wanted."""
        return self.name != "cpu"

    def fit(self, *sizes: int) -> tuple[int, ...]:
        """Sizes that this machine can do."""
        return tuple(min(size, EMULATED_SIZE) for size in sizes) if self.name == "emulated" else sizes


@dataclasses.dataclass(frozen=True)
class Group:
    """Candidates that take turns: one row of what is measured."""

    part: str  # the table or picture that it belongs to
    what: str  # a training step, inference, ...
    sizes: Mapping[str, int]
    make: Callable[[], Mapping[str, Run]]  # called when it is the group's turn
    ours: Sequence[str] = ()  # of the candidates; ratios are to the first
    limit: str | None = None  # the candidate that does only what none can do without
    dtype: torch.dtype = torch.float32
    threads: int | None = None  # all, unless said
    share: float = 1.0  # of the seconds that a group gets
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what else the JSON is to hold

    def measure(self, seconds: float, device: str, least: int = 5) -> Record:
        """Time and peak memory of each candidate, and its ratio to ours and to the limit."""
        with torch_threads(self.threads or torch.get_num_threads()):
            runs, memory, failed = dict(self.make()), {}, {}
            for name, run in list(runs.items()):
                try:
                    memory[name] = peak_beyond(run, device)
                except Exception as error:
                    if name in self.ours or name == self.limit or not self.ours:
                        raise
                    failed[name] = f"{type(error).__name__}: {error}"  # of a peer: said, kept, and the others go on
                    del runs[name]
            times = alternate(runs, seconds=seconds * self.share, least=least, warmup=0, cuda=device == "cuda")
        candidates = {name: {**time, "peak memory, MB": memory[name]} for name, time in times.items()}
        return self.document(candidates, **({"failed": failed} if failed else {}))

    def document(self, candidates: dict[str, dict[str, Any]], **more: Any) -> Record:
        """A group as it stands in the JSON, with the candidates' ratios."""
        for ratio, base in (("over ours", self.ours[0] if self.ours else None), ("over limit", self.limit)):
            for times in candidates.values() if base is not None else ():
                times[ratio] = times["median"] / candidates[base]["median"]
        return {
            "part": self.part,
            "what": self.what,
            "sizes": dict(self.sizes),
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": self.threads,
            "ours": list(self.ours),
            "limit": self.limit,
            **self.about,
            **more,
            "candidates": candidates,
        }


def main(name: str, groups: Callable[[Machine], list[Group]], *, seconds: float = 10.0) -> None:
    """Measures on the CPU, and then on the GPU where there is one: results/<name>-<machine>.json, and pictures and tables of it.

    Args:
        name: of the package, or of what is measured.
        groups: what there is to measure on a machine, the most telling first; nothing, where that machine is not for it.
        seconds: for each group, unless the user says otherwise.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda", "emulated"], help="only this one")
    parser.add_argument("--seconds", type=float, default=seconds, help="for each group of candidates")
    parser.add_argument("--minutes", type=float, help="for all groups of a device: those that do not fit are left out")
    parser.add_argument(
        "--quick", action="store_true", help="few sizes and few runs of each, to see that all of it works; in build/quick"
    )
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results go")
    parser.add_argument("--no-compiling", action="store_true", help="leave out the peers that have to be compiled")
    options = parser.parse_args()
    global _compile_peers
    _compile_peers = not options.no_compiling
    folder, least = options.folder, 5
    if options.quick or options.device == "emulated":
        options.seconds, least = options.seconds * QUICK, 2
        folder = publish.ROOT / "build" / "quick" if folder == RESULTS else folder
    folder.mkdir(parents=True, exist_ok=True)
    PEERS.mkdir(exist_ok=True)
    for machine in map(
        Machine, [options.device] if options.device else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    ):
        torch.manual_seed(0)
        keep_freed_memory()
        end = time.monotonic() + 60 * (options.minutes or math.inf)
        wanted = groups(machine)
        if options.quick:
            wanted = _few(wanted)
        path, records = folder / f"{name}-{machine.name}.json", []
        with tqdm(wanted, f"{name}, {machine.name}", disable=None) as bar:
            for group in bar:
                if time.monotonic() > end:
                    break
                records.append(group.measure(options.seconds, machine.device, least))
                with tqdm.external_write_mode():
                    report(records[-1])
                gc.collect()
                # after each: what is cut off then loses only itself
                document = {"hardware": hardware(machine.device == "cuda"), "versions": _versions(), "peers": _peers}
                path.write_text(json.dumps({**document, "groups": records}, indent=1) + "\n")
        if records:
            print(f"\n{path}: {len(records)} of {len(wanted)} groups")
    if not importlib.util.find_spec("matplotlib"):
        print("there is no matplotlib: no pictures")
    elif options.device != "emulated":
        publish.publish(folder)


def _few(groups: list[Group]) -> list[Group]:
    """One size of each kind, and two of what is drawn against size."""
    counts: dict[tuple[str, str], int] = {}
    chosen = []
    for group in groups:
        counts[group.part, group.what] = counts.get((group.part, group.what), 0) + 1
        if counts[group.part, group.what] <= (2 if group.part.startswith("by ") else 1):
            chosen.append(group)
    return chosen


def report(record: Record) -> None:
    """Prints a record as it comes."""
    print(f"\n{record['part']}: {record['what']}, {sizes_of(record)}")
    for name, times in record["candidates"].items():
        ratios = [
            f"{times[key]:8.2f} x {base}"
            for key, base in (("over limit", record["limit"]), ("over ours", (record["ours"] or [None])[0]))
            if key in times
        ]
        memory = times.get("peak memory, MB")
        print(f"  {name:28}{1e3 * times['median']:11.3f} ms{f'{memory:10.1f} MB' if memory is not None else '':13}", *ratios)
    for name, error in record.get("failed", {}).items():
        print(f"  {name:28} failed: {error}")


def layer(
    part: str,
    sizes: Mapping[str, int],
    modules: Callable[[], Mapping[str, nn.Module]],
    x: tuple[int, int, int],
    products: Sequence[tuple[int, int, int]],
    *,
    machine: Machine,
    kinds: Sequence[str] = ("training step", "inference"),
    **options: Any,
) -> list[Group]:
    """A training step, whose input needs its gradient, and inference, of modules beside a layer's matrix products alone.

    Args:
        part, sizes, options: of the groups.
        modules: makes them, on the CPU in float32; by name.
        x: shape of their input.
        products: each (rows, in, out): [rows, in] times [in, out].
        kinds: what to measure.
    """
    where = {"device": machine.device, "dtype": options.get("dtype", torch.float32)}

    def make(what: str) -> dict[str, Run]:
        made = {name: module.to(**where) for name, module in modules().items()}
        given = torch.randn(x, **where, requires_grad=True)
        if what == "inference":
            return {
                **{name: inference(module.eval(), given) for name, module in made.items()},
                "products alone": inference(Products(products, where)),
            }
        return {
            **{name: training_step(module, given) for name, module in made.items()},
            "products alone": Products(products, where).training_step,
        }

    return [Group(part, what, sizes, lambda what=what: make(what), limit="products alone", **options) for what in kinds]


class Products:
    """A layer's matrix products, each with an input of its own: what no recurrence can be faster than."""

    def __init__(self, products: Sequence[tuple[int, int, int]], where: Mapping[str, Any]) -> None:
        self.leaves = [
            (torch.randn(rows, n, **where, requires_grad=True), torch.randn(m, n, **where, requires_grad=True))
            for rows, n, m in products
        ]
        self.grads = [torch.randn(rows, m, **where) for rows, _, m in products]

    def __call__(self) -> list[Tensor]:
        return [nn.functional.linear(x, weight) for x, weight in self.leaves]

    def training_step(self) -> None:
        torch.autograd.backward(self(), self.grads)


def op(
    part: str,
    sizes: Mapping[str, int],
    forward: Callable[..., Tensor],
    inputs: Callable[[], list[Tensor]],
    traffic: Mapping[str, float],
    *,
    name: str,
    machine: Machine,
    **options: Any,
) -> list[Group]:
    """An op alone: inference, forward for training and backward, each beside a copy that moves as many bytes.

    On a GPU all of them are captured in CUDA graphs, so that it is the device's time that is measured.

    Args:
        part, sizes, options: of the groups.
        forward, inputs: `forward(*inputs())` is the output, and all inputs get gradients.
        traffic: elements moved per element of the output, at the least.
        name: of the op.
    """

    def make(what: str, moved: float) -> dict[str, Run]:
        if machine.name == "cuda":
            torch.cuda.set_stream(torch.cuda.Stream())  # what is captured may not depend on the default stream
        plain = inputs()
        leaves = [tensor.clone().requires_grad_() for tensor in plain]
        out = forward(*leaves)
        grad = torch.randn_like(out)
        runs: dict[str, Run] = {
            "inference": inference(forward, *plain),
            "forward": lambda: forward(*leaves),
            "backward": lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True),
        }
        runs = {name: runs[what], "copy": copy(moved * out.nbytes, machine.device)}
        return {key: captured(run) for key, run in runs.items()} if machine.name == "cuda" else runs

    return [
        Group(part, what, sizes, lambda what=what, moved=moved: make(what, moved), [name], "copy", **options)
        for what, moved in traffic.items()
    ]


def captured(run: Run) -> Run:
    """A replay of a call, without what it costs to make it."""
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        run()
    return graph.replay


def copy(moved: float, device: str) -> Run:
    """A copy that reads and writes so many bytes together."""
    source = torch.ones(max(1, int(moved) // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def peer(requirement: str, load: Callable[[], Any], *, compiles: bool = False) -> Any:
    """What `load` returns; or None, where this machine cannot have the peer, which is said and kept in the JSON.

    Args:
        requirement: as pip takes it.
        load: makes it.
        compiles: whether that takes a compiler, and minutes; then `--no-compiling` leaves it out.
    """
    _peers[requirement] = "measured"
    if compiles and not _compile_peers:
        _peers[requirement] = "not measured: it would have to be compiled"
        return None
    try:
        return load()
    except (ImportError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        _peers[requirement] = f"not measured: {type(error).__name__}: {error}"
        print(f"{requirement} is {_peers[requirement]}")
        return None


def unpacked(requirement: str) -> Path:
    """The content of a wheel of PyPI, beside this repository's environment and not in it: peers' names and needs clash."""
    folder = PEERS / requirement.replace("==", "-")
    if not folder.exists():
        zipfile.ZipFile(fetched(requirement)).extractall(folder)
    return folder


def mend(sources: Iterable[Path]) -> None:
    """Changes, in place, what today's torch has not in a peer's C++ and CUDA sources."""
    for path in sources:
        text = path.read_text()
        for dropped, today in _DROPPED:
            text = dropped.sub(today, text)
        path.write_text(text)


def fetched(requirement: str, *options: str) -> Path:
    """A file of PyPI in peers/."""
    pattern = requirement.replace("==", "-") + "[-.]*"
    files = lambda: [path for path in PEERS.glob(pattern) if path.is_file()]  # noqa: E731
    if not files():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(PEERS), *options, requirement]
        subprocess.run(pip, check=True)
    (file,) = files()
    return file


def module_of_file(path: Path, name: str, needs: Mapping[str, Mapping[str, Any]]) -> Any:
    """One file of a peer as the module `name`, with stand-ins for the modules that it imports and hardly needs."""
    for stand_in, content in needs.items():
        sys.modules[stand_in] = types.ModuleType(stand_in)
        vars(sys.modules[stand_in]).update(content)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peak_beyond(run: Run, device: str) -> float | None:
    """Megabytes that a call needs beside what is there: on a CPU from the kernel's high-water mark of this process, on Linux."""
    run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    clear.write_text("5")
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1e3


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1])


def _versions() -> dict[str, str]:
    wanted = ("rnnkit-", "torch", "mingru", "numpy")
    versions = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    return {name: versions[name] for name in sorted(versions) if name.lower().startswith(wanted)}
