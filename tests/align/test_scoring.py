"""Scorers by their names, and programs that fail in every way."""

import json
import sys

import pytest

from arriero.align.reward_model import RewardModel
from arriero.align.scoring import Command, judge_of, load_scorer
from arriero.common.errors import ArrieroError, NotFoundError
from arriero.model.export import export_model
from arriero.model.heads import SCORE, add_head
from arriero.model.source import load_model
from tests.train.tuning import write_base

ASKED = [{"role": "user", "content": "¿cuánto? 🦙\u2028\n羊驼"}]


def program(tmp_path, text):
    file = tmp_path / "a judge.py"
    file.write_text(text, encoding="utf-8")
    return load_scorer(f"command:{sys.executable} '{file}'")


def test_a_program_reads_a_row_a_line_and_its_numbers_are_the_scores(tmp_path):
    scorer = program(
        tmp_path,
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    row = json.loads(line)\n"
        "    print(len(row['response']) + len(row['prompt'][0]['content']) / 100)\n",
    )
    size = len(ASKED[0]["content"]) / 100
    assert scorer.score([ASKED, ASKED], ["a\u2028b\nc", "ü"]) == pytest.approx([5 + size, 1 + size])
    assert scorer.score([], []) == []
    assert judge_of(scorer) == "program"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print(1)", "expected 2 lines, one a response, got 1"),
        ("print(1); print('nan')", "finite number in line 2, got 'nan'"),
        ("print('inf'); print(1)", "finite number in line 1, got 'inf'"),
        ("print('good'); print(1)", "finite number in line 1, got 'good'"),
        ("import sys; sys.exit('no\\nmodel here')", "got 1; it said: no model here"),
        ("import sys; sys.exit(3)", "got 3; it said: nothing on its error stream"),
    ],
)
def test_a_program_that_fails_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(ArrieroError, match=message) as error:
        program(tmp_path, text).score([ASKED, ASKED], ["a", "b"])
    assert "\n" not in str(error.value)


def test_a_program_that_takes_too_long_is_ended(tmp_path):
    slow = Command((sys.executable, "-c", "import time; time.sleep(60)"), seconds=0.2, seconds_each=0.0)
    with pytest.raises(ArrieroError, match="no answer within 0 seconds"):
        slow.score([ASKED], ["a"])


def test_a_program_need_not_read_what_it_is_given():
    line = f"command:{sys.executable} -c 'print(1)'"
    assert load_scorer(line).score([ASKED], ["a" * 1_000_000]) == [1.0]


@pytest.mark.parametrize(
    ("spec", "message"), [("command:", "expected a program"), ("command:a 'b", "quot"), ("command:/no/where", "run")]
)
def test_no_program_is_one_clear_line(spec, message):
    with pytest.raises(ArrieroError, match=message):
        load_scorer(spec).score([ASKED], ["a"])


def test_rules_and_reward_models_are_scorers_too(tmp_path):
    assert judge_of(load_scorer("rule:concise")) == "program"
    with pytest.raises(NotFoundError, match="there is no rule"):
        load_scorer("rule:kind")
    loaded = load_model(str(write_base(tmp_path / "base")), device="cpu", dtype="float32")
    add_head(loaded.model, SCORE, seed=1)
    export_model(loaded, tmp_path / "reward", "f32")
    scorer = load_scorer(str(tmp_path / "reward"), device="cpu")
    assert isinstance(scorer, RewardModel)
    assert judge_of(scorer) == "reward model"
    assert len(scorer.score([[{"role": "user", "content": "a"}]], ["b"])) == 1
    assert json.dumps(scorer.name)
    with pytest.raises(NotFoundError):
        load_scorer(str(tmp_path / "absent"))
