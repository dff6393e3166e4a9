"""Checks that a module survives several threads, processes and streams."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def check_replicas(module: nn.Module, inputs: Sequence[Tensor], *, batch: Sequence[int]) -> None:
    """What nn.DataParallel does: replicas in threads, each with half of the batch, and their outputs joined.

    Args:
        module: returns two tensors, with the batch where the first two inputs have it.
        inputs: a sequence, and a state.
        batch: the dimension of the batch, of each.
    """
    results: dict[int, tuple[Tensor, ...]] = {}

    def work(i: int) -> None:
        parts = [t.chunk(2, dim)[i] for t, dim in zip(inputs, batch, strict=True)]
        results[i] = copy.deepcopy(module)(*parts)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, expected in enumerate(module(*inputs)):
        torch.testing.assert_close(torch.cat([results[i][k] for i in range(2)], dim=batch[k]), expected)


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def join_group(rank: int, ranks: int, port: int) -> None:
    """Makes this process one of `ranks`, with a thread each, that talk by gloo."""
    torch.set_num_threads(1)
    store = torch.distributed.TCPStore("127.0.0.1", port, ranks, rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=ranks)


def leave_group() -> None:
    """Ends what `join_group` began, once all have come here; then this process, at once.

    Destructors of gloo's threads may otherwise meet the end of the interpreter, and abort the process.
    """
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _train(module: nn.Module, x: Tensor) -> None:
    out, state = module(x)
    (out.square().sum() + state.sum()).backward()


def _work(rank: int, port: int, folder: str, example: Callable[[], tuple[nn.Module, Tensor, int]]) -> None:
    join_group(rank, 2, port)
    module, x, batch = example()
    distributed = nn.parallel.DistributedDataParallel(module)
    _train(distributed, x.chunk(2, batch)[rank])
    if rank == 0:
        torch.save([p.grad for p in module.parameters()], Path(folder) / "gradients.pt")
    leave_group()


def check_distributed(example: Callable[[], tuple[nn.Module, Tensor, int]], folder: Path) -> None:
    """Two processes with half of the batch each: their averaged gradients are half of those of the whole.

    Args:
        example: at the top level of its file; the same module, input and dimension of the batch at each call.
        folder: to write to.
    """
    torch.multiprocessing.spawn(_work, (free_port(), str(folder), example), nprocs=2)
    module, x, _ = example()
    _train(module, x)
    averaged = torch.load(folder / "gradients.pt")
    torch.testing.assert_close([2 * g for g in averaged], [p.grad for p in module.parameters()])


Scan = Callable[..., tuple[Tensor, Tensor]]


def _work_on_a_piece(
    rank: int, ranks: int, port: int, folder: str, example: Callable[[], tuple[Scan, list[Tensor], Tensor]], split: Any
) -> None:
    join_group(rank, ranks, port)
    scan, planes, h0 = example()
    pieces = [t.tensor_split(ranks, 1)[rank].detach().requires_grad_() for t in planes]
    h0 = h0.requires_grad_()
    out, state = split(lambda h: scan(*pieces, h), h0)
    loss = out.square().sum() + (state.square().sum() if rank == 0 else 0 * state.sum())
    torch.save([out, state, *torch.autograd.grad(loss, [*pieces, h0])], Path(folder) / f"{rank}.pt")
    leave_group()


def check_split_scan(
    example: Callable[[], tuple[Scan, list[Tensor], Tensor]], split: Any, folder: Path, ranks: int = 3
) -> None:
    """A sequence whose pieces are on several ranks gives what the whole gives, gradients included.

    Args:
        example: at the top level of its file; scan(*planes, h0) -> (out, h_last), planes (B, T, D) and h0 (B, D).
        split: the family's `split_scan`.
        folder: to write to.
        ranks: processes.
    """
    torch.multiprocessing.spawn(_work_on_a_piece, (ranks, free_port(), str(folder), example, split), nprocs=ranks)
    scan, planes, h0 = example()
    leaves = [t.requires_grad_() for t in (*planes, h0)]
    out, state = scan(*leaves)
    grads = torch.autograd.grad(out.square().sum() + state.square().sum(), leaves)
    results = [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
    torch.testing.assert_close(torch.cat([f[0] for f in results], 1), out)
    for f in results:
        torch.testing.assert_close(f[1], state)
    for i in range(len(planes)):
        torch.testing.assert_close(torch.cat([f[2 + i] for f in results], 1), grads[i])
    torch.testing.assert_close(sum(f[-1] for f in results), grads[-1])


def check_current_stream(run: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Inputs that a side stream is still computing are waited for only if the kernels are on that stream."""
    stream = torch.cuda.Stream()
    late = torch.zeros_like(x)
    expected = run(x).sum()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late += x
        total = run(late).sum()
    stream.synchronize()
    torch.testing.assert_close(total, expected)


def check_captured_training(module: nn.Module, x: Tensor) -> None:
    """A training step in a CUDA graph: dropout draws anew at every replay, and without it a replay gives the eager numbers."""
    parameters = list(module.parameters())

    def train() -> tuple[Tensor, ...]:
        out = module(x)[0]
        return out, *torch.autograd.grad(out.square().sum(), parameters)

    def capture() -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = train()
        return graph, results

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        train()
    torch.cuda.current_stream().wait_stream(side)
    graph, captured = capture()
    outs = []
    for _ in range(2):
        graph.replay()
        outs.append(captured[0].clone())
    assert not torch.equal(outs[0], outs[1])
    module.eval()
    graph, captured = capture()
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(captured, train())


def check_device_error(code: str, words: str) -> None:
    """`code` ends in a CUDA error, after a kernel has said `words`: in a process of its own, because the context is lost."""
    run = f"{code}; torch.cuda.synchronize()"
    result = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert result.returncode != 0
    assert words in result.stdout
    assert "CUDA error" in result.stderr
