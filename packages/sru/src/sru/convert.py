"""Names, state dicts and pickled models of other versions of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .cell import SRUCell
    from .modules import SRU


def convert_state_dict(cell: SRUCell, state_dict: dict[str, Any], prefix: str) -> None:
    """Renames and transposes, in place, what the first version and 3.0.0-dev call otherwise."""
    own = {key[len(prefix) :] for key in state_dict if key.startswith(prefix)}
    linear = prefix + "transform_module."  # 3.0.0-dev: nn.Linear, two of them where the weight is factorised, or custom_m
    if cell.custom_m is not None:
        for key in [key for key in state_dict if key.startswith(linear)]:
            state_dict[prefix + "custom_m." + key[len(linear) :]] = state_dict.pop(key)
    elif "transform_module.weight" in own:
        state_dict[prefix + "weight"] = state_dict.pop(linear + "weight").t()
    elif "weight" in own and cell.weight_proj is not None and "weight_proj" not in own:
        _factorise(cell, state_dict, prefix)
    elif "transform_module.0.weight" in own:
        state_dict[prefix + "weight_proj"] = state_dict.pop(linear + "0.weight").t()
        state_dict[prefix + "weight"] = state_dict.pop(linear + "1.weight").t()
    if cell.v1 and "bias" in own:  # the first version has neither
        state_dict.setdefault(prefix + "weight_c", torch.zeros_like(cell.weight_c))
        state_dict.setdefault(prefix + "scale_x", torch.ones_like(cell.scale_x))
        if state_dict[prefix + "weight_c"].count_nonzero() > 0:
            raise ValueError(f"{prefix}weight_c: expected zeros for a model with v1=True")


def _factorise(cell: SRUCell, state_dict: dict[str, Any], prefix: str) -> None:
    """W = [I 0] [W; 0], where sru 2.6 left a weight whole because its inner size would not have been smaller."""
    weight = state_dict[prefix + "weight"]
    missing = cell.projection_size - weight.shape[0]
    if missing >= 0:
        state_dict[prefix + "weight_proj"] = torch.eye(
            weight.shape[0], cell.projection_size, dtype=weight.dtype, device=weight.device
        )
        state_dict[prefix + "weight"] = nn.functional.pad(weight, [0, 0, 0, missing])


def complete_old_model(model: SRU) -> None:
    """Gives a model that was pickled whole by an earlier version what it has not; ValueError if it cannot be converted."""
    defaults: dict[str, Any] = {"nn_rnn_compatible_return": False, "batch_first": False, "input_to_hidden": None}
    old: Any = model
    cells: list[Any] = list(model.rnn_lst)
    if hasattr(model, "n_in"):  # up to 2.1.7
        if len(getattr(model, "ln_lst", ())) or getattr(model, "use_weight_norm", False):
            raise ValueError("layer norm and weight norm of sru <= 2.1.8 cannot be converted")
        model.input_size, model.hidden_size, model.output_size = old.n_in, old.n_out, old.out_size
        model.num_layers, model.projection_size, model.use_layer_norm = old.depth, old.n_proj, False
        for cell in cells:
            cell.input_size, cell.hidden_size = cell.n_in, cell.n_out
            cell.output_size = cell.n_out * 2 if cell.bidirectional else cell.n_out
            cell.num_matrices, cell.projection_size, cell.layer_norm = cell.k, cell.n_proj, None
            if int(cell.activation_type) > 2:
                raise ValueError("SELU of sru <= 2.1.8 cannot be converted")
    defaults["num_directions"] = 2 if model.bidirectional else 1
    _set_missing(model, defaults)
    for cell in cells:
        known: dict[str, Any] = {"custom_m": None, "weight_proj": None, "normalize_after": False, "batch_first": False}
        known.update(amp_recurrence_fp16=False, weight_c_init=None)
        _set_missing(cell, known)
        cell.activation = ("identity", "tanh", "relu")[int(cell.activation_type)]


def _set_missing(module: nn.Module, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if not hasattr(module, name):
            setattr(module, name, value)


class CellProduct(nn.Module):
    """The matrix product of a cell as a module: x (T, B, input_size) -> U (T, B, k * output_size).

    Its `weight` (k * output_size, input_size), as nn.Linear's, is that of the cell; where that is factorised, `[0]` and `[1]`
    are the two modules.
    """

    cell: SRUCell

    def __init__(self, cell: SRUCell, factor: int | None = None) -> None:
        super().__init__()
        self.__dict__["cell"] = cell  # not a submodule of its own
        self.factor = factor

    @property
    def weight(self) -> Tensor:
        """The cell's weight, transposed; of the factor, if it is one of two."""
        projection = self.cell.weight_proj
        if self.factor == 0 and projection is not None:
            return projection.t()
        if self.factor is None and projection is not None:
            raise AttributeError("weight: this product has two, [0].weight and [1].weight")
        return self.cell.weight.t()

    def __getitem__(self, i: int) -> CellProduct:
        """The i-th of two factors."""
        if self.cell.weight_proj is None or i not in (0, 1):
            raise IndexError(f"{i}: this product has {0 if self.cell.weight_proj is None else 2} factors")
        return CellProduct(self.cell, i)

    def forward(self, x: Tensor) -> Tensor:
        """x @ weight^T."""
        if self.factor is None:
            return self.cell.compute_U(x)
        return nn.functional.linear(x, self.weight)
