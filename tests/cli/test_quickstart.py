"""`arriero quickstart`: the questions that it shows off are answered rightly, every time."""

import json
import sys
from dataclasses import replace

import pytest

from arriero.cli.quickstart import QUESTIONS, reference
from arriero.cli.road.stage import FAST
from arriero.cli.road.walk import ORDER

EXPECTED = (  # the README's test looks for these too
    "wrap the execution of a block",
    "no exception was raised",
    '"__debug__" is "True"',
)


def test_the_reference_has_a_document_a_topic_with_titles():
    documents = {document.name: document for document in reference()}
    assert len(documents) > 70
    assert documents["python/topics/assert.rst"].sections[0].title == 'The "assert" statement'


def test_a_missing_model_cannot_be_brought_without_a_network(run, monkeypatch, tmp_path):
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    code, out, err = run("quickstart")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("arriero: error: ")
    assert not (tmp_path / "arriero-quickstart").exists()


def test_packages_that_are_missing_are_told_at_once_and_only_where_a_stage_needs_them(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datatrove", None)
    code, out, err = run("quickstart")
    assert (code, out) == (2, "")
    wanted = "`arriero quickstart` needs 'datatrove': pip install 'arriero[rag,corpus,plots]'"
    assert err == f"arriero: error: {wanted}\n"
    assert not any(tmp_path.iterdir())
    assert "ppo needs what rejection makes" in run("quickstart", "--only", "ppo").err


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(900)
def test_three_questions_are_answered_rightly_and_cited(run, monkeypatch, tmp_path, smollm2_gguf, minilm_folder):
    monkeypatch.chdir(tmp_path)
    first, second = (json.loads(run("quickstart", "--until", "answer", "--json").out) for _ in range(2))
    assert (first["documents"], second["documents"]) == (len(reference()),) * 2
    assert first["encoded"] > 500
    assert second["encoded"] == 0
    assert [answer["question"] for answer in first["answers"]] == list(QUESTIONS)
    for answer, again, expected in zip(first["answers"], second["answers"], EXPECTED, strict=True):
        assert expected in answer["text"]
        assert answer["grounded"] == "full"
        assert answer["citations"]
        assert again["text"] == answer["text"]


def test_stages_that_do_not_exist_or_contradict_each_other_are_told_before_anything_is_done(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for argv in (
        ("--until", "pretraining"),
        ("--only", "ppo", "--skip", "lora"),
        ("--until", "answer", "--skip", "answer"),
    ):
        code, out, err = run("quickstart", *argv)
        assert (code, out) == (2, "")
        assert err.startswith("arriero: error: ")
    assert not any(tmp_path.iterdir())


def test_a_stage_without_what_it_needs_is_one_line(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("quickstart", "--only", "ppo")
    assert (code, out) == (2, "")
    lacks = "ppo needs what rejection makes, which is not in arriero-quickstart"
    assert err == f"arriero: error: {lacks}: --until ppo makes that first\n"


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(3600)
def test_the_whole_road_is_gone_and_what_is_done_is_not_done_again(
    run, monkeypatch, tmp_path, smollm2_gguf, minilm_folder
):
    monkeypatch.chdir(tmp_path)
    little = {"modules": 20, "vocab_size": 600, "pretrain_steps": 40, "examples": 100, "prompts": 24, "samples": 2}
    little |= {"iterations": 2, "lora_examples": 32, "evaluated": 1}
    monkeypatch.setattr("arriero.cli.road.pace.FAST", replace(FAST, **little))
    first = json.loads(run("quickstart", "--fast", "--json").out)
    assert [record["name"] for record in first["stages"]] == list(ORDER[:-1])
    assert all(record["done"] for record in first["stages"])
    page = (tmp_path / first["card"]).read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in ORDER[:-1])
    second = json.loads(run("quickstart", "--fast", "--json").out)
    assert second["stages"] == first["stages"]
