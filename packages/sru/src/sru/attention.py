"""What SRU++ has in the place of SRU's matrix product (Lei, "When Attention Meets Fast Recurrence", arXiv:2102.12459).

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

from typing import List, Optional, Union

import torch
from torch import Tensor, nn


class SRUppProjectedLinear(nn.Module):
    """A layer of SRU++ without attention: U = W^o LN(W^q x).

    Args:
        in_features, out_features: of x and U.
        proj_features: between the two products.
        dropout: probability of zeroing a feature before the last product; while training.
        layer_norm: whether there is the LN.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        proj_features: int,
        dropout: float = 0.0,
        layer_norm: bool = False,
        *,
        device: Union[torch.device, str, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.proj_features = in_features, out_features, proj_features
        self.dropout = nn.Dropout(dropout)
        self.linear1 = nn.Linear(in_features, proj_features, bias=False, device=device, dtype=dtype)
        self.linear2 = nn.Linear(proj_features, out_features, bias=False, device=device, dtype=dtype)
        self.layer_norm = nn.LayerNorm(proj_features, device=device, dtype=dtype) if layer_norm else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the weights: Xavier's, the last for inputs that are dropped out."""
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)
        self.linear2.weight.mul_((1 - self.dropout.p) ** 0.5)

    def forward(
        self,
        input: Tensor,
        mask_pad: Optional[Tensor] = None,
        attn_mask: Optional[Tensor] = None,
        memory: Optional[Tensor] = None,
        memory_mask_pad: Optional[Tensor] = None,
    ) -> Tensor:
        """x (T, B, in_features) -> U (T, B, out_features). What only attention needs is accepted and not used."""
        z = self.linear1(input)
        layer_norm = self.layer_norm
        if layer_norm is not None:
            z = layer_norm(z)
        return self.linear2(self.dropout(z))


class SRUppAttention(nn.Module):
    r"""The attention of SRU++ (arXiv:2102.12459, section 3): U = W^o LN(Q + alpha softmax(Q K^T / sqrt(d)) V).

    Q = W^q x, and K and V are projections of Q. alpha begins at 0 (ReZero). The attention is torch's
    scaled_dot_product_attention.

    Args:
        in_features, out_features: of x and U.
        proj_features: of Q, K and V together; a multiple of `num_heads`.
        num_heads: number of heads.
        dropout: probability of zeroing a feature before the last product; while training.
        attn_dropout: the same for the attention's weights.
        rezero_init_alpha: initial alpha.
        layer_norm: whether there is the LN.
        normalize_after: the LN is where the formula has it; otherwise Q is normalised where K, V and the softmax see it.
        device, dtype: of the parameters.

    Raises:
        ValueError: sizes that do not fit, of arguments, input, memory or masks.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        proj_features: int,
        num_heads: int = 1,
        dropout: float = 0.0,
        attn_dropout: float = 0.0,
        rezero_init_alpha: float = 0.0,
        layer_norm: bool = False,
        normalize_after: bool = True,
        *,
        device: Union[torch.device, str, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or proj_features % num_heads != 0:
            raise ValueError(f"proj_features: expected a multiple of num_heads={num_heads}, got {proj_features}")
        self.in_features, self.out_features, self.proj_features = in_features, out_features, proj_features
        self.num_heads, self.attn_dropout = num_heads, float(attn_dropout)
        self.rezero_init_alpha, self.normalize_after = float(rezero_init_alpha), normalize_after
        self.dropout = nn.Dropout(dropout)
        self.linear1 = nn.Linear(in_features, proj_features, bias=False, device=device, dtype=dtype)
        self.linear2 = nn.Linear(proj_features, 2 * proj_features, bias=False, device=device, dtype=dtype)
        self.linear3 = nn.Linear(proj_features, out_features, bias=False, device=device, dtype=dtype)
        self.alpha = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.layer_norm = nn.LayerNorm(proj_features, device=device, dtype=dtype) if layer_norm else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the weights: Xavier's, the last for inputs that are dropped out."""
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)
        nn.init.xavier_uniform_(self.linear3.weight)
        self.linear3.weight.mul_((1 - self.dropout.p) ** 0.5)
        self.alpha.fill_(self.rezero_init_alpha)

    def forward(
        self,
        input: Tensor,
        mask_pad: Optional[Tensor] = None,
        attn_mask: Optional[Tensor] = None,
        memory: Optional[Tensor] = None,
        memory_mask_pad: Optional[Tensor] = None,
    ) -> Tensor:
        """x (T, B, in_features) -> U (T, B, out_features).

        Args:
            input: x.
            mask_pad: (T, B), nonzero where a step is padding, which nothing attends to.
            attn_mask: (T, M + T), added to the attention's logits, or bool, True where attention may go.
            memory: (M, B, in_features), further steps, before x's, that can be attended to.
            memory_mask_pad: (M, B), nonzero where a step of the memory is padding.
        """
        steps, batch = input.shape[0], input.shape[1]
        context = input
        if memory is not None:
            if memory.dim() != 3 or memory.shape[1:] != input.shape[1:]:
                raise ValueError(f"memory: expected shape (M, {batch}, {input.shape[2]}), got {list(memory.shape)}")
            context = torch.cat([memory, input])
        elif memory_mask_pad is not None:
            raise ValueError("memory_mask_pad: expected None without memory")
        z = self.linear1(context)
        residual = z[context.shape[0] - steps :]
        layer_norm = self.layer_norm
        if layer_norm is not None and not self.normalize_after:
            z = layer_norm(z)
        k, v = self.linear2(z).chunk(2, -1)
        mask = self._mask(input, context.shape[0], mask_pad, attn_mask, memory_mask_pad)
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(z.dtype)
        p = self.attn_dropout if self.training else 0.0
        queries = self._heads(z[context.shape[0] - steps :])
        attended = nn.functional.scaled_dot_product_attention(queries, self._heads(k), self._heads(v), mask, p)
        out = residual + self.alpha * attended.permute(2, 0, 1, 3).flatten(2)
        if layer_norm is not None and self.normalize_after:
            out = layer_norm(out)
        return self.linear3(self.dropout(out))

    def _heads(self, t: Tensor) -> Tensor:
        """(S, B, proj_features) -> (B, heads, S, proj_features / heads)."""
        return t.unflatten(2, [self.num_heads, self.proj_features // self.num_heads]).permute(1, 2, 0, 3)

    def _mask(
        self,
        input: Tensor,
        keys: int,
        mask_pad: Optional[Tensor],
        attn_mask: Optional[Tensor],
        memory_mask_pad: Optional[Tensor],
    ) -> Optional[Tensor]:
        """All masks in one, which expands to (B, heads, T, keys)."""
        steps, batch = input.shape[0], input.shape[1]
        mask: Optional[Tensor] = None
        if attn_mask is not None:
            if list(attn_mask.shape) != [steps, keys]:
                raise ValueError(f"attn_mask: expected shape {[steps, keys]}, got {list(attn_mask.shape)}")
            mask = attn_mask
        if mask_pad is not None or memory_mask_pad is not None:
            pads: List[Tensor] = []
            if keys > steps:
                pads.append(_pads("memory_mask_pad", memory_mask_pad, keys - steps, batch, input))
            pads.append(_pads("mask_pad", mask_pad, steps, batch, input))
            pad = torch.cat(pads).t()
            pad = pad & ~pad.all(1, keepdim=True)  # a softmax over nothing is NaN: without a valid key, all count
            valid = ~pad.unsqueeze(1).unsqueeze(1)
            if mask is None:
                mask = valid
            elif mask.dtype == torch.bool:
                mask = mask & valid
            else:
                mask = mask.masked_fill(~valid, float("-inf"))
        return mask


def _pads(name: str, pad: Optional[Tensor], steps: int, batch: int, like: Tensor) -> Tensor:
    if pad is None:
        return torch.zeros([steps, batch], dtype=torch.bool, device=like.device)
    if list(pad.shape) != [steps, batch]:
        raise ValueError(f"{name}: expected shape {[steps, batch]}, got {list(pad.shape)}")
    return pad.to(torch.bool)
