"""`arriero align ppo`: from prompts and a judge to an adapter, and what is told on the way."""

import json
from pathlib import Path

import pytest

from arriero.model.source import load_model

SHORT = ("--iterations", "1", "--batch", "4", "--mini-batch", "2", "--max-tokens", "6", "--eval-count", "2")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "asked.txt"
    file.write_text("\n".join(f"What is {n}?" for n in range(12)), encoding="utf-8")
    return file


def test_prompts_and_a_judge_are_enough(run, tiny_model, prompts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ("align", "ppo", "--prompts", prompts, "--reward", "rule:concise", "--model", tiny_model)
    code, out, err = run(*argv, *SHORT)
    assert code == 0, err
    assert "arriero chat --model runs/asked-ppo/adapter" in out
    assert "rule:concise" in err
    assert "models in memory  1, " in err
    assert load_model("runs/asked-ppo/adapter").tokenizer.chat_template is not None


def test_the_same_command_again_and_json_and_the_page(run, tiny_model, prompts, tmp_path):
    argv = ("align", "ppo", tmp_path / "run", "--prompts", prompts, "--reward", "rule:concise", "--model", tiny_model)
    facts = json.loads(run(*argv, *SHORT, "--json").out)
    assert facts["end"] == "finished"
    assert json.loads(run(*argv, *SHORT, "--json").out) == facts
    assert run("report", tmp_path / "run").code == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Divergence from the reference" in page


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("--reward", "rule:consise"), "did you mean concise"),
        (("--temperature", "0"), "temperature: expected a number above 0"),
        (("--mini-batch", "3"), "mini_batch: expected a divisor of the batch of 4"),
        (("--dropout", "0.1"), "dropout: expected 0"),
        (("--max-prompt-tokens", "2"), "raise --max-prompt-tokens"),
        (("--tensor", "2"), "tensor: expected 1 in PPO"),
        (("--rows", "3"), "rows: expected a divisor of the mini-batch of 2"),
        (("--prompts", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_what_cannot_be_is_one_line_and_code_2(run, tiny_model, prompts, tmp_path, changes, told):
    argv = ("align", "ppo", tmp_path / "run", "--prompts", prompts, "--reward", "rule:concise", "--model", tiny_model)
    code, _, err = run(*argv, *SHORT, *changes)
    assert code == 2
    assert told in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_model_that_gives_no_scores_is_no_judge(run, tiny_model, prompts, tmp_path):
    argv = ("align", "ppo", tmp_path / "run", "--prompts", prompts, "--reward", tiny_model, "--model", tiny_model)
    code, _, err = run(*argv, *SHORT)
    assert code == 2
    assert "gives no scores: expected a reward model" in err
