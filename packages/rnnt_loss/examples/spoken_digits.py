"""A small transducer learns to read out digits: speech by espeak-ng, a minGRU encoder, the pruned loss, greedy decoding.

Sequences of digits are synthesised in several voices, speeds and pitches; features are log mel energies; the encoder is a
bidirectional minGRU, the predictor sees the last two symbols, and `PrunedRNNTLoss` holds the joiner and the losses, whose
scales follow icefall's schedule. After each epoch the word error rate on unseen sequences is printed; at the end it is drawn.
Needs espeak-ng (Debian, Ubuntu: apt install espeak-ng), rnnkit-mingru, tqdm and matplotlib.

    python spoken_digits.py [--epochs 12] [--train 600] [--test 100] [--device cuda] [--out spoken_digits.png]
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import time
import wave
from pathlib import Path

import matplotlib
import torch
from mingru import MinGRU
from rnnt_loss import PrunedRNNTLoss
from rnnt_loss.decode import greedy
from torch import Tensor, nn
from tqdm import tqdm

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")  # class 1 + the digit; 0 is blank
VOICES = ("en-us", "en-gb", "en-gb-scotland", "en-029", "en-us+f3", "en-gb+f2", "en-us+m4", "en-gb+m2")
MELS, STACK, CONTEXT = 40, 4, 2


def speak(words: str, voice: str, speed: int, pitch: int) -> tuple[Tensor, int]:
    """A waveform in -1..1 and its sampling rate."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", words]
    sound = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(sound)) as file:
        rate, frames = file.getframerate(), file.readframes(2**28)
    return torch.frombuffer(bytearray(frames[: len(frames) // 2 * 2]), dtype=torch.int16).float() / 2**15, rate


def mel_filters(rate: int, bins: int) -> Tensor:
    """(bins, MELS) triangles."""
    mel = torch.linspace(0, 2595 * torch.log10(torch.tensor(1 + rate / 2 / 700)).item(), MELS + 2)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    f = torch.linspace(0, rate / 2, bins)[:, None]
    up = (f - hertz[:-2]) / (hertz[1:-1] - hertz[:-2])
    down = (hertz[2:] - f) / (hertz[2:] - hertz[1:-1])
    return torch.minimum(up, down).clamp(min=0)


def features(sound: Tensor, rate: int) -> Tensor:
    """(T, MELS * STACK): log mel energies of 25 ms every 10 ms, STACK of them a frame."""
    size, hop = rate // 40, rate // 100
    power = torch.stft(sound, size, hop, window=torch.hann_window(size), return_complex=True).abs().square()  # (bins, T)
    mels = (power.T @ mel_filters(rate, power.shape[0]) + 1e-6).log()
    mels = (mels - mels.mean(0)) / (mels.std(0) + 1e-3)
    return mels[: len(mels) // STACK * STACK].view(-1, MELS * STACK)


def dataset(count: int, title: str, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Features (T, MELS * STACK) and digits (S,) + 1, of 3 to 6 digits each."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, size: tuple[int, ...] = ()) -> Tensor:
        return torch.randint(low, high, size, generator=generator)

    found = []
    for _ in tqdm(range(count), title):
        digits = draw(0, 10, (int(draw(3, 7)),))
        voice = VOICES[int(draw(0, len(VOICES)))]
        sound, rate = speak(" ".join(WORDS[d] for d in digits), voice, int(draw(140, 200)), int(draw(35, 65)))
        sound = sound + 0.003 * torch.randn(sound.shape, generator=generator)
        found.append((features(sound, rate), digits + 1))
    return found


class Transducer(nn.Module):
    """Encoder, predictor, and the loss with its joiner."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = MinGRU(MELS * STACK, width, num_layers=2, bidirectional=True, norm=True, dropout=0.1)
        self.embedding = nn.Embedding(classes, width)
        self.predictor = nn.Sequential(nn.Linear(CONTEXT * width, width), nn.ReLU())
        self.loss = PrunedRNNTLoss(2 * width, width, width, classes, s_range=4)

    def predict(self, history: Tensor) -> Tensor:
        """(..., CONTEXT) symbols to (..., width)."""
        return self.predictor(self.embedding(history).flatten(-2))

    def forward(self, x: Tensor, symbols: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.encoder(x, lengths=boundary[:, 3])[0]
        padded = nn.functional.pad(symbols, (CONTEXT, 0))  # blanks come before the first symbol
        return self.loss(encoded, self.predict(padded.unfold(1, CONTEXT, 1)), symbols, boundary)

    @torch.no_grad()
    def decode(self, sequences: list[Tensor]) -> list[list[int]]:
        """What is said in sequences of (T, features), by greedy search, all side by side."""
        joiner = self.loss.joiner
        lengths = torch.tensor([len(x) for x in sequences])
        encoded = self.encoder(nn.utils.rnn.pad_sequence(sequences, batch_first=True), lengths=lengths)[0]

        def predictor(symbols: Tensor, history: Tensor | None) -> tuple[Tensor, Tensor]:
            before = symbols.new_zeros(len(symbols), CONTEXT) if history is None else history
            history = torch.cat([before[:, 1:], symbols[:, None]], 1)
            return joiner.decoder_proj(self.predict(history)), history

        def join(encoded: Tensor, decoded: Tensor) -> Tensor:
            return joiner(encoded, decoded, project_input=False)

        found = greedy(joiner.encoder_proj(encoded), lengths, predictor, join, blank=0, most=3)
        return [hypothesis.symbols for hypothesis in found]


def errors(found: list[int], wanted: list[int]) -> int:
    """Insertions, deletions and substitutions between them (Levenshtein)."""
    row = list(range(len(wanted) + 1))
    for i, f in enumerate(found, 1):
        before, row = row, [i]
        for j, w in enumerate(wanted, 1):
            row.append(min(row[-1] + 1, before[j] + 1, before[j - 1] + (f != w)))
    return row[-1]


def word_error_rate(model: Transducer, data: list[tuple[Tensor, Tensor]], device: torch.device) -> float:
    """In percent."""
    model.eval()
    heard = model.decode([x.to(device) for x, _ in data])
    wrong = sum(errors(found, y.tolist()) for found, (_, y) in zip(heard, data, strict=True))
    return 100 * wrong / sum(len(y) for _, y in data)


def collate(batch: list[tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, features), symbols (B, S), boundary (B, 4)."""
    x = nn.utils.rnn.pad_sequence([x for x, _ in batch], batch_first=True)
    symbols = nn.utils.rnn.pad_sequence([y for _, y in batch], batch_first=True)
    boundary = torch.tensor([[0, 0, len(y), len(x)] for x, y in batch])
    return x.to(device), symbols.to(device), boundary.to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("spoken_digits.png"))
    options = parser.parse_args()
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng is needed (Debian, Ubuntu: apt install espeak-ng)")
    torch.manual_seed(0)
    device = torch.device(options.device)
    train, test = dataset(options.train, "speaking", 1), dataset(options.test, "speaking, test", 2)
    model = Transducer(options.width, 1 + len(WORDS)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), options.lr)
    steps = -(-len(train) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.epochs * steps, pct_start=0.2)
    curve, start, step = [(0, word_error_rate(model, test, device))], time.perf_counter(), 0
    for epoch in range(1, options.epochs + 1):
        model.train()
        order = torch.randperm(len(train)).split(options.batch)
        bar = tqdm(order, f"epoch {epoch}", leave=False)
        for indices in bar:
            x, symbols, boundary = collate([train[i] for i in indices], device)
            simple, pruned = model(x, symbols, boundary)
            simple_scale, pruned_scale = PrunedRNNTLoss.scales(step, warm_step=3 * steps)
            loss = (simple_scale * simple + pruned_scale * pruned) / symbols.count_nonzero()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            step += 1
            bar.set_postfix(loss=f"{loss.item():.3f}")
        curve.append((epoch, word_error_rate(model, test, device)))
        print(f"epoch {epoch:2}: word error rate {curve[-1][1]:5.1f} %, {time.perf_counter() - start:.0f} s")

    for x, y in test[:3]:
        said, heard = y.tolist(), model.decode([x.to(device)])[0]
        print(f"said {' '.join(WORDS[i - 1] for i in said)}; heard {' '.join(WORDS[i - 1] for i in heard)}")
    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    axis.plot(*zip(*curve, strict=True), marker="o", color="#c8553d")
    axis.set(xlabel="epoch", ylabel="word error rate, %", ylim=(0, 105), title="spoken digits, pruned RNN-T loss")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.out, dpi=150)
    options.out.with_suffix(".json").write_text(json.dumps({"word error rate, %, by epoch": curve}) + "\n")
    print(f"drawn in {options.out}")


if __name__ == "__main__":
    main()
