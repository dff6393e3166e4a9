"""SRU++ (Lei, "When Attention Meets Fast Recurrence", arXiv:2102.12459): SRU whose matrix product is an attention.

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

# The layers of SRU++ take other arguments than those of SRU:
# mypy: disable-error-code="override"

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ._checks import check_input, check_lengths
from ._tensors import pack_like
from .attention import SRUppAttention, SRUppProjectedLinear
from .cell import SRUCell, check_sequence, clear_padding
from .states import join_states, split_states


class SRUppCell(SRUCell):
    """One layer of SRU++: an `SRUCell` whose `custom_m` takes masks and a memory."""

    def forward(
        self,
        input: Tensor,
        c0: Tensor | None = None,
        mask_pad: Tensor | None = None,
        attn_mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask_pad: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Runs over a batch of sequences.

        Args:
            input: (T, B, input_size).
            c0: c before the first step, anything that expands to (B, output_size). Default: 0.
            mask_pad, attn_mask, memory, memory_mask_pad: see `SRUppAttention.forward`; a step of padding also leaves c as it
                is, and its h is 0.

        Returns:
            h (T, B, output_size), and c after the last step (B, output_size), in float32 also for 16-bit types.
        """
        check_sequence(input, self.input_size, False)
        if not torch.jit.is_scripting():
            check_input(input, self, "input")
        input = clear_padding(input, mask_pad, None, False)
        if memory is not None:
            memory = self.prepare(memory)
        assert self.custom_m is not None
        U = self.custom_m(self.prepare(input), mask_pad, attn_mask, memory, memory_mask_pad)
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
        rescale: alpha = sqrt(1 + 2 e^highway_bias) instead of 1.
        nn_rnn_compatible_return: returns c as (num_layers * directions, B, hidden_size).
        proj_input_to_hidden_first: where the input's size is not the output's, a linear map makes it so.
        weight_c_init: v is uniform in +-weight_c_init.
        batch_first: sequences are (B, T, features), mask_pad and memory_mask_pad (B, T) and (B, M), memory (B, M, features).
        device, dtype: of the parameters.

    Raises:
        ValueError: arguments out of range or that contradict each other, or an input, state, mask or memory that does not fit.
        TypeError: dtypes that are not floating or differ.

    Example:
        >>> rnn = SRUpp(128, 128, proj_size=64, num_layers=2, attention_every_n_layers=2)
        >>> output, c, memory = rnn(torch.randn(20, 32, 128))
        >>> output, c, memory = rnn(torch.randn(20, 32, 128), c, memory=memory["saved_inputs"])
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
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
        layers: list[nn.Module] = []
        for i in range(num_layers):
            size = width if i == 0 else self.output_size
            sizes = (size, self.output_size * (3 if size == self.output_size else 4), proj_size)
            options: dict[str, Any] = {"dropout": dropout, "layer_norm": attn_layer_norm, "device": device, "dtype": dtype}
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

    def flatten_parameters(self) -> None:
        """Nothing: for code that calls it, as nn.LSTM needs it. Parameters are used as they lie."""

    def extra_repr(self) -> str:
        """The constructor's arguments, for print()."""
        names = ("num_layers", "num_heads", "dropout", "bidirectional", "nn_rnn_compatible_return", "batch_first")
        own = ", ".join(f"{n}={getattr(self, n)}" for n in names)
        return f"{self.input_size}, {self.hidden_size}, {self.proj_size}, {own}"

    def forward(
        self,
        input: Tensor,
        c0: Tensor | None = None,
        mask_pad: Tensor | None = None,
        attn_mask: Tensor | None = None,
        memory: list[Tensor | None] | None = None,
        memory_mask_pad: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, list[Tensor]]]:
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
        x = input
        if self.batch_first:
            x = x.transpose(0, 1)
            mask_pad = None if mask_pad is None else mask_pad.t()
            memory_mask_pad = None if memory_mask_pad is None else memory_mask_pad.t()
        if lengths is not None:
            checked = check_lengths(lengths, x, x.shape[1], x.shape[0])
            beyond = torch.arange(x.shape[0], device=x.device).unsqueeze(1) >= checked
            mask_pad = beyond if mask_pad is None else beyond | mask_pad.to(torch.bool)
        if self.input_to_hidden is not None:
            if not torch.jit.is_scripting():
                check_input(input, self.input_to_hidden, "input")
            x = self.input_to_hidden(clear_padding(x, mask_pad, None, False))
        saved: list[Tensor] = []
        last: list[Tensor] = []
        for i, rnn in enumerate(self.rnn_lst):
            saved.append(x.transpose(0, 1) if self.batch_first else x)
            past: Tensor | None = None
            if memory is not None:
                past = memory[i]
                if past is not None and self.batch_first:
                    past = past.transpose(0, 1)
            x, c = rnn(x, states[i], mask_pad, attn_mask, past, memory_mask_pad)
            last.append(c)
        c = join_states(last, self.num_directions if self.nn_rnn_compatible_return else 1)
        return x.transpose(0, 1).contiguous() if self.batch_first else x, c, {"saved_inputs": saved}

    @torch.jit.unused
    def _forward_packed(
        self,
        input: PackedSequence,
        c0: Tensor | None,
        mask_pad: Tensor | None,
        attn_mask: Tensor | None,
        memory: list[Tensor | None] | None,
        memory_mask_pad: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[PackedSequence, Tensor, dict[str, list[Tensor]]]:
        if mask_pad is not None or lengths is not None:
            raise ValueError("mask_pad and lengths: expected None with a PackedSequence, which has its own")
        padded, sizes = pad_packed_sequence(input, batch_first=self.batch_first)
        h, c, saved = self.forward(padded, c0, None, attn_mask, memory, memory_mask_pad, sizes)
        return pack_like(input, h, sizes, self.batch_first), c, saved
