"""Adapters as guests of the modules that they change: a forward hook on each, and one switch for the whole model.

The base's parameters keep their names, places and bits. A batch whose rows have different adapters goes through the
thin matrices of all of them at once, one below the other, and a mask leaves each row those of its own.

B batch, T tokens, O outputs, C inputs, R ranks of several adapters together.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from arriero.common.errors import ArrieroError
from arriero.kernels.linear import linear
from arriero.model.lora import LowRank, Whole, weight_of

Change = LowRank | Whole
"""What an adapter does to one module."""


class Switch:
    """Which adapter is on; one for the whole model."""

    def __init__(self) -> None:
        self.active: str | None = None
        self.rows: tuple[str | None, ...] | None = None
        """The adapter of each row of the batch, instead of one for all."""
        self.merged = False

    @property
    def present(self) -> list[str]:
        """The adapters of the rows, each once."""
        return sorted({name for name in self.rows or () if name is not None})


class Guests(nn.ModuleDict):
    """What the adapters do to one module, by the adapters' names."""

    def __init__(self, switch: Switch) -> None:
        super().__init__()
        self.switch = switch
        self.handle: RemovableHandle | None = None
        self._stacked: tuple[Any, Tensor, Tensor, Tensor] | None = None

    def on_forward(self, host: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """The module's output y (B, …, O) as the adapters that are on change it."""
        switch = self.switch
        if switch.merged:
            self._check_not_in_training()
            return y
        if switch.rows is not None:
            return self._mix(host, inputs[0], y, switch.rows)
        change = self.on
        return y if change is None else cast(Tensor, change(inputs[0], y, host))

    @property
    def on(self) -> Change | None:
        """What the active adapter does here."""
        active = self.switch.active
        return cast(Change, self[active]) if active is not None and active in self else None

    def weight(self, host: nn.Module) -> Tensor:
        """The module's matrix (O, C) with the active adapter's change in it, differentiable: for the chunked loss.

        Raises:
            ArrieroError: rows have adapters of their own, so that there is no one matrix.
        """
        weight, change = weight_of(host), self.on
        if self.switch.rows is not None:
            raise ArrieroError("the loss of a batch with several adapters is not defined: activate one")
        if self.switch.merged:
            self._check_not_in_training()
            return weight
        if change is None:
            return weight
        if isinstance(change, Whole):
            return change.weight.to(weight.dtype)
        a, b = change.factors()
        changed = weight + change.scale * (b @ a)
        if change.magnitude is not None:
            changed = changed * change.stretch(weight)[:, None]
        return changed.to(weight.dtype)

    def forget_stack(self) -> None:
        """Drop what `_stack` keeps, because the adapters here are others."""
        self._stacked = None

    def _check_not_in_training(self) -> None:
        if self.training and torch.is_grad_enabled() and any(x.requires_grad for x in self.parameters()):
            raise ArrieroError("an adapter is merged into the weights: unmerge it before training")

    def _mix(self, host: nn.Module, x: Tensor, y: Tensor, rows: tuple[str | None, ...]) -> Tensor:
        if len(rows) != len(y):
            raise ArrieroError(f"adapters: expected one of each of {len(y)} rows, got {len(rows)}")
        present = [name for name in self.switch.present if name in self]
        if not present:
            return y
        if not torch.is_grad_enabled() and all(_is_plain(self[name]) for name in present):
            a, b, mask = self._stack(present, rows)  # (R, C), (O, R), (B, R)
            low = linear(x.to(a.dtype), a) * mask.view(len(y), *[1] * (x.dim() - 2), -1)  # (B, …, R)
            return (y + linear(low, b)).to(y.dtype)
        parts = y.clone()
        for name in present:
            own = torch.tensor([i for i, row in enumerate(rows) if row == name], device=y.device)
            parts = parts.index_copy(0, own, self[name](x[own], y[own], host))
        return parts

    def _stack(self, present: list[str], rows: tuple[str | None, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """The thin matrices of all adapters of the batch, one below the other, and which of them each row has."""
        changes = [cast(LowRank, self[name]) for name in present]
        own = [(x.data_ptr(), x._version, x.dtype) for change in changes for x in (change.a, change.b)]
        key = rows, own  # a move to another device or dtype changes address or dtype, not the version
        if self._stacked is None or self._stacked[0] != key:
            factors = [change.factors() for change in changes]
            a = torch.cat([a for a, _ in factors])
            b = torch.cat([change.scale * b for change, (_, b) in zip(changes, factors, strict=True)], dim=1)
            owners = [name for name, (a, _) in zip(present, factors, strict=True) for _ in range(len(a))]
            mask = [[float(owner == row) for owner in owners] for row in rows]
            self._stacked = key, a, b, torch.tensor(mask, dtype=a.dtype, device=a.device)
        return self._stacked[1:]


def _is_plain(change: nn.Module) -> bool:
    """Whether a change is low-rank and nothing more, of a linear layer."""
    return type(change) is LowRank and change.magnitude is None
