"""Runs the kernels of all families once each, for a profiler: `ncu --set full python benchmarks/kernels.py`.

The sizes are those that the issue of the day is about: many channels, and few with many steps; both 16 and 32 bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from suite import Machine
from torch import Tensor

Kernel = tuple[str, Callable[[], object]]


def _both_ways(run: Callable[..., Tensor], *leaves: Tensor) -> Callable[[], object]:
    def call() -> object:
        out = run(*(t.requires_grad_() for t in leaves))
        return torch.autograd.grad(out, leaves, torch.ones_like(out))

    return call


def scans(machine: Machine, dtype: torch.dtype) -> Iterator[Kernel]:
    """minGRU, QRNN and both versions of SRU."""
    import mingru
    import qrnn
    import sru

    where = {"device": machine.device, "dtype": dtype}
    for b, t, d in (machine.fit(8, 4096, 1024), machine.fit(16, 2048, 128)):
        planes = torch.randn(b, t, 2 * d, **where)
        yield f"minGRU {(b, t, d)}", _both_ways(lambda x: mingru.functional.scan_packed(x)[0], planes)
    t, b, d = machine.fit(4096, 8, 1024)
    yield f"fo-pooling {(t, b, d)}", _both_ways(lambda x: qrnn.functional.pool(x)[0], torch.randn(t, b, 3 * d, **where))
    t, b, d = machine.fit(2048, 32, 1024)
    u, x = torch.randn(t, b, 3 * d, **where), torch.randn(t, b, d, **where)
    bias = torch.zeros(2 * d, device=machine.device)
    yield f"SRU v1 {(t, b, d)}", _both_ways(lambda u, x: sru.functional.recurrence(u, bias, None, x)[0], u, x)
    yield f"SRU v2 {(t, b, d)}", _both_ways(lambda u, x: sru.functional.recurrence(u, bias, bias, x)[0], u, x)


def recurrences(machine: Machine, dtype: torch.dtype) -> Iterator[Kernel]:
    """Li-GRU and SLi-GRU."""
    from ligru import functional

    for b, t, h in (machine.fit(16, 100, 512), machine.fit(4, 100, 64)):
        g, weight = (torch.randn(*shape, device=machine.device, dtype=dtype) for shape in ((b, t, 2 * h), (2 * h, h)))
        for name, normalize in (("Li-GRU", False), ("SLi-GRU", True)):
            run = lambda g, u, n=normalize: functional.recurrence(g, u, nonlinearity="tanh", normalize=n)[0]  # noqa: E731
            yield f"{name} {(b, t, h)}", _both_ways(run, g, weight / h**0.5)


def losses(machine: Machine, dtype: torch.dtype) -> Iterator[Kernel]:
    """The exact loss, and TDT's."""
    import rnnt_loss

    b, t, s, c = machine.fit(30, 500, 110, 500)
    logits, symbols = torch.randn(b, t, s + 1, c, device=machine.device, dtype=dtype), torch.ones(b, s, dtype=torch.int64)
    loss = lambda z: rnnt_loss.rnnt_loss(z, symbols.to(z.device), 0)  # noqa: E731
    yield f"rnnt_loss {(b, t, s, c)}", _both_ways(loss, logits)
    tdt = lambda z: rnnt_loss.tdt_loss(z, symbols.to(z.device), [0, 1, 2], 0)  # noqa: E731
    yield f"tdt_loss {(b, t, s, c)}", _both_ways(tdt, logits)


def main() -> None:
    """Parses the options and runs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda", "emulated"], default="cuda")
    machine = Machine(parser.parse_args().device)
    for dtype in (torch.bfloat16, torch.float32):
        for made in (scans, recurrences, losses):
            for name, run in made(machine, dtype):
                print(name, dtype, flush=True)
                run()
                if machine.device == "cuda":
                    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
