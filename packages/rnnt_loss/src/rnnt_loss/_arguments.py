"""Checks of the arguments that losses share."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ._checks import check_choice, check_floating, check_integers, check_tensor
from ._modes import is_free_to_read, needs_plain_torch

RNNT_TYPES = ("regular", "modified", "constrained")
REDUCTIONS = ("none", "mean", "sum")

_always = os.environ.get("RNNKIT_CHECK_VALUES", "0") == "1"


def check_values(enabled: bool) -> None:
    """Whether values on a GPU (boundaries, symbols, ranges) are checked too, at the price of a device synchronisation a call.

    By default only values on the CPU are; on a GPU the kernels stop with a CUDA error at what would lead them out of a tensor.
    The environment variable RNNKIT_CHECK_VALUES=1 enables it from the start.
    """
    global _always
    _always = enabled


def may_read(x: Tensor) -> bool:
    """Whether looking at values is free, or asked for."""
    if not _always or x.device.type == "cpu":
        return is_free_to_read(x)
    making_a_graph = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.cuda.is_current_stream_capturing()
    return not (making_a_graph or needs_plain_torch()) and type(x) is Tensor


def check_index(name: str, value: int, classes: int) -> int:
    """A class, which may count from the end, as it counts from the start."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name}: expected a class, an int, got {value!r}")
    if not -classes <= value < classes:
        raise ValueError(f"{name}: expected a class within 0..{classes - 1}, got {value}")
    return value if value >= 0 else value + int(classes)  # under torch.jit.trace a size is a tensor


def check_count(name: str, value: int, least: int) -> None:
    """Raises unless the value is a number of at least so many."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int, got {value!r}")
    if not least <= value < 1 << 62:
        raise ValueError(f"{name}: expected at least {least}, got {value}")


def check_logits(name: str, x: Tensor, dims: str) -> None:
    """Raises unless x is floating and has the dimensions that are named."""
    check_tensor(name, x)
    check_floating(name, x)
    if x.dim() != len(dims.split(", ")):
        raise ValueError(f"{name}: expected shape ({dims}), got {list(x.shape)}")


def check_rows(name: str, x: Tensor, symbols: Tensor) -> None:
    """Raises unless x, of the predictor, has a row for the blank that it began with, and one for each symbol."""
    check_tensor("symbols", symbols)
    if symbols.dim() != 2:
        raise ValueError(f"symbols: expected shape (B, S), got {list(symbols.shape)}")
    if x.shape[1] != symbols.shape[1] + 1:
        raise ValueError(
            f"{name}: expected S + 1 = {symbols.shape[1] + 1} rows, the blank's and one for each of the S symbols, got {x.shape[1]}"
        )


def with_unit_stride(logits: Tensor) -> Tensor:
    """Logits as the ops take them: any strides but along the classes."""
    return logits if logits.stride(-1) == 1 or logits.shape[-1] == 1 else logits.contiguous()


def check_boundary(boundary: Tensor | None, batch: int, symbols: int, frames: int, like: Tensor) -> Tensor | None:
    """The boundary as int64 on the device of `like`, its values within the tensors where they may be read."""
    if boundary is None:
        return None
    checked = check_integers("boundary", boundary, [batch, 4], like)
    if may_read(boundary) and batch > 0:
        s0, t0, s1, t1 = boundary.long().unbind(1)  # in 8 bits, 200 symbols are none
        good = (s0 >= 0) & (s0 <= s1) & (s1 <= symbols) & (t0 >= 0) & (t0 <= t1) & (t1 <= frames)
        if not bool(good.all()):
            b = int((~good).nonzero()[0])
            raise ValueError(
                f"boundary: expected [begin_symbol, begin_frame, end_symbol, end_frame] with begins <= ends, symbols within "
                f"0..{symbols} and frames within 0..{frames}, got {boundary[b].tolist()} at {b}"
            )
    return checked


def check_symbols(
    symbols: Tensor, batch: int, count: int, classes: int, boundary: Tensor | None, like: Tensor, name: str = "symbols"
) -> Tensor:
    """The symbols as int64 on the device of `like`, within 0..classes - 1 where they are not padding and may be read."""
    checked = check_integers(name, symbols, [batch, count], like)
    if may_read(symbols) and (boundary is None or may_read(boundary)) and symbols.numel() > 0:
        low, high = torch.aminmax(checked)
        if int(low) >= 0 and int(high) < classes:
            return checked
        wrong = (checked < 0) | (checked >= classes)
        if boundary is not None:
            s = torch.arange(count, device=checked.device)
            wrong = wrong & (s >= boundary[:, 0, None]) & (s < boundary[:, 2, None])
        if bool(wrong.any()):
            b, s = wrong.nonzero()[0].tolist()
            raise ValueError(f"{name}: expected values within 0..{classes - 1}, got {int(checked[b, s])} at [{b}, {s}]")
    return checked


def check_options(logits: Tensor, termination_symbol: int, rnnt_type: str, reduction: str) -> int:
    """The blank, as a class counted from the start."""
    check_choice("rnnt_type", rnnt_type, RNNT_TYPES)
    check_choice("reduction", reduction, REDUCTIONS)
    return check_index("termination_symbol", termination_symbol, logits.shape[-1])


def checked_joint(
    logits: Tensor, symbols: Tensor, termination_symbol: int, boundary: Tensor | None, rnnt_type: str, reduction: str
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Logits (B, T, S + 1, C), symbols, boundary and blank as the ops take them."""
    check_logits("logits", logits, "B, T, S + 1, C")
    check_tensor("symbols", symbols)
    batch, frames, rows, classes = logits.shape
    if symbols.dim() != 2 or list(symbols.shape) != [batch, rows - 1]:
        raise ValueError(
            f"logits: expected shape (B, T, S + 1, C), frames before symbols, for symbols (B, S) = {list(symbols.shape)}, got "
            f"{list(logits.shape)}"
        )
    blank = check_options(logits, termination_symbol, rnnt_type, reduction)
    boundary = check_boundary(boundary, batch, rows - 1, frames, logits)
    return with_unit_stride(logits), check_symbols(symbols, batch, rows - 1, classes, boundary, logits), boundary, blank


def check_ranges(ranges: Tensor, batch: int, frames: int, rows: int, symbols: int, like: Tensor) -> Tensor:
    """The band's first row (B, T), from all of its rows (B, T, s_range)."""
    checked = check_integers("ranges", ranges, [batch, frames, rows], like)
    if may_read(ranges) and checked.numel() > 0:
        begin = checked[..., :1]
        if not torch.equal(checked, begin + torch.arange(rows, device=checked.device)):
            raise ValueError("ranges: expected consecutive symbol positions in the last dimension")
        if int(begin.min()) < 0 or int(checked.max()) > symbols:
            raise ValueError(f"ranges: expected values within 0..{symbols}, got {int(begin.min())}..{int(checked.max())}")
    return checked[..., 0].contiguous()


def check_band(
    ranges: Tensor, batch: int, frames: int, rows: int, symbols: int, boundary: Tensor | None, like: Tensor
) -> Tensor:
    """The first row (B, T) of ranges that no path has to leave: within a sequence they may not fall over time."""
    begin = check_ranges(ranges, batch, frames, rows, symbols, like)
    if may_read(ranges) and (boundary is None or may_read(boundary)):
        falls = begin[:, 1:] < begin[:, :-1]
        if boundary is not None:
            t = torch.arange(1, max(frames, 1), device=begin.device)
            falls = falls & (t > boundary[:, 1, None]) & (t < boundary[:, 3, None])
        if bool(falls.any()):
            b, t0 = falls.nonzero()[0].tolist()
            pair = f"{int(begin[b, t0])} and {int(begin[b, t0 + 1])} at [{b}, {t0}]"
            raise ValueError(f"ranges: expected first rows that do not fall over time, got {pair}")
    return begin


def check_reuse(logits: Tensor, reuse: bool) -> bool:
    """Whether to reuse the logits."""
    if reuse and logits.is_leaf and logits.requires_grad:
        raise ValueError("reuse_logits: expected logits that a joiner computed, not a leaf, whose values would be lost")
    return reuse and not torch.compiler.is_compiling()
