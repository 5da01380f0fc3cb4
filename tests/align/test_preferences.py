"""A file of preferences: pairs before they are judged, judgements by several, and what is left out."""

import dataclasses
import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from arriero.align.preference_files import export_preferences, import_preferences
from arriero.align.preference_stats import measure_agreement, measure_preferences
from arriero.align.preferences import _FILE, Comparison, Judgement, Preferences, Response
from arriero.common.errors import ArrieroError, FormatError, NotFoundError

ASKED = [{"role": "user", "content": "How far is Cusco?"}]
NEAR, FAR = (
    Response(text="Near.", model="m1", sampling={"temperature": 0.2}),
    Response(text="Far, by llama.", model="m2"),
)


@pytest.fixture
def preferences(tmp_path: Path):
    with Preferences(tmp_path / "p.sqlite", create=True) as opened:
        yield opened


def _said(choice: int, annotator: str = "ana", **more) -> Judgement:
    return Judgement(choice=choice, annotator=annotator, batch="2026-W48", **more)


def test_a_pair_waits_for_each_annotator_until_judged(preferences: Preferences):
    number = preferences.add_pair(ASKED, NEAR, FAR, kind="helpfulness", source="sampled")
    assert [pair.id for pair in preferences.pending("ana")] == [number]
    preferences.judge(number, _said(2, degree="better"))
    assert not list(preferences.pending("ana"))
    assert [pair.id for pair in preferences.pending("ben")] == [number]
    (comparison,) = preferences.comparisons()
    assert (comparison.chosen, comparison.rejected.text) == (
        Response(text="Far, by llama.", model="m2", sampling={}),
        "Near.",
    )
    assert (comparison.judgement.degree, comparison.judgement.judge) == ("better", "human")


def test_an_annotator_may_think_again(preferences: Preferences):
    number = preferences.add_pair(ASKED, NEAR, FAR, kind="helpfulness", source="sampled")
    preferences.judge(number, _said(1))
    preferences.judge(number, _said(2, degree="slightly better"))
    (comparison,) = preferences.comparisons()
    assert (comparison.judgement.choice, comparison.judgement.degree) == (2, "slightly better")


def test_an_equal_pair_is_the_same_pair_in_either_order(preferences: Preferences):
    first = preferences.add_pair(ASKED, NEAR, FAR, kind="helpfulness", source="a")
    assert preferences.add_pair(ASKED, FAR, NEAR, kind="helpfulness", source="b") == first
    assert preferences.add_pair(ASKED, NEAR, FAR, kind="safety", source="a") != first
    assert preferences.count() == {"prompts": 1, "responses": 2, "pairs": 2, "judgements": 0}


def test_a_choice_for_the_unsafe_response_is_flagged_and_left_out(preferences: Preferences):
    number = preferences.add_pair(ASKED, NEAR, FAR, kind="safety", source="a")
    preferences.judge(number, _said(1, safety="chosen unsafe"))
    assert not list(preferences.comparisons())
    assert [c.judgement.flagged for c in preferences.comparisons(flagged=True)] == [True]


@pytest.mark.parametrize(
    ("prompt", "first", "second", "told"),
    [
        ([], NEAR, FAR, "a chat that ends with a message of the user"),
        ([*ASKED, {"role": "assistant", "content": "x"}], NEAR, FAR, "ends with a message of the user"),
        (ASKED, Response(text=" \n"), FAR, "first response: expected a text, got an empty one"),
        (ASKED, NEAR, Response(text="Near.", model="m9"), "equal: there is nothing to compare"),
    ],
)
def test_what_cannot_be_compared_is_refused(preferences: Preferences, prompt, first, second, told):
    with pytest.raises(ArrieroError, match=told):
        preferences.add_pair(prompt, first, second, kind="helpfulness", source="a")
    assert preferences.count()["pairs"] == 0


def test_judgements_are_checked(preferences: Preferences):
    with pytest.raises(ArrieroError, match=r"degree: expected significantly better, .* got 'much better'"):
        _said(1, degree="much better")
    with pytest.raises(NotFoundError, match="there is no pair 7"):
        preferences.judge(7, _said(1))


def test_files_that_are_none_of_ours_or_newer_are_refused(tmp_path: Path):
    with pytest.raises(NotFoundError, match="no such file"):
        Preferences(tmp_path / "none.sqlite")
    (tmp_path / "text").write_text("not a database, but long enough to look at " * 30)
    with pytest.raises(FormatError, match="damaged or no SQLite file"):
        Preferences(tmp_path / "text")
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE x (y)").connection.close()
    with pytest.raises(FormatError, match="is no file of preferences"):
        Preferences(tmp_path / "other")
    Preferences(tmp_path / "new", create=True).close()
    newer = sqlite3.connect(tmp_path / "new")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(FormatError, match="has schema 99, and this version reads 1"):
        Preferences(tmp_path / "new")


WRITER = """
import sys
from pathlib import Path
from arriero.align.preferences import Judgement, Preferences, Response

path, name = Path(sys.argv[1]), sys.argv[2]
with Preferences(path) as preferences:
    for number in range(40):
        asked = [{"role": "user", "content": f"{name} {number}"}]
        near, far = Response(text="Near."), Response(text="Far.")
        pair = preferences.add_pair(asked, near, far, kind="helpfulness", source=name)
        preferences.judge(pair, Judgement(choice=1, annotator=name, batch="1"))
"""


def test_two_processes_write_at_once_and_nothing_is_lost(tmp_path: Path):
    path = tmp_path / "p.sqlite"
    Preferences(path, create=True).close()
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("ana", "ben")]
    assert [writer.wait() for writer in writers] == [0, 0]
    with Preferences(path) as preferences:
        assert preferences.count() == {"prompts": 80, "responses": 160, "pairs": 80, "judgements": 80}


def test_a_file_is_never_made_over_one_that_another_process_just_made(tmp_path: Path):
    path = tmp_path / "p.sqlite"
    with Preferences(path, create=True) as ours:
        ours.add_pair(ASKED, NEAR, FAR, kind="helpfulness", source="a")
    _FILE.create(path)  # by one that found no file a moment before
    with Preferences(path) as kept:
        assert kept.count()["pairs"] == 1


def test_who_makes_a_file_waits_for_another_that_does(tmp_path: Path):
    path, folder = tmp_path / "p.sqlite", os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    maker = threading.Thread(target=_FILE.create, args=(path,))
    maker.start()
    maker.join(0.2)
    assert maker.is_alive()
    assert not path.exists()
    os.close(folder)
    maker.join(5)
    assert path.exists()


ANSWERS = {
    "chosen": [{"role": "assistant", "content": "Far."}],
    "rejected": [{"role": "assistant", "content": "Near."}],
}
ROWS = {
    "texts": {"prompt": "How far is Cusco?", "chosen": "Far.", "rejected": "Near."},
    "messages": {"prompt": ASKED, **ANSWERS},
    "implicit prompt": {name: ASKED + answer for name, answer in ANSWERS.items()},
    "dialogue": {
        "chosen": "\n\nHuman: How far is Cusco?\n\nAssistant: Far.",
        "rejected": "\n\nHuman: How far is Cusco?\n\nAssistant: Near.",
    },
    "table": {"prompt": "How far is Cusco?", "response_a": "Near.", "response_b": "Far.", "choice": "b"},
    "argilla": {"prompt": "How far is Cusco?", "response-1": "Near.", "response-2": "Far.", "preference": "response-2"},
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_format_says_the_same(preferences: Preferences, tmp_path: Path, row):
    (tmp_path / "rows.jsonl").write_text(
        json.dumps(row | {"degree": "better", "safety": "both safe", "annotator": "x"})
    )
    import_preferences([tmp_path / "rows.jsonl"], preferences, kind="helpfulness", batch="1")
    (comparison,) = preferences.comparisons()
    assert comparison.pair.prompt == tuple(ASKED)
    assert (comparison.chosen.text, comparison.rejected.text) == ("Far.", "Near.")
    judgement = comparison.judgement
    assert (judgement.degree, judgement.safety, judgement.annotator, judgement.judge) == (
        "better",
        "both safe",
        "x",
        "imported",
    )


@pytest.mark.parametrize("format", ["trl", "hh", "csv"])
def test_what_is_exported_comes_back(preferences: Preferences, tmp_path: Path, format):
    for number, choice in enumerate((1, 2)):
        asked = [*ASKED, {"role": "assistant", "content": "?"}, {"role": "user", "content": f"{number}\n“x”, y"}]
        pair = preferences.add_pair(asked, NEAR, FAR, kind="safety", source="s")
        preferences.judge(pair, _said(choice, degree="better", safety="chosen safe"))
    target = tmp_path / f"out.{'csv' if format == 'csv' else 'jsonl'}"
    assert export_preferences(preferences.comparisons(), target, format) == 2
    with Preferences(tmp_path / "again.sqlite", create=True) as again:
        import_preferences([target], again, kind="helpfulness", batch="other")

        def told(comparison: Comparison):
            return comparison.pair.prompt, comparison.chosen.text, comparison.pair.kind, comparison.judgement.degree

        assert list(map(told, again.comparisons())) == list(map(told, preferences.comparisons()))


def test_a_bad_row_is_named_and_nothing_of_its_file_is_taken(preferences: Preferences, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS["texts"]) + '\n{"chosen": "x"}')
    with pytest.raises(
        FormatError, match=r"rows\.jsonl, line 2: no prompt, .* \(keys found: 'chosen'\); expected prompt"
    ):
        import_preferences([tmp_path / "rows.jsonl"], preferences, kind="helpfulness", batch="1")
    assert preferences.count() == {"prompts": 0, "responses": 0, "pairs": 0, "judgements": 0}


@pytest.mark.parametrize("fact", [{"annotator": "x\ud800"}, {"models": ["x\ud800", "y"]}])
def test_half_a_surrogate_pair_in_a_fact_is_named(preferences: Preferences, tmp_path: Path, fact):
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "q", "chosen": "a", "rejected": "b"} | fact) + "\n")
    with pytest.raises(FormatError, match=r"x.jsonl, line 1: expected text, got half a surrogate pair"):
        import_preferences([tmp_path / "x.jsonl"], preferences, kind="helpfulness", batch="1")
    assert preferences.count()["pairs"] == 0


@pytest.mark.parametrize("prompt", ["[Verse 1] go on", "[" * 100_000, "[1, 2]", "[]"], ids=len)
def test_a_prompt_that_begins_with_a_bracket_is_a_text(preferences: Preferences, tmp_path: Path, prompt):
    row = {"prompt": prompt, "response_a": "Near.", "response_b": "Far.", "choice": "a"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    import_preferences([tmp_path / "x.jsonl"], preferences, kind="helpfulness", batch="1")
    assert [pair.prompt[0]["content"] for pair in preferences.pairs()] == [prompt]


def test_a_long_response_comes_back_from_a_table(preferences: Preferences, tmp_path: Path):
    long = Response(text="x" * 200_000)
    preferences.judge(preferences.add_pair(ASKED, long, FAR, kind="helpfulness", source="a"), _said(1))
    export_preferences(preferences.comparisons(), tmp_path / "x.csv", "csv")
    with Preferences(tmp_path / "back", create=True) as back:
        import_preferences([tmp_path / "x.csv"], back, kind="helpfulness", batch="1")
        assert [pair.first.text for pair in back.pairs()] == [long.text]


def test_rows_that_compare_nothing_are_counted(preferences: Preferences, tmp_path: Path):
    odd = [
        ROWS["texts"],
        ROWS["texts"] | {"rejected": "Far. "},
        ROWS["texts"] | {"rejected": ""},
        {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, odd)))
    done = import_preferences([tmp_path / "rows.jsonl"], preferences, kind="helpfulness", batch="1")
    assert (done.taken, done.equal, done.empty, done.unlike) == (1, 1, 1, 1)


def test_agreement_beyond_chance(preferences: Preferences):
    said = [(1, 1), (1, 1), (2, 2), (1, 2)]
    for number, choices in enumerate(said):
        pair = preferences.add_pair(
            [{"role": "user", "content": str(number)}], NEAR, FAR, kind="helpfulness", source="s"
        )
        for annotator, choice in zip(("ana", "ben"), choices, strict=True):
            preferences.judge(pair, _said(choice, annotator=annotator))
    agreement = measure_agreement((c.pair.id, c.judgement.choice) for c in preferences.comparisons())
    chance = (5 / 8) ** 2 + (3 / 8) ** 2
    assert (agreement.pairs, agreement.share) == (4, 0.75)
    assert agreement.kappa == pytest.approx((0.75 - chance) / (1 - chance))
    found = measure_preferences(preferences.comparisons(), lambda text: len(text.split()))
    assert (found.total.turns, found.total.prompt_tokens, found.total.response_tokens) == (2, 1, 2)
    assert (found.first_chosen, found.longer_chosen) == (5 / 8, 3 / 8)


def test_pairs_of_equal_texts_are_counted_and_contradictions_among_them(preferences: Preferences):
    prompt = [{"role": "user", "content": "how far?"}]
    other = dataclasses.replace(NEAR, model="another variant")
    for first, second, choice in ((NEAR, FAR, 1), (FAR, other, 1)):
        pair = preferences.add_pair(prompt, first, second, kind="helpfulness", source="s")
        preferences.judge(pair, _said(choice))
    found = measure_preferences(preferences.comparisons(), len)
    assert (found.repeated, found.contradicted) == (1, 1)


def test_the_helpful_and_harmless_pairs(preferences: Preferences, data_folder: Path):
    for name, kind in (("helpful_pairs_dev", "helpfulness"), ("hh_harmless_dev", "safety")):
        import_preferences([data_folder / f"{name}.jsonl.gz"], preferences, kind=kind, batch="1")
    found = measure_preferences(preferences.comparisons(), lambda text: len(text.split()))
    assert {row.source: row.comparisons for row in found.sources}["hh_harmless_dev.jsonl.gz"] == 1793
    assert found.total.comparisons == 5557
