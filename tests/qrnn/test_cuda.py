"""What only a GPU can show: streams, graphs that draw anew, no host synchronisation, sizes beyond 32 bits, DataParallel."""

from __future__ import annotations

import pytest
import torch
from qrnn import QRNN, functional
from rnnkit_common.testing import check_captured_training, check_current_stream, check_device_error
from torch import nn

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def test_work_goes_to_the_current_stream() -> None:
    check_current_stream(lambda f: functional.forget_mult(f, f)[0], torch.full((512, 8, 512), 0.5, device="cuda"))


def test_nothing_waits_for_the_device() -> None:
    rnn = QRNN(64, 64, 2, window=2, zoneout=0.1, dropout=0.1, bidirectional=True).cuda()
    x = torch.randn(100, 4, 64, device="cuda")
    lengths = torch.tensor([100, 3, 0, 77], device="cuda")
    rnn(x)[0].sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rnn(x, torch.zeros(4, 4, 64, device="cuda"), lengths)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_training_step_draws_anew_at_every_replay() -> None:
    rnn = QRNN(32, 32, 2, window=2, zoneout=0.3).cuda()
    check_captured_training(rnn, torch.randn(50, 4, 32, device="cuda"))


def test_offsets_beyond_32_bits() -> None:
    """2^31 + elements in the packed planes; the last channels of the last sequence must still be right."""
    batch, steps, channels = 6, 2**17, 1024
    gates = torch.empty(batch, steps, 3 * channels, dtype=torch.bfloat16, device="cuda").normal_()
    assert gates.numel() > 2**31
    with torch.no_grad():
        out, _ = functional.pool(gates, batch_first=True)
    tail = slice(steps - 4096, steps)  # far enough for what lies before to be forgotten
    columns = [slice((i + 1) * channels - 2, (i + 1) * channels) for i in range(3)]
    alone = torch.cat([gates[-1:, tail, c] for c in columns], dim=-1).cpu()
    expected, _ = functional.pool(alone, batch_first=True)
    torch.testing.assert_close(out[-1:, tail, -2:][:, 2048:].cpu(), expected[:, 2048:], rtol=8e-3, atol=8e-3)


@pytest.mark.parametrize("shape", [(1, 20000, 40), (3, 777, 1000), (64, 64, 512), (700, 30, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_way_to_cut_a_problem_agrees_with_the_cpu(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Clusters, blocks and single threads along time, as the number of channels makes the launch choose."""
    b, t, d = shape
    gates, grad = torch.randn(b, t, 3 * d).to(dtype), torch.randn(b, t, d).to(dtype)
    results = []
    for device in ("cpu", "cuda"):
        leaf = gates.to(device).requires_grad_()
        out, h = functional.pool(leaf, batch_first=True)
        results.append([t.cpu() for t in (out, h, *torch.autograd.grad(out, leaf, grad.to(device)))])
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(results[0], results[1], **tolerance)


def test_data_parallel() -> None:
    """The example of upstream's multigpu_dataparallel.py, over every GPU that there is."""
    rnn = QRNN(128, 128, 3).cuda()
    x = torch.randn(500, 8, 128, device="cuda")
    torch.testing.assert_close(nn.DataParallel(rnn, dim=1)(x)[0], rnn(x)[0], rtol=1e-4, atol=1e-4)


def test_lengths_out_of_range_on_the_device_end_in_an_error() -> None:
    code = (
        "import torch, qrnn; x = torch.randn(5, 1, 4, device='cuda'); "
        "qrnn.functional.forget_mult(x, x, lengths=torch.tensor([6], device='cuda'))"
    )
    check_device_error(code, "lengths: a value is not within 0 and T")
