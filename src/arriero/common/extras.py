"""What the package needs, and its extras bring, by its own metadata; and what of that is installed."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "arriero"


@dataclass(frozen=True)
class Extra:
    """An extra, or with the name '' what is needed always."""

    name: str
    brings: tuple[str, ...]
    """Names of packages."""
    missing: tuple[str, ...]
    """Requirements that are not met: 'faiss-cpu<2,>=1.9', 'torch<2.14,>=2.8 (2.5.1 is installed)'."""

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install '{PACKAGE}{f'[{self.name}]' if self.name else ''}'"


def read_extras() -> list[Extra]:
    """All extras in alphabetical order, before them what is needed always; empty where nothing was installed by pip."""
    try:
        names = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return []
    return [_read(name) for name in ["", *sorted(names)]]


def _read(name: str) -> Extra:
    wanted = {canonicalize_name(requirement.name): requirement for requirement in _requirements(name)}
    unmet = ((requirement, _fault(requirement)) for requirement in wanted.values())
    return Extra(
        name, tuple(sorted(wanted)), tuple(f"{_told(wish)}{fault}" for wish, fault in unmet if fault is not None)
    )


def _requirements(extra: str) -> Iterator[Requirement]:
    """Those of an extra alone, and of the extras that it consists of."""
    for line in metadata.requires(PACKAGE) or []:
        requirement = Requirement(line)
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if always == bool(extra) or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        if canonicalize_name(requirement.name) == PACKAGE:
            for inner in sorted(requirement.extras):
                yield from _requirements(inner)
        else:
            yield requirement


def _fault(requirement: Requirement) -> str | None:
    """None: it is met."""
    try:
        here = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return ""
    return None if requirement.specifier.contains(here, prereleases=True) else f" ({here} is installed)"


def _told(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"
