"""The report card of a road: whatever of it is done, and whatever its models said."""

import json

import pytest

from arriero.common.errors import FormatError
from arriero.report.road import carbon, energy, render_road

RECORD = {
    "name": "ppo",
    "title": "Learn from rewards",
    "tells": "What it is for.",
    "calls": ["arriero align ppo road/ppo --prompts road/prompts.txt"],
    "runs": ["ppo"],
    "began": 2.0,
    "done": True,
    "seconds": 61.0,
    "cpu_seconds": 100.0,
    "memory_bytes": 2**30,
    "joules": 3600.0,
    "energy_source": "estimated",
}
DIARY = [
    {"kind": "validation", "step": 0, "loss": -0.5, "reward": 0.5, "kl": 0.0, "watch/rule:concise": 2.0},
    {"kind": "sample", "step": 0, "prompt": "What is <i>?", "text": "before\n\n\n\nit"},
    {"kind": "step", "step": 1, "loss": 1.0, "reward": 0.6, "kl": 0.1},
    {"kind": "step", "step": 2, "loss": 0.9, "reward": 0.8, "kl": 0.2},
    {"kind": "validation", "step": 2, "loss": -0.9, "reward": 0.9, "kl": 0.25, "watch/rule:concise": 2.5},
    {"kind": "sample", "step": 2, "prompt": "What is <i>?", "text": "<script>after</script>" + "x" * 900},
]


@pytest.fixture
def road(tmp_path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "ppo").mkdir()
    (tmp_path / "stages" / "ppo.json").write_text(json.dumps(RECORD))
    (tmp_path / "ppo" / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in DIARY))
    return tmp_path


def test_rewards_divergence_and_samples_stand_before_and_after(road):
    page = render_road(road)
    assert "<td>0.500</td><td>0.900</td>" in page
    assert "<td>0.000</td><td>0.250</td>" in page
    assert "rule:concise, held-out prompts</th><td>2.000</td><td>2.500</td>" in page
    assert "before\nit</div>" in page
    assert "held-out loss" not in page  # PPO's is its reward


def test_what_models_say_is_text_and_is_cut(road):
    page = render_road(road)
    assert "<script" not in page
    assert "&lt;script&gt;after" in page
    assert "x […]" in page


def test_a_stage_without_its_diary_or_end_is_shown_as_far_as_it_came(road):
    (road / "ppo" / "metrics.jsonl").unlink()
    (road / "stages" / "lora.json").write_text(
        json.dumps(RECORD | {"name": "lora", "began": 1.0, "runs": [], "done": False})
    )
    page = render_road(road)
    assert page.index('id="lora"') < page.index('id="ppo"')
    assert page.count("not finished") == 1


def test_energy_counts_the_overhead_and_carbon_follows_it():
    assert energy(3600.0) == "1.1 Wh"
    assert carbon(3600.0 * 1000) == "424 g"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_record_is_told(road, text):
    (road / "stages" / "ppo.json").write_text(text)
    with pytest.raises(FormatError, match="damaged"):
        render_road(road)


def test_a_quote_is_one_paragraph(road):
    citation = {"number": 1, "document": "assert.rst", "quote": "it is\n   so."}
    answer = {"question": "Is it?", "text": "It is. [1]", "citations": [citation]}
    (road / "answers.json").write_text(json.dumps({"answers": [answer]}))
    (road / "stages" / "answer.json").write_text(json.dumps(RECORD | {"name": "answer", "runs": []}))
    assert "“it is so.”" in render_road(road)
