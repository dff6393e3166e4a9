"""One training loop, with what people put around layers: mixed precision, checkpointing, accumulation, torch.compile, processes.

A sequence begins with one of eight symbols; after noise of any length, the model has to tell which. Every family learns it
within a minute, in whatever way it is trained.

    python training.py --family mingru
    python training.py --family ligru --amp bfloat16 --checkpoint --accumulate 2 --compile
    torchrun --nproc-per-node 2 training.py --family sru --parallel fsdp       or ddp
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

SYMBOLS, WIDTH, BATCH = 8, 64, 32


def layer(family: str) -> nn.Module:
    """One of (B, T, WIDTH) -> (B, T, WIDTH), state."""
    package = importlib.import_module(family)
    if family == "mingru":
        return package.MinGRU(WIDTH, WIDTH)
    if family == "ligru":
        return package.SLiGRU(WIDTH, (BATCH, 1, WIDTH))
    return (package.QRNN if family == "qrnn" else package.SRU)(WIDTH, WIDTH, batch_first=True)


class Model(nn.Module):
    """Logits of the symbol that each sequence began with."""

    def __init__(self, family: str, checkpoints: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS + 2, WIDTH)
        self.layers = nn.ModuleList(layer(family) for _ in range(2))
        self.head = nn.Linear(WIDTH, SYMBOLS)
        self.checkpoints = checkpoints

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        for rnn in self.layers:
            out, _ = checkpoint(rnn, h, use_reentrant=False) if self.checkpoints else rnn(h)
            h = h + out
        return self.head(h[:, -1])


def sequences(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(BATCH, T) numbers, of which the first is the symbol (BATCH,); T is drawn anew."""
    length = int(torch.randint(16, 33, (), generator=generator))
    x = torch.randint(SYMBOLS, SYMBOLS + 2, (BATCH, length), generator=generator)
    y = torch.randint(0, SYMBOLS, (BATCH,), generator=generator)
    x[:, 0] = y
    return x, y


def train(options: argparse.Namespace) -> float:
    """Share of right answers in the last steps."""
    rank = dist.get_rank() if options.parallel else 0
    torch.manual_seed(0)  # the same parameters in each process
    device = torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    model: nn.Module = Model(options.family, options.checkpoint).to(device)
    if options.parallel == "fsdp":
        mesh = dist.init_device_mesh(device.type, (dist.get_world_size(),))
        for rnn in model.layers:
            fully_shard(rnn, mesh=mesh)
        fully_shard(model, mesh=mesh)
    if options.parallel == "ddp":
        model = DistributedDataParallel(model)
    step = torch.compile(model, dynamic=True) if options.compile else model
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "float16")
    cast = torch.autocast(device.type, getattr(torch, options.amp)) if options.amp else contextlib.nullcontext()
    generator = torch.Generator().manual_seed(rank)
    right = 0.0
    with tqdm(total=options.steps, disable=rank > 0) as bar:
        for i in range(options.steps):
            for part in range(options.accumulate):
                x, y = (t.to(device) for t in sequences(generator))
                last = part == options.accumulate - 1
                wait = contextlib.nullcontext() if last or options.parallel != "ddp" else model.no_sync()
                with wait:
                    with cast:
                        logits = step(x)
                        loss = nn.functional.cross_entropy(logits.float(), y)
                    scaler.scale(loss / options.accumulate).backward()
                share = (logits.argmax(1) == y).float().mean()
                if options.parallel:  # all stop at the same step
                    dist.all_reduce(share)
                    share /= dist.get_world_size()
                right += 0.05 * (share.item() - right)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            bar.update()
            bar.set_postfix_str(f"loss {loss.item():.3f}, right {right:.0%}")
            if right > 0.95 and i * options.accumulate > 60:
                break
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--family", choices=["mingru", "qrnn", "sru", "ligru"], default="mingru")
    parser.add_argument("--amp", choices=["bfloat16", "float16"])
    parser.add_argument("--checkpoint", action="store_true", help="keep the inputs of layers alone")
    parser.add_argument("--accumulate", type=int, default=1, help="batches for each step of the optimizer")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], help="under torchrun")
    parser.add_argument("--steps", type=int, default=400, help="at most")
    options = parser.parse_args()
    if options.parallel:
        dist.init_process_group()
    right = train(options)
    if not options.parallel or dist.get_rank() == 0:
        print(f"right: {right:.0%}", flush=True)
    if options.parallel:
        dist.destroy_process_group()
        os._exit(0)  # without waiting for threads of gloo, which may abort at the interpreter's end


if __name__ == "__main__":
    main()
