"""`arriero align`: preferences in, judged in the terminal, counted, out."""

import json
from pathlib import Path

import pytest

from arriero.align.preferences import Preferences


@pytest.fixture
def preferences(run, tmp_path: Path) -> Path:
    rows = [{"prompt": f"{n}?", "chosen": f"{n} it is.", "rejected": "No."} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "p.sqlite"
    code, out, _ = run("align", "import", path, tmp_path / "rows.jsonl", "--kind", "safety", "--batch", "w1")
    assert (code, out.splitlines()[0]) == (
        0,
        "3 comparisons taken; left out: 0 of equal responses, 0 with an empty one, 0 to different prompts",
    )
    return path


def test_judging_in_the_terminal(run, preferences):
    stdin = "c9\na1\nperhaps\nb\ns\nb4\nboth\n"
    code, out, err = run("align", "annotate", preferences, "--annotator", "ana", "--json", stdin=stdin)
    assert code == 0
    said = [json.loads(line) for line in out.splitlines()]
    assert [(x["choice"], x["degree"], x["safety"]) for x in said] == [
        (1, "significantly better", "chosen unsafe"),
        (2, "negligibly better", "both safe"),
    ]
    assert "2 judged; 1 left for ana" in err
    with Preferences(preferences) as opened:
        assert len(list(opened.comparisons(flagged=True))) == 5
        assert len(list(opened.comparisons())) == 4


def test_the_end_of_the_input_ends_the_work(run, preferences):
    code, _, err = run("align", "annotate", preferences, stdin="a2\n")
    assert code == 0
    assert "0 judged" in err or "1 judged" in err


def test_statistics_for_people_and_programs(run, preferences):
    found = json.loads(run("align", "stats", preferences, "--json").out)
    assert (found["total"]["comparisons"], found["first_chosen"]) == (3, 1.0)
    out = run("align", "stats", preferences).out
    assert "rows.jsonl" in out
    assert "the longer one in 100.0%" in out


def test_export_and_its_refusals(run, preferences, tmp_path):
    target = tmp_path / "out.csv"
    assert run("align", "export", preferences, target, "--format", "csv").code == 0
    assert target.read_text().count("\n") == 4
    code, _, err = run("align", "export", preferences, target)
    assert code == 2
    assert "--force" in err
    code, _, err = run("align", "export", tmp_path / "none.sqlite", tmp_path / "x")
    assert code == 2
    assert "no such file of preferences" in err
    assert run("align", "import", preferences).code == 2
