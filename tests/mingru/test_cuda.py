"""What only a GPU can show: streams, graphs, no host synchronisation, sizes beyond 32 bits, errors found by the device."""

from __future__ import annotations

import pytest
import torch
from mingru import MinGRU, functional, reference
from rnnkit_common.testing import check_current_stream, check_device_error

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def test_work_goes_to_the_current_stream() -> None:
    check_current_stream(lambda k: functional.mingru_scan(k, k)[0], torch.full((8, 512, 512), 3.0, device="cuda"))


def test_nothing_waits_for_the_device() -> None:
    rnn = MinGRU(64, 64, num_layers=2, residual=True, device="cuda")
    x = torch.randn(4, 100, 64, device="cuda")
    lengths = torch.tensor([100, 3, 0, 77], device="cuda")
    reset = torch.zeros(4, 100, dtype=torch.bool, device="cuda")
    rnn(x)[0].sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rnn(x, torch.ones(1, device="cuda"), lengths=lengths, reset=reset)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_cuda_graphs_capture_training_and_steps() -> None:
    rnn = MinGRU(32, 32, num_layers=2, device="cuda")
    x = torch.randn(4, 50, 32, device="cuda")
    parameters = list(rnn.parameters())

    def train() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(rnn(x)[0].square().sum(), parameters)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        train()
        with torch.no_grad():
            rnn.step(x[:, 0])
    torch.cuda.current_stream().wait_stream(side)
    graph, steps = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        grads = train()
    with torch.cuda.graph(steps), torch.no_grad():
        out, _ = rnn.step(x[:, 0])
    x.copy_(torch.randn_like(x))
    graph.replay()
    steps.replay()
    torch.testing.assert_close(grads, train())
    torch.testing.assert_close(out, rnn.step(x[:, 0])[0])


def test_offsets_beyond_32_bits() -> None:
    """2^31 + elements in the packed planes; the last channels of the last sequence must still be right."""
    batch, steps, channels = 9, 2**17, 1024
    planes = torch.empty(batch, steps, 2 * channels, dtype=torch.bfloat16, device="cuda").normal_()
    assert planes.numel() > 2**31
    with torch.no_grad():
        out, last = functional.scan_packed(planes)
    tail = slice(steps - 4096, steps)  # far enough for what lies before to be forgotten
    k, v = (planes[-1:, tail, i * channels + channels - 2 : (i + 1) * channels].double() for i in range(2))
    expected, state = reference.scan([k, v], torch.full((1, 2), 0.5, dtype=torch.float64, device="cuda"))
    torch.testing.assert_close(out[-1:, tail, -2:][:, 2048:].double(), expected[:, 2048:], rtol=8e-3, atol=8e-3)
    torch.testing.assert_close(last[-1:, -2:].double(), state, rtol=1e-5, atol=1e-5)


def test_runs_are_equal_bit_for_bit() -> None:
    planes = torch.randn(2, 5000, 2 * 96, device="cuda", requires_grad=True)
    results = []
    for _ in range(3):
        out, h = functional.scan_packed(planes)
        results.append((out, h, *torch.autograd.grad(out.square().sum(), planes)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("shape", [(1, 20000, 40), (3, 777, 1000), (64, 64, 512), (700, 30, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_way_to_cut_a_problem_agrees_with_the_cpu(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Clusters, blocks and single threads along time, as the number of channels makes the launch choose."""
    b, t, d = shape
    planes = torch.randn(b, t, 2 * d).to(dtype)
    grad = torch.randn(b, t, d).to(dtype)
    results = []
    for device in ("cpu", "cuda"):
        leaf = planes.to(device).requires_grad_()
        out, h = functional.scan_packed(leaf)
        results.append([t.cpu() for t in (out, h, *torch.autograd.grad(out, leaf, grad.to(device)))])
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(results[0], results[1], **tolerance)


def test_lengths_out_of_range_on_the_device_end_in_an_error() -> None:
    code = (
        "import torch, mingru; x = torch.randn(1, 5, 4, device='cuda'); "
        "mingru.functional.mingru_scan(x, x, lengths=torch.tensor([6], device='cuda'))"
    )
    check_device_error(code, "lengths: a value is not within 0 and T")
