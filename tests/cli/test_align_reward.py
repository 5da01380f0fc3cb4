"""`arriero align reward|reward-eval` and `align iterate` from the command line."""

import json

from tests.align.test_reward_train import write_pairs


def train(run, tiny_model, tmp_path, *more):
    pairs = write_pairs(tmp_path / "p.jsonl", 16)
    few = ("--steps", "2", "--batch", "4", "--rank", "2", "--device", "cpu", "--eval-share", "0.25")
    return run("align", "reward", tmp_path / "run", "--preferences", pairs, "--model", tiny_model, *few, *more)


def test_a_run_ends_with_what_it_is_worth_and_the_page(run, tiny_model, tmp_path):
    done = train(run, tiny_model, tmp_path)
    assert done.code == 0, done.err
    assert "longer" in done.out
    assert (tmp_path / "run" / "reward.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    measured = run("align", "reward-eval", tmp_path / "run" / "reward", "--preferences", tmp_path / "p.jsonl", "--json")
    found = json.loads(measured.out)
    assert found["accuracy"]["count"] == 16
    assert set(found["degrees"]) == {
        "significantly better", "better", "slightly better", "negligibly better",
    }  # fmt: skip


def test_a_dry_run_writes_nothing(run, tiny_model, tmp_path):
    done = train(run, tiny_model, tmp_path, "--dry-run")
    assert done.code == 0, done.err
    assert not (tmp_path / "run").exists()


def test_what_gives_no_scores_is_one_clear_line(run, tiny_model, tmp_path):
    pairs = write_pairs(tmp_path / "p.jsonl", 16)
    done = run("align", "reward-eval", tiny_model, "--preferences", pairs)
    assert done.code == 2
    assert "gives no scores" in done.err
    assert "Traceback" not in done.err


def test_margins_that_apply_to_nothing_are_one_clear_line(run, tiny_model, tmp_path):
    pairs = write_pairs(tmp_path / "p.jsonl", 16, degrees=False)
    done = run("align", "reward", tmp_path / "run", "--preferences", pairs, "--model", tiny_model, "--margins", "large")
    assert done.code == 2
    assert "--margins none" in done.err


def test_iterate_waits_for_people_and_says_what_to_do(run, tiny_model, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"what is {n}?" for n in range(8)))
    done = run(
        "align", "iterate", tmp_path / "run", "--prompts", tmp_path / "prompts.txt", "--model", tiny_model,
        "--pairs", "4", "--answer-tokens", "6", "--collect.temperature", "1.0", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "pairs wait to be compared: arriero align annotate" in done.out
