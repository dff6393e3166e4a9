"""A transducer by SpeechBrain's own parts and trainer, with LiGRU and the loss of this repository in the place of theirs.

What changes is two lines of hparams. The encoder is SpeechBrain's CRDNN: convolutions, Li-GRU, dense layers. The speech is made
up: a word is a pattern of some frames, with noise around. Their loss needs numba and a GPU; their Li-GRU is timed beside ours.
Needs speechbrain, rnnkit-ligru and rnnkit-rnnt_loss.

    python speechbrain_transducer.py [--steps 150]
"""

from __future__ import annotations

import argparse
import time

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from rnnt_loss.decode import greedy
from torch import Tensor

HPARAMS = """
rnn_class: !name:ligru.LiGRU                                    # was !name:speechbrain.nnet.RNN.LiGRU
transducer_cost: !name:rnnt_loss.speechbrain.transducer_loss    # was !name:speechbrain.nnet.losses.transducer_loss
    blank_index: !ref <blank>

blank: 0
words: 11
encoder: !new:speechbrain.lobes.models.CRDNN.CRDNN
    input_shape: [null, null, 16]
    rnn_class: !ref <rnn_class>
    cnn_blocks: 1
    cnn_channels: [16]
    inter_layer_pooling_size: [2]
    time_pooling: True
    rnn_layers: 2
    rnn_neurons: 64
    dnn_blocks: 1
    dnn_neurons: 64
    dropout: 0.0
embedding: !new:speechbrain.nnet.embedding.Embedding
    num_embeddings: !ref <words>
    embedding_dim: 64
predictor: !new:speechbrain.nnet.RNN.GRU
    input_shape: [null, null, 64]
    hidden_size: 64
    re_init: False
joint: !new:speechbrain.nnet.transducer.transducer_joint.Transducer_joint
    joint: sum
    nonlinearity: !name:torch.nn.Tanh
output: !new:speechbrain.nnet.linear.Linear
    input_size: 64
    n_neurons: !ref <words>
modules:
    encoder: !ref <encoder>
    embedding: !ref <embedding>
    predictor: !ref <predictor>
    joint: !ref <joint>
    output: !ref <output>
opt_class: !name:torch.optim.AdamW
    lr: 0.003
"""
FRAMES = 8  # that a word takes


class Batch:
    """Features (B, T, 16), words (B, S), and the shares of T and S that each sequence has, as SpeechBrain's loaders make them."""

    def __init__(self, rows: int, generator: torch.Generator) -> None:
        patterns = torch.randn(11, FRAMES, 16, generator=torch.Generator().manual_seed(1))
        counts = torch.randint(2, 6, (rows,), generator=generator)
        counts[0] = 5
        self.words = torch.randint(1, 11, (rows, 5), generator=generator)
        frames = patterns[self.words].flatten(1, 2)
        self.features = frames + 0.3 * torch.randn(frames.shape, generator=generator)
        self.shares = counts / 5

    def to(self, device: str) -> Batch:
        """On another device."""
        self.features, self.words, self.shares = (t.to(device) for t in (self.features, self.words, self.shares))
        return self


class Transducer(sb.Brain):
    """SpeechBrain's trainer; what a recipe writes."""

    def compute_forward(self, batch: Batch, stage: sb.Stage) -> Tensor:
        """Logits (B, T, S + 1, words)."""
        batch = batch.to(self.device)
        encoded = self.modules.encoder(batch.features)
        before = torch.nn.functional.pad(batch.words, (1, 0), value=self.hparams.blank)
        predicted, _ = self.modules.predictor(self.modules.embedding(before))
        return self.modules.output(self.modules.joint(encoded.unsqueeze(2), predicted.unsqueeze(1)))

    def compute_objectives(self, predictions: Tensor, batch: Batch, stage: sb.Stage) -> Tensor:
        """The transducer's loss."""
        return self.hparams.transducer_cost(predictions, batch.words, batch.shares, batch.shares)


@torch.no_grad()
def errors(brain: Transducer, batch: Batch) -> float:
    """Share of words that the greedy search gets wrong, by SpeechBrain's own count."""
    brain.modules.eval()
    modules, batch = brain.modules, batch.to(brain.device)
    encoded = modules.encoder(batch.features)

    def predictor(symbols: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        predicted, state = modules.predictor(modules.embedding(symbols[:, None]), state)
        return predicted[:, 0], state

    def joiner(encoded: Tensor, predicted: Tensor) -> Tensor:
        return modules.output(modules.joint(encoded[:, None, None], predicted[:, None, None]))[:, 0, 0]

    lengths = (batch.shares * encoded.shape[1]).round().long()
    found = greedy(encoded, lengths, predictor, joiner, blank=0, state_dim=1)
    wanted = [words[: round(5 * share.item())].tolist() for words, share in zip(batch.words, batch.shares, strict=True)]
    said = [hypothesis.symbols for hypothesis in found]
    details = sb.utils.edit_distance.wer_details_for_batch(list(range(len(said))), wanted, said)
    return sum(row["num_edits"] for row in details) / sum(map(len, wanted))


def milliseconds(hparams: dict, batch: Batch) -> float:
    """A training step of the encoder, the best of five."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        hparams["encoder"](batch.features).sum().backward()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    hparams = load_hyperpyyaml(HPARAMS)
    brain = Transducer(hparams["modules"], hparams["opt_class"], hparams)
    batches = [Batch(16, generator) for _ in range(options.steps)]
    brain.fit(range(1), batches, train_loader_kwargs={"batch_size": None})
    print(f"word error rate after {options.steps} steps: {errors(brain, Batch(50, generator)):.0%}")
    theirs = load_hyperpyyaml(HPARAMS, "rnn_class: !name:speechbrain.nnet.RNN.LiGRU")
    batch = Batch(16, generator)
    times = [milliseconds(made, batch) for made in (load_hyperpyyaml(HPARAMS), theirs)]
    print(f"a training step of CRDNN: {times[0]:.0f} ms with ligru.LiGRU, {times[1]:.0f} ms with SpeechBrain's")


if __name__ == "__main__":
    main()
