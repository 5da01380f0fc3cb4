"""Stages: the same bytes whatever the number of tasks and wherever they were killed; every document is counted."""

import errno
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from arriero.common import files
from arriero.common.errors import FormatError, MissingExtraError
from arriero.corpus import pieces
from arriero.corpus.document import Document
from arriero.corpus.inputs import find_inputs
from arriero.corpus.ledger import Ledger
from arriero.corpus.rows import read_rows
from arriero.corpus.stages import Recipe, Work
from tests.corpus import recipe_of_lines as recipes
from tests.corpus.recipe_of_lines import recipe_of_lines, write_lines

FILES = [
    ["alpha", "beta", "bad egg", "gamma"],
    [],
    ["beta", "broken", "delta", "", "epsilon", "alpha and more"],
    ["zeta", "gamma", "gamma", "eta"],
]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_DOCUMENTS", 2)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "raw", FILES)


def work_in(folder: Path, raw: Path, recipe: Callable[[], Recipe] = recipe_of_lines) -> Work:
    inputs = find_inputs([raw], whole_folders=False)
    return Work("lines", recipe, inputs, folder / "lines", folder / ".run" / "lines", "jsonl.zst", group_bytes=1)


def do(work: Work, lanes: int = 1, order: random.Random | None = None) -> Ledger:
    for stage in work.stages(lanes):
        tasks = list(range(stage.tasks))
        if order:
            order.shuffle(tasks)
        for task in tasks:
            stage.run(task)
    return Ledger.load(work.account)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_documents_pass_all_steps_or_are_counted_with_a_reason(tmp_path: Path, lines: Path) -> None:
    ledger = do(work := work_in(tmp_path / "corpus", lines))
    rows = [row for path in sorted(work.out.iterdir()) for row in read_rows(path)]
    assert [row["text"] for row in rows] == ["ALPHA", "DELTA", "EPSILON", "ALPHA AND MORE", "ZETA", "ETA"]
    assert rows[0] == {
        "text": "ALPHA",
        "id": "0.txt#1",
        "source": "lines",
        "origin": str(lines / "0.txt"),
        "licence": None,
        "steps": ["shout", "repeated", "mark"],
        "metadata": {"marked": True, "language": "de"},
    }
    assert {reason: amount.documents for reason, amount in ledger.dropped.items()} == {
        "shout: bad": 1,
        "shout: failed (ValueError)": 1,
        "repeated: copy": 5,
        "empty after cleaning": 1,
    }
    assert (ledger.read.documents, ledger.kept.documents, ledger.words) == (14, 6, 8)
    assert ledger.read.bytes == sum(len(line) for file in FILES for line in file)
    assert ledger.languages == {"de": 1, "en": 5}


def test_samples_show_refused_documents_and_cleaning(tmp_path: Path, lines: Path) -> None:
    ledger = do(work_in(tmp_path / "corpus", lines))
    assert [(sample.id, sample.text) for sample in ledger.samples["shout: bad"]] == [("0.txt#3", "bad egg")]
    assert all(sample.text == sample.before.upper() for sample in ledger.samples[""])
    assert len(ledger.samples[""]) == 5


@pytest.mark.parametrize("lanes", [1, 2, 7])
def test_neither_lanes_nor_order_change_a_byte(tmp_path: Path, lines: Path, lanes: int) -> None:
    do(work_in(tmp_path / "one", lines))
    do(work_in(tmp_path / "other", lines), lanes, random.Random(lanes))
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "other")


def test_a_kill_anywhere_leaves_what_a_second_run_completes(
    tmp_path: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(work_in(tmp_path / "whole", lines))
    whole = Path.replace
    renamed = 0
    for limit in range(1, 60):
        left = limit

        def replace(self: Path, target: Path) -> Path:
            nonlocal left, renamed
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            renamed += 1
            return whole(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        folder = tmp_path / str(limit)
        try:
            do(work_in(folder, lines))
        except KeyboardInterrupt:
            monkeypatch.setattr(Path, "replace", whole)
            do(work_in(folder, lines))
        else:
            break
        assert bytes_of(folder) == bytes_of(tmp_path / "whole"), limit
    assert limit > 20


def test_what_a_killed_run_did_of_a_large_file_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_lines(tmp_path / "raw", [[f"line {number}" for number in range(20)]])
    done: list[str] = []

    def shout(document: Document) -> Document:
        done.append(document.id)
        if len(done) == 8:
            raise KeyboardInterrupt
        return document

    monkeypatch.setattr(recipes, "shout", shout)
    with pytest.raises(KeyboardInterrupt):
        do(work_in(tmp_path / "corpus", raw))
    assert do(work_in(tmp_path / "corpus", raw)).kept.documents == 20
    assert done[8:] == [f"0.txt#{number}" for number in range(7, 21)], "pieces of 2, of which 3 were whole"


def test_a_full_disk_ends_a_run_by_its_name_and_a_second_one_completes_it(
    tmp_path: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(work_in(tmp_path / "whole", lines))
    flush = files._flush
    for writes in (0, 1, 2, 5, 13, 30):
        folder, left = tmp_path / str(writes), iter(range(writes))

        def full(path: Path, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            flush(path)

        with monkeypatch.context() as patch:
            patch.setattr(files, "_flush", full)
            with pytest.raises(OSError, match="No space left on device"):
                do(work_in(folder, lines))
        assert not list(folder.rglob("*.part"))
        do(work_in(folder, lines))
        assert bytes_of(folder) == bytes_of(tmp_path / "whole"), writes


def test_an_input_that_cannot_be_read_is_counted_and_the_others_go_on(tmp_path: Path, lines: Path) -> None:
    def recipe() -> Recipe:
        whole = recipe_of_lines()

        def read(path: Path, name: str):  # type: ignore[no-untyped-def]
            if name == "2.txt":
                raise FormatError(f"{path}: no lines at all")
            return whole.read(path, name)

        return Recipe("lines", read, whole.steps)

    ledger = do(work_in(tmp_path / "corpus", lines, recipe))
    assert ledger.dropped["lines: the file cannot be read"].documents == 1
    assert ledger.samples["lines: the file cannot be read"][0].text.endswith("no lines at all")
    assert ledger.kept.documents == 4


def test_a_missing_package_is_no_unreadable_file(tmp_path: Path, lines: Path) -> None:
    def read(path: Path, name: str):  # type: ignore[no-untyped-def]
        raise MissingExtraError("install it")

    with pytest.raises(MissingExtraError):
        do(work_in(tmp_path / "corpus", lines, lambda: Recipe("lines", read, ())))


def test_a_recipe_without_corpus_wide_steps_is_one_phase(tmp_path: Path, lines: Path) -> None:
    work = work_in(
        tmp_path / "corpus", lines, lambda: Recipe("lines", recipe_of_lines().read, recipe_of_lines().steps[:1])
    )
    assert [stage.name for stage in work.stages(3)] == ["read", "finish"]
    assert do(work).kept.documents == 11
    assert not list(work.folder.glob("phase-*"))


def test_half_a_surrogate_pair_is_dropped_by_name(tmp_path: Path) -> None:
    raw = write_lines(tmp_path / "raw", [[json.dumps("\ud800")]])

    def recipe() -> Recipe:
        whole = recipe_of_lines()
        return Recipe(
            "lines", lambda p, n: (d.with_text(json.loads(d.text)) for d in whole.read(p, n)), whole.steps[2:]
        )

    assert set(do(work_in(tmp_path / "corpus", raw, recipe)).dropped) == {"utf-8: half of a surrogate pair"}


def test_progress_ends_at_the_whole(tmp_path: Path, lines: Path) -> None:
    work = work_in(tmp_path / "corpus", lines)
    for stage in work.stages(2):
        for task in range(stage.tasks):
            stage.run(task)
        done, total = stage.progress()
        assert done == total
