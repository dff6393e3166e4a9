"""ForgetMult in other uses: h_t = f_t x_t + (1 - f_t) h_{t-1}, for anything that is an average with memory.

1. Exponential smoothing with a rate that is learned, together with the rest of a model.
2. Discounted returns of reinforcement learning, backward through time, over many episodes in one tensor.

Run it: python packages/qrnn/examples/forget_mult_uses.py
"""

from __future__ import annotations

import torch
from qrnn import ForgetMult
from torch import Tensor, nn


class Smoothing(nn.Module):
    """x (T, B, H) -> its exponential moving average, with a learned rate for each of the H channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.zeros(channels))
        self.average = ForgetMult()

    def forward(self, x: Tensor) -> Tensor:
        return self.average(self.rate.sigmoid().expand_as(x), x, x[0])


def discounted_returns(rewards: Tensor, ends: Tensor, discount: float) -> Tensor:
    """G_t = r_t + discount * G_{t+1}, with G = r at the end of an episode: rewards (T, B), ends (T, B) bool -> (T, B).

    It is ForgetMult backward in time: with f = 1 - discount and x = r / f, f x + (1 - f) G = r + discount G; and where an
    episode ends f = 1 forgets all that comes later.
    """
    f = torch.full_like(rewards, 1 - discount).masked_fill(ends, 1.0)
    return ForgetMult(backward=True)(f.unsqueeze(2), (rewards / f).unsqueeze(2)).squeeze(2)


def learn_to_smooth(steps: int = 200) -> tuple[float, float]:
    """Denoise random walks: the best rate for steps of 0.1 and noise of 1 is near that of the Kalman filter."""
    torch.manual_seed(0)
    walk = (0.1 * torch.randn(500, 64, 1)).cumsum(0)
    noisy = walk + torch.randn_like(walk)
    model = Smoothing(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        loss = (model(noisy) - walk).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(model.rate.detach().sigmoid()), float(loss.detach())


def main() -> None:
    rate, loss = learn_to_smooth()
    print(f"smoothing: learned rate {rate:.3f} (Kalman filter: 0.095), mean squared error {loss:.3f} (noise: 1)")
    torch.manual_seed(0)
    rewards, ends = torch.randn(1000, 32, dtype=torch.float64), torch.rand(1000, 32) < 0.02
    returns = discounted_returns(rewards, ends, 0.99)
    g, expected = torch.zeros(32, dtype=torch.float64), []
    for t in reversed(range(1000)):
        g = rewards[t] + 0.99 * torch.where(ends[t], 0.0, g)
        expected.append(g)
    error = float((returns - torch.stack(expected[::-1])).abs().max())
    print(f"discounted returns: differ from a loop's by {error:.1e}")


if __name__ == "__main__":
    main()
