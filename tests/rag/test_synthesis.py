"""Written questions: what is kept and why the rest is not, the same whether or not the run was interrupted."""

import json
from types import SimpleNamespace

import pytest

from arriero.common.errors import ArrieroError
from arriero.rag import synthesis
from arriero.rag.chunk import ChunkConfig
from arriero.rag.collection import Collection
from arriero.rag.questions import read_questions
from arriero.rag.synthesis import choose_passages, synthesise
from arriero.rag.synthesis_config import SynthesisConfig
from tests.rag.conftest import write

TOWNS = ("Lumo", "Nera", "Tiva", "Sorl", "Bemu", "Caro")
TRUSTING = {"keep_disputed": True, "portion": 2}


class Scripted:
    """An engine that writes what a function makes of the town that it reads about."""

    context = 9000
    model = None

    def __init__(self, tokenizer, say, die_at: int | None = None) -> None:
        self.tokenizer, self.say, self.die_at = tokenizer, say, die_at
        self.asked: list[str] = []

    def generate(self, requests):
        if self.die_at is not None and len(self.asked) >= self.die_at:
            raise KeyboardInterrupt
        found = []
        for number, request in enumerate(requests):
            read = self.tokenizer.decode(request.prompt_ids)
            town = next(town for town in TOWNS if f"town of {town}" in read)
            self.asked.append(town)
            for sample in range(request.sampling.n):
                found.append(SimpleNamespace(request=number, text=self.say(town, sample)))
        return found


def right(town: str, sample: int) -> str:
    return f" {number_of(town)}\nQuestion: How many people live in the town of {town}?"


def number_of(town: str) -> int:
    return 1000 + TOWNS.index(town)


@pytest.fixture
def towns(tmp_path, encoder):
    for town in TOWNS:
        write(
            tmp_path / "docs" / f"{town}.txt",
            f"In the town of {town} live {number_of(town)} people, who bake their own bread and keep mules.",
        )
    write(tmp_path / "docs" / "short.txt", "Nothing much.")
    with Collection.open(tmp_path / "collection", encoder, chunk=ChunkConfig(words=40)) as collection:
        collection.add(tmp_path / "docs")
        yield collection


def make(towns, engine, out, **settings):
    return synthesise(towns, engine, out, SynthesisConfig(**{**TRUSTING, **settings}), model="scripted")


def test_what_holds_is_kept_with_its_passage_and_marked(towns, byte_tokenizer, tmp_path):
    counts = make(towns, Scripted(byte_tokenizer, right), tmp_path / "q.jsonl")
    assert (counts.passages, counts.short, counts.written, counts.kept, counts.dropped) == (6, 1, 6, 6, {})
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert all(line["synthetic"] is True for line in lines)
    read = {question.title: question for question in read_questions([tmp_path / "q.jsonl"])}
    lumo = read["docs/Lumo.txt"]
    assert lumo.synthetic
    assert lumo.answers == ("1000",)
    assert "town of Lumo" in (lumo.context or "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collection", "docs", "q.jsonl"]


def test_each_fault_is_counted(towns, byte_tokenizer, tmp_path):
    texts = {
        "Lumo": " 1000\nQuestion: How many people live in the town of Lumo?",
        "Nera": " 1001\nQuestion: How many people live in the town of Lumo?",  # brings Lumo back, and not Nera
        "Tiva": " 9\nQuestion: How many people live in the town of Tiva?",
        "Sorl": "what?",
        "Bemu": " bread\nQuestion: Who bakes bread in the town of Bemu?",
        "Caro": " mules\nQuestion: What does the text say of the town of Caro?",
    }
    engine = Scripted(byte_tokenizer, lambda town, sample: texts[town])
    counts = make(towns, engine, tmp_path / "q.jsonl", top=1, retrieval="dense")
    assert counts.kept == 1
    assert counts.dropped == {"form": 1, "absent": 1, "given away": 1, "pointing": 1, "lost": 1}


def test_a_question_is_kept_once(towns, byte_tokenizer, tmp_path):
    counts = make(towns, Scripted(byte_tokenizer, right), tmp_path / "q.jsonl", per_passage=3)
    assert (counts.written, counts.kept, counts.dropped) == (18, 6, {"repeated": 12})


def test_a_passage_is_asked_once_for_an_answer(towns, byte_tokenizer, tmp_path):
    def say(town, sample):
        return f" {number_of(town)}\nQuestion: How many {('people', 'souls')[sample]} live in the town of {town}?"

    counts = make(towns, Scripted(byte_tokenizer, say), tmp_path / "q.jsonl", per_passage=2)
    assert (counts.kept, counts.dropped) == (6, {"repeated": 6})


def test_what_the_model_itself_answers_otherwise_is_dropped(towns, byte_tokenizer, tmp_path, monkeypatch):
    def read(generator, questions, documents, config):
        said = ["It has 1000 people." if "Lumo" in question else "Nobody knows." for question in questions]
        assert all("town of" in own[0].text for own in documents)
        return [SimpleNamespace(best=SimpleNamespace(text=text)) for text in said]

    monkeypatch.setattr(synthesis, "LlamaGenerator", lambda *words, **more: None)
    monkeypatch.setattr(synthesis, "decode", read)
    counts = make(towns, Scripted(byte_tokenizer, right), tmp_path / "q.jsonl", keep_disputed=False)
    assert (counts.kept, counts.dropped) == (1, {"disputed": 5})


def test_a_run_that_was_killed_goes_on_and_comes_to_the_same(towns, byte_tokenizer, tmp_path):
    make(towns, Scripted(byte_tokenizer, right), tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        make(towns, Scripted(byte_tokenizer, right, die_at=4), tmp_path / "q.jsonl")
    assert not (tmp_path / "q.jsonl").exists()
    with pytest.raises(ArrieroError, match="top was 3, is 2"):
        make(towns, Scripted(byte_tokenizer, right), tmp_path / "q.jsonl", top=2)
    rest = Scripted(byte_tokenizer, right)
    make(towns, rest, tmp_path / "q.jsonl")
    assert len(rest.asked) == 2
    assert (tmp_path / "q.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_nothing_kept_is_an_error_that_says_why_and_leaves_nothing(towns, byte_tokenizer, tmp_path):
    with pytest.raises(ArrieroError, match=r"nothing is left of 6 questions \(6 not one question"):
        make(towns, Scripted(byte_tokenizer, lambda town, sample: "no"), tmp_path / "q.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["collection", "docs"]


def test_a_file_that_is_there_is_not_written_over(towns, byte_tokenizer, tmp_path):
    (tmp_path / "q.jsonl").write_text("mine")
    with pytest.raises(ArrieroError, match="is there already"):
        make(towns, Scripted(byte_tokenizer, right), tmp_path / "q.jsonl")


def test_the_passages_are_drawn_by_the_seed(towns):
    drawn = [choose_passages(towns, SynthesisConfig(limit=3, seed=seed))[0] for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] == sorted(drawn[0])
    assert len({*map(tuple, drawn)}) > 1
    assert len(choose_passages(towns, SynthesisConfig(limit=99))[0]) == 6


@pytest.mark.parametrize("settings", [{"per_passage": 0}, {"limit": 0}, {"temperature": 0, "per_passage": 2}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ArrieroError, match="expected 1"):
        SynthesisConfig(**settings)
