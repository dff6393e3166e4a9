"""SRU++ (Lei, "When Attention Meets Fast Recurrence", arXiv:2102.12459): SRU whose matrix product is an attention.

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from .modules import SRUCell, check_sequence, clear_padding, join_states, pack_like, split_states


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
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(self.linear1.weight.dtype)
        return mask


def _pads(name: str, pad: Optional[Tensor], steps: int, batch: int, like: Tensor) -> Tensor:
    if pad is None:
        return torch.zeros([steps, batch], dtype=torch.bool, device=like.device)
    if list(pad.shape) != [steps, batch]:
        raise ValueError(f"{name}: expected shape {[steps, batch]}, got {list(pad.shape)}")
    return pad.to(torch.bool)


class SRUppCell(SRUCell):
    """One layer of SRU++: an `SRUCell` whose `custom_m` takes masks and a memory."""

    def attend(
        self,
        input: Tensor,
        c0: Optional[Tensor],
        mask_pad: Optional[Tensor],
        attn_mask: Optional[Tensor],
        memory: Optional[Tensor],
        memory_mask_pad: Optional[Tensor],
    ) -> Tuple[Tensor, Tensor]:
        """h (T, B, output_size) and the last c (B, output_size); arguments as `SRUpp.forward` has them, of one layer."""
        if memory is not None:
            memory = self.prepare(memory)
        U = self.custom_m(self.prepare(input), mask_pad, attn_mask, memory, memory_mask_pad)  # type: ignore[misc]
        h, c = self.recur(U, self.weight_c, input, c0, mask_pad, None)
        return self.finish(h, mask_pad, None), c


class SRUpp(nn.Module):
    r"""Stacked layers of SRU++ (Lei, arXiv:2102.12459): SRU with U from an attention. Equations: `SRUCell`, `SRUppAttention`.

    Args:
        input_size: features of the input.
        hidden_size: features of each layer's state, of each direction.
        proj_size: features of the attention's queries, keys and values; a multiple of `num_heads`.
        num_layers: number of layers.
        dropout: probability of zeroing a channel of g(c) - x' for a whole sequence (not in the last layer), and a feature
            before the attention's last product; while training.
        attn_dropout: the same for the attention's weights.
        num_heads: of the attention.
        bidirectional: the second half of the channels goes from the last step to the first.
        layer_norm, normalize_after: normalises the input of each layer's attention, or its h; see `SRUCell`.
        attn_layer_norm: whether each attention has the LN of its formula.
        highway_bias: initial b_r.
        attention_every_n_layers: only every n-th layer has attention, the others `SRUppProjectedLinear`.
        attention_last_n_layers: only the last n layers have attention; -1: no such limit.
        rescale: see `SRUCell`.
        nn_rnn_compatible_return: returns c as (num_layers * directions, B, hidden_size).
        proj_input_to_hidden_first: where the input's size is not the output's, a linear map makes it so.
        weight_c_init: v is uniform in +-weight_c_init.
        batch_first: sequences are (B, T, features), mask_pad and memory_mask_pad (B, T) and (B, M), memory (B, M, features).
        device, dtype: of the parameters.

    Raises:
        ValueError: arguments out of range or that contradict each other, or an input, state, mask or memory that does not fit.
        TypeError: dtypes that are not floating or differ.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        proj_size: int,
        num_layers: int = 2,
        dropout: float = 0.0,
        attn_dropout: float = 0.0,
        num_heads: int = 1,
        bidirectional: bool = False,
        layer_norm: bool = False,
        normalize_after: bool = False,
        attn_layer_norm: bool = True,
        highway_bias: float = -2.0,
        attention_every_n_layers: int = 1,
        attention_last_n_layers: int = -1,
        rescale: bool = False,
        nn_rnn_compatible_return: bool = False,
        proj_input_to_hidden_first: bool = False,
        weight_c_init: float = 1.0,
        *,
        batch_first: bool = False,
        device: Union[torch.device, str, None] = None,
        dtype: Optional[torch.dtype] = None,
    ) -> None:
        super().__init__()
        if num_layers < 1 or proj_size < 1:
            raise ValueError(f"num_layers and proj_size: expected at least 1, got {num_layers} and {proj_size}")
        if attention_every_n_layers < 1 or attention_last_n_layers < -1:
            raise ValueError(
                "attention_every_n_layers and attention_last_n_layers: expected >= 1 and >= -1, "
                f"got {attention_every_n_layers} and {attention_last_n_layers}"
            )
        if attention_every_n_layers != 1 and attention_last_n_layers != -1:
            raise ValueError("attention_every_n_layers and attention_last_n_layers: expected at most one of the two")
        self.input_size, self.hidden_size, self.proj_size = input_size, hidden_size, proj_size
        self.output_size = hidden_size * 2 if bidirectional else hidden_size
        self.num_layers, self.num_heads, self.dropout = num_layers, num_heads, dropout
        self.bidirectional, self.use_layer_norm = bidirectional, layer_norm
        self.num_directions = 2 if bidirectional else 1
        self.nn_rnn_compatible_return, self.batch_first = nn_rnn_compatible_return, batch_first
        first = proj_input_to_hidden_first and input_size != self.output_size
        width = self.output_size if first else input_size
        self.input_to_hidden = nn.Linear(input_size, width, bias=False, device=device, dtype=dtype) if first else None
        if self.input_to_hidden is not None:
            nn.init.xavier_uniform_(self.input_to_hidden.weight)
        layers: List[nn.Module] = []
        for i in range(num_layers):
            size = width if i == 0 else self.output_size
            sizes = (size, self.output_size * (3 if size == self.output_size else 4), proj_size)
            options: Dict[str, Any] = {"dropout": dropout, "layer_norm": attn_layer_norm, "device": device, "dtype": dtype}
            if attention_last_n_layers != -1:
                attends = num_layers - i <= attention_last_n_layers
            else:
                attends = (i + 1) % attention_every_n_layers == 0
            if attends:
                product: nn.Module = SRUppAttention(*sizes, num_heads=num_heads, attn_dropout=attn_dropout, **options)
            else:
                product = SRUppProjectedLinear(*sizes, **options)
            cell = SRUppCell(
                size,
                hidden_size,
                dropout=dropout if i + 1 != num_layers else 0.0,
                bidirectional=bidirectional,
                highway_bias=highway_bias,
                layer_norm=layer_norm,
                rescale=rescale,
                custom_m=product,
                normalize_after=normalize_after,
                weight_c_init=weight_c_init,
                device=device,
                dtype=dtype,
            )
            layers.append(cell)
        self.rnn_lst = nn.ModuleList(layers)

    def __getitem__(self, n: int) -> nn.Module:
        """The n-th layer."""
        return self.rnn_lst[n]

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        for rnn in self.rnn_lst:
            rnn.reset_parameters()  # type: ignore[operator]
        if self.input_to_hidden is not None:
            nn.init.xavier_uniform_(self.input_to_hidden.weight)

    def extra_repr(self) -> str:
        """The constructor's arguments, for print()."""
        names = ("num_layers", "num_heads", "dropout", "bidirectional", "nn_rnn_compatible_return", "batch_first")
        own = ", ".join(f"{n}={getattr(self, n)}" for n in names)
        return f"{self.input_size}, {self.hidden_size}, {self.proj_size}, {own}"

    def forward(
        self,
        input: Tensor,
        c0: Optional[Tensor] = None,
        mask_pad: Optional[Tensor] = None,
        attn_mask: Optional[Tensor] = None,
        memory: Optional[List[Optional[Tensor]]] = None,
        memory_mask_pad: Optional[Tensor] = None,
        lengths: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor, Dict[str, List[Tensor]]]:
        """Runs all layers over a batch of sequences.

        Args:
            input: (T, B, input_size), or a PackedSequence (then `mask_pad` and `lengths` must be None, and the output is
                packed alike).
            c0: (num_layers, B, output_size), initial states; with `nn_rnn_compatible_return` also as they are returned.
            mask_pad: (T, B), nonzero where a step is padding: nothing attends to it, it leaves c as it is, and its h is 0.
            attn_mask: (T, M + T), added to the attention's logits, or bool, True where attention may go. Without one, every
                step attends to all.
            memory: for each layer (M, B, features of its input) or None: further steps, before the input's, to attend to.
            memory_mask_pad: (M, B), nonzero where a step of the memory is padding.
            lengths: (B,) integers in 0..T: what lies beyond is padding.

        Returns:
            h (T, B, output_size); c after each sequence's last step, (num_layers, B, output_size), in float32 also for 16-bit
            types; and {"saved_inputs": the layers' inputs (T, B, features)}, which can be the next call's memory.
        """
        if not torch.jit.is_scripting():
            if isinstance(input, PackedSequence):
                return self._forward_packed(input, c0, mask_pad, attn_mask, memory, memory_mask_pad, lengths)
        check_sequence(input, self.input_size, self.batch_first)
        if memory is not None and len(memory) != self.num_layers:
            raise ValueError(f"memory: expected {self.num_layers} of them, one per layer, got {len(memory)}")
        states = split_states(c0, input, self.num_layers, self.output_size, self.num_directions, self.batch_first)
        x = clear_padding(input, mask_pad, lengths, self.batch_first)
        if self.batch_first:
            x = x.transpose(0, 1)
            mask_pad = None if mask_pad is None else mask_pad.t()
            memory_mask_pad = None if memory_mask_pad is None else memory_mask_pad.t()
        if lengths is not None:
            beyond = torch.arange(x.shape[0], device=x.device).unsqueeze(1) >= lengths.to(x.device)
            mask_pad = beyond if mask_pad is None else beyond | mask_pad.to(torch.bool)
        if self.input_to_hidden is not None:
            x = self.input_to_hidden(x)
        saved: List[Tensor] = []
        last: List[Tensor] = []
        for i, rnn in enumerate(self.rnn_lst):
            saved.append(x.transpose(0, 1) if self.batch_first else x)
            past: Optional[Tensor] = None
            if memory is not None:
                past = memory[i]
                if past is not None and self.batch_first:
                    past = past.transpose(0, 1)
            x, c = rnn.attend(x, states[i], mask_pad, attn_mask, past, memory_mask_pad)  # type: ignore[operator]
            last.append(c)
        c = join_states(last, self.num_directions if self.nn_rnn_compatible_return else 1)
        return x.transpose(0, 1) if self.batch_first else x, c, {"saved_inputs": saved}

    @torch.jit.unused
    def _forward_packed(
        self,
        input: PackedSequence,
        c0: Optional[Tensor],
        mask_pad: Optional[Tensor],
        attn_mask: Optional[Tensor],
        memory: Optional[List[Optional[Tensor]]],
        memory_mask_pad: Optional[Tensor],
        lengths: Optional[Tensor],
    ) -> Tuple[PackedSequence, Tensor, Dict[str, List[Tensor]]]:
        if mask_pad is not None or lengths is not None:
            raise ValueError("mask_pad and lengths: expected None with a PackedSequence, which has its own")
        padded, sizes = pad_packed_sequence(input, batch_first=self.batch_first)
        h, c, saved = self.forward(padded, c0, None, attn_mask, memory, memory_mask_pad, sizes)
        return pack_like(input, h, sizes, self.batch_first), c, saved
