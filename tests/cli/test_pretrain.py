"""`arriero pretrain`: a run by the command line, its end told in a line, bad input in one too."""

import json
from pathlib import Path

import pytest

from tests.train.pretraining import diary, write_source

pytestmark = pytest.mark.usefixtures("two_layers")
OPTIONS = ("--model", "two-layers", "--rows", "2", "--tokens", "32", "--warmup-steps", "2", "--samples", "llama")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("shards") / "plays", "llama")


def test_a_run_is_begun_and_its_end_told(run, shards: Path, tmp_path: Path) -> None:
    command = ("pretrain", tmp_path / "run", "--shards", shards, "--steps", "3", *OPTIONS)
    outcome = run(*command)
    assert outcome.code == 0, outcome.err
    assert outcome.out == f"finished: {tmp_path / 'run/model'} is a model for `--model`\n"
    assert "step 3/3" in outcome.err
    again = run(*command, "--json")
    assert json.loads(again.out) == {"run": str(tmp_path / "run"), "end": "finished"}
    spoken = run("generate", "--model", tmp_path / "run/model", "--raw", "--max-tokens", "3", "llama")
    assert spoken.code == 0, spoken.err


def test_a_run_that_ran_out_of_time_says_how_to_go_on(run, shards: Path, tmp_path: Path) -> None:
    command = ("pretrain", tmp_path / "run", "--shards", shards, "--steps", "3", *OPTIONS)
    outcome = run(*command, "--max-minutes", "0.000001")
    assert outcome.code == 0, outcome.err
    assert outcome.out == "out of time: the same command goes on from the last checkpoint\n"
    assert run(*command).out.startswith("finished")


def test_other_settings_are_one_line_and_exit_2(run, shards: Path, tmp_path: Path) -> None:
    command = ("pretrain", tmp_path / "run", "--shards", shards, *OPTIONS)
    assert run(*command, "--steps", "1").code == 0
    outcome = run(*command, "--steps", "2", "--lr", "0.5")
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert "loop.steps was 1, is 2; optim.lr was 0.0003, is 0.5" in outcome.err
    assert run(*command, "--steps", "2", "--lr", "0.5", "--allow", "loop.steps", "--allow", "optim.lr").code == 0


def test_weights_are_given_by_source(run, shards: Path, tmp_path: Path) -> None:
    other = write_source(tmp_path / "law", "wool", seed=1)
    command = ("pretrain", tmp_path / "run", "--shards", shards, "--shards", other, "--steps", "1", *OPTIONS)
    outcome = run(*command, "--weights", "plays=0.75", "--weights", "law=0.25")
    assert outcome.code == 0, outcome.err
    (mixture,) = diary(tmp_path / "run", "mixture")
    assert [(row["source"], row["weight"]) for row in mixture["rows"]] == [("plays", 0.75), ("law", 0.25)]


def test_the_config_of_a_run_is_one_for_config(run, shards: Path, tmp_path: Path) -> None:
    assert run("pretrain", tmp_path / "one", "--shards", shards, "--steps", "1", *OPTIONS).code == 0
    outcome = run("pretrain", tmp_path / "two", "--config", tmp_path / "one/config.toml")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "two/config.toml").read_bytes() == (tmp_path / "one/config.toml").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tokens", "100"), "--context 100 grows it"),
        (("--weights", "plays=0.5"), "weights sum to 0.5, expected 1"),
        (("--model", "no-such"), "unknown model 'no-such'"),
        (("--context", "0"), "max_seq_len"),
        (("--steps", "0"), "steps: expected 1 or more, got 0"),
        (("--rows", "0"), "rows: expected 1 or more, got 0"),
        (("--validation-rows", "0"), "validation_rows: expected 1 or more, got 0"),
        (("--device", "tpu"), "device"),
        (("--shards", "nowhere"), "nowhere holds no token shards"),
    ],
)
def test_bad_input_is_one_line(run, shards: Path, tmp_path: Path, options: tuple[str, str], message: str) -> None:
    given = options if options[0] == "--shards" else (*options, "--shards", shards)
    steps = () if options[0] == "--steps" else ("--steps", "1")
    base = [word for word in zip(OPTIONS[::2], OPTIONS[1::2], strict=True) if word[0] != options[0]]
    outcome = run("pretrain", tmp_path / "run", *(word for pair in base for word in pair), *steps, *given)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
