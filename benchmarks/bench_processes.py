"""Training over processes: DistributedDataParallel, and one sequence that is cut along time. `nox -s bench -- processes`.

A batch by one process, and by two processes of gloo with half of it each, with a thread each, of one model of each family; and one
long sequence as a whole in one process, and with a piece in each of two (`split_scan`, three scans of a piece each way): minGRU's scan
alone, and after the projection that it has in a layer. One and two take turns. Families that are not installed are left out.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import suite
import torch
from rnnkit_common.testing import keep_freed_memory
from rnnkit_common.testing.parallel import free_port, join_group
from rnnkit_common.testing.timing import summary
from suite import Group, Machine, Run
from torch import Tensor, distributed, nn

BATCH, STEPS, WIDTH = 8, 256, 256
LONG = (1, 1 << 15, 256)  # B, T, D of the sequence that is cut
MODELS = {
    "mingru": lambda m: m.MinGRU(WIDTH, WIDTH),
    "qrnn": lambda m: m.QRNN(WIDTH, WIDTH),
    "sru": lambda m: m.SRU(WIDTH, WIDTH, 1),
    "ligru": lambda m: m.LiGRU(WIDTH, (BATCH, STEPS, WIDTH)),
}


class Recurrent(nn.Module):
    """A layer and a projection, whose loss is a mean square."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.time_first = family in ("qrnn", "sru")
        self.rnn, self.out = MODELS[family](importlib.import_module(family)), nn.Linear(WIDTH, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x.transpose(0, 1) if self.time_first else x)[0]).square().mean()


class Transducer(nn.Module):
    """A projection as encoder, and the pruned loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(WIDTH, WIDTH)
        self.loss = importlib.import_module("rnnt_loss").PrunedRNNTLoss(WIDTH, WIDTH, WIDTH, 200)

    def forward(self, x: Tensor) -> Tensor:
        symbols = torch.ones(len(x), 30, dtype=torch.int64)
        simple, pruned = self.loss(self.encoder(x), torch.ones(len(x), 31, WIDTH), symbols)
        return (simple + pruned) / len(x)


def replica(family: str, ranks: int, alone: Any) -> Run:
    """A training step of 1 / ranks of the batch."""
    torch.manual_seed(0)
    module = Transducer() if family == "rnnt_loss" else Recurrent(family)
    parallel = nn.parallel.DistributedDataParallel(module, process_group=alone if ranks == 1 else None)
    x = torch.randn(BATCH // ranks, STEPS, WIDTH)
    return lambda: parallel(x).backward()


def long_scan(ranks: int, *, projected: bool) -> Run:
    """Forward and backward of 1 / ranks of the sequence."""
    functional = importlib.import_module("mingru.functional")
    batch, steps, width = LONG
    x = torch.randn(batch, steps // ranks, width if projected else 2 * width, requires_grad=True)
    projection = nn.Linear(width, 2 * width) if projected else nn.Identity()
    h0 = torch.zeros(batch, width, requires_grad=True)

    def run() -> None:
        planes = projection(x).chunk(2, 2)
        piece = lambda h: functional.mingru_scan(*planes, h)  # noqa: E731
        out, state = functional.split_scan(piece, h0) if ranks > 1 else piece(h0)
        (out.sum() + state.sum()).backward()

    return run


MAKERS: dict[str, Callable[[int, Any], Run]] = {
    **{family: lambda ranks, alone, family=family: replica(family, ranks, alone) for family in (*MODELS, "rnnt_loss")},
    "minGRU's layer, sequence cut in two": lambda ranks, _: long_scan(ranks, projected=True),
    "its scan alone, sequence cut in two": lambda ranks, _: long_scan(ranks, projected=False),
}


def work(rank: int, port: int, what: str, seconds: float, least: int, path: str) -> None:
    """Rank 0 alone, while rank 1 waits, and both together, in turn."""
    join_group(rank, 2, port)
    keep_freed_memory()
    alone = distributed.new_group([0])
    runs: dict[str, Run] = {"two processes": MAKERS[what](2, None)}
    runs["one process"] = MAKERS[what](1, alone) if rank == 0 else lambda: None
    times: dict[str, list[float]] = {name: [] for name in runs}
    left, end = torch.ones(()), time.perf_counter() + seconds
    while left > 0:
        for name, run in runs.items():
            distributed.barrier()
            start = time.perf_counter()
            run()
            distributed.barrier()
            times[name].append(time.perf_counter() - start)
        left.fill_(time.perf_counter() < end or len(times["one process"]) <= least)
        distributed.broadcast(left, 0)
    if rank == 0:
        torch.save({name: values[1:] for name, values in times.items()}, path)  # the first has warmed up
    distributed.destroy_process_group()


@dataclasses.dataclass(frozen=True)
class Processes(Group):
    """One process and two take turns."""

    def measure(self, seconds: float, device: str, least: int = 5) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "results.pt")
            given = (free_port(), self.what, seconds, least, path)
            torch.multiprocessing.spawn(work, given, nprocs=2)
            times: dict[str, list[float]] = torch.load(path)
        return self.document({name: dict(summary(values)) for name, values in times.items()})


def groups(machine: Machine) -> list[Group]:
    if machine.gpu:
        return []
    families = [name for name in (*MODELS, "rnnt_loss") if importlib.util.find_spec(name)]
    sizes, long = {"B": BATCH, "T": STEPS, "H": WIDTH}, dict(zip("BTD", LONG, strict=True))
    made: list[Group] = [Processes("training", name, sizes, dict, ["two processes"]) for name in families]
    if "mingru" in families:
        made += [Processes("split", name, long, dict, ["two processes"]) for name in MAKERS if "cut in two" in name]
    return made


if __name__ == "__main__":
    suite.main("processes", groups, seconds=6.0)
