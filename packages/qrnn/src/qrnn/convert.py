"""State dicts of other packages, and of what other packages wrap around these layers."""

from __future__ import annotations

import re
from typing import Any


def unwrap_weight_drop(state_dict: dict[str, Any], prefix: str) -> None:
    """Renames, in place, the weights of a Linear inside the WeightDrop of AWD-LSTM (salesforce's or fastai's)."""
    for raw in ("module.weight_raw", "weight_raw"):
        if prefix + raw in state_dict:
            state_dict.pop(prefix + "module.weight", None)  # fastai: what dropout last left of weight_raw
            state_dict[prefix + "weight"] = state_dict.pop(prefix + raw)
    if prefix + "module.bias" in state_dict:
        state_dict[prefix + "bias"] = state_dict.pop(prefix + "module.bias")


def join_language_model(state_dict: dict[str, Any], prefix: str) -> None:
    """Renames, in place, the layers of AWD-LSTM's language models, which keep a list of QRNNs of one layer each."""
    for key in [key for key in state_dict if key.startswith(prefix + "rnns.")]:
        name = re.sub(r"^rnns\.(\d+)\.(layers\.0\.)?", r"layers.\1.", key[len(prefix) :])
        state_dict[prefix + name] = state_dict.pop(key)
