"""`arriero quickstart`: the questions that it shows off are answered rightly, every time."""

import json

import pytest

from arriero.cli.quickstart import QUESTIONS, reference

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
