"""Drop-in for NeMo's transducer losses: the calls that its recipes make, and its order of FastEmit, clamp and reduction."""

from __future__ import annotations

import pytest
import rnnt_loss as rl
import torch
from rnnt_loss import MultiblankRNNTLoss, TDTLoss, nemo, reference
from rnnt_loss.torchaudio import rnnt_loss as torchaudio_loss
from torch import nn


def multiblank_reference(acts, symbols, act_lens, label_lens, blank, durations, sigma):
    """As NeMo describes it: the i-th big blank is class blank - 1 - i."""
    ends = torch.stack([torch.zeros_like(act_lens), torch.zeros_like(act_lens), label_lens, act_lens], 1)
    blanks = [blank - i for i in range(len(durations) + 1)]
    label, blank_scores = reference.joint_scores(acts, symbols, ends, None, blanks)
    return -reference.lattice(label[:, None] - sigma, blank_scores - sigma, [0], [1, *durations], ends)


def test_multiblank() -> None:
    torch.manual_seed(0)
    acts = torch.randn(2, 9, 4, 8, dtype=torch.float64, requires_grad=True)
    symbols, ends = torch.randint(0, 5, (2, 3)), (torch.tensor([9, 6]), torch.tensor([3, 2]))
    loss = MultiblankRNNTLoss(7, [2, 4], reduction="none", sigma=0.05)(acts, symbols, *ends)
    expected = multiblank_reference(acts, symbols, *ends, 7, [2, 4], 0.05)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), acts), torch.autograd.grad(expected.sum(), acts))
    for reduction, value in {"sum": expected.sum(), "mean": expected.mean(), "mean_volume": expected.sum() / 5}.items():
        torch.testing.assert_close(MultiblankRNNTLoss(7, [2, 4], reduction, sigma=0.05)(acts, symbols, *ends), value)


@pytest.mark.parametrize("durations", [[0, 1, 2, 3, 4], [1, 0], [0, 1, 5], [1, 2, 3, 4, 5], [2, 3], [0, 1, 10**9]], ids=str)
def test_tdt(durations: list[int]) -> None:
    torch.manual_seed(0)
    acts = torch.randn(2, 9, 4, 6 + len(durations), dtype=torch.float64)
    symbols, ends = torch.randint(0, 5, (2, 3)), (torch.tensor([9, 6]), torch.tensor([3, 2]))
    bounds = torch.stack([torch.zeros(2).long(), torch.zeros(2).long(), ends[1], ends[0]], 1)
    acts[~reference.inside(bounds, None, 9, 4)] = torch.nan
    leaf = acts.requires_grad_()
    loss = TDTLoss(5, durations, "none", sigma=0.05)(leaf, symbols, *ends)
    clean = torch.where(reference.inside(bounds, None, 9, 4)[..., None], leaf, 0.0)
    label, blank = reference.joint_scores(clean[..., :6], symbols, bounds, None, [5])
    lasts = clean[..., 6:].log_softmax(-1).permute(0, 3, 1, 2)
    of_labels = [i for i, d in enumerate(durations) if d <= 9]  # the frames there are
    of_blanks = [i for i in of_labels if durations[i] > 0]
    arcs = (label[:, None] + lasts[:, of_labels, :, :-1] - 0.05, blank + lasts[:, of_blanks] - 0.05)
    expected = -reference.lattice(*arcs, [durations[i] for i in of_labels], [durations[i] for i in of_blanks], bounds)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), leaf), torch.autograd.grad(expected.sum(), leaf))
    plain = TDTLoss(5, durations, "none", omega=1.0)(leaf, symbols, *ends)
    torch.testing.assert_close(plain, rl.rnnt_loss(leaf[..., :6], symbols, 5, bounds, reduction="none"))


def clamped(x: torch.Tensor, limit: float) -> torch.Tensor:
    """x, whose gradient of each sequence's loss is limited: a hook, before what reaches the loss is multiplied in."""
    y = x.view_as(x)
    y.register_hook(lambda grad: grad.clamp(-limit, limit))
    return y


def weighted(logits: torch.Tensor, symbols: torch.Tensor, bounds: torch.Tensor, blanks: list[int], by: float) -> tuple:
    """The scores of arcs, the labels' with gradients that FastEmit has multiplied."""
    label, blank = reference.joint_scores(logits, symbols, bounds, None, blanks)
    return label + by * (label - label.detach()), blank


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("loss", ["torchaudio", "multi-blank", "TDT"])
def test_the_clamp_comes_after_fastemit_and_before_the_reduction(loss: str, reduction: str) -> None:
    """NeMo clamps what is added to the logits' gradient at unit scale; of TDT's, those of classes alone."""
    torch.manual_seed(0)
    acts = torch.randn(2, 6, 4, 7, dtype=torch.float64, requires_grad=True)
    symbols, ends = torch.randint(0, 3, (2, 3)), (torch.tensor([6, 5]), torch.tensor([3, 2]))
    start = torch.zeros(2).long()
    bounds, limit, by = torch.stack([start, start, ends[1], ends[0]], 1), 0.1, 1.0
    given = (reduction, by, limit)
    classes = clamped(acts, limit)
    if loss == "torchaudio":
        actual = torchaudio_loss(acts, symbols, *ends, 3, limit, reduction, fastemit_lambda=by)
        label, blank = weighted(classes, symbols, bounds, [3], by)
        expected = -reference.lattice(label[:, None], blank, [0], [1], bounds)
    elif loss == "multi-blank":
        actual = MultiblankRNNTLoss(6, [2], *given)(acts, symbols, *ends)
        label, blank = weighted(classes, symbols, bounds, [6, 5], by)
        expected = -reference.lattice(label[:, None], blank, [0], [1, 2], bounds)
    else:
        actual = TDTLoss(4, [0, 2], *given)(acts, symbols, *ends)
        label, blank = weighted(clamped(acts[..., :5], limit), symbols, bounds, [4], by)
        lasts = acts[..., 5:].log_softmax(-1).permute(0, 3, 1, 2)
        arcs = (label[:, None] + lasts[..., :-1], blank + lasts[:, 1:])
        expected = -reference.lattice(*arcs, [0, 2], [2], bounds)
    weight = torch.tensor([3.0, 0.5]) if reduction == "none" else torch.tensor(1.0)
    by_hand = torch.tensor([3.0, 0.5]) if reduction == "none" else torch.tensor([0.5, 0.5])
    (grad,) = torch.autograd.grad(actual, acts, weight.double())
    (unit,) = torch.autograd.grad(expected.sum(), acts)  # each sequence's own loss
    assert (unit.abs() > 0.0999).any()
    torch.testing.assert_close(grad, unit * by_hand[:, None, None, None])


def test_the_arguments_stand_in_nemos_order() -> None:
    loss = TDTLoss(blank=4, durations=[0, 1, 2], reduction="none", fastemit_lambda=0.0, clamp=-1.0, sigma=0.05, omega=0.0)
    same = TDTLoss(4, [0, 1, 2], "none", 0.0, -1.0, 0.05, 0.0)
    given = (torch.randn(1, 4, 3, 8), torch.tensor([[1, 2]]), torch.tensor([4]), torch.tensor([2]))
    assert torch.equal(loss(*given), same(*given))
    big = MultiblankRNNTLoss(4, [2], "none", 0.0, -1.0, 0.05)
    named = MultiblankRNNTLoss(
        blank=4, big_blank_durations=[2], reduction="none", fastemit_lambda=0.0, clamp=-1.0, sigma=0.05
    )
    assert torch.equal(big(*given), named(*given))


def test_a_duration_beyond_the_frames_costs_nothing() -> None:
    """Not even memory: the lattice has no arc for it."""
    acts = torch.randn(1, 4, 3, 8)
    given = (torch.tensor([[1, 2]]), torch.tensor([4]), torch.tensor([2]))
    expected = TDTLoss(4, [0, 1, 5])(acts, *given)
    assert torch.equal(TDTLoss(4, [0, 1, 10**12])(acts, *given), expected)


class Joint(nn.Module):
    """What FlashRNNTLoss asks of NeMo's RNNTJoint."""

    def __init__(self, activation: nn.Module, dropout: float, classes: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.enc, self.pred, self.temperature = nn.Linear(5, 8), nn.Linear(3, 8), temperature
        self.joint_net = nn.Sequential(activation, nn.Dropout(dropout), nn.Linear(8, classes))

    def project_encoder(self, x: torch.Tensor) -> torch.Tensor:
        return self.enc(x)

    def project_prednet(self, x: torch.Tensor) -> torch.Tensor:
        return self.pred(x)

    def forward(self, encoder: torch.Tensor, predictor: torch.Tensor) -> torch.Tensor:
        joined = self.enc(encoder)[:, :, None] + self.pred(predictor)[:, None]
        return self.joint_net(joined) / self.temperature


@pytest.mark.parametrize("durations", [None, [0, 1, 2]], ids=["RNN-T", "TDT"])
@pytest.mark.parametrize(
    ("activation", "dropout", "temperature"),
    [(nn.Tanh(), 0.0, 1.0), (nn.ReLU(), 0.0, 2.0), (nn.Tanh(), 0.5, 1.0)],
    ids=["tanh", "relu", "dropout"],
)
def test_the_fused_joint(activation: nn.Module, dropout: float, temperature: float, durations: list[int] | None) -> None:
    """Against the joint called as a whole, and the loss of its logits; dropout draws the same numbers there."""
    torch.manual_seed(0)
    joint = Joint(activation, dropout, 7 + len(durations or []), temperature).double()
    encoder, predictor = torch.randn(2, 6, 5).double().requires_grad_(), torch.randn(2, 4, 3).double().requires_grad_()
    given = (torch.randint(0, 6, (2, 3)), torch.tensor([6, 5]), torch.tensor([3, 2]))
    leaves = [encoder, predictor, *joint.parameters()]
    options = {"fastemit_lambda": 0.1, "clamp": 0.05}
    flash = nemo.FlashRNNTLoss(6, **options, durations=durations, sigma=0.05)
    exact = TDTLoss(6, durations, "none", **options, sigma=0.05) if durations else nemo.RNNTLossNumba(6, "none", **options)
    torch.manual_seed(1)
    expected = exact(joint(encoder, predictor), *given)
    grads = torch.autograd.grad(expected.sum(), leaves)
    torch.manual_seed(1)
    loss = flash(joint, encoder, predictor, *given)
    torch.testing.assert_close(loss, expected)
    for actual, truth in zip(torch.autograd.grad(loss.sum(), leaves), grads, strict=True):
        torch.testing.assert_close(actual, truth)


def test_the_fused_joint_refuses_what_it_would_leave_out() -> None:
    given = (
        torch.randn(2, 6, 5),
        torch.randn(2, 4, 3),
        torch.randint(0, 6, (2, 3)),
        torch.tensor([6, 5]),
        torch.tensor([3, 2]),
    )
    loss = nemo.FlashRNNTLoss(6)
    masked, adapted = Joint(nn.Tanh(), 0.0, 7), Joint(nn.Tanh(), 0.0, 7)
    masked.masking_prob = 0.1
    adapted.is_adapter_available = lambda: True
    for joint, words in ((masked, "masking_prob"), (adapted, "adapters")):
        with pytest.raises(ValueError, match=f"joint: .*{words}"):
            loss(joint, *given)
    with pytest.raises(ValueError, match=r"blank: expected a class within 0..5, got 6"):
        loss(Joint(nn.Tanh(), 0.0, 6), *given)
    with pytest.raises(ValueError, match=r"predictor: expected S . 1 = 5 rows"):
        loss(Joint(nn.Tanh(), 0.0, 7), *given[:2], torch.randint(0, 6, (2, 4)), *given[3:])
    with pytest.raises(ValueError, match=r"source_lengths: expected values within 0..6, got 5..9"):
        loss(Joint(nn.Tanh(), 0.0, 7), *given[:3], torch.tensor([9, 5]), given[4])


@pytest.mark.parametrize("reduction", ["mean_batch", "mean", "sum", "mean_volume", None])
def test_the_wrapper_chooses_and_reduces_as_nemos(reduction: str | None) -> None:
    torch.manual_seed(0)
    lengths = (torch.tensor([6, 5]), torch.tensor([3, 2]))
    acts, targets = torch.randn(2, 6, 4, 8), torch.randint(0, 4, (2, 5))  # wider than any sequence has symbols
    names = {"default": {}, "tdt": {"durations": [0, 1, 2], "sigma": 0.05}, "multiblank_rnnt": {"big_blank_durations": [2]}}
    direct = {"default": nemo.RNNTLossNumba, "tdt": nemo.TDTLossNumba, "multiblank_rnnt": nemo.MultiblankRNNTLossNumba}
    for name, options in names.items():
        blank = 4 if name == "tdt" else 7
        losses = direct[name](blank, reduction="none", **options)(acts, targets[:, :3], *lengths)
        expected = {
            "mean_batch": losses.mean(),
            "mean": (losses / lengths[1]).mean(),
            "sum": losses.sum(),
            "mean_volume": losses.sum() / 5,
            None: losses,
        }
        loss = nemo.RNNTLoss(blank, reduction, name, options)
        named = dict(
            zip(("log_probs", "targets", "input_lengths", "target_lengths"), (acts, targets, *lengths), strict=True)
        )
        torch.testing.assert_close(loss(**named), expected[reduction])
    with pytest.raises(ValueError, match=r"loss_name: expected one of 'default'"):
        nemo.RNNTLoss(7, loss_name="graph_rnnt")
    with pytest.raises(ValueError, match=r"input_lengths: expected values within 0..6"):
        nemo.RNNTLoss(7)(acts, targets, torch.tensor([9, 5]), lengths[1])
