"""Every file in `configs/` is one that the command in its first line takes."""

import importlib
from pathlib import Path

import pytest

from arriero.cli.commands import COMMANDS
from arriero.cli.parser import parse
from arriero.train.mixture import check_weights

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


def read(path: Path):
    words = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# arriero ").split()
    name = next(" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS)
    module, _, function = COMMANDS[name].target.partition(":")
    argv = [str(path) if word.startswith("configs/") else word for word in words[len(name.split()) :]]
    return parse(f"arriero {name}", getattr(importlib.import_module(module), function), argv)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_command_takes_it(path: Path):
    read(path)


def test_the_mixture_is_llamas_table_1():
    weights = read(next(path for path in CONFIGS if path.stem == "llama-mixture")).data.weights
    assert check_weights(weights) == pytest.approx(weights)
    assert weights == {
        "commoncrawl": 0.67,
        "c4": 0.15,
        "github": 0.045,
        "wikipedia": 0.045,
        "books": 0.045,
        "arxiv": 0.025,
        "stackexchange": 0.02,
    }


def test_the_corpus_has_llamas_seven_sources():
    sources = read(next(path for path in CONFIGS if path.stem == "llama-corpus")).sources
    assert [source.kind for source in sources.values()] == list(sources)
    assert len(sources) == 7
    assert sources["commoncrawl"].paths == (Path("dumps/commoncrawl"),)
    assert len(sources["wikipedia"].languages) == 20
