"""Training over processes: DistributedDataParallel, and one sequence that is cut along time. `python benchmarks/processes.py`.

Sequences per second of one model of each family at one and at two processes of gloo, with a thread each and half of the batch; and
a scan of one long sequence as a whole in one process, and with a piece in each of two (`split_scan`: three scans of half the
steps each, the first two of which keep nothing). Families that are not installed are left out. Writes results/processes-cpu.json.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import scaling
import suite
import torch
from rnnkit_common.testing.parallel import free_port, join_group
from torch import Tensor, nn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BATCH, STEPS, WIDTH = 8, 256, 256
LONG = (1, 1 << 15, 256)  # B, T, D of the sequence that is cut


class Recurrent(nn.Module):
    """A layer and a projection, whose loss is a mean square."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.batch_dim = 1 if family in ("qrnn", "sru") else 0
        module = importlib.import_module(family)
        made: dict[str, Callable[[], nn.Module]] = {
            "mingru": lambda: module.MinGRU(WIDTH, WIDTH),
            "qrnn": lambda: module.QRNN(WIDTH, WIDTH),
            "sru": lambda: module.SRU(WIDTH, WIDTH, 1),
            "ligru": lambda: module.LiGRU(WIDTH, (BATCH, STEPS, WIDTH)),
        }
        self.rnn, self.out = made[family](), nn.Linear(WIDTH, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x.transpose(0, 1) if self.batch_dim else x)[0]).square().mean()


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


def model(family: str) -> nn.Module:
    torch.manual_seed(0)
    return Transducer() if family == "rnnt_loss" else Recurrent(family)


def seconds_each(run: Callable[[], Any], seconds: float) -> float:
    """The median over as many calls as all ranks agree on."""
    run()
    start = time.perf_counter()
    run()
    took = torch.tensor(time.perf_counter() - start)
    torch.distributed.all_reduce(took, torch.distributed.ReduceOp.MAX)
    times = []
    for _ in range(max(5, int(seconds / took.item()))):
        torch.distributed.barrier()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def work(rank: int, ranks: int, port: int, seconds: float, families: list[str], path: str) -> None:
    join_group(rank, ranks, port)
    found = {}
    for family in families:
        module = nn.parallel.DistributedDataParallel(model(family))
        x = torch.randn(BATCH // ranks, STEPS, WIDTH)
        found[family] = BATCH / seconds_each(lambda module=module, x=x: module(x).backward(), seconds)
    if "mingru" in families:
        functional = importlib.import_module("mingru.functional")
        batch, steps, width = LONG
        planes = [torch.randn(batch, steps // ranks, width, requires_grad=True) for _ in range(2)]
        h0 = torch.zeros(batch, width, requires_grad=True)

        def scan() -> None:
            piece = lambda h: functional.mingru_scan(*planes, h)  # noqa: E731
            out, state = functional.split_scan(piece, h0) if ranks > 1 else piece(h0)
            torch.autograd.grad(out.sum() + state.sum(), [*planes, h0])

        found["one long sequence"] = 1 / seconds_each(scan, seconds)
    if rank == 0:
        torch.save(found, path)
    torch.distributed.destroy_process_group()


def cpu(seconds: float) -> dict[str, Any]:
    families = [name for name in scaling.CASES if importlib.util.find_spec(name)]
    result: dict[str, Any] = {"shape (B, T, H)": (BATCH, STEPS, WIDTH), "long sequence (B, T, D)": LONG, "per second": {}}
    for ranks in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "found.pt")
            torch.multiprocessing.spawn(work, (ranks, free_port(), seconds, families, path), nprocs=ranks)
            result["per second"][f"{ranks} process(es)"] = torch.load(path)
    return result


def gpu(seconds: float) -> dict[str, Any]:
    raise SystemExit("processes.py measures processes on a CPU")


def report(result: dict[str, Any]) -> None:
    """Prints what two processes win."""
    one, two = result["per second"].values()
    for name in one:
        print(f"  {name:18} {one[name]:8.1f} a second by one process, {two[name] / one[name]:.2f} x by two")


def draw(document: dict[str, Any], stem: Path) -> None:
    """Bars of how many times as fast two processes are."""
    one, two = document["per second"].values()
    names = list(one)[::-1]
    figure, axis = plt.subplots(figsize=(7, 0.8 + 0.34 * len(names)), layout="constrained")
    drawn = axis.barh(names, [two[name] / one[name] for name in names], color="#c8553d")
    axis.bar_label(drawn, fmt="%.2f", padding=3)
    axis.axvline(1, color="#8a8a8a", linewidth=1)
    axis.set(xlabel="two processes over one, a thread each", xlim=(0, 1.15 * max(two[name] / one[name] for name in names)))
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"sequences per second, {suite.machine_name(document)}", fontsize=9)
    figure.savefig(suite.beside(stem, ".png"), dpi=150)


if __name__ == "__main__":
    suite.main("processes", cpu=cpu, gpu=gpu, report=report, draw=draw, seconds=6.0)
