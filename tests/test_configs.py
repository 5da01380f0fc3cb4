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


def test_supervised_fine_tuning_is_llama_2s():
    config = read(next(path for path in CONFIGS if path.stem == "llama2-sft"))
    optim, schedule = config.optim.resolve("full"), config.schedule
    assert (optim.lr, optim.beta1, optim.beta2) == (2e-5, 0.9, 0.95)
    assert (optim.eps, optim.weight_decay, optim.clip) == (1e-5, 0.1, 1.0)
    assert (schedule.schedule, schedule.warmup_steps) == ("cosine", 0)
    assert schedule.factor(99, 100) == pytest.approx(0.1)
    assert (config.method, config.training.batch, config.training.epochs) == ("full", 64, 2)
    assert (config.examples.template, config.examples.tokens, config.examples.pack) == ("llama2", 4096, True)
