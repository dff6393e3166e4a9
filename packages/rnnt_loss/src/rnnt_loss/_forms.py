"""From the arguments of others' losses to those of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ._arguments import may_read
from ._checks import check_integers


@contextmanager
def named(**theirs: str) -> Iterator[None]:
    """Errors of our functions, which begin with the name of an argument, with the name that the caller knows it by."""
    try:
        yield
    except (TypeError, ValueError) as error:
        name, colon, rest = str(error).partition(": ")
        if name not in theirs:
            raise
        raise type(error)(f"{theirs[name]}{colon}{rest}") from None


def boundary_of(logits: Tensor, **lengths: Tensor) -> Tensor:
    """(B, 4), of logits (B, T, S + 1, C) and the lengths (B,) of symbols and frames, in this order, checked under their names."""
    return boundary_within(logits.shape[2] - 1, logits.shape[1], logits, **lengths)


def boundary_within(symbols: int, frames: int, like: Tensor, **lengths: Tensor) -> Tensor:
    """`boundary_of`, of at most so many symbols and frames, on the device of `like` (B, ...)."""
    mosts = (symbols, frames)
    ends = [check_ends(name, given, most, like) for (name, given), most in zip(lengths.items(), mosts, strict=True)]
    start = torch.zeros_like(ends[0])
    return torch.stack([start, start, *ends], 1)


def check_ends(name: str, lengths: Tensor, most: int, like: Tensor) -> Tensor:
    """Lengths (B,) as int64 on the device of `like` (B, ...), within 0..most where they may be read."""
    checked = check_integers(name, lengths, [len(like)], like)
    if may_read(lengths) and len(like) > 0 and not 0 <= int(lengths.min()) <= int(lengths.max()) <= most:
        raise ValueError(f"{name}: expected values within 0..{most}, got {int(lengths.min())}..{int(lengths.max())}")
    return checked


def reduced(loss: Tensor, reduction: str, symbol_lengths: Tensor, *, by_symbols: bool = False) -> Tensor:
    """By NeMo's names: "mean" and "mean_batch" over the batch, "mean_volume" over all symbols, "sum" or "none".

    With `by_symbols`, as in Transformers and in NeMo's wrapper, "mean" divides by the symbols of each sequence first.
    """
    if by_symbols and reduction == "mean":
        loss = loss / symbol_lengths.to(loss.device)
    if reduction == "mean_volume":
        return loss.sum() / symbol_lengths.sum().to(loss.device)
    return loss.mean() if reduction in ("mean", "mean_batch") else loss.sum() if reduction == "sum" else loss
