"""QRNN with the argument order and the defaults that it had in fastai (`fastai.text.models.qrnn`)."""

from typing import Any

from torch import Tensor

from . import layer, modules


class QRNNLayer(layer.QRNNLayer):
    """`qrnn.QRNNLayer`, batch first, with fastai's zoneout and shape of the state.

    Args:
        input_size, hidden_size, save_prev_x, zoneout, window, output_gate, backward: as for `qrnn.QRNNLayer`.
        batch_first: input and output are (B, T, features) instead of (T, B, features).
        options: further arguments of `qrnn.QRNNLayer`.

    Raises:
        ValueError, TypeError: as `qrnn.QRNNLayer`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int | None = None,
        save_prev_x: bool = False,
        zoneout: float = 0.0,
        window: int = 1,
        output_gate: bool = True,
        batch_first: bool = True,
        backward: bool = False,
        **options: Any,
    ) -> None:
        options = {"zoneout_mode": "fastai", "batch_first": batch_first, "backward": backward, **options}
        super().__init__(input_size, hidden_size, save_prev_x, zoneout, window, output_gate, **options)

    def forward(
        self,
        X: Tensor,
        hidden: Tensor | None = None,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Runs over a batch of sequences.

        Args:
            X: (B, T, input_size), or (T, B, input_size) if not `batch_first`.
            hidden: c before the first step, (B, H). Default: 0.
            lengths: (B,) integers in 0..T: what lies beyond is padding, never read, and its outputs are 0.
            reset: (B, T), or (T, B), of bool. Where True, a sequence begins: neither c nor a window reaches across, from there to
                the step before or back.

        Returns:
            h like X, and c after each sequence's last step, (B, H).
        """
        return self._run(X, hidden, lengths, reset)


class QRNN(modules.QRNN):
    """`qrnn.QRNN`, batch first, window 2 in the first layer, two separate stacks if bidirectional, fastai's zoneout.

    Unlike fastai's, its `dropout` works.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        n_layers: int = 1,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        save_prev_x: bool = False,
        zoneout: float = 0.0,
        window: int | None = None,
        output_gate: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            n_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            join="top",
            window=window,
            **{
                "save_prev_x": save_prev_x,
                "zoneout": zoneout,
                "zoneout_mode": "fastai",
                "output_gate": output_gate,
                **options,
            },
        )
