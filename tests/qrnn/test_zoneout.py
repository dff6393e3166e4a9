"""Zoneout: random bits that are those of Philox on every backend, and the three meanings that it had."""

from __future__ import annotations

import pytest
import torch
from qrnn import QRNNLayer, functional, reference
from rnnkit_common.testing import Backend

pytestmark = pytest.mark.kernels

# of Random123's known-answer tests (kat_vectors): counter, key, result
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_is_philox(counter: list[int], key: list[int], expected: list[int]) -> None:
    words = reference.philox([torch.tensor([c]) for c in counter], [torch.tensor([k]) for k in key])
    assert [int(w) for w in words] == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_seed_keeps_the_same_elements_everywhere(dtype: torch.dtype, backend: Backend) -> None:
    """Saturated gates show the draws: a kept element stays 0, any other becomes tanh(1) at once."""
    gates = torch.cat([torch.ones(2, 37, 70), torch.full((2, 37, 70), 100.0)], dim=-1).to(backend.device, dtype)
    for seed in (0, 1, -1, 2**40 + 5):
        key = torch.tensor([seed], device=backend.device)
        for zoneout in (0.25, 0.9):
            out, _, _ = torch.ops.rnnkit_qrnn.scan([gates], seed=key, pooling="f", zoneout=zoneout)
            kept = reference.draws(key, 2, 37, 70) < round(zoneout * 2**24)
            assert torch.equal(out == 0, kept.cumprod(1).bool())


def test_draws_are_uniform_and_independent() -> None:
    draws = reference.draws(torch.tensor([3]), 4, 400, 100).double() / 2**24
    assert abs(draws.mean() - 0.5) < 5 * (1 / 12 / draws.numel()) ** 0.5
    flat = draws.flatten(0, 1).T - 0.5  # 100 channels x 1600 steps
    off_diagonal = torch.corrcoef(flat).fill_diagonal_(0)
    assert off_diagonal.abs().max() < 6 / 1600**0.5
    shifted = torch.corrcoef(torch.stack([flat[:, 1:].flatten(), flat[:, :-1].flatten()]))
    assert abs(shifted[0, 1]) < 5 / flat.numel() ** 0.5


def test_every_call_draws_anew_and_a_manual_seed_repeats() -> None:
    gates = torch.randn(30, 2, 48)

    def run() -> torch.Tensor:
        return functional.pool(gates, zoneout=0.5, training=True)[0]

    torch.manual_seed(7)
    first, second = run(), run()
    torch.manual_seed(7)
    assert torch.equal(first, run())
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("mode", "scale"), [("salesforce", 0.7), ("fastai", 1.0), ("paper", 1.0)])
def test_evaluation(mode: str, scale: float) -> None:
    """Only torchqrnn's multiplies f, by 1 - zoneout, when nothing is drawn."""
    torch.manual_seed(0)
    layer = QRNNLayer(5, 8, zoneout=0.3, zoneout_mode=mode).eval()
    x = torch.randn(20, 3, 5)
    z, f, o = layer.linear(x).chunk(3, dim=-1)
    h, expected = torch.zeros(3, 8), []
    for t in range(20):
        gate = f[t].sigmoid() * scale
        h = gate * z[t].tanh() + (1 - gate) * h
        expected.append(o[t].sigmoid() * h)
    torch.testing.assert_close(layer(x)[0], torch.stack(expected))


@pytest.mark.parametrize(("mode", "scale"), [("salesforce", 1.0), ("fastai", 1 / 0.7), ("paper", 1.0)])
def test_training(mode: str, scale: float) -> None:
    """About 30 % of the elements keep their value; the others move by f, in fastai's version divided by 0.7."""
    torch.manual_seed(0)
    gates = torch.cat([torch.full((1, 1000, 50), 1.0), torch.full((1, 1000, 50), -2.0)], dim=-1)
    out, _ = functional.pool(gates, pooling="f", zoneout=0.3, zoneout_mode=mode, training=True)
    share = float((out == 0).double().mean())
    assert abs(share - 0.3) < 0.01
    moved = out[out != 0]
    torch.testing.assert_close(
        moved, torch.full_like(moved, torch.tensor(-2.0).sigmoid() * scale * torch.tensor(1.0).tanh())
    )


@pytest.mark.parametrize("mode", ["salesforce", "fastai", "paper"])
def test_zoneout_of_one_keeps_everything(mode: str) -> None:
    hidden = torch.randn(2, 4)
    out, last = functional.pool(torch.randn(9, 2, 8), hidden, "f", zoneout=1.0, zoneout_mode=mode, training=True)
    torch.testing.assert_close(out, hidden.expand(9, 2, 4))
    torch.testing.assert_close(last, hidden)
