"""A streaming transducer, trained, exported as three ONNX graphs, and decoded by onnxruntime: the same text as in Python.

The graphs are those of icefall and sherpa-onnx: encoder (a chunk of frames and a state to a chunk and a state), decoder (the
last two symbols) and joiner. The speech is made up: a letter is a pattern of some frames, with pauses and noise around.
Needs rnnkit-mingru, onnx, onnxscript, onnxruntime and tqdm.

    python transducer_onnx.py [--steps 400] [--folder transducer]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from mingru import MinGRU
from rnnt_loss import rnnt_loss_fused
from torch import Tensor, nn
from tqdm import trange

LETTERS = "_abcdefgh"  # the blank first
FEATURES, WIDTH, LAYERS, CONTEXT, CHUNK = 12, 64, 2, 2, 16


class Encoder(nn.Module):
    """Frames (B, T, FEATURES) and a state (LAYERS, B, 1, WIDTH) to (B, T, WIDTH) and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = MinGRU(FEATURES, WIDTH, num_layers=LAYERS, residual=True)
        self.projection = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        out, state = self.rnn(x, state)
        return self.projection(out), state


class Decoder(nn.Module):
    """The last CONTEXT symbols (..., CONTEXT) to (..., WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), WIDTH)
        self.projection = nn.Linear(CONTEXT * WIDTH, WIDTH)

    def forward(self, symbols: Tensor) -> Tensor:
        return self.projection(self.embedding(symbols).flatten(-2))


class Joiner(nn.Module):
    """Rows of both (B, WIDTH) to logits (B, C). The loss computes the same, with no logits in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(WIDTH, len(LETTERS))

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        return self.output(torch.tanh(encoded + decoded))


def speech(texts: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frames (B, T, FEATURES) in which texts (B, S) are said, and how many each has."""
    patterns = torch.randn(len(LETTERS), 4, FEATURES, generator=torch.Generator().manual_seed(1))
    rows = []
    for text in texts:
        parts = []
        for letter in text:
            pause = torch.zeros(int(torch.randint(1, 5, (), generator=generator)), FEATURES)
            parts += [pause, patterns[letter].repeat_interleave(int(torch.randint(1, 3, (), generator=generator)), 0)]
        rows.append(torch.cat([*parts, torch.zeros(4, FEATURES)]))
    frames = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return frames + 0.2 * torch.randn(frames.shape, generator=generator), torch.tensor([len(row) for row in rows])


def train(encoder: Encoder, decoder: Decoder, joiner: Joiner, steps: int) -> None:
    """By the exact loss, fused with the joiner."""
    generator = torch.Generator().manual_seed(2)
    parameters = [p for module in (encoder, decoder, joiner) for p in module.parameters()]
    optimizer = torch.optim.Adam(parameters, 3e-3)
    bar = trange(steps, desc="training")
    for _ in bar:
        texts = torch.randint(1, len(LETTERS), (16, 8), generator=generator)
        frames, lengths = speech(texts, generator)
        history = nn.functional.pad(texts, (CONTEXT, 0)).unfold(1, CONTEXT, 1)  # (B, S + 1, CONTEXT): blanks come first
        boundary = torch.tensor([[0, 0, texts.shape[1], length] for length in lengths])
        loss = rnnt_loss_fused(encoder(frames, None)[0], decoder(history), joiner.output, texts, 0, boundary)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.2f}")


def export(encoder: Encoder, decoder: Decoder, joiner: Joiner, folder: Path) -> None:
    """encoder.onnx, decoder.onnx and joiner.onnx, for any batch and any length of a chunk."""
    folder.mkdir(parents=True, exist_ok=True)
    batch, steps = torch.export.Dim("batch"), torch.export.Dim("steps")
    rows = {0: batch}
    graphs = {
        "encoder": (
            encoder,
            (torch.zeros(2, CHUNK, FEATURES), torch.zeros(LAYERS, 2, 1, WIDTH)),
            ({0: batch, 1: steps}, {1: batch}),
        ),
        "decoder": (decoder, (torch.zeros(2, CONTEXT, dtype=torch.int64),), (rows,)),
        "joiner": (joiner, (torch.zeros(2, WIDTH), torch.zeros(2, WIDTH)), (rows, rows)),
    }
    for name, (module, example, shapes) in graphs.items():
        torch.onnx.export(module.eval(), example, folder / f"{name}.onnx", dynamic_shapes=shapes, verbose=False)


def greedy(
    encode: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    decode: Callable[[Tensor], Tensor],
    join: Callable[[Tensor, Tensor], Tensor],
    frames: Tensor,
) -> str:
    """The text of frames (T, FEATURES), which come in chunks: the best letter of each frame, until it is blank."""
    found, state = [0] * CONTEXT, torch.full((LAYERS, 1, 1, WIDTH), 0.5)  # minGRU's fresh state is g(0)
    decoded = decode(torch.tensor([found[-CONTEXT:]]))
    for chunk in frames.split(CHUNK):
        encoded, state = encode(chunk[None], state)
        for frame in encoded[0]:
            for _ in range(3):
                letter = int(join(frame[None], decoded).argmax())
                if letter == 0:
                    break
                found.append(letter)
                decoded = decode(torch.tensor([found[-CONTEXT:]]))
    return "".join(LETTERS[i] for i in found[CONTEXT:])


def from_onnx(path: Path) -> Callable[..., tuple[Tensor, ...] | Tensor]:
    """A graph as a function of tensors."""
    session = onnxruntime.InferenceSession(path)
    names = [put.name for put in session.get_inputs()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...] | Tensor:
        outputs = session.run(None, {name: t.numpy() for name, t in zip(names, inputs, strict=True)})
        made = tuple(map(torch.from_numpy, outputs))
        return made if len(made) > 1 else made[0]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("transducer"))
    options = parser.parse_args()
    torch.manual_seed(0)
    encoder, decoder, joiner = Encoder(), Decoder(), Joiner()
    train(encoder, decoder, joiner, options.steps)
    export(encoder, decoder, joiner, options.folder)
    graphs = [from_onnx(options.folder / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")]
    generator = torch.Generator().manual_seed(3)
    texts = torch.randint(1, len(LETTERS), (options.texts, 8), generator=generator)
    frames, lengths = speech(texts, generator)
    same = right = 0
    with torch.no_grad():
        for text, rows, length in zip(texts, frames, lengths.tolist(), strict=True):
            said = "".join(LETTERS[i] for i in text)
            python, onnx = greedy(encoder, decoder, joiner, rows[:length]), greedy(*graphs, rows[:length])
            same += python == onnx
            right += onnx == said
            if text is texts[0] or right == 1:
                print(f"said {said}; heard in Python {python}, by onnxruntime {onnx}")
    print(f"{same} of {len(texts)} texts are the same in Python and by onnxruntime; {right} are right")
    if same < len(texts):
        raise SystemExit("the graphs differ from the modules")


if __name__ == "__main__":
    main()
