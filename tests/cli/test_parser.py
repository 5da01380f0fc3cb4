"""Command lines to configs: order, repetition, TOML, dotted names, and words that stay as typed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.cli.options import field_docs, positional
from arriero.cli.parser import UsageError, parse


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A table."""

    top_k: int = 0
    """How many."""
    stop: tuple[str, ...] = ()
    """Where to end."""
    ids: tuple[int, ...] | None = None
    """Numbers."""


@dataclass(frozen=True, kw_only=True)
class Outer:
    """All kinds of fields."""

    words: tuple[str, ...] = positional("WORD", default=())
    """Words."""
    name: str | None = None
    """A name,
    on two lines."""
    folder: Path = Path("here")
    """A path."""
    mode: Literal["slow", "fast"] = "slow"
    """One of two."""
    loud: bool = False
    """A switch."""
    safe: bool = True
    """A switch that is on."""
    meta: dict[str, str] | None = None
    """Pairs."""
    inner: Inner = field(default_factory=lambda: Inner(top_k=7))


def command(config: Outer) -> None:
    """Does nothing."""


def read(*argv: str) -> Outer:
    config = parse("program", command, argv)
    assert isinstance(config, Outer)
    return config


def test_without_arguments_every_default_holds():
    assert read() == Outer()


def test_options_and_words_may_come_in_any_order():
    expected = Outer(words=("a", "b"), loud=True, inner=Inner(top_k=3))
    assert read("a", "--top-k", "3", "b", "--loud") == read("--loud", "a", "b", "--top-k=3") == expected


def test_an_option_of_a_table_is_known_by_its_dotted_name_and_with_underscores():
    assert read("--inner.top_k", "3") == read("--top_k", "3") == read("--top-k", "3")


def test_switches():
    assert read("--loud", "--no-safe") == Outer(loud=True, safe=False)
    assert read("--loud=false", "--safe=true") == Outer()


def test_repeated_options_gather():
    found = read("--stop", "a,b", "--stop", '["x"]\n', "--meta", "k=v=w", "--meta", "l=", "--ids", "1", "--ids", "2")
    assert found.inner.stop == ("a,b", '["x"]\n')
    assert found.inner.ids == (1, 2)
    assert found.meta == {"k": "v=w", "l": ""}


def test_paths_are_paths():
    assert read("--folder", "a/b").folder == Path("a/b")


@given(st.lists(st.text().filter(lambda word: not word.startswith("-")), max_size=3))
def test_words_stay_as_typed(words):
    assert read(*words).words == tuple(words)


@given(st.lists(st.text(), max_size=3))
def test_after_two_dashes_everything_is_a_word(words):
    assert read("--", *words).words == tuple(words)


def test_toml_gives_settings_and_the_line_wins(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('mode = "fast"\nfolder = "there"\n[inner]\ntop_k = 4\nstop = ["x", "y"]\n')
    found = read("--config", str(file), "--top-k", "5")
    assert found == Outer(mode="fast", folder=Path("there"), inner=Inner(top_k=5, stop=("x", "y")))


def test_printed_settings_read_back_as_the_same(tmp_path, capsys):
    argv = ["--name", "n", "--mode", "fast", "--loud", "--stop", 'quote " and \\', "--top-k", "9", "--meta", "a=b"]
    with pytest.raises(SystemExit) as stop:
        read(*argv, "--print-config")
    assert not stop.value.code
    file = tmp_path / "printed.toml"
    file.write_text(capsys.readouterr().out)
    assert read("--config", str(file)) == read(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[inner]\ntopk = 4\n", "unknown setting 'inner.topk' in the configuration (did you mean inner.top_k?)"),
        ("[inner\n", "settings.toml"),
        ('mode = "quick"\n', "option --mode expects one of slow, fast, got 'quick'"),
    ],
)
def test_mistakes_in_toml_are_named(tmp_path, text, message):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        read("--config", str(file))
    assert message in str(error.value)


def test_field_docstrings_are_the_help():
    assert field_docs(Outer)["name"] == "A name, on two lines."


@dataclass(frozen=True, kw_only=True)
class Needy:
    """A config with a setting that has no default, and a table of tables."""

    steps: int
    """How many steps to take. Never zero."""
    sources: dict[str, Inner] = field(default_factory=dict)
    """By name."""


def need(config: Needy) -> None:
    """Does nothing."""


def test_a_setting_without_default_is_asked_for_by_name():
    with pytest.raises(UsageError, match=r"`program` needs --steps: How many steps to take; see `program --help`"):
        parse("program", need, [])
    assert parse("program", need, ["--steps", "3"]) == Needy(steps=3)


def test_a_table_of_tables_becomes_configs_by_name(tmp_path: Path):
    (tmp_path / "x.toml").write_text("steps = 1\n[sources.a]\ntop_k = 5\n[sources.b]\nstop = ['x']\n")
    config = parse("program", need, ["--config", str(tmp_path / "x.toml")])
    assert config.sources == {"a": Inner(top_k=5), "b": Inner(stop=("x",))}


def test_an_unknown_name_in_a_table_of_tables_is_told(tmp_path: Path):
    (tmp_path / "x.toml").write_text("steps = 1\n[sources.a]\ntop = 5\n")
    with pytest.raises(UsageError, match="'top' is not accepted"):
        parse("program", need, ["--config", str(tmp_path / "x.toml")])
