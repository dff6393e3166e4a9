"""What only a GPU can show: streams, graphs that draw anew, no host synchronisation, every engine at the sizes it is for."""

from __future__ import annotations

import pytest
import torch
from ligru import LiGRU, SLiGRU, functional
from rnnkit_common.testing import check_captured_training, check_current_stream, check_device_error
from torch import nn

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
ENGINES = ["cluster", "async", "grid", "steps"]


@pytest.mark.parametrize("engine", ENGINES)
def test_work_goes_to_the_current_stream(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKIT_LIGRU_ENGINE", engine)
    u = torch.randn(512, 256, device="cuda") / 16
    check_current_stream(lambda g: functional.recurrence(g, u)[0], torch.randn(8, 100, 512, device="cuda"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cls", [LiGRU, SLiGRU])
def test_nothing_waits_for_the_device(cls: type[nn.Module], engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKIT_LIGRU_ENGINE", engine)
    net = cls(64, (4, 50, 32), num_layers=2, dropout=0.1, bidirectional=True).cuda()
    x, h0 = torch.randn(4, 50, 32, device="cuda"), torch.zeros(4, 4, 64, device="cuda")
    lengths = torch.tensor([50, 3, 0, 27], device="cuda")
    net(x)[0].sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        net(x, h0, lengths)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_captured_training_step_draws_anew_at_every_replay(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKIT_LIGRU_ENGINE", engine)
    net = SLiGRU(64, (4, 50, 32), dropout=0.3, ff_normalization="layernorm").cuda()
    check_captured_training(net, torch.randn(4, 50, 32, device="cuda"))


def test_float32_is_multiplied_as_torch_may() -> None:
    g, u = torch.randn(16, 20, 2 * 256, device="cuda"), torch.randn(2 * 256, 256, device="cuda") / 16
    exact, _ = functional.recurrence(g, u, nonlinearity="tanh")
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        shortened, _ = functional.recurrence(g, u, nonlinearity="tanh")
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert not torch.equal(shortened, exact)
    torch.testing.assert_close(shortened, exact, rtol=0, atol=2e-2)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(16, 100, 512), (8, 60, 550), (24, 40, 1024), (3, 50, 2048), (300, 10, 256)], ids=str)
def test_the_sizes_in_use_agree_with_the_cpu(shape: tuple[int, int, int], dtype: torch.dtype, normalize: bool) -> None:
    """Whatever engine is chosen."""
    batch, steps, units = shape
    torch.manual_seed(0)
    g, u = torch.randn(batch, steps, 2 * units).to(dtype), (torch.randn(2 * units, units) / units**0.5).to(dtype)
    grad = torch.randn(batch, steps, 2 * units).to(dtype)
    results = []
    for device in ("cpu", "cuda"):
        leaves = [t.to(device).requires_grad_() for t in (g, u)]
        out, h = functional.recurrence(*leaves, nonlinearity="tanh", bidirectional=True, normalize=normalize)
        grads = torch.autograd.grad(out, leaves, grad.to(device))
        results.append([out.detach().cpu(), h.detach().cpu(), *(t.cpu() / t.float().abs().max().cpu() for t in grads)])
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 5e-2, "atol": 5e-2}
    for cpu, cuda in zip(*results, strict=True):
        torch.testing.assert_close(cuda.float(), cpu.float(), **tolerance)


@pytest.mark.parametrize("engine", ENGINES)
def test_runs_are_equal_bit_for_bit(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKIT_LIGRU_ENGINE", engine)
    g = torch.randn(40, 100, 512, device="cuda", requires_grad=True)
    u = (torch.randn(512, 256, device="cuda") / 16).requires_grad_()
    results = []
    for _ in range(5):
        out, h = functional.recurrence(g, u, normalize=True)
        results.append((out, h, *torch.autograd.grad(out.square().sum(), [g, u])))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_offsets_beyond_32_bits() -> None:
    """2^31 + elements in g; the last sequence must still be right."""
    batch, steps, units = 40, 2**16, 416
    g = torch.empty(batch, steps, 2 * units, dtype=torch.bfloat16, device="cuda").normal_()
    assert g.numel() > 2**31
    u = (torch.randn(2 * units, units, device="cuda") / 40).to(torch.bfloat16)
    with torch.no_grad():
        out, _ = functional.recurrence(g, u, nonlinearity="tanh")
        expected, _ = functional.recurrence(g[-1:, -200:].cpu(), u.cpu(), nonlinearity="tanh")
    torch.testing.assert_close(out[-1:, -50:].cpu(), expected[:, 150:], rtol=5e-2, atol=5e-2)


def test_data_parallel() -> None:
    """Over every GPU that there is."""
    net = LiGRU(64, (8, 50, 32), num_layers=2).cuda().eval()
    x = torch.randn(8, 50, 32, device="cuda")
    torch.testing.assert_close(nn.DataParallel(net)(x)[0], net(x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_lengths_out_of_range_on_the_device_end_in_an_error(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNKIT_LIGRU_ENGINE", engine)
    code = (
        "import torch, ligru; g, u = torch.randn(1, 5, 8, device='cuda'), torch.randn(8, 4, device='cuda'); "
        "ligru.functional.recurrence(g, u, lengths=torch.tensor([6], device='cuda'))"
    )
    check_device_error(code, "lengths: a value is not within 0 and T")
