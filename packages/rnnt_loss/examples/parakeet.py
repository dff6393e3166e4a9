"""Parakeet of Hugging Face Transformers, small, trained with our RNN-T or TDT loss on a CPU: no torchaudio, no CUDA needed.

One line has the model use ours: `model.loss_function = ParakeetForTDTLoss`. The speech is made up: a word is a pattern of some
frames, with noise around. At the end the model's own `generate` writes down what it hears; and both TDT losses, ours and
theirs, are timed on the same logits. Needs transformers and tqdm.

    python parakeet.py [--loss tdt] [--steps 200]        or rnnt
"""

from __future__ import annotations

import argparse
import time

import torch
from rnnt_loss.transformers import ParakeetForRNNTLoss, ParakeetForTDTLoss, tdt_loss
from torch import Tensor
from tqdm import trange
from transformers import ParakeetEncoderConfig, ParakeetForRNNT, ParakeetForTDT, ParakeetRNNTConfig, ParakeetTDTConfig
from transformers.loss.loss_tdt import tdt_loss as theirs

WORDS, PAD, BLANK = 10, 10, 11
BINS, FRAMES = 16, 16  # mel bins, and frames a word takes


def model_of(loss: str) -> ParakeetForRNNT:
    encoder = ParakeetEncoderConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        num_mel_bins=BINS,
        subsampling_factor=4,
        subsampling_conv_channels=16,
        initializer_range=0.1,
        layerdrop=0.0,
        dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
    )
    options = {
        "vocab_size": BLANK + 1,
        "blank_token_id": BLANK,
        "pad_token_id": PAD,
        "decoder_hidden_size": 64,
        "num_decoder_layers": 1,
        "encoder_config": encoder,
    }
    if loss == "rnnt":
        model = ParakeetForRNNT(ParakeetRNNTConfig(**options))
        model.loss_function = ParakeetForRNNTLoss
    else:
        model = ParakeetForTDT(ParakeetTDTConfig(**options))
        model.loss_function = ParakeetForTDTLoss
    return model


def speech(rows: int, padding: int, generator: torch.Generator) -> dict[str, Tensor]:
    """What the model's processor would make of sentences of 2 to 5 words."""
    patterns = torch.randn(WORDS, FRAMES, BINS, generator=torch.Generator().manual_seed(1))
    counts = torch.randint(2, 6, (rows,), generator=generator)
    words = torch.randint(0, WORDS, (rows, 5), generator=generator)
    features = patterns[words].flatten(1, 2)  # (rows, 5 FRAMES, BINS)
    features = features + 0.3 * torch.randn(features.shape, generator=generator)
    words = words.masked_fill(torch.arange(5) >= counts[:, None], padding)
    mask = torch.arange(5 * FRAMES) < counts[:, None] * FRAMES
    before = torch.nn.functional.pad(words, (1, 0), value=BLANK)  # the blank, then the words
    return {"input_features": features, "attention_mask": mask, "decoder_input_ids": before, "labels": words}


def milliseconds(loss: object, logits: Tensor, labels: Tensor) -> float:
    """Forward and backward, the best of five."""
    lengths = torch.full((len(logits),), logits.shape[1]), torch.full((len(logits),), labels.shape[1])
    best = float("inf")
    for _ in range(5):
        logits = logits.detach().requires_grad_()
        start = time.perf_counter()
        loss(logits[..., :-5], logits[..., -5:], labels, *lengths, logits.shape[3] - 6, [0, 1, 2, 3, 4]).backward()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--loss", choices=["tdt", "rnnt"], default="tdt")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = model_of(options.loss)
    padding = PAD if options.loss == "tdt" else BLANK  # by which the models know how long labels are
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    with trange(options.steps) as steps:
        for i in steps:
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * min(1.0, (i + 1) / 20, 2 * (1 - i / options.steps))
            loss = model(**speech(16, padding, generator)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps.set_postfix(loss=f"{loss.item():.3f}")
    batch = speech(50, padding, generator)
    model.eval()
    said = {name: batch[name] for name in ("input_features", "attention_mask")}
    durations = list(range(BLANK + 1, BLANK + 6)) if options.loss == "tdt" else None  # which generate would take for words
    settings = {
        "decoder_start_token_id": BLANK,
        "pad_token_id": PAD,
        "eos_token_id": PAD,
        "suppress_tokens": durations,
        "max_new_tokens": 200,
    }
    heard = model.generate(**said, **settings)
    sequences = getattr(heard, "sequences", heard)
    right = 0
    for row, words in zip(sequences.tolist(), batch["labels"].tolist(), strict=True):
        right += [w for w in row if w < WORDS] == [w for w in words if w < WORDS]
    print(f"{right} of 50 sentences right after {options.steps} steps")
    logits, labels = torch.randn(4, 100, 21, 1025 + 5), torch.randint(0, 1024, (4, 20))
    print(
        f"TDT loss and gradient of (4, 100, 21, 1025 + 5): {milliseconds(tdt_loss, logits, labels):.0f} ms by ours, ", end=""
    )
    print(f"{milliseconds(theirs, logits, labels):.0f} ms by Transformers'")


if __name__ == "__main__":
    main()
