"""A layer of QRNN, and ForgetMult.

No `from __future__ import annotations`: TorchScript needs the type of an attribute as a type.
"""

from typing import Any

import torch
from torch import Tensor, nn

from . import functional as qF
from ._checks import check_input, check_lengths, check_reset, check_state, check_tensor
from ._plain import child, fits, fusible, linear_parameters
from .convert import unwrap_weight_drop


class ForgetMult(nn.Module):
    """h_t = f_t x_t + (1 - f_t) h_{t-1}: dynamic weighted averaging, the recurrence of QRNN.

    Args:
        batch_first: f, x and h are (B, T, H) instead of (T, B, H).
        backward: each sequence is walked from its last step to its first; h stays aligned with x.

    Example:
        >>> f, x = torch.full((5, 1, 1), 0.5), torch.ones(5, 1, 1)
        >>> ForgetMult()(f, x).flatten().tolist()
        [0.5, 0.75, 0.875, 0.9375, 0.96875]
    """

    def __init__(self, batch_first: bool = False, backward: bool = False) -> None:
        super().__init__()
        self.batch_first, self.backward = batch_first, backward

    def forward(
        self,
        f: Tensor,
        x: Tensor,
        hidden_init: Tensor | None = None,
        use_cuda: bool = True,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """f, x (T, B, H), hidden_init (B, H) or None -> h (T, B, H). More, and the errors: `functional.forget_mult`.

        `use_cuda` is accepted for old code and means nothing: the kernel is that of the tensors' device.
        """
        return qF.forget_mult(f, x, hidden_init, lengths, self.batch_first, self.backward)[0]

    def extra_repr(self) -> str:
        """The constructor's arguments, for print()."""
        return f"batch_first={self.batch_first}, backward={self.backward}"


class QRNNLayer(nn.Module):
    r"""One layer of a quasi-recurrent neural network (Bradbury et al., arXiv:1611.01576)::

        Z, F, O = split(W [x_t, x_{t-1}, ..., x_{t-window+1}] + b),   z = tanh(Z),   f = sigmoid(F),   o = sigmoid(O)
        c_t = f_t z_t + (1 - f_t) c_{t-1},   h_t = o_t c_t

    Args:
        input_size: features of the input.
        hidden_size: features of the state; default: `input_size`.
        save_prev_x: keeps the last window - 1 inputs of a call, and begins the next one with them (detached) instead of
            zeros, until `reset()`: for sequences that are fed in pieces. A layer that runs backward keeps the first ones,
            for the piece before.
        zoneout: probability in [0, 1] of an element of c to keep its value over a step.
        window: how many inputs, the current and those before it, make a step's gates: any number >= 1.
        output_gate: pooling "fo" if True, "f" if False.
        use_cuda: accepted for old code; the kernel is that of the tensors' device.
        pooling: "f", "fo" or "ifo" (with an input gate of its own: c_t = i_t z_t + (1 - f_t) c_{t-1}; rows [Z|F|I|O] of
            the weight); overrides `output_gate`.
        zoneout_mode: "salesforce", "fastai" or "paper", see `functional.pool`.
        bias: whether the projection has a bias.
        batch_first: input and output are (B, T, features) instead of (T, B, features).
        backward: walks each sequence from its last step to its first, with a window of the inputs that follow.
        device, dtype: of the parameters.

    Attributes:
        linear: nn.Linear(window * input_size, gates * hidden_size), columns [x_t | x_{t-1} | ...], rows [Z | F | O].
        prevX: the inputs that `save_prev_x` kept, (window - 1, B, input_size), or None.

    Raises:
        ValueError: arguments out of range, or an input, state or length that does not fit.
        TypeError: dtypes that are not floating or differ.
    """

    prevX: Tensor | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int | None = None,
        save_prev_x: bool = False,
        zoneout: float = 0.0,
        window: int = 1,
        output_gate: bool = True,
        use_cuda: bool = True,
        *,
        pooling: str | None = None,
        zoneout_mode: str = "salesforce",
        bias: bool = True,
        batch_first: bool = False,
        backward: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden_size = input_size if hidden_size is None else hidden_size
        if input_size < 1 or hidden_size < 1:
            raise ValueError(f"input_size and hidden_size: expected positive sizes, got {input_size} and {hidden_size}")
        if not isinstance(window, int) or window < 1:
            raise ValueError(f"window: expected an integer >= 1, got {window}")
        qF.check_zoneout(zoneout, zoneout_mode)
        self.pooling = pooling if pooling is not None else ("fo" if output_gate else "f")
        gates = qF.plane_count(self.pooling)
        self.input_size, self.hidden_size, self.window = input_size, hidden_size, window
        self.save_prev_x, self.zoneout, self.zoneout_mode = save_prev_x, float(zoneout), zoneout_mode
        self.batch_first, self.backward = batch_first, backward
        self.linear = nn.Linear(window * input_size, gates * hidden_size, bias=bias, device=device, dtype=dtype)
        self.prevX = None

    def reset(self) -> None:
        """Forgets the inputs that `save_prev_x` kept."""
        self.prevX = None

    def extra_repr(self) -> str:
        """The constructor's arguments, for print()."""
        names = ("window", "pooling", "zoneout", "zoneout_mode", "save_prev_x", "batch_first", "backward")
        return f"{self.input_size}, {self.hidden_size}, " + ", ".join(f"{n}={getattr(self, n)}" for n in names)

    def forward(
        self,
        X: Tensor,
        hidden: Tensor | None = None,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Runs over a batch of sequences.

        Args:
            X: (T, B, input_size), or (B, T, input_size) if `batch_first`.
            hidden: c before the first step, (B, H) or (1, B, H). Default: 0.
            lengths: (B,) integers in 0..T: what lies beyond is padding, never read, and its outputs are 0.
            reset: (T, B), or (B, T) if `batch_first`, of bool. Where True, a sequence begins: neither c nor a window reaches
                across, from there to the step before or back.

        Returns:
            h (T, B, H), or (B, T, H); and c after each sequence's last step, (1, B, H), in float32 also for 16-bit types.
        """
        out, last = self._run(X, hidden, lengths, reset)
        return out, torch.stack([last])  # a view could not be detached in place

    def _run(self, X: Tensor, hidden: Tensor | None, lengths: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """`forward` with c (B, H)."""
        check_sequence(X, self.input_size, self.batch_first)
        batch_dim = 0 if self.batch_first else 1
        if hidden is not None:
            hidden = check_state(hidden, X, [1, X.shape[batch_dim], self.hidden_size], "hidden").squeeze(0)
        if lengths is not None:
            lengths = check_lengths(lengths, X, X.shape[batch_dim], X.shape[1 - batch_dim])
            padding = torch.arange(X.shape[1 - batch_dim], device=X.device) >= lengths.unsqueeze(1)
            padding = padding if self.batch_first else padding.transpose(0, 1)
            X = X.masked_fill(padding.unsqueeze(2), 0.0)  # NaN there must not reach the weights' gradients
        if not torch.jit.is_scripting():
            linear = child(self, "linear")
            parameters = fusible(linear) if self.window == 1 else None
            if parameters is not None and fits(X, parameters[0]):
                weight, bias = parameters
                zoneout = (self.zoneout, self.zoneout_mode, self.training)
                options = (self.pooling, lengths, reset, self.backward, *zoneout, self.batch_first)
                out, last = qF.layer_unchecked(X, weight, bias, hidden, *options)
                return out.contiguous(), last
            check_input(X, linear, "X")
        if self.window == 1:
            # in the order that X has in memory, so that nothing is copied
            turn = X.stride(0) < X.stride(1)
            gates = self.linear(X.transpose(0, 1)).transpose(0, 1) if turn else self.linear(X)
        else:
            gates = self._convolve(X.transpose(0, 1) if self.batch_first else X, lengths, reset)
            gates = gates.transpose(0, 1) if self.batch_first else gates
        out, last = qF.pool(
            gates,
            hidden,
            self.pooling,
            lengths,
            self.batch_first,
            self.backward,
            self.zoneout,
            self.zoneout_mode,
            self.training,
            reset,
        )
        return out.contiguous(), last

    def _convolve(self, x: Tensor, lengths: Tensor | None, reset: Tensor | None) -> Tensor:
        """x (T, B, input_size) -> gates (T, B, gates * H): a product per input of the window, summed where they are made."""
        steps, batch, past = x.shape[0], x.shape[1], self.window - 1
        prev = self.prevX
        if prev is None:
            prev = x.new_zeros([past, batch, self.input_size])
        elif prev.shape[1] != batch:
            raise ValueError(
                f"X: expected the batch of {prev.shape[1]} that went before, got {batch}; is a reset() missing?"
            )
        prev = prev.to(x)
        rows = torch.cat([x, prev]) if self.backward else torch.cat([prev, x])
        marks: Tensor | None = None  # of resets, (B, T)
        if reset is not None:
            marks = check_reset(reset, x.transpose(0, 1), self.batch_first)
            if lengths is not None:
                marks = marks & (torch.arange(steps, device=x.device) < lengths.unsqueeze(1))
        ends: Tensor | None = None  # of each sequence, and the steps after it, (past, B, input_size)
        if lengths is not None:
            ends = (lengths + torch.arange(past, device=x.device).unsqueeze(1)).unsqueeze(2).expand(-1, -1, self.input_size)
            if self.backward:
                rows = torch.cat([x, torch.zeros_like(prev)]).scatter(0, ends, prev)
        if self.save_prev_x:
            kept = rows[:past] if self.backward else rows[steps:]
            if ends is not None and not self.backward:
                kept = rows.gather(0, ends)
            if marks is not None:
                kept = kept.masked_fill(self._left_behind(marks, lengths).unsqueeze(2), 0.0)
            self.prevX = kept.detach().clone()  # not a view that would keep all rows
        rows = rows.flatten(0, 1)
        window: list[Tensor] = []  # x_t, x_{t-1}, ... of all t: views of the rows
        for j in range(self.window):
            window.append(rows.narrow(0, (j if self.backward else past - j) * batch, steps * batch))
        if marks is not None:
            for j, crossed in enumerate(self._crossed(marks)):
                window[j + 1] = window[j + 1].masked_fill(crossed.transpose(0, 1).reshape(-1, 1), 0.0)
        if torch.jit.is_scripting():
            weight: Tensor = self.linear.weight
            bias: Tensor | None = self.linear.bias
        else:
            parameters = linear_parameters(self.linear)
            if parameters is None:  # wrapped (AWD's WeightDrop), hooked, replaced, ...
                return self.linear(torch.cat(window, 1)).unflatten(0, [steps, batch])
            weight, bias = parameters
        weights = weight.chunk(self.window, 1)
        gates = nn.functional.linear(window[0], weights[0], bias)
        for j in range(1, self.window):
            gates = torch.addmm(gates, window[j].to(gates.dtype), weights[j].to(gates.dtype).t())
        return gates.unflatten(0, [steps, batch])

    def _left_behind(self, reset: Tensor, lengths: Tensor | None) -> Tensor:
        """Of the inputs that are kept for the next piece, (past, B): whether a reset (B, T) came after them."""
        steps, past = reset.shape[1], self.window - 1
        counts = reset.to(torch.int64).cumsum(1)
        total = reset.sum(1, keepdim=True)
        if self.backward:  # rows are [x | prev], and the first of them are kept
            after = torch.cat([counts, total.expand(-1, past)], 1)[:, :past]
        else:  # rows are [prev | x], and those before the end are kept
            after = torch.cat([total.expand(-1, past), total - counts], 1)
            ends = torch.full_like(total, steps) if lengths is None else lengths.unsqueeze(1)
            after = after.gather(1, ends + torch.arange(past, device=reset.device))
        return after.transpose(0, 1) > 0

    def _crossed(self, reset: Tensor) -> list[Tensor]:
        """For each earlier input of the window, (B, T): whether a reset (B, T) lies between it and the step."""
        steps = reset.shape[1]
        crossed: list[Tensor] = []
        since = torch.zeros_like(reset)
        for j in range(self.window - 1):
            if self.backward:  # at step t + 1, or t + 2, ...
                shifted = [reset[:, j + 1 :], torch.zeros_like(reset[:, : j + 1])]
            else:  # at step t, or t - 1, ...
                shifted = [torch.zeros_like(reset[:, :j]), reset[:, : max(steps - j, 0)]]
            since = since | torch.cat(shifted, 1)
            crossed.append(since)
        return crossed

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if type(self.linear) is nn.Linear:
            unwrap_weight_drop(state_dict, prefix + "linear.")
        super()._load_from_state_dict(state_dict, prefix, *args)


def check_sequence(x: Tensor, features: int, batch_first: bool) -> None:
    """Raises unless x is a batch of sequences with so many features."""
    check_tensor("X", x)
    if x.dim() != 3 or x.shape[2] != features:
        order = "(B, T, " if batch_first else "(T, B, "
        raise ValueError(f"X: expected shape {order}{features}), got {list(x.shape)}")
