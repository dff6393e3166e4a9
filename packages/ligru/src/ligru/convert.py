"""Checkpoints of other implementations. SpeechBrain's load as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def from_pytorch_kaldi(
    state_dict: Mapping[str, Tensor], *, dropout: float | Sequence[float] = 0.0, nonlinearity: str = "relu"
) -> dict[str, Tensor]:
    """The state dict of a `LiGRU` with batch normalisation, from that of pytorch-kaldi's `liGRU`.

    pytorch-kaldi scales the candidate by 1 - dropout in evaluation, where this package scales by 1 / (1 - dropout) while
    training. With relu and leaky_relu the factor moves into the candidate's weights, so that evaluation gives the same numbers.

    Args:
        state_dict: keys wh, wz, uh, uz, bn_wh and bn_wz of each layer, with batch normalisation in all of them.
        dropout: `ligru_drop`, one for all layers or one for each.
        nonlinearity: `ligru_act`.

    Raises:
        ValueError: if the model has what `LiGRU` has not (normalised inputs or states, layers without batch normalisation), or
            `dropout` with a nonlinearity for which f(k a) is not k f(a).
    """
    layers = sum(key.startswith("wh.") and key.endswith(".weight") for key in state_dict)
    if layers == 0:
        raise ValueError("state_dict: expected keys wh.0.weight, ..., got none")
    ratios = [dropout] * layers if isinstance(dropout, (int, float)) else list(dropout)
    if len(ratios) != layers:
        raise ValueError(f"dropout: expected {layers} ratios, one per layer, got {len(ratios)}")
    if any(ratios) and nonlinearity not in ("relu", "leaky_relu", "leakyrelu"):
        raise ValueError(f"dropout: expected 0 with {nonlinearity!r}, which the factor 1 - dropout cannot move through")
    foreign = [key for key in state_dict if key.startswith(("bn0.", "ln0.")) or (key[:2] == "wh" and key.endswith(".bias"))]
    for key, value in state_dict.items():  # layer norms are there whether they are used or not
        neutral = 1.0 if key.endswith(".gamma") else 0.0
        if key.startswith("ln.") and not torch.equal(value, torch.full_like(value, neutral)):
            foreign.append(key)
    if foreign:
        raise ValueError(f"state_dict: expected batch normalisation of W x and nothing else, got {foreign}")
    converted: dict[str, Tensor] = {}
    for i, p in enumerate(ratios):
        for ours, theirs in (("w.weight", "w{}.{}.weight"), ("u.weight", "u{}.{}.weight")):
            converted[f"rnn.{i}.{ours}"] = torch.cat([state_dict[theirs.format(part, i)] for part in "hz"])
        for name in ("weight", "bias", "running_mean", "running_var"):
            converted[f"rnn.{i}.norm.{name}"] = torch.cat([state_dict[f"bn_w{part}.{i}.{name}"] for part in "hz"])
        counted = f"bn_wh.{i}.num_batches_tracked"  # absent from the checkpoints of old versions of torch
        converted[f"rnn.{i}.norm.num_batches_tracked"] = state_dict.get(counted, torch.tensor(0))
        units = state_dict[f"uh.{i}.weight"].shape[0]
        for name in ("u.weight", "norm.weight", "norm.bias"):
            converted[f"rnn.{i}.{name}"][:units] *= 1 - p
    return converted
