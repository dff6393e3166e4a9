"""First and second derivatives, by finite differences along random directions, in float64, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rnnkit_common.testing import Backend
from sru import functional, reference
from torch import Tensor

OPTIONS = [{}, {"bidirectional": True, "lengths": [5, 2]}, {"pad": True, "mask": True, "scale": 1.3}]
KINDS = [(skip, peephole) for skip in reference.SKIPS for peephole in reference.PEEPHOLES]
# every kind, and every option with each skip and each peephole
PAIRS = [(*kind, OPTIONS[(i + i // 3) % 3]) for i, kind in enumerate(KINDS)]


def double(*shape: int, device: torch.device | str = "cpu") -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=device, requires_grad=True)


def problem(
    skip: str, peephole: str, activation: str, options: dict, device: torch.device
) -> tuple[Callable[..., tuple], list[Tensor]]:
    """The op as a function of its inputs and c0, with T = 5, B = 2, D = 4."""
    torch.manual_seed(0)
    lengths = torch.tensor(options["lengths"], device=device) if "lengths" in options else None
    pad = torch.tensor([[0, 1, 0, 0, 1], [1, 0, 0, 1, 0]], dtype=torch.bool, device=device) if "pad" in options else None
    mask = torch.rand(2, 4, dtype=torch.float64, device=device) if "mask" in options else None
    scale = torch.tensor([options["scale"]], dtype=torch.float64, device=device) if "scale" in options else None
    widths = [16 if skip == "column" else 12, *([4] if skip == "input" else []), *([4, 4] if peephole == "plane" else [])]
    if peephole == "plane":
        widths = [4, *widths[:-1]]
    inputs = [
        *(double(2, 5, w, device=device) for w in widths),
        double(4 if peephole == "parameter" else 2, 4, device=device),
    ]
    kind = (activation, skip, peephole, "both" if "bidirectional" in options else "forward")

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        *x, c0 = tensors
        return torch.ops.rnnkit_sru.scan(x, c0, lengths, None, pad, mask, scale, *kind, True)[:2]

    return run, [*inputs, double(2, 4, device=device)]


@pytest.mark.kernels
@pytest.mark.parametrize(("skip", "peephole", "options"), PAIRS, ids=str)
def test_gradients(skip: str, peephole: str, options: dict, few_backends: Backend) -> None:
    run, inputs = problem(skip, peephole, "tanh", options, few_backends.device)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize(("skip", "peephole", "options"), PAIRS, ids=str)
def test_second_derivatives(options: dict, skip: str, peephole: str) -> None:
    run, inputs = problem(skip, peephole, "tanh", options, torch.device("cpu"))
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.kernels
@pytest.mark.parametrize(("activation", "batch_first"), [("identity", False), ("relu", True), ("tanh", False)])
def test_gradients_of_a_whole_layer(batch_first: bool, activation: str, few_backends: Backend) -> None:
    """Those of x come from the highway and from the matrix product; second derivatives go through U too."""
    torch.manual_seed(0)
    d = few_backends.device
    inputs = [
        double(2, 3, 4, device=d),
        double(4, 12, device=d),
        double(8, device=d),
        double(8, device=d),
        double(2, 4, device=d),
    ]

    def run(x: Tensor, weight: Tensor, bias: Tensor, weight_c: Tensor, c0: Tensor) -> tuple[Tensor, Tensor]:
        x = x if batch_first else x.transpose(0, 1)
        options = {"activation": activation, "bidirectional": True, "batch_first": batch_first}
        return functional.layer(x, weight, bias, weight_c, c0, **options)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    if activation == "tanh" and few_backends.name.startswith("cpu"):
        assert torch.autograd.gradgradcheck(run, inputs, atol=1e-4, fast_mode=True)


def test_a_layer_is_its_product_and_its_recurrence() -> None:
    torch.manual_seed(0)
    x, weight, bias, weight_c = torch.randn(9, 3, 8), torch.randn(8, 24) / 3, torch.randn(16), torch.randn(16)
    leaves = [t.requires_grad_() for t in (x, weight, bias, weight_c)]
    results = []
    for out in (functional.layer(*leaves), functional.recurrence(x @ weight, bias, weight_c, x)):
        results.append([*out, *torch.autograd.grad(out[0].sin().sum() + out[1].sum(), leaves)])
    torch.testing.assert_close(results[0], results[1])


def test_gradients_of_a_product() -> None:
    inputs = [double(2, 3, 4), double(4, 5)]
    assert torch.autograd.gradcheck(functional.product, inputs)
    assert torch.autograd.gradgradcheck(functional.product, inputs, fast_mode=True)


@pytest.mark.parametrize("batch_first", [False, True])
def test_products_that_are_large(batch_first: bool) -> None:
    """Which on a CPU are made another way; against float64."""
    torch.manual_seed(0)
    size = 300
    assert 3 * size**2 > 2**18
    x, weight = torch.randn(7, 5, size), torch.randn(size, 3 * size) / size**0.5
    bias, weight_c, grad = torch.randn(2 * size), torch.randn(2 * size) / 2, torch.randn(7, 5, size)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in (x, weight, bias, weight_c)]
        h, c = functional.layer(*leaves, batch_first=batch_first)
        results.append([t.double() for t in (h, c, *torch.autograd.grad(h, leaves, grad.to(dtype)))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2, 3), (0, 3)])
def test_only_what_is_asked_for(wanted: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight, bias, weight_c = torch.randn(9, 3, 8), torch.randn(8, 24) / 3, torch.randn(16), torch.randn(16)
    tensors = [t.requires_grad_(i in wanted) for i, t in enumerate((x, weight, bias, weight_c))]
    leaves = [tensors[i] for i in wanted]
    for take in (0, 1):
        outs = functional.layer(*tensors)[take], functional.recurrence(x @ weight, bias, weight_c, x)[take]
        a, e = (torch.autograd.grad(out.sin().sum(), leaves) for out in outs)
        torch.testing.assert_close(a, e)


def test_third_derivatives_and_a_state_of_none() -> None:
    torch.manual_seed(0)
    u, bias, weight_c = double(4, 1, 6), double(4), double(4)

    def curvature(h: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(h.square().sum(), u, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), weight_c, create_graph=True)
        return torch.autograd.grad(second.square().sum(), bias)[0]

    rows = torch.cat([bias, weight_c]).view(4, 2)
    expected, _ = reference.scan([u.transpose(0, 1), rows], torch.zeros(1, 2, dtype=torch.float64), skip="none")
    torch.testing.assert_close(curvature(functional.recurrence(u, bias, weight_c)[0]), curvature(expected))


def test_expanded_and_transposed_output_gradients() -> None:
    """A sum's gradient is one number expanded."""
    torch.manual_seed(0)
    u, bias = torch.randn(5, 2, 12, requires_grad=True), torch.randn(8)
    expected, _ = reference.scan([u.transpose(0, 1), bias.view(2, 4)], torch.zeros(2, 4), skip="none", peephole="none")
    out, weights = functional.recurrence(u, bias)[0], torch.randn(4, 2, 5)
    for loss in (lambda t: t.sum(), lambda t: (t.permute(2, 1, 0) * weights).sum()):
        a, e = (torch.autograd.grad(loss(t), u, retain_graph=True) for t in (out, expected.transpose(0, 1)))
        torch.testing.assert_close(a, e)


def test_gradients_of_parameters_are_the_same_in_every_run() -> None:
    """Sums over batch and time have one order, whatever the threads do."""
    torch.manual_seed(0)
    x, weight, bias, weight_c = torch.randn(200, 8, 32), torch.randn(32, 96) / 6, torch.randn(64), torch.randn(64)
    leaves = [bias.requires_grad_(), weight_c.requires_grad_()]

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(functional.layer(x, weight, bias, weight_c)[0].square().sum(), leaves)

    first = gradients()
    assert all(torch.equal(a, e) for _ in range(5) for a, e in zip(gradients(), first, strict=True))


def test_torch_func() -> None:
    """grad, vmap and their compositions: here, gradients per sample and a Hessian."""
    torch.manual_seed(0)
    x, weight, bias, weight_c = (torch.randn(s, dtype=torch.float64) for s in ((3, 5, 2, 4), (4, 12), (8,), (8,)))

    def loss(x: Tensor) -> Tensor:
        return functional.layer(x, weight, bias, weight_c)[0].square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss))(x)
    hessian = torch.func.hessian(loss)(x[0])
    for i in range(3):
        leaf = x[i].clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        torch.testing.assert_close(per_sample[i], expected)
        if i == 0:
            (row,) = torch.autograd.grad(expected[2, 1, 3], leaf)
            torch.testing.assert_close(hessian[2, 1, 3], row)


def test_autocast_does_not_reach_into_a_layer() -> None:
    """Neither its forward, called as a function, nor a backward that is differentiated again."""
    x, weight, bias = torch.randn(5, 2, 4, requires_grad=True), torch.randn(4, 12), torch.randn(8)
    expected = functional.layer(x, weight, bias)[0]
    (grad,) = torch.autograd.grad(expected.square().sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        out = functional.layer(x, weight, bias)[0]
        (again,) = torch.autograd.grad(expected.detach().mul(2).mul(out).sum(), x, create_graph=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(again, grad)
