"""`arriero align sample|judge|reject`: from prompts to judged pairs, and to the best of many answers."""

import json
import sys

import pytest

from arriero.align.preferences import Preferences


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("What is a llama?\n¿Qué? 🦙\n", encoding="utf-8")
    return path


@pytest.fixture
def judge(tmp_path):
    """A program that likes long answers."""
    file = tmp_path / "judge.py"
    file.write_text("import json, sys\nfor line in sys.stdin:\n    print(len(json.loads(line)['response']))\n")
    return f"command:{sys.executable} {file}"


def test_pairs_are_sampled_judged_and_passed_over_the_second_time(run, tiny_model, tmp_path, prompts, judge):
    file = tmp_path / "p.sqlite"
    words = ["align", "sample", file, "--prompts", prompts, "--model", tiny_model, "--max-tokens", "12"]
    code, out, _ = run(*words, "--judge", judge, "--batch", "w1")
    assert code == 0
    assert out.startswith("2 pairs added; 0 prompts had one")
    assert "pairs judged by command:" in out
    again = json.loads(run(*words, "--json").out)
    assert (again["pairs"], again["known"], again["interrupted"]) == (0, 2, False)
    with Preferences(file) as opened:
        judged = [one.judgement for one in opened.comparisons()]
        assert {(one.judge, one.batch) for one in judged} <= {("program", "w1")}


def test_judging_is_marked_counted_and_done_once(run, tmp_path, judge):
    rows = [{"prompt": f"{n}?", "chosen": "short", "rejected": "much longer" if n else "equal"} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    file = tmp_path / "p.sqlite"
    run("align", "import", file, tmp_path / "rows.jsonl")
    found = json.loads(run("align", "judge", file, "--judge", judge, "--json").out)
    assert (found["judged"], found["ties"], found["judge"]) == (2, 1, judge)
    assert run("align", "judge", file, "--judge", judge).out.startswith("0 pairs judged by command:")


def test_the_best_answers_and_their_curve(run, tiny_model, tmp_path, prompts, judge):
    words = ["align", "reject", tmp_path / "run", "--prompts", prompts, "--model", tiny_model, "--reward", judge,
             "--samples", "4", "--max-tokens", "12", "--temperatures", "0.7,1.2", "--sweep-prompts", "1",
             "--choose-only"]  # fmt: skip
    code, out, err = run(*words)
    assert code == 0
    assert "mean reward of the best answers by temperature: 0.7: " in out
    assert "iteration 1, at temperature" in out
    assert "have no answer that came to its end" in err or "from iteration 1" in out
    page = (tmp_path / "run" / "rejection.html").read_text()
    assert "Reward by samples" in page
    found = json.loads(run(*words, "--json").out)
    assert (found["iteration"], found["curve"]["samples"]) == (1, [1, 2, 3, 4])


def test_ctrl_c_keeps_what_is_there_and_says_so(run, tiny_model, tmp_path, prompts, monkeypatch):
    from arriero.align import rejection, sample

    def interrupt(asked):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "answer", interrupt)
    monkeypatch.setattr(rejection, "answer", interrupt)
    common = ["--prompts", prompts, "--model", tiny_model, "--max-tokens", "12"]
    code, _, err = run("align", "sample", tmp_path / "p.sqlite", *common)
    assert code == 130
    assert "the same command goes on from here" in err
    code, _, err = run("align", "reject", tmp_path / "run", *common, "--reward", "rule:concise")
    assert code == 130
    assert "the same command goes on from here" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sample", "P", "--prompts", "absent.txt"], "no such file of prompts"),
        (["sample", "P", "--prompts", "PROMPTS", "--judge", "rule:kind"], "there is no rule 'kind'"),
        (["sample", "P", "--prompts", "PROMPTS", "--safety", "rule:concise"], "expected a judge beside it"),
        (["sample", "P", "--prompts", "PROMPTS", "--most", "0"], "most: expected 1 or more"),
        (["judge", "P", "--judge", "rule:concise"], "no such file of preferences"),
        (["reject", "RUN", "--prompts", "PROMPTS", "--reward", "command:"], "expected a program"),
        (["reject", "RUN", "--prompts", "PROMPTS", "--reward", "rule:concise", "--samples", "0"], "samples"),
    ],
)
def test_what_does_not_suit_is_one_line_and_code_2(run, tmp_path, prompts, words, message):
    places = {"P": tmp_path / "p.sqlite", "PROMPTS": prompts, "RUN": tmp_path / "run"}
    code, out, err = run("align", *(places.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
