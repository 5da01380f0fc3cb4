"""Rejection sampling: the best of all iterations, by one reward; and what becomes of a run that is killed."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from arriero.align import rejection_run
from arriero.align.candidates import Candidate, Candidates, append_candidates, read_candidates
from arriero.align.rejection import Drawing, best_answers, mean_best, refresh_scores, score_candidates, write_best
from arriero.align.rejection_config import DrawConfig, RejectionConfig
from arriero.align.rejection_run import reject, samples_file
from arriero.align.reward import Reward
from arriero.align.variants import load_variants
from arriero.common.errors import ArrieroError
from arriero.train.examples import read_examples
from arriero.train.sft_config import EpochsConfig
from tests.align.answering import ODD, Judge, ask, write_adapter, write_prompts
from tests.train.tuning import write_base

LENGTH = Reward(Judge(lambda text: float(len(text)), "length"))
TEXTS = ("a?", "bb?", ODD)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("rejection") / "base")


@pytest.fixture
def config(base, tmp_path):
    return config_for(base, write_prompts(tmp_path / "prompts.jsonl", *TEXTS))


def config_for(base, prompts, **changes):
    draw = {"samples": 12, "max_tokens": 30, "temperatures": (1.0,)} | changes.pop("draw", {})
    values = {"model": str(base), "reward": "rule:readable", "device": "cpu", "eval_share": 0.0, "choose_only": True}
    training = EpochsConfig(steps=1, batch=1, patience=0)
    return RejectionConfig(prompts=(prompts,), draw=DrawConfig(**draw), training=training, **(values | changes))


def candidates(text, *answers, reward="length", temperature=1.0):
    said = tuple(Candidate(text=text, score=score, ended=ended, tokens=len(text)) for text, score, ended in answers)
    return Candidates(prompt=ask(text), model="m", temperature=temperature, reward=reward, answers=said)


def test_an_old_iteration_s_better_answer_is_kept():
    """Llama 2's third version learnt from its own answers alone, and forgot its rhymes."""
    old = [candidates("a?", ("rhyme", 5.0, True)), candidates("b?", ("worse", 1.0, True))]
    new = [candidates("a?", ("prose", 3.0, True)), candidates("b?", ("better", 2.0, True))]
    best = best_answers([(1, old), (2, new)])
    assert [(one.answer.text, one.iteration) for one in best] == [("rhyme", 1), ("better", 2)]


def test_prompts_of_old_iterations_stay_and_equal_scores_take_the_newest():
    old = [candidates("a?", ("old", 1.0, True)), candidates("gone?", ("kept", -9.0, True))]
    best = best_answers([(1, old), (2, [candidates("a?", ("new", 1.0, True))])])
    assert [one.answer.text for one in best] == ["new", "kept"]


def test_answers_that_are_empty_or_cut_off_are_never_chosen():
    rows = [candidates("a?", ("", None, True), ("cut o", 9.0, False), ("whole.", 1.0, True))]
    assert [one.answer.text for one in best_answers([(1, rows)])] == ["whole."]
    assert best_answers([(1, [candidates("a?", ("", None, True), ("cut o", 9.0, False))])]) == []


def test_scores_of_two_rewards_are_not_compared():
    with pytest.raises(ArrieroError, match="one reward, got length and other"):
        best_answers([(1, [candidates("a?", ("x", 1.0, True))]), (2, [candidates("a?", reward="other")])])


def test_another_reward_scores_what_was_kept_anew(tmp_path):
    file = tmp_path / "samples.jsonl"
    append_candidates(file, [candidates("a?", ("long one", 1.0, True), ("", None, True), reward="other")])
    append_candidates(file, [candidates("b?", ("x", 7.0, True))])
    assert refresh_scores(file, LENGTH) == 1
    first, second = read_candidates(file)
    assert [answer.score for answer in first.answers] == [8.0, None]
    assert (first.reward, second.answers[0].score) == ("length", 7.0)
    assert refresh_scores(file, LENGTH) == 0


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_reward_that_is_no_number_is_one_clear_line_and_loses_nothing(tmp_path, value):
    file = tmp_path / "samples.jsonl"
    append_candidates(file, [candidates("a?", ("x", 1.0, True), reward="other")])
    before = file.read_bytes()
    with pytest.raises(ArrieroError, match="bad: expected finite scores"):
        refresh_scores(file, Reward(Judge(lambda text: value, "bad")))
    assert file.read_bytes() == before


def test_a_safety_scorer_makes_it_the_combined_reward():
    reward = Reward(Judge(len, "help"), Judge(lambda text: -5.0 if text == "bad" else 3.0, "safe"))
    assert reward.name == "help + safe"
    prompts = [ask("a"), ask("a"), ask("a", safety=True)]
    assert reward.score(prompts, ["good one", "bad", "good one"]) == [8, -5.0, 3.0]


def test_the_best_are_written_as_examples_to_learn(tmp_path):
    file = tmp_path / "best.jsonl"
    write_best(file, best_answers([(1, [candidates(ODD, (ODD, 1.0, True))])]))
    examples, format = read_examples([file])
    assert format == "messages"
    assert [turn["content"] for turn in examples[0].messages] == [ODD, ODD]


def drawing(base, file, reward=LENGTH, **changes):
    variant = load_variants([str(base)], device="cpu")[0]
    return Drawing(file, variant, reward, **({"samples": 4, "max_tokens": 6, "seed": 0} | changes))


def test_a_prompt_is_read_once_for_all_of_its_samples(base, tmp_path):
    drawn = drawing(base, tmp_path / "samples.jsonl", samples=8)
    model, read = drawn.variant.engine.model, []
    model.layers[0].register_forward_hook(lambda module, given, out: read.append(tuple(out.shape[:2])))
    drawn.draw([ask("a prompt of thirty characters.")], 1.0, 1)
    assert read[0] == (len(drawn.variant.encode(ask("a prompt of thirty characters."))), 1)
    assert all(length == 1 and rows <= 8 for rows, length in read[1:])


def test_what_the_file_has_is_not_drawn_again(base, tmp_path):
    drawn = drawing(base, tmp_path / "samples.jsonl")
    first = drawn.draw([ask("a?")], 1.0, 1)
    both = drawn.draw([ask("b?"), ask("a?")], 1.0, 2)
    assert both[1].answers == first[0].answers
    assert len(read_candidates(drawn.file)) == 2
    drawn.draw([ask("a?")], 1.3, 1)
    assert len(read_candidates(drawn.file)) == 3, "another temperature gives other answers, kept beside them"


def test_samples_of_a_prompt_differ_and_an_empty_one_has_no_score(base):
    rows = score_candidates([candidates("a?", ("xyz", None, True), ("", None, True))], LENGTH)
    assert [answer.score for answer in rows[0].answers] == [3.0, None]
    assert mean_best(rows) == 3.0
    assert mean_best([candidates("a?", ("", None, True))]) == -math.inf


def test_an_iteration_samples_chooses_and_learns_from_the_base(config, base, tmp_path):
    adapter = write_adapter(base, tmp_path / "adapter", 1)
    result = reject(tmp_path / "run", config_for(base, config.prompts[0], model=str(adapter), choose_only=False))
    assert (result.iteration, result.prompts, result.too_long) == (1, 3, 0)
    assert result.curve.samples == list(range(1, 13))
    assert result.curve.maximum[-1] > result.curve.maximum[0]
    assert result.made == tmp_path / "run" / "sft-001" / "adapter"
    settings = json.loads((result.made / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base), "each version starts again from the base"
    assert len(result.best.read_text().splitlines()) == sum(result.best_from.values()) == 3 - result.unanswered


def test_the_same_settings_go_on_and_others_begin_the_next_iteration(config, base, tmp_path):
    run = tmp_path / "run"
    first = reject(run, config)
    samples = samples_file(run, 1).read_bytes()
    assert reject(run, config).iteration == 1
    assert samples_file(run, 1).read_bytes() == samples
    second = reject(run, config_for(base, config.prompts[0], seed=1))
    assert second.iteration == 2
    assert set(second.best_from) <= {"1", "2"}
    assert second.best_reward >= first.best_reward
    third = reject(run, config_for(base, config.prompts[0], seed=1, reward="rule:concise"))
    assert (third.iteration, third.rescored) == (3, 6)
    rewards = {row.reward for n in (1, 2, 3) for row in read_candidates(samples_file(run, n))}
    assert rewards == {"rule:concise"}


def test_an_iteration_that_failed_before_its_first_answer_gives_way(config, base, tmp_path):
    with pytest.raises(ArrieroError):
        reject(tmp_path / "run", config_for(base, config.prompts[0], model=str(tmp_path / "absent")))
    assert reject(tmp_path / "run", config).iteration == 1


def test_of_several_temperatures_the_one_with_the_best_answers_is_taken(config, base, tmp_path, monkeypatch):
    draw = {"temperatures": (1.3, 0.7), "sweep_prompts": 2}
    result = reject(tmp_path / "run", config_for(base, config.prompts[0], draw=draw))
    assert set(result.sweep) == {"0.7", "1.3"}
    assert result.sweep[f"{result.temperature:g}"] == max(result.sweep.values())
    rows = read_candidates(samples_file(tmp_path / "run", 1))
    assert len(rows) == 2 + 3, "what the comparison drew takes part"


def test_prompts_over_the_context_are_counted_and_none_left_is_one_clear_line(base, tmp_path):
    some = write_prompts(tmp_path / "some.jsonl", "why " * 40, "a?")
    assert reject(tmp_path / "run", config_for(base, some)).too_long == 1
    none = write_prompts(tmp_path / "none.jsonl", "why " * 40)
    with pytest.raises(ArrieroError, match="none of 1 prompts leaves room"):
        reject(tmp_path / "other", config_for(base, none))


def test_nothing_to_learn_is_one_clear_line(config, base, tmp_path):
    short = config_for(base, config.prompts[0], draw={"max_tokens": 1, "samples": 1}, choose_only=False)
    with pytest.raises(ArrieroError, match="no answer came to its end within 1 tokens"):
        reject(tmp_path / "run", short)


def test_several_processes_are_refused(config, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ArrieroError, match="runs in one process"):
        reject(tmp_path / "run", config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperatures": (0.0,)}, "greedy answers are equal"),
        ({"temperatures": (1.0, float("nan"))}, "got nan"),
        ({"temperatures": (float("inf"),)}, "got inf"),
        ({"temperatures": ()}, "different numbers, one or more"),
        ({"temperatures": (1.0, 1.0)}, "different numbers"),
        ({"samples": 0}, "samples: expected 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ArrieroError, match=message):
        DrawConfig(**changes)


def test_safety_prompts_need_a_scorer_of_safety(config):
    with pytest.raises(ArrieroError, match="--safety"):
        RejectionConfig(prompts=config.prompts, safety_prompts=config.prompts, reward="rule:concise")


def test_a_run_that_is_killed_goes_on_and_is_as_if_never_killed(config, base, tmp_path):
    """Killed with half of a line written: what was whole is kept, and the rest comes out the same."""
    whole = reject(tmp_path / "whole", config)
    command = [sys.executable, "-m", "tests.align.test_rejection", str(base), str(config.prompts[0])]
    killed = subprocess.run(
        [*command, str(tmp_path / "killed")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    file = samples_file(tmp_path / "killed", 1)
    kept = len(read_candidates(file))
    assert 0 < kept < len(TEXTS)
    assert not file.read_bytes().endswith(b"\n")
    again = reject(tmp_path / "killed", config)
    assert again.curve == whole.curve
    assert file.read_bytes() == samples_file(tmp_path / "whole", 1).read_bytes()
    assert again.best.read_bytes() == whole.best.read_bytes()


def _be_killed(base: str, prompts: str, run: str) -> None:
    """Begin an iteration; with the second portion half written, be killed."""
    from arriero.align import rejection

    torch.set_num_threads(1)
    portions = []

    def append(file, rows):
        portions.append(rows)
        append_candidates(file, rows)
        if len(portions) == 2:
            os.truncate(file, file.stat().st_size - 20)
            os.kill(os.getpid(), signal.SIGKILL)

    rejection.append_candidates = append
    rejection_run.reject(Path(run), config_for(base, Path(prompts)))


if __name__ == "__main__":
    _be_killed(*sys.argv[1:])
