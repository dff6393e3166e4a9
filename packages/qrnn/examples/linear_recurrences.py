"""Four linear RNNs on one op: h_t = a_t h_{t-1} + b_t, `qrnn.functional.linear_scan`. One of them is trained.

    GILR      a = f                              b = (1 - f) tanh(W x)        Martin and Cundy, arXiv:1709.04057
    HGRN      a = l + (1 - l) f                  b = (1 - a) silu(W x)        Qin et al., arXiv:2311.04823, in real numbers
    RG-LRU    log a = -8 softplus(L) sigmoid(r)  b = sqrt(1 - a^2) i x        De et al., arXiv:2402.19427
    S5        a = exp(D L)                       b = D B x, y = C h + x       Smith et al., arXiv:2208.04933, with real poles

Each is a module of sequences (T, B, C) with `reset` (T, B) for sequences laid end to end.

Run it: python packages/qrnn/examples/linear_recurrences.py [--steps 300]
"""

from __future__ import annotations

import argparse
import math

import torch
from qrnn.functional import linear_scan
from torch import Tensor, nn


class GILR(nn.Module):
    """Gated impulse linear recurrence."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, 2 * channels)
        nn.init.constant_(self.project.bias[:channels], 3.0)  # begins with a long memory

    def forward(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        f, impulse = self.project(x).chunk(2, -1)
        f = f.sigmoid()
        return linear_scan(f, (1 - f) * impulse.tanh(), reset=reset)[0]


class HGRN(nn.Module):
    """A forget gate with a lower bound, which is learned, so that higher layers can remember longer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, 3 * channels)
        self.bound = nn.Parameter(torch.full((channels,), 2.0))

    def forward(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        f, c, gate = self.project(x).chunk(3, -1)
        bound = self.bound.sigmoid()
        a = bound + (1 - bound) * f.sigmoid()
        return gate.sigmoid() * linear_scan(a, (1 - a) * nn.functional.silu(c), reset=reset)[0]


class RGLRU(nn.Module):
    """Griffin's real-gated linear recurrent unit: the input is scaled so that the state keeps its variance."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Linear(channels, 2 * channels)
        decay = torch.empty(channels).uniform_(0.9, 0.999)  # a^8, at an open gate
        self.rate = nn.Parameter(torch.log(torch.expm1(-torch.log(decay) / 8)))

    def forward(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        r, i = self.gates(x).sigmoid().chunk(2, -1)
        log_a = -8 * nn.functional.softplus(self.rate) * r
        return linear_scan(log_a.exp(), (-torch.expm1(2 * log_a)).sqrt() * i * x, reset=reset)[0]


class S5(nn.Module):
    """A state space of real poles, discretised by its exact solution: a does not depend on the input."""

    def __init__(self, channels: int, states: int = 64) -> None:
        super().__init__()
        self.pole = nn.Parameter(torch.linspace(0.0, math.log(states), states))
        self.step = nn.Parameter(torch.empty(states).uniform_(math.log(1e-3), math.log(1e-1)))
        self.into, self.out_of = nn.Linear(channels, states, bias=False), nn.Linear(states, channels, bias=False)

    def forward(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        poles, step = -self.pole.exp(), self.step.exp()
        a = torch.exp(step * poles)
        b = self.into(x) * (a - 1) / poles
        return x + self.out_of(linear_scan(a.expand_as(b), b, reset=reset)[0])


class Adder(nn.Module):
    """Sequences of (value, mark), in pairs -> the sum of the two values that are marked: the adding problem."""

    def __init__(self, recurrence: type[nn.Module], channels: int = 64) -> None:
        super().__init__()
        self.embed = nn.Linear(2, channels)
        self.recurrence = recurrence(channels)
        self.head = nn.Sequential(nn.GELU(), nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrence(self.embed(x))[-1])[:, 0]


def adding_problem(steps: int, batch: int) -> tuple[Tensor, Tensor]:
    """x (T, B, 2), and the sum of the values at two marks (B,), one in each half."""
    values, marks = torch.rand(steps, batch), torch.zeros(steps, batch)
    for first, last in ((0, steps // 2), (steps // 2, steps)):
        marks[torch.randint(first, last, (batch,)), torch.arange(batch)] = 1.0
    return torch.stack([values, marks], -1), (values * marks).sum(0)


def train(recurrence: type[nn.Module], steps: int, length: int = 100) -> float:
    """The last mean squared error; who answers 1 always has 0.167."""
    torch.manual_seed(0)
    net = Adder(recurrence)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    loss = torch.tensor(math.nan)
    for _ in range(steps):
        x, target = adding_problem(length, 64)
        loss = nn.functional.mse_loss(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="of training")
    steps = parser.parse_args().steps
    for recurrence in (GILR, HGRN, RGLRU, S5):
        out = recurrence(8)(torch.randn(1000, 4, 8))
        print(f"{recurrence.__name__:6} (1000, 4, 8) -> {tuple(out.shape)}")
    print(f"RG-LRU on the adding problem, 100 steps: mean squared error {train(RGLRU, steps):.4f} (0.167: no memory)")


if __name__ == "__main__":
    main()
