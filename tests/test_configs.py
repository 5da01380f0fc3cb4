"""Every file in `configs/` is one that the command in its first line takes."""

from pathlib import Path

import pytest

from arriero.train.mixture import check_weights
from tests.documentation import parse_command

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))


def read(path: Path):
    words = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# arriero ").split()
    return parse_command([str(path) if word.startswith("configs/") else word for word in words])


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
