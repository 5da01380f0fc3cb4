"""From a config dataclass to the options of a command line.

A command is one function `run(config: SomeConfig) -> int | None`. Every field of the frozen, keyword-only dataclass is
an option, and its help is the docstring under the field. A field that is itself such a dataclass gives its own fields
as options too, and is a table of the TOML file: `--temperature 0.7`, `--sampling.temperature 0.7` and
`[sampling] temperature = 0.7` are the same setting.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

Run = Callable[[Any], int | None]


@dataclasses.dataclass(frozen=True)
class Option:
    """One field of a config, as the command line sees it."""

    key: str
    """Dotted path of the field: `sampling.top_k`."""
    type: Any
    default: Any
    """`dataclasses.MISSING` when it must be given."""
    help: str
    positional: str | None
    """What the usage line calls a word that needs no flag."""
    group: str
    """The field of the outermost config that it belongs to, or ''."""

    @property
    def flag(self) -> str:
        """`--top-k` for `sampling.top_k`: the table's name is not needed on the command line."""
        return "--" + self.key.rpartition(".")[2].replace("_", "-")

    @property
    def plain(self) -> Any:
        """The type without `| None`."""
        if get_origin(self.type) in (Union, types.UnionType):
            return next(arg for arg in get_args(self.type) if arg is not type(None))
        return self.type

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a `Literal`, else nothing."""
        return get_args(self.plain) if get_origin(self.plain) is Literal else ()

    @property
    def kind(self) -> Literal["switch", "list", "pairs", "value"]:
        """Whether a value follows the flag, and whether the flag may be repeated."""
        if self.plain is bool:
            return "switch"
        origin = get_origin(self.plain)
        return "list" if origin is tuple else "pairs" if origin is dict else "value"


def positional(metavar: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is given as a plain word, shown as `metavar` in the usage line."""
    return dataclasses.field(default=default, metadata={"positional": metavar})


def config_class(run: Run) -> type:
    """The dataclass that a command's function takes."""
    hints = typing.get_type_hints(run)
    config = next(hint for name, hint in hints.items() if name != "return")
    assert isinstance(config, type)
    return config


@functools.cache
def options_of(config: type) -> tuple[Option, ...]:
    """Every field of a config and of the configs in it, in order of definition."""
    return tuple(_options(config, None, prefix="", group=""))


def _options(config: type, example: Any, prefix: str, group: str) -> Iterator[Option]:
    """`example` is the config object that the outer config has as its default, whose values are the defaults here."""
    hints, docs = typing.get_type_hints(config), field_docs(config)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        default = field.default if example is None else getattr(example, field.name)
        if example is None and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if is_config(hint):
            inner = None if default is dataclasses.MISSING else default
            yield from _options(hint, inner, f"{prefix}{field.name}.", field.name)
            continue
        yield Option(
            key=prefix + field.name,
            type=hint,
            default=default,
            help=docs.get(field.name, ""),
            positional=field.metadata.get("positional"),
            group=group,
        )


def is_config(hint: Any) -> bool:
    """Whether a field's type is itself a config."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def field_docs(config: type) -> dict[str, str]:
    """The docstring under each field, fields of parent classes included."""
    docs: dict[str, str] = {}
    for owner in reversed(config.__mro__):
        if not dataclasses.is_dataclass(owner):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        assert isinstance(tree.body[0], ast.ClassDef)
        body = tree.body[0].body
        for node, after in itertools.pairwise(body):
            named = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                docs[ast.unparse(node.target)] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return docs


def build(config: type, values: dict[str, Any], prefix: str = "") -> Any:
    """Make the config object, and those in it, out of flat dotted values; absent ones keep their defaults."""
    hints, arguments = typing.get_type_hints(config), {}
    plain = {prefix + option.key: option.plain for option in options_of(config)}
    for field in dataclasses.fields(config):
        key = prefix + field.name
        if is_config(hints[field.name]):
            arguments[field.name] = build(hints[field.name], values, f"{key}.")
        elif key in values:
            value, wanted = values[key], plain.get(key)
            if wanted is Path and value is not None:
                value = Path(value)
            elif wanted == tuple[Path, ...]:
                value = tuple(map(Path, value))
            elif get_origin(wanted) is dict and is_config(get_args(wanted)[1]):
                value = {name: build(get_args(wanted)[1], dict(inner.items())) for name, inner in value.items()}
            arguments[field.name] = value
    return config(**arguments)
