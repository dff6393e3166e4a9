"""RNN-T losses beside their peers. `nox -s bench -- rnnt_loss`, or `python benchmarks/bench_rnnt_loss.py`.

(B, T, S, C) = (8, 200, 50, 500) in float32: the exact loss from logits, the smoothed loss, and the whole pruned step of icefall's
recipes (smoothed loss, ranges, pruning, a tanh joiner of width 512, pruned loss; both losses go backward), of sequences of one length
and of such as LibriSpeech's, beside torchaudio 2.11 and fast_rnnt 1.3, and beside a copy of three passes over the logits, or the
matrix products alone.
GPU: also the protocol of csukuangfj/transducer-loss-benchmarking, whose table fast_rnnt's README has, with shapes drawn to the same
means and maxima instead of LibriSpeech's: batches of 30, or sorted up to 10,000 frames, and a joiner before each loss.
The pruned step is also measured after training: whose gradients are left out as too small depends on what was learnt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import rnnt_loss as ours
import suite
import torch
from rnnkit_common.testing import inference
from rnnt_peers import fast_rnnt, torchaudio
from suite import Group, Machine, Run
from torch import Tensor, nn

SHAPE = (8, 200, 50, 500)  # B, T, S, C
WIDTH, S_RANGE = 512, 5
Peers = dict[str, Any]  # fast_rnnt's module and torchaudio's loss, those that are there
OURS = ("rnnt_loss", "rnnt_loss, fused", "rnnt_loss, logits kept")


def backward(loss: Tensor, *leaves: Tensor) -> None:
    torch.autograd.grad(loss, leaves)  # which keeps nothing, unlike loss.backward()


@dataclasses.dataclass(frozen=True)
class Batch:
    """Inputs of the losses, for given numbers of frames and symbols."""

    am: Tensor  # [B, T, width]
    lm: Tensor  # [B, S + 1, width]
    symbols: Tensor  # [B, S]
    boundary: Tensor  # [B, 4]

    @classmethod
    def random(cls, ends: Tensor, width: int, device: str) -> Batch:
        """`ends`: [B, 2], frames and symbols of each sequence; symbols below 500."""
        frames, symbols = (int(n) for n in ends.amax(0))
        return cls(
            torch.randn(len(ends), frames, width, device=device, requires_grad=True),
            torch.randn(len(ends), symbols + 1, width, device=device, requires_grad=True),
            torch.randint(1, 500, (len(ends), symbols), device=device),
            torch.cat([torch.zeros_like(ends), ends.flip(1)], 1).long().to(device),
        )

    def exact(self, peers: Peers) -> dict[str, Callable[[Tensor], Tensor]]:
        """The losses of logits."""
        lengths = self.boundary[:, 3].int(), self.boundary[:, 2].int()
        given = (self.symbols, 0, self.boundary)
        losses: dict[str, Callable[[Tensor], Tensor]] = {"rnnt_loss": lambda z: ours.rnnt_loss(z, *given, reduction="sum")}
        if "fast_rnnt" in peers:
            losses["fast_rnnt"] = lambda z: peers["fast_rnnt"].rnnt_loss(z, *given, reduction="sum")
        if "torchaudio" in peers:
            losses["torchaudio"] = lambda z: peers["torchaudio"](z, self.symbols.int(), *lengths)
        return losses


class Step:
    """The pruned step, with any package of fast_rnnt's interface; the smoothed loss is of the joiner's inputs, as in the protocol."""

    def __init__(self, batch: Batch, classes: int) -> None:
        self.am, self.lm, self.symbols, self.boundary = batch.am, batch.lm, batch.symbols, batch.boundary
        self.output = nn.Linear(WIDTH, classes, device=self.am.device)
        self.leaves = [self.am, self.lm, *self.output.parameters()]
        self.lengths = batch.boundary.cpu()  # known on the host, as where batches are made

    @torch.no_grad()
    def learn(self) -> None:
        """As if trained: at evenly spaced frames the encoder says the next symbol, else blank; the predictor, what has been said."""
        count, frames = self.symbols.shape[1], self.am.shape[1]
        self.output.weight.mul_(2)
        self.output.bias[0] = 9.0  # of blank, where encoder and predictor say the same
        says = 3 * torch.nn.functional.normalize(self.output.weight) * WIDTH**0.5  # [C, width]
        self.am.copy_(says[0].expand_as(self.am))
        self.am[:, torch.arange(count) * frames // count] = says[self.symbols]
        self.lm.zero_()
        self.lm[:, 1:] = -says[self.symbols]

    def of_simple(self) -> tuple[Tensor, Tensor]:
        """am and lm of the smoothed loss."""
        return self.am, self.lm

    def of_joiner(self) -> tuple[Tensor, Tensor]:
        return self.am, self.lm

    def simple(self, package: Any) -> tuple[Tensor, Tensor]:
        am, lm = self.of_simple()
        loss, grads = package.rnnt_loss_smoothed(
            lm=lm, am=am, symbols=self.symbols, termination_symbol=0,
            lm_only_scale=0.25, am_only_scale=0.0, boundary=self.boundary, reduction="sum", return_grad=True,
        )  # fmt: skip
        return loss, package.get_rnnt_prune_ranges(*grads, self.boundary, S_RANGE)

    def in_turn(self, package: Any) -> None:
        simple, ranges = self.simple(package)
        am, lm = self.of_joiner()
        am, lm = package.do_rnnt_pruning(am=am, lm=lm, ranges=ranges)
        logits = self.output(torch.tanh(am + lm))
        pruned = package.rnnt_loss_pruned(logits, self.symbols, ranges, 0, self.boundary, reduction="sum")
        backward(0.5 * simple + pruned, *self.leaves)

    def products(self) -> None:
        """The joiner's three matrix products, which all candidates make."""
        self.products_of(self.am.shape[0] * self.am.shape[1] * S_RANGE)

    def products_of(self, rows: int) -> None:
        hidden = self.am.new_empty(rows, WIDTH).fill_(0.5).requires_grad_()
        logits = self.output(hidden)
        torch.autograd.grad(logits, [hidden, *self.output.parameters()], logits.detach())

    def fused(self, **options: Any) -> None:
        simple, ranges = self.simple(ours)
        given = (self.am, self.lm, self.output, self.symbols, ranges, 0, self.lengths)
        backward(0.5 * simple + ours.rnnt_loss_pruned_fused(*given, reduction="sum", **options), *self.leaves)

    def exact(self, losses: dict[str, Callable[[Tensor], Tensor]]) -> dict[str, Run]:
        """The losses of all logits, behind the joiner or in one with it."""

        def in_turn(loss: Callable[[Tensor], Tensor]) -> Run:
            return lambda: backward(loss(self.output(torch.tanh(self.am[:, :, None] + self.lm[:, None]))), *self.leaves)

        def fused(**options: Any) -> None:
            given = (self.am, self.lm, self.output, self.symbols, 0, self.lengths)
            backward(ours.rnnt_loss_fused(*given, reduction="sum", **options), *self.leaves)

        runs: dict[str, Run] = {name: in_turn(loss) for name, loss in losses.items()}
        return {**runs, "rnnt_loss, fused": fused, "rnnt_loss, logits kept": lambda: fused(rows_at_once=0)}


class Trained(Step):
    """icefall's step with its projections, after 200 steps on its batch."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch, 500)
        torch.manual_seed(0)
        self.module = ours.PrunedRNNTLoss(WIDTH, WIDTH, WIDTH, 500, s_range=S_RANGE).to(self.am.device)
        self.output = self.module.joiner.output_linear
        self.leaves = [self.am, self.lm, *self.module.parameters()]
        optimizer = torch.optim.Adam(self.leaves, 3e-3)
        for _ in range(200):
            optimizer.zero_grad()
            (self.loss() / int(self.lengths[:, 2].sum())).backward()
            optimizer.step()

    def of_simple(self) -> tuple[Tensor, Tensor]:
        return self.module.simple_am_proj(self.am), self.module.simple_lm_proj(self.lm)

    def of_joiner(self) -> tuple[Tensor, Tensor]:
        return self.module.joiner.encoder_proj(self.am), self.module.joiner.decoder_proj(self.lm)

    def loss(self) -> Tensor:
        simple, pruned = self.module(self.am, self.lm, self.symbols, self.lengths)
        return 0.5 * simple + pruned


def exact(ends: Tensor, peers: Peers, device: str, part: str, dtype: torch.dtype = torch.float32, **options: Any) -> Group:
    """The loss alone, without a joiner; at the least it reads the logits twice and writes their gradient."""
    batch, (frames, symbols) = len(ends), (int(n) for n in ends.amax(0))

    def make() -> dict[str, Run]:
        logits = torch.randn(batch, frames, symbols + 1, 500, device=device, dtype=dtype, requires_grad=True)
        able = {name: peer for name, peer in peers.items() if dtype == torch.float32}
        problem = Batch.random(ends, 1, device)
        losses = problem.exact(able)
        runs: dict[str, Run] = {name: lambda loss=loss: backward(loss(logits), logits) for name, loss in losses.items()}
        computed = torch.randn_like(logits).requires_grad_().view_as(logits)  # no leaf; gradients are then its values
        given = (problem.symbols, 0, problem.boundary)
        over = lambda: ours.rnnt_loss(computed, *given, reduction="sum", reuse_logits=True)  # noqa: E731
        runs["rnnt_loss, over the logits"] = lambda: backward(over(), computed)
        return {**runs, "copy": suite.copy(3 * logits.nbytes, device)}

    sizes = {"B": batch, "T": frames, "S": symbols, "C": 500}
    names = ["rnnt_loss", "rnnt_loss, over the logits"]
    return Group(part, "exact loss of logits", sizes, make, names, "copy", dtype, **options)


def tdt(machine: Machine, dtype: torch.dtype = torch.float32) -> Group:
    """The token-and-duration transducer's loss alone, of 1025 classes and 5 durations."""
    batch, frames, symbols = machine.fit(8, 100, 20)

    def make() -> dict[str, Run]:
        logits = torch.randn(batch, frames, symbols + 1, 1030, device=machine.device, dtype=dtype, requires_grad=True)
        targets = torch.randint(0, 1024, (batch, symbols), device=machine.device)
        loss = lambda: ours.tdt_loss(logits, targets, [0, 1, 2, 3, 4], 1024, reduction="sum")  # noqa: E731
        return {"rnnt_loss": lambda: backward(loss(), logits), "copy": suite.copy(3 * logits.nbytes, machine.device)}

    sizes = {"B": batch, "T": frames, "S": symbols, "C": 1025, "durations": 5}
    return Group("losses", "TDT loss of logits", sizes, make, ["rnnt_loss"], "copy", dtype)


def smoothed(ends: Tensor, peers: Peers, device: str, what: str) -> Group:
    """Of lm + am; its limit is the product that normalises them, [S + 1, C] by [C, T]."""

    def make() -> dict[str, Run]:
        batch = Batch.random(ends, 500, device)
        lm, am = batch.lm, batch.am
        grad = torch.randn(len(ends), lm.shape[1], am.shape[1], device=device)

        def loss(package: Any) -> Tensor:
            return package.rnnt_loss_smoothed(
                lm, am, batch.symbols, 0, 0.25, 0.0, batch.boundary, reduction="sum", return_grad=True
            )[0]

        packages = {"rnnt_loss": ours, **{name: peer for name, peer in peers.items() if name == "fast_rnnt"}}
        product = lambda: lm @ am.mT  # noqa: E731
        if what == "smoothed, forward":
            return {**{name: inference(loss, p) for name, p in packages.items()}, "products alone": inference(product)}
        runs: dict[str, Run] = {name: lambda p=p: backward(loss(p), lm, am) for name, p in packages.items()}
        return {**runs, "products alone": lambda: torch.autograd.grad(product(), [lm, am], grad)}

    frames, symbols = (int(n) for n in ends.amax(0))
    sizes = {"B": len(ends), "T": frames, "S": symbols, "C": 500}
    return Group("losses", what, sizes, make, ["rnnt_loss"], "products alone")


def pruned(ends: Tensor, peers: Peers, device: str, what: str = "pruned step") -> Group:
    def make() -> dict[str, Run]:
        step = Step(Batch.random(ends, WIDTH, device), 500)
        runs: dict[str, Run] = {
            "rnnt_loss": lambda: step.in_turn(ours),
            "rnnt_loss, fused": step.fused,
            "rnnt_loss, logits kept": lambda: step.fused(rows_at_once=0),
        }
        if "fast_rnnt" in peers:
            runs["fast_rnnt"] = lambda: step.in_turn(peers["fast_rnnt"])
        return {**runs, "products alone": step.products}

    frames, symbols = (int(n) for n in ends.amax(0))
    sizes = {"B": len(ends), "T": frames, "S": symbols, "C": 500, "joiner": WIDTH, "s_range": S_RANGE}
    return Group("losses", what, sizes, make, OURS, "products alone")


def joined(ends: Tensor, peers: Peers, device: str, learnt: bool) -> Group:
    """The exact loss with its joiner; the gradients of most nodes are too small to count, once it has learnt something."""
    frames, symbols = (int(n) for n in ends.amax(0))

    def make() -> dict[str, Run]:
        batch = Batch.random(ends, WIDTH, device)
        step = Step(batch, 500)
        if learnt:
            step.learn()
        nodes = len(ends) * frames * (symbols + 1)
        return {**step.exact(batch.exact(peers)), "products alone": lambda: step.products_of(nodes)}

    sizes = {"B": len(ends), "T": frames, "S": symbols, "C": 500, "joiner": WIDTH}
    what = "exact loss with a joiner that has learnt" if learnt else "exact loss with its joiner"
    return Group("losses", what, sizes, make, OURS, "products alone", share=4.0)


def trained(ends: Tensor, peers: Peers, device: str, what: str) -> Group:
    frames, symbols = (int(n) for n in ends.amax(0))

    def make() -> dict[str, Run]:
        step = Trained(Batch.random(ends, WIDTH, device))
        runs: dict[str, Run] = {
            "rnnt_loss": lambda: step.in_turn(ours),
            "rnnt_loss, PrunedRNNTLoss": lambda: backward(step.loss(), *step.leaves),
        }
        if "fast_rnnt" in peers:
            runs["fast_rnnt"] = lambda: step.in_turn(peers["fast_rnnt"])
        return runs

    sizes = {"B": len(ends), "T": frames, "S": symbols, "C": 500, "width": WIDTH, "s_range": S_RANGE}
    return Group("losses", what, sizes, make, ["rnnt_loss", "rnnt_loss, PrunedRNNTLoss"])


def shapes(count: int) -> Tensor:
    """(frames, symbols) of utterances: means 318 and 68, at most 680 and 151, symbols in proportion to frames, with noise."""
    torch.manual_seed(20220227)
    frames = (680 * torch.distributions.Beta(2.4, 2.7).sample((count,))).clamp(30, 680)
    symbols = (frames * (0.214 + 0.03 * torch.randn(count))).clamp(3, 151)
    return torch.stack([frames, symbols], 1).int()


def utterances(batch: int, frames: int, symbols: int) -> Tensor:
    """A batch of those shapes, the longest of so many frames and symbols."""
    drawn = shapes(batch)
    return (drawn * torch.tensor([frames, symbols]) / drawn.amax(0)).int().clamp(min=1)


def batches(order: str, count: int) -> list[Tensor]:
    """As the protocol makes them: 30 in a row; or frames and symbols each sorted on their own, up to 10,000 frames."""
    drawn = shapes(30 * count)
    if order == "30 in a row":
        return list(drawn.split(30))
    rows, batches = drawn.sort(0, descending=True).values, []
    while len(rows) > 0 and len(batches) < count:
        size = max(1, int((rows[:, 0].cumsum(0) <= 10_000).sum()))
        batches.append(rows[:size])
        rows = rows[size:]
    return batches


def protocol(order: str, ends: Tensor, peers: Peers, device: str) -> Group:
    """The candidates of one batch of the protocol, each after its joiner."""

    def make() -> dict[str, Run]:
        batch = Batch.random(ends, WIDTH, device)
        step = Step(batch, 500)

        given = (batch.symbols, 0, batch.boundary)
        over = lambda z: ours.rnnt_loss(z, *given, reduction="sum", reuse_logits=True)  # noqa: E731
        runs = step.exact({**batch.exact(peers), "rnnt_loss, over the logits": over})
        runs["rnnt_loss, pruned"] = lambda: step.in_turn(ours)
        runs["rnnt_loss, pruned and fused"] = step.fused
        runs["rnnt_loss, pruned, logits kept"] = lambda: step.fused(rows_at_once=0)
        if "fast_rnnt" in peers:
            runs["fast_rnnt, pruned"] = lambda: step.in_turn(peers["fast_rnnt"])
        return runs

    frames, symbols = (int(n) for n in ends.amax(0))
    variants = ("over the logits", "fused", "logits kept", "pruned", "pruned and fused", "pruned, logits kept")
    names = ["rnnt_loss", *(f"rnnt_loss, {variant}" for variant in variants)]
    sizes = {"B": len(ends), "T": frames, "S": symbols, "C": 500, "joiner": WIDTH}
    return Group("protocol", f"batches {order}", sizes, make, names, share=0.1)


def groups(machine: Machine) -> list[Group]:
    loaded = {
        "fast_rnnt": suite.peer("fast_rnnt==1.3", lambda: fast_rnnt(machine.name == "cuda"), compiles=True),
        "torchaudio": suite.peer("torchaudio==2.11.0", torchaudio),
    }
    peers = {name: peer for name, peer in loaded.items() if peer is not None}
    batch, frames, symbols = machine.fit(*SHAPE[:3])
    ends = torch.tensor([[frames, symbols]] * batch)
    all_groups = [exact(ends, peers, machine.device, "losses", share=4.0)]  # theirs take seconds
    all_groups += [smoothed(ends, peers, machine.device, what) for what in ("smoothed, forward", "smoothed")]
    all_groups += [pruned(ends, peers, machine.device)]
    drawn = utterances(batch, frames, symbols)
    all_groups += [pruned(drawn, peers, machine.device, "pruned step of utterances"), tdt(machine)]
    for given, what in ((ends, "trained pruned step"), (drawn, "trained pruned step of utterances")):
        all_groups.append(trained(given, peers, machine.device, what))
    batch, frames, symbols = machine.fit(2, 318, 68)  # the means of LibriSpeech
    ends = torch.tensor([[frames, symbols]] * batch)
    all_groups += [joined(ends, peers, machine.device, learnt) for learnt in (False, True)]
    if machine.gpu:
        for order in ("30 in a row", "sorted"):
            for drawn in batches(order, 4)[1:3]:
                fitted = torch.tensor([machine.fit(*pair) for pair in drawn.tolist()])
                for dtype in (torch.float32, torch.bfloat16):
                    all_groups.append(exact(fitted, peers, machine.device, "protocol, loss alone", dtype, share=0.05))
                all_groups.append(protocol(order, fitted, peers, machine.device))
    return all_groups


if __name__ == "__main__":
    suite.main("rnnt_loss", groups, seconds=12.0)
