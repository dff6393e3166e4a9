"""A small layer in one call: its batch normalisation is nn.BatchNorm1d's, and what may change before backward is what may change there."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from ligru import LiGRU, SLiGRU
from rnnkit_common.testing.contract.programs import Onlooker
from torch import Tensor, nn
from torch.testing import assert_close

X = torch.randn(3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def made(change: Callable[[LiGRU], None] = lambda net: None) -> tuple[LiGRU, LiGRU]:
    """Two of one kind: one for the short way, and one for the dispatcher's."""
    torch.manual_seed(0)
    net = LiGRU(5, (3, 6, 4))
    change(net)
    net.double()
    return net, copy.deepcopy(net)


def by_dispatcher(net: LiGRU, *arguments: Tensor) -> Tensor:
    with Onlooker():  # type: ignore[no-untyped-call]
        return net(*arguments)[0]


def norm(net: LiGRU) -> nn.BatchNorm1d:
    return net.rnn[0].norm


@pytest.mark.sanitized
@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(norm(net), "track_running_stats", False),
        lambda net: setattr(norm(net), "momentum", None),
        lambda net: setattr(net.rnn[0], "norm", nn.BatchNorm1d(10, affine=False)),
        lambda net: setattr(net.rnn[0], "norm", nn.BatchNorm1d(10, track_running_stats=False)),
        lambda net: norm(net).eval(),
        lambda net: norm(net).weight.requires_grad_(False),
    ],
)
def test_batch_normalisation_is_torchs(change: Callable[[LiGRU], None]) -> None:
    net, other = made(change)
    for _ in range(2):
        out, expected = net(X)[0], by_dispatcher(other, X)
        assert_close(out, expected)
        out.square().sum().backward()
        expected.square().sum().backward()
    assert_close([p.grad for p in net.parameters()], [p.grad for p in other.parameters()])
    assert_close(dict(net.named_buffers()), dict(other.named_buffers()))


def test_statistics_may_run_on_before_backward() -> None:
    net, other = made(lambda net: net.eval())
    out, expected = net(X)[0], by_dispatcher(other, X)
    for each in (net, other):
        each.train()
        for _ in range(20):
            each(3 * X + 2)
    parameters = [*net.parameters()]
    seconds = torch.autograd.grad(out.sum(), parameters, create_graph=True)  # by another way than first ones
    assert_close(seconds, torch.autograd.grad(expected.sum(), [*other.parameters()]))


@pytest.mark.parametrize("name", ["norm.bias", "w.weight"])
def test_what_the_gradient_does_not_need_may_change(name: str) -> None:
    net, _ = made()
    out = net(X)[0]
    with torch.no_grad():
        net.rnn[0].get_parameter(name).add_(1)
    parameters = [*net.parameters()]
    torch.autograd.grad(out.sum(), parameters, retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(out.sum(), parameters, create_graph=True)


def test_what_is_refused_stays_refused() -> None:
    net, _ = made(lambda net: setattr(norm(net), "eps", 0.0))
    with pytest.raises(ValueError, match="eps must be positive"):
        net(X)
    net, _ = made()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        net(X[:1, :1])


def test_a_bias_that_was_added_to_the_inner_norm_counts() -> None:
    net = SLiGRU(5, (3, 6, 4), dtype=torch.float64)
    before = net(X)[0]
    net.rnn[0].layer_norm.bias = nn.Parameter(torch.randn(10, dtype=torch.float64))
    assert not torch.equal(net(X)[0], before)
