"""QRNN with the argument order and the defaults that it had in fastai (`fastai.text.models.qrnn`)."""

from typing import Any

from . import modules


class QRNNLayer(modules.QRNNLayer):
    """`qrnn.QRNNLayer`, batch first, with fastai's zoneout."""

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
