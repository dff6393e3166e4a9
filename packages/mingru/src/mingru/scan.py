"""The scan in logarithms that mingru 1.3 and 1.4 export; the layers here use `mingru.functional`, which is faster and exact."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["parallel_scan_log"]


def parallel_scan_log(log_a: Tensor, log_b: Tensor) -> Tensor:
    """x_t = a_t x_{t-1} + b_t for numbers >= 0, all t at once (Heinsen, arXiv:2311.06281, equation 7), in plain PyTorch.

    Args:
        log_a: (B, T, ...), logarithms of a_1 ... a_T.
        log_b: (B, T + 1, ...), logarithms of x_0, b_1 ... b_T.

    Returns:
        (B, T + 1, ...): x_0 ... x_T.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if log_a.dim() < 2 or log_b.dim() != log_a.dim() or log_b.shape[1] != log_a.shape[1] + 1:
        raise ValueError(
            f"log_a and log_b: expected (B, T, *) and (B, T + 1, *), got {list(log_a.shape)} and {list(log_b.shape)}"
        )
    log_decay = torch.cat([torch.zeros_like(log_a[:, :1]), log_a.cumsum(1)], 1)
    return torch.exp(log_decay + torch.logcumsumexp(log_b - log_decay, 1))
