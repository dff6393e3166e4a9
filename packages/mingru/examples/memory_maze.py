"""An agent that has to remember: minGRU beside nn.GRU in a T-maze, by steps and by time.

At the start of a corridor (5 to 20 steps, drawn anew) a sign says left or right; at its end the agent turns, and is paid 1
or -1. Between the two there is nothing to see. Many corridors run side by side, and end at different times: a rollout of 64
steps has several in each row, and `reset` separates them, in one call for all steps. nn.GRU has no such argument: it is
called step by step, its state set to 0 in between, as recurrent policies usually are. Everything else is the same: proximal
policy optimisation (Schulman et al., arXiv:1707.06347) with generalised advantages, two layers, as many units, and a
learning rate that was the better of two for both.

    python memory_maze.py [--seconds 60] [--seeds 3] [--out memory_maze.png]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib
import torch
from mingru import MinGRU
from torch import Tensor, nn
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FEATURES, WIDTH, LAYERS = 4, 64, 2  # left, right, corridor, junction
ROWS, STEPS, EPOCHS = 64, 64, 4
DISCOUNT, SMOOTHING, CLIP, ENTROPY = 0.99, 0.95, 0.2, 0.01


class Mazes:
    """ROWS corridors side by side. An action counts at the junction alone, which ends the corridor and begins another."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.sign, self.left, self.place = (torch.zeros(ROWS, dtype=torch.int64) for _ in range(3))
        self.begin(torch.ones(ROWS, dtype=torch.bool))

    def begin(self, where: Tensor) -> None:
        sign, length = (torch.randint(*bounds, (ROWS,), generator=self.generator) for bounds in ((0, 2), (5, 21)))
        self.sign = torch.where(where, sign, self.sign)
        self.left = torch.where(where, length, self.left)
        self.place = torch.where(where, 0, self.place)

    def see(self) -> tuple[Tensor, Tensor]:
        """What each agent sees (ROWS, FEATURES), and whether a corridor begins there (ROWS,)."""
        first, junction = self.place == 0, self.left == 0
        kind = torch.where(first, self.sign, torch.where(junction, 3, 2))
        return nn.functional.one_hot(kind, FEATURES).float(), first

    def act(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards, and which corridors ended."""
        junction = self.left == 0
        reward = torch.where(junction, torch.where(action == self.sign, 1.0, -1.0), 0.0)
        self.left, self.place = self.left - 1, self.place + 1
        self.begin(junction)
        return reward, junction


class OneCall(nn.Module):
    """minGRU: all steps in one call."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = MinGRU(FEATURES, WIDTH, num_layers=LAYERS, residual=True)
        with torch.no_grad():
            for layer in self.rnn.layers:
                layer.gate_hidden.bias[:WIDTH] -= 2  # gates begin nearly shut: a state lasts some 8 steps, not 2

    def step(self, x: Tensor, h: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        return self.rnn.step(x, h.masked_fill(first[:, None, None], 0.5))  # a fresh state is g(0)

    def forward(self, x: Tensor, h: Tensor, first: Tensor) -> Tensor:
        return self.rnn(x, h, reset=first)[0]

    def fresh(self) -> Tensor:
        return torch.full((LAYERS, ROWS, 1, WIDTH), 0.5)


class StepByStep(nn.Module):
    """nn.GRU: a call a step, because states are set to 0 in between."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(FEATURES, WIDTH, LAYERS)

    def step(self, x: Tensor, h: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        out, h = self.rnn(x[None], h.masked_fill(first[:, None], 0.0))
        return out[0], h

    def forward(self, x: Tensor, h: Tensor, first: Tensor) -> Tensor:
        rows = []
        for t in range(x.shape[1]):
            out, h = self.step(x[:, t], h, first[:, t])
            rows.append(out)
        return torch.stack(rows, 1)

    def fresh(self) -> Tensor:
        return torch.zeros(LAYERS, ROWS, WIDTH)


class Policy(nn.Module):
    """Logits of the actions, and the value, of what a memory makes of what was seen."""

    def __init__(self, memory: OneCall | StepByStep) -> None:
        super().__init__()
        self.memory, self.actor, self.critic = memory, nn.Linear(WIDTH, 2), nn.Linear(WIDTH, 1)

    def heads(self, out: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(out), self.critic(out).squeeze(-1)


def advantages(rewards: Tensor, values: Tensor, ended: Tensor, last: Tensor) -> Tensor:
    """Generalised ones (arXiv:1506.02438), of (ROWS, STEPS)."""
    made, gain = [], torch.zeros_like(last)
    for t in reversed(range(STEPS)):
        following = last if t == STEPS - 1 else values[:, t + 1]
        goes_on = (~ended[:, t]).float()
        gain = rewards[:, t] + DISCOUNT * goes_on * following - values[:, t] + DISCOUNT * SMOOTHING * goes_on * gain
        made.append(gain)
    return torch.stack(made[::-1], 1)


def train(memory: OneCall | StepByStep, seed: int, seconds: float, title: str) -> list[tuple[int, float, float]]:
    """(steps of all agents, seconds, share of right turns) after each rollout."""
    generator = torch.Generator().manual_seed(seed)
    mazes, policy = Mazes(generator), Policy(memory)
    optimizer = torch.optim.Adam(policy.parameters(), 5e-3)
    h, curve, share, start = memory.fresh(), [], 0.5, time.perf_counter()
    with tqdm(total=round(seconds), desc=title, bar_format="{l_bar}{bar}| {n:.0f}/{total} s{postfix}") as bar:
        while time.perf_counter() - start < seconds:
            before, seen = h, []
            with torch.no_grad():
                for _ in range(STEPS):
                    x, first = mazes.see()
                    out, h = memory.step(x, h, first)
                    logits, value = policy.heads(out)
                    action = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
                    chosen = logits.log_softmax(-1).gather(1, action[:, None]).squeeze(1)
                    seen.append((x, first, action, chosen, value, *mazes.act(action)))
                x, first, action, chosen, value, reward, ended = (torch.stack(parts, 1) for parts in zip(*seen, strict=True))
                next_x, next_first = mazes.see()
                last = policy.heads(memory.step(next_x, h, next_first)[0])[1]
                gain = advantages(reward, value, ended, last)
                target, gain = gain + value, (gain - gain.mean()) / (gain.std() + 1e-6)
            for _ in range(EPOCHS):
                logits, estimate = policy.heads(memory(x, before, first))
                logs = logits.log_softmax(-1)
                ratio = (logs.gather(2, action[..., None]).squeeze(2) - chosen).exp()
                actor = -torch.min(ratio * gain, ratio.clamp(1 - CLIP, 1 + CLIP) * gain).mean()
                entropy = -(logs.exp() * logs).sum(-1).mean()
                loss = actor + 0.5 * (estimate - target).square().mean() - ENTROPY * entropy
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()
            turns = ended.sum().item()
            share = 0.9 * share + 0.1 * (reward > 0).sum().item() / max(turns, 1)
            passed = time.perf_counter() - start
            curve.append(((len(curve) + 1) * ROWS * STEPS, passed, share))
            bar.update(min(passed, seconds) - bar.n)
            bar.set_postfix_str(f"right turns {share:.0%}")
            if share > 0.99:
                break
    return curve


def reached(curve: list[tuple[int, float, float]], share: float = 0.95) -> tuple[int, float] | None:
    """Steps and seconds after which so many turns were right; None: never."""
    return next(((steps, seconds) for steps, seconds, right in curve if right >= share), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("memory_maze.png"))
    options = parser.parse_args()
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    found: dict[str, list[list[float] | None]] = {}
    for name, memory, color in (("minGRU", OneCall, "#c8553d"), ("nn.GRU", StepByStep, "#5b6c8f")):
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            curve = train(memory(), seed, options.seconds, f"{name}, seed {seed}")
            after = reached(curve)
            found.setdefault(name, []).append(None if after is None else list(after))
            steps, seconds, right = zip(*curve, strict=True)
            label = name if seed == 0 else None
            axes[0].plot([n / 1e6 for n in steps], right, color=color, label=label)
            axes[1].plot(seconds, right, color=color, label=label)
    for name, runs in found.items():
        text = ", ".join("never" if run is None else f"{run[0] / 1e6:.2f} M steps and {run[1]:.0f} s" for run in runs)
        print(f"{name}: 95 % of the turns right after {text}")
    for axis, label in zip(axes, ("steps, millions", "seconds"), strict=True):
        axis.set(xlabel=label, ylim=(0.4, 1.02))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylabel="right turns", title="T-maze: by steps")
    axes[1].set(title="and by time")
    axes[1].legend(frameon=False, loc="lower right")
    figure.savefig(options.out, dpi=150)
    where = f"{torch.get_num_threads()} CPU threads, {torch.backends.cpu.get_cpu_capability()}"
    numbers = {"torch": torch.__version__, "on": where, "steps, seconds to 95 % right turns": found}
    options.out.with_suffix(".json").write_text(json.dumps(numbers) + "\n")
    print(f"drawn in {options.out}")


if __name__ == "__main__":
    main()
