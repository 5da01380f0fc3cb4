"""A model's adapters: several at once over one base, one active, or each row of a batch with its own; merged, unmerged.

LoRA is a transform of a model, not another model (Hu et al., arXiv 2106.09685, section 4): adapters are guests of the
modules that they change (`guests.py`). `lora.py` has the mathematics of one matrix.

O outputs, C inputs, R ranks of several adapters together.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from arriero.common.errors import ArrieroError, NotFoundError, did_you_mean
from arriero.model.coded import CodedLinear, dequantise_linear
from arriero.model.formats.hf import hf_names
from arriero.model.guests import Change, Guests, Switch
from arriero.model.lora import LowRank, LowRankEmbedding, Whole, WholeEmbedding, WholeLinear, truncate, weight_of
from arriero.model.lora_config import LoraConfig, matches
from arriero.model.transformer import Llama


class Adapters:
    """The adapters of one model."""

    def __init__(self, model: Llama) -> None:
        """Use `Adapters.of`, which gives a model the same object again."""
        self.model = model
        self.switch = Switch()
        self.configs: dict[str, LoraConfig] = {}
        """By the adapters' names."""
        self._unmerged: dict[str, Tensor | nn.Module] = {}
        self._untied = False
        modules = {ours[: -len(".weight")]: hf[: -len(".weight")] for ours, hf in hf_names(model.config).items()}
        self.names = {ours: (ours, theirs) for ours, theirs in modules.items()}
        """Each module's names, ours and Hugging Face's, by ours."""
        self.names.setdefault("output", ("output", "lm_head"))  # a tied output has no name of its own

    @classmethod
    def of(cls, model: Llama) -> "Adapters":
        """The model's adapters, none at first."""
        if not isinstance(model.adapters, Adapters):
            model.adapters = cls(model)
        return model.adapters

    @property
    def active(self) -> str | None:
        """The adapter that is on."""
        return self.switch.active

    def add(self, name: str, config: LoraConfig, *, seed: int = 0) -> None:
        """A new adapter, on from now, alone in being trained; the base is frozen. It changes nothing yet.

        Raises:
            ArrieroError: a target matches no module (the message names near ones), or the name is taken.
        """
        targets, whole = self._find(config.targets, config), self._find(config.whole, config)
        generator = torch.Generator().manual_seed(seed)
        changes: dict[str, Change] = {}
        for module in [name for name in targets if name not in whole]:
            host, names = self.model.get_submodule(module), self.names[module]
            weight = weight_of(host)
            kind = LowRankEmbedding if isinstance(host, nn.Embedding) else LowRank
            _check_kind(module, kind, config)
            outputs, inputs = weight.shape
            if (rank := config.rank_of(names)) > min(outputs, inputs):
                raise ArrieroError(f"rank of {module}: expected at most {min(outputs, inputs)}, its side, got {rank}")
            change = kind(inputs, outputs, rank, config.scale_of(names), dropout=config.dropout)
            change.start(weight.detach().to("cpu"), config, generator)
            changes[module] = change
        for module in whole:
            host = self.model.get_submodule(module)
            kind_whole = WholeEmbedding if isinstance(host, nn.Embedding) else WholeLinear
            changes[module] = kind_whole(cast(Tensor, host.weight))
        self.insert(name, config, changes)
        self.activate(name)
        self.train_only(name)

    def insert(self, name: str, config: LoraConfig, changes: Mapping[str, Change]) -> None:
        """An adapter whose changes, by our modules' names, are there already; it is neither on nor in training.

        Raises:
            ArrieroError: the name is taken or no name, or there is no such module.
        """
        self.check_unmerged("add an adapter")
        if not re.fullmatch(r"[\w-]+", name) or hasattr(Guests(self.switch), name):
            raise ArrieroError(f"adapter '{name}': expected a name of letters, digits, - and _, none of PyTorch's own")
        if name in self.configs:
            raise ArrieroError(f"there is an adapter '{name}' already: choose another name, or remove it first")
        if unknown := [module for module in changes if module not in self.names]:
            raise ArrieroError(f"adapter '{name}': the model has no module {unknown[0]}")
        for module, change in changes.items():
            host = self.model.get_submodule(module)
            guests = getattr(host, "adapters", None)
            if guests is None:
                guests = host.adapters = Guests(self.switch)
                guests.handle = host.register_forward_hook(guests.on_forward)
                guests.train(host.training)
            weight = cast(Tensor, host.weight)
            guests[name] = change.to(weight.device).requires_grad_(False).train(host.training)
            guests.forget_stack()
        self.configs[name] = config

    def remove(self, name: str) -> None:
        """Forget an adapter."""
        self.check(name)
        self.check_unmerged("remove an adapter")
        for host, guests in list(self._hosts()):
            if name in guests:
                del guests[name]
                guests.forget_stack()
            if not len(guests):
                assert guests.handle is not None
                guests.handle.remove()
                del host.adapters
        del self.configs[name]
        if self.active == name:
            self.switch.active = None

    def activate(self, name: str | None) -> None:
        """Switch one adapter on, or none: the base as it was, bit for bit."""
        if name is not None:
            self.check(name)
        self.check_unmerged("switch adapters")
        self.switch.active = name

    @contextmanager
    def mixed(self, rows: Sequence[str | None]) -> Iterator[None]:
        """Inside, each row of a batch has its own adapter, or none."""
        for name in {row for row in rows if row is not None}:
            self.check(name)
        self.check_unmerged("mix adapters")
        before, self.switch.rows = self.switch.rows, tuple(rows)
        try:
            yield
        finally:
            self.switch.rows = before

    def train_only(self, name: str) -> None:
        """Have gradients for this adapter's parameters and for nothing else."""
        self.check(name)
        self.model.requires_grad_(False)
        for change in self.changes(name).values():
            for leaf, parameter in change.named_parameters():
                parameter.requires_grad_(not leaf.startswith("anchor"))

    def changes(self, name: str) -> dict[str, Change]:
        """What an adapter does, by our modules' names."""
        self.check(name)
        found = {}
        for module, host in self.model.named_modules():
            guests = getattr(host, "adapters", None)
            if isinstance(guests, Guests) and name in guests:
                found[module] = cast(Change, guests[name])
        return found

    @torch.no_grad()
    def merge(self, name: str, share: float = 1.0) -> None:
        """W + share · change instead of W, computed in fp32: no added latency. W's bits are kept for `unmerge`.

        What is quantised becomes a plain matrix, W as training saw it. A tied output and embedding that no longer are
        equal are two matrices from then on, in the model's config too.

        Raises:
            ArrieroError: something is merged already, or the adapter cannot be taken in part.
        """
        self.check_unmerged("merge an adapter")
        changes = self.changes(name)
        if share != 1 and any(isinstance(x, Whole) or x.magnitude is not None for x in changes.values()):
            raise ArrieroError(f"adapter '{name}' replaces matrices or their lengths: it can only be merged whole")
        if self.model.config.tied_embeddings and not {"output", "tok_embeddings"}.isdisjoint(changes):
            self._untie()
        for module, change in changes.items():
            host = self.model.get_submodule(module)
            if isinstance(host, CodedLinear):
                self._unmerged[module] = host
                host = self._replace(module, dequantise_linear(host))
            else:
                self._unmerged[module] = cast(Tensor, host.weight).data
            parameter, weight = cast(nn.Parameter, host.weight), weight_of(host)
            merged = weight.float() + share * change.change(weight)
            merged = merged.T if isinstance(host, nn.Embedding) else merged
            parameter.data = merged.to(parameter.dtype).contiguous()
        self.switch.merged = True

    def absorb(self, name: str) -> None:
        """Merge an adapter for good: it becomes part of the weights, and is forgotten."""
        self.merge(name)
        self._unmerged, self._untied, self.switch.merged = {}, False, False
        self.remove(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """W again, bit for bit.

        Raises:
            ArrieroError: nothing is merged.
        """
        if not self.switch.merged:
            raise ArrieroError("nothing is merged: expected `merge` before `unmerge`")
        for module, original in self._unmerged.items():
            if isinstance(original, nn.Module):
                self._replace(module, original)
            else:
                cast(nn.Parameter, self.model.get_submodule(module).weight).data = original
        self._unmerged = {}
        self.switch.merged = False
        if self._untied:
            self.model.config = replace(self.model.config, tied_embeddings=True)
            self.model.tie_weights()
            self._untied = False

    @torch.no_grad()
    def combine(self, name: str, shares: Mapping[str, float], rank: int | None = None) -> None:
        """A new adapter that changes W by Σ share · change, exactly; or its best approximation of a smaller rank.

        The scales go into the matrices: the new adapter's own is 1, whatever those of its parts were.

        Raises:
            ArrieroError: a part has DoRA or whole matrices, whose changes do not add up.
        """
        if not shares or (rank is not None and rank < 1):
            raise ArrieroError("expected shares of one adapter or more, and a rank of 1 or more")
        parts = {part: self.changes(part) for part in shares}
        if any(isinstance(x, Whole) or x.magnitude is not None for changes in parts.values() for x in changes.values()):
            raise ArrieroError("adapters with DoRA or with whole matrices cannot be combined: their changes do not add")
        changes: dict[str, Change] = {}
        for module in dict.fromkeys(module for found in parts.values() for module in found):
            own = [(shares[part], cast(LowRank, found[module])) for part, found in parts.items() if module in found]
            a = torch.cat([change.factors()[0] for _, change in own])  # (R, C)
            b = torch.cat([share * change.scale * change.factors()[1] for share, change in own], dim=1)  # (O, R)
            most = min(rank or len(a), len(b), a.shape[1])
            if len(a) > most:
                a, b = truncate(a, b, most)
            kind = type(own[0][1])
            combined = kind(a.shape[1], len(b), len(a), 1.0)
            combined.a.data, combined.b.data = a, b
            changes[module] = combined
        widest = max(len(cast(LowRank, change).a) for change in changes.values())
        self.insert(name, LoraConfig(rank=widest, alpha=float(widest), targets=tuple(changes)), changes)

    def _find(self, targets: Sequence[str], config: LoraConfig) -> list[str]:
        """The modules that the targets name, in the model's order."""
        found = set()
        for target in targets:
            if target == "all-linear":
                own = {module for module in self.names if module.startswith("layers.") and "norm" not in module}
            else:
                own = {name for name, names in self.names.items() if matches(target, names) and "norm" not in name}
            if not own:
                known = sorted({part.rpartition(".")[2] for names in self.names.values() for part in names})
                linear_ones = [name for name in known if "norm" not in name and name != "weight"]
                near = did_you_mean(target, linear_ones)
                raise ArrieroError(
                    f"target '{target}' matches no module{near}: expected all-linear, a regular expression, or some of "
                    f"{', '.join(linear_ones)}"
                )
            found |= own
        return [module for module in self.names if module in found]

    def _hosts(self) -> Iterator[tuple[nn.Module, Guests]]:
        for host in self.model.modules():
            if isinstance(guests := getattr(host, "adapters", None), Guests):
                yield host, guests

    def check(self, name: str) -> None:
        """Raises NotFoundError where there is no adapter of this name."""
        if name not in self.configs:
            known = ", ".join(self.configs) or "none"
            raise NotFoundError(f"there is no adapter '{name}'{did_you_mean(name, self.configs)}: there is {known}")

    def check_unmerged(self, wanted: str) -> None:
        """Raises ArrieroError where an adapter is merged; `wanted` says what cannot be done then."""
        if self.switch.merged:
            raise ArrieroError(f"an adapter is merged into the weights: unmerge it before you {wanted}")

    def _replace(self, module: str, other: nn.Module) -> nn.Module:
        """Another module in a module's place, with the same guests."""
        host = self.model.get_submodule(module)
        guests = cast(Guests, host.adapters)
        assert guests.handle is not None
        guests.handle.remove()
        other.adapters = guests
        guests.handle = other.register_forward_hook(guests.on_forward)
        self.model.set_submodule(module, other)
        return other

    def _untie(self) -> None:
        """Output and embedding as two matrices."""
        self.model.output.weight = nn.Parameter(self.model.tok_embeddings.weight.detach().clone(), requires_grad=False)
        self.model.config = replace(self.model.config, tied_embeddings=False)
        self._untied = True


@contextmanager
def adapter_on(model: Llama, name: str | None) -> Iterator[None]:
    """Inside, one of a model's adapters is on, or none: then it is the base, bit for bit."""
    if name is None and model.adapters is None:
        yield
        return
    adapters = Adapters.of(model)
    before = adapters.active
    adapters.activate(name)
    try:
        yield
    finally:
        adapters.activate(before)


def copy_adapters(model: Llama, copy: Llama) -> None:
    """Give a copy the model's adapters, without values yet, and the same one on."""
    if isinstance(model.adapters, Adapters):
        own, others = model.adapters, Adapters.of(copy)
        for name, config in own.configs.items():
            others.insert(name, config, {module: change.blank() for module, change in own.changes(name).items()})
        others.activate(own.active)


def _check_kind(module: str, kind: type[LowRank], config: LoraConfig) -> None:
    """What only some modules can do."""
    if kind is LowRankEmbedding and (config.dora or config.init == "pissa" or config.dropout):
        raise ArrieroError(f"target '{module}': an embedding has no dora, dropout or init pissa: leave it out")
    if module == "output" and config.dropout:
        raise ArrieroError("target 'output': its adapter is part of the loss's matrix and has no dropout: leave it out")
