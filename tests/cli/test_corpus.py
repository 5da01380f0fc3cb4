"""`arriero corpus …`: a corpus by the command line, its figures, the models that judge, bad input in a line each."""

import json
from pathlib import Path

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("sentencepiece")

NAMES = "llama wool mountain load herd grass night stone river cloud path shepherd winter summer"
WORDS = NAMES.split()


def write_books(folder: Path) -> Path:
    folder.mkdir()
    (folder / "one.txt").write_text("Chapter 1\n\nThe llama walks over the mountains. " * 20)
    (folder / "two.txt").write_text("Chapter 1\n\nA quite different book, about the sea and its ships. " * 20)
    (folder / "bad.txt").write_bytes(b"caf\xe9")
    return folder


def pages(count: int, *, good: bool) -> list[str]:
    """Sentences, or menus."""
    if good:
        names = [(WORDS[n % 14], WORDS[n % 11], WORDS[n % 5]) for n in range(count)]
        return [f"The {a} and the {b} are in the {c} on day {n}. " * 25 for n, (a, b, c) in enumerate(names)]
    return [f"Home | Cart ({n}) | Login | Next | {WORDS[n % 14]} | $9.99 | " * 25 for n in range(count)]


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def test_a_corpus_is_made_and_shown(run, tmp_path: Path) -> None:
    raw = write_books(tmp_path / "raw")
    outcome = run("corpus", "run", tmp_path / "out", "--raw", f"books={raw}", "--workers", "1")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[1].split()[:3] == ["books", "3", "2"]
    outcome = run("corpus", "stats", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "utf-8: invalid" in outcome.out
    assert "utf-8: invalid" in (tmp_path / "out" / "corpus.html").read_text()
    figures = json.loads(run("corpus", "stats", tmp_path / "out", "--json").out)["sources"]["books"]
    assert figures["kept"]["documents"] == 2
    assert figures["dropped"] == {"utf-8: invalid": [1, 0]}


def test_a_config_file_names_sources(run, tmp_path: Path) -> None:
    raw = write_books(tmp_path / "raw")
    source = f'kind = "books"\npaths = ["{raw}"]\nlicence = "CC0-1.0"\n'
    (tmp_path / "c.toml").write_text(f'format = "jsonl"\n[sources.novels]\n{source}')
    outcome = run("corpus", "run", tmp_path / "out", "--config", tmp_path / "c.toml", "--workers", "1", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["novels"]["licences"] == {"CC0-1.0": 2}
    texts = [file.read_text() for file in (tmp_path / "out" / "novels").iterdir()]
    rows = [json.loads(line) for text in texts for line in text.splitlines()]
    assert {row["licence"] for row in rows} == {"CC0-1.0"}


def test_models_are_trained_and_used(run, tmp_path: Path) -> None:
    good = write_lines(tmp_path / "good.jsonl", pages(60, good=True))
    bad = write_lines(tmp_path / "bad.jsonl", pages(60, good=False))
    lm, judge = tmp_path / "lm", tmp_path / "judge"
    outcome = run("corpus", "train-lm", good, "--out", lm, "--pieces", "200", "--arpa", tmp_path / "x.arpa", "--json")
    assert outcome.code == 0, outcome.err
    assert len(json.loads(outcome.out)["ngrams"]) == 5
    assert (tmp_path / "x.arpa").read_text().startswith("\\data\\")
    outcome = run("corpus", "train-classifier", judge, "--positive", good, "--negative", bad, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["auc"] == 1.0
    (tmp_path / "c.toml").write_text(
        f'[sources.web]\nkind = "c4"\npaths = ["{good}", "{bad}"]\nc4 = "none"\nthreshold = 0.01\n'
        f'perplexity = "{lm}"\nkeep = ["head", "middle", "tail"]\nclassifier = "{judge}"\nclassifier_threshold = 0.5\n'
    )
    pytest.importorskip("fasttext")
    outcome = run("corpus", "run", tmp_path / "out", "--config", tmp_path / "c.toml", "--workers", "1", "--json")
    if "arriero model get lid.176" in outcome.err:
        pytest.skip("lid.176 is not here")
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)["web"]
    assert figures["kept"]["documents"] > 40
    assert "classifier: unlike a reference" in figures["dropped"]


def test_references_of_fewer_than_1000_characters_are_no_examples(run, tmp_path: Path) -> None:
    bad = write_lines(tmp_path / "bad.jsonl", pages(10, good=False))
    good = write_lines(tmp_path / "good.jsonl", ["g" * 1000] * 9 + ["g" * 999])
    outcome = run("corpus", "train-classifier", tmp_path / "judge", "--positive", good, "--negative", bad)
    assert outcome.code == 2
    assert "positive pages shorter than 1,000 characters, which are no examples (--shortest): 1" in outcome.err
    assert "positive: expected 10 pages or more, got 9" in outcome.err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("run", "out"), "expected at least one source, got none"),
        (("run", "out", "--raw", "wikpedia=x"), "got 'wikpedia' (did you mean wikipedia?)"),
        (("run", "out", "--raw", "books=gone"), "no such file or folder: gone"),
        (("run", "out", "--raw", "books"), "option --raw expects KEY=VALUE"),
        (("run", "out", "--workers", "0"), "workers: expected 1 or more, got 0"),
        (("run", "out", "--executor", "slurm"), "expected the name of a Slurm partition"),
        (("stats", "gone"), "no finished source in gone"),
        (("train-lm", "gone.txt", "--out", "x"), "no such file or folder: gone.txt"),
        (("train-lm", "--out", "x"), "needs TEXT"),
        (("train-classifier", "x", "--positive", "gone", "--negative", "gone"), "no such file or folder: gone"),
    ],
)
def test_bad_input_is_told_in_a_line(run, tmp_path: Path, monkeypatch, command: tuple[str, ...], told: str) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("corpus", *command)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert told in outcome.err
    assert not list(tmp_path.iterdir())


def test_settings_of_another_kind_are_refused(run, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[sources.x]\nkind = "books"\npaths = ["x"]\nextractor = "trafilatura"\n')
    outcome = run("corpus", "run", tmp_path / "out", "--config", tmp_path / "c.toml")
    assert outcome.code == 2
    assert "extractor: a setting of commoncrawl and c4, and this source is books" in outcome.err
