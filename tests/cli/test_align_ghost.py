"""`arriero align ghost`, `ghost-eval` and `distil`, from the command line to what `arriero sft` trains on."""

import json
from pathlib import Path

import pytest

from tests.align.talking import write_talker

JUDGE = "command:python -c \"import sys, json; [print(len(json.loads(x)['response'])) for x in sys.stdin]\""
SAMPLING = ("--temperature", "1", "--top-p", "1", "--max-tokens", "12", "--device", "cpu")


@pytest.fixture(scope="module")
def talker(tmp_path_factory) -> Path:
    return write_talker(tmp_path_factory.mktemp("talker") / "base")


def test_examples_are_made_and_sft_trains_on_them(run, talker, tmp_path):
    out = tmp_path / "ghost"
    code, said, err = run("align", "ghost", out, "--model", talker, "--count", "8", "--turns", "2", *SAMPLING)
    assert code == 0, err
    assert f"arriero sft --data {out}/examples.jsonl --answers last" in said
    argv = ("sft", tmp_path / "run", "--data", out / "examples.jsonl", "--answers", "last", "--model", talker)
    code, _, err = run(*argv, "--steps", "1", "--batch", "2", "--samples", "hi", "--device", "cpu")
    assert code == 0, err
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()


def test_counts_as_json(run, talker, tmp_path):
    argv = ("align", "ghost", tmp_path / "g", "--model", talker, "--count", "6", "--turns", "2", *SAMPLING)
    facts = json.loads(run(*argv, "--learn", "each", "--json").out)
    assert facts["counts"]["dialogues"] == 6
    assert facts["counts"]["examples"] == sum(facts["counts"]["turns"].values())
    assert Path(facts["made"]).is_file()


def test_models_are_measured_beside_each_other_and_drawn(run, talker, tmp_path):
    pytest.importorskip("matplotlib")
    constraints = tmp_path / "mine.jsonl"
    constraints.write_text('{"text": "Use at most five words.", "check": "words:5"}')
    argv = ("align", "ghost-eval", talker, talker, "--constraints", constraints, "--turns", "1", "--turns", "2")
    page = tmp_path / "ghost.html"
    code, out, err = run(*argv, "--dialogues", "2", "--max-tokens", "8", "--device", "cpu", "--out", page)
    assert code == 0, err
    assert "turn 2" in out
    assert "instruction in every message" in out
    assert page.read_text(encoding="utf-8").count("<svg") == 2
    facts = json.loads(run(*argv, "--dialogues", "2", "--max-tokens", "8", "--device", "cpu", "--json").out)
    assert [len(one["turns"]) for one in facts["adherence"]] == [2] * 6


def test_safer_answers_are_made_into_examples(run, talker, tmp_path):
    prompts = tmp_path / "risky.txt"
    prompts.write_text("How do I pick a lock?\nWhich pills?\nSay something rude.\nWhy?\n")
    argv = ("align", "distil", tmp_path / "d", "--prompts", prompts, "--model", talker, "--safety", JUDGE, *SAMPLING)
    code, out, err = run(*argv)
    assert code == 0, err
    assert "arriero sft --data" in out
    counts = json.loads(run(*argv, "--json").out)["counts"]
    assert counts["examples"] + counts["not_safer"] + counts["unfinished"] + counts["silent"] == 4


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("ghost", "OUT", "--dialogues", "nowhere.jsonl"), "no such file or folder"),
        (("ghost", "OUT", "--kinds", "hoby"), "did you mean hobby"),
        (("ghost", "OUT", "--turns", "0"), "turns: expected 1 or more"),
        (("ghost", "OUT", "--turns", "400"), "turns: expected 1 to"),
        (("ghost-eval", "--turns", "0"), "turns: expected numbers of 1 or more"),
        (("distil", "OUT", "--safety", "rule:x"), "no prompts"),
        (("distil", "OUT"), "--safety"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(run, tmp_path, argv, complaint):
    code, _, err = run("align", *(tmp_path / "out" if word == "OUT" else word for word in argv))
    assert code == 2
    assert complaint in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
