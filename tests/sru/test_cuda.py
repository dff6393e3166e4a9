"""What only a GPU can show: streams, graphs that draw anew, no host synchronisation, sizes beyond 32 bits, DataParallel."""

from __future__ import annotations

import pytest
import torch
from rnnkit_common.testing import check_captured_training, check_current_stream, check_device_error
from sru import SRU, SRUpp, functional
from torch import nn

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def test_work_goes_to_the_current_stream() -> None:
    bias = torch.zeros(1024, device="cuda")
    check_current_stream(lambda u: functional.recurrence(u, bias)[0], torch.full((512, 8, 1536), 0.5, device="cuda"))


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "rescale": True}, {"v1": True, "layer_norm": True}], ids=str
)
def test_nothing_waits_for_the_device(options: dict) -> None:
    rnn = SRU(64, 64, dropout=0.1, **options).cuda()
    x, mask = torch.randn(100, 4, 64, device="cuda"), torch.zeros(100, 4, device="cuda")
    lengths = torch.tensor([100, 3, 0, 77], device="cuda")
    rnn(x)[0].sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rnn(x, torch.zeros(2, 4, rnn.output_size, device="cuda"), mask, lengths)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("make", [lambda: SRU(32, 32, dropout=0.3), lambda: SRUpp(32, 32, 16, dropout=0.3)])
def test_a_captured_training_step_draws_anew_at_every_replay(make) -> None:
    check_captured_training(make().cuda(), torch.randn(50, 4, 32, device="cuda"))


def test_offsets_beyond_32_bits() -> None:
    """2^31 + elements in U; the last channels of the last sequence must still be right."""
    batch, steps, channels = 6, 2**17, 1024
    u = torch.empty(batch, steps, 3 * channels, dtype=torch.bfloat16, device="cuda").normal_()
    assert u.numel() > 2**31
    bias, weight_c = torch.randn(2 * channels, device="cuda"), torch.randn(2 * channels, device="cuda") / 2
    with torch.no_grad():
        out, _ = functional.recurrence(u, bias, weight_c, batch_first=True)
    alone = u[-1:, -4096:, -6:].cpu()  # far enough for what lies before to be forgotten
    few = [t.view(2, -1)[:, -2:].flatten().cpu() for t in (bias, weight_c)]
    expected, _ = functional.recurrence(alone, *few, batch_first=True)
    torch.testing.assert_close(out[-1:, -2048:, -2:].cpu(), expected[:, 2048:], rtol=8e-3, atol=8e-3)


@pytest.mark.parametrize("shape", [(20000, 1, 40), (777, 3, 1000), (64, 64, 512), (30, 700, 34)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("v1", [False, True])
def test_every_way_to_cut_a_problem_agrees_with_the_cpu(shape: tuple[int, int, int], dtype: torch.dtype, v1: bool) -> None:
    """Clusters, blocks and single threads along time, as the number of channels makes the launch choose."""
    t, b, d = shape
    torch.manual_seed(0)
    rnn = SRU(d, d // 2, num_layers=1, bidirectional=True, v1=v1).to(dtype)
    x, grad = torch.randn(t, b, d).to(dtype), torch.randn(t, b, d).to(dtype)
    results = []
    for device in ("cpu", "cuda"):
        leaf = x.to(device).requires_grad_()
        h, c = rnn.to(device)(leaf)
        parameters = [p for p in rnn.parameters() if p.requires_grad]
        grads = torch.autograd.grad(h, [leaf, *parameters], grad.to(device))
        results.append([r.detach().cpu() for r in (h, c, grads[0])])
        results[-1] += [g.cpu() / g.cpu().abs().max() for g in grads[1:]]
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 5e-2, "atol": 5e-2}
    torch.testing.assert_close(results[0], results[1], **tolerance)


def test_data_parallel() -> None:
    """Over every GPU that there is."""
    rnn = SRU(128, 128, 3).cuda()
    x = torch.randn(500, 8, 128, device="cuda")
    torch.testing.assert_close(nn.DataParallel(rnn, dim=1)(x)[0], rnn(x)[0], rtol=1e-4, atol=1e-4)


def test_lengths_out_of_range_on_the_device_end_in_an_error() -> None:
    code = (
        "import torch, sru; u = torch.randn(5, 1, 12, device='cuda'); b = torch.zeros(8, device='cuda'); "
        "sru.functional.recurrence(u, b, b, lengths=torch.tensor([6], device='cuda'))"
    )
    check_device_error(code, "lengths: a value is not within 0 and T")
