"""Which stages are done, in which order, and what becomes of a road that is stopped."""

import json
from dataclasses import replace

import pytest

from arriero.cli.road import walk as walking
from arriero.cli.road.pace import take_pace
from arriero.cli.road.record import read_record
from arriero.cli.road.stage import FAST, FULL, Call, Road, Stage
from arriero.cli.road.walk import choose, is_done, walk
from arriero.common.errors import ArrieroError, FormatError


def test_stages_are_chosen_in_their_order():
    assert choose((), (), "answer") == ["answer"]
    assert choose((), (), None)[0] == "answer"
    assert choose((), (), None)[-1] == "card"
    assert choose(("ppo", "corpus"), (), None) == ["corpus", "ppo"]
    assert "lora" not in choose((), ("lora",), None)
    assert choose((), ("answer",), "tokenizer") == ["corpus", "tokenizer"]


@pytest.mark.parametrize(
    ("only", "skip", "until"), [(("ppo",), ("lora",), None), (("ppo",), (), "ppo"), ((), ("answer",), "answer")]
)
def test_choices_that_contradict_each_other_are_refused(only, skip, until):
    with pytest.raises(ArrieroError):
        choose(only, skip, until)


@pytest.fixture
def road(tmp_path, monkeypatch):
    """Two stages, the second of which needs the first; each `touch`es what it makes, once more each time."""
    place = Road(path=tmp_path / "road", size=FULL)
    place.path.mkdir()

    def touch(name):
        def work(road):
            with (road / name).open("a") as file:
                file.write("x")

        return work

    def stage(name, *needs):
        return Stage(
            name=name, title=name, tells="", made=name, needs=needs, prepare=touch(name), calls=lambda road: []
        )

    monkeypatch.setattr(walking, "STAGES", (stage("corpus"), stage("tokenizer", "corpus")))
    return place


def test_what_is_done_is_not_done_again_unless_its_result_is_gone(road):
    names = ["corpus", "tokenizer"]
    assert walk(road, names, (), quiet=True)
    assert walk(road, names, (), quiet=True)
    assert (road / "corpus").read_text() == (road / "tokenizer").read_text() == "x"
    (road / "tokenizer").unlink()
    assert not is_done(road, "tokenizer")
    assert walk(road, names, (), quiet=True)
    assert (road / "tokenizer").read_text() == "x"


def test_a_stage_whose_needs_were_skipped_is_left_out_and_one_that_is_asked_for_by_name_is_an_error(road, capsys):
    assert walk(road, ["tokenizer"], (), quiet=True)
    assert "left out" in capsys.readouterr().err
    assert not (road / "tokenizer").exists()
    with pytest.raises(ArrieroError, match="--until tokenizer makes that first"):
        walk(road, ["tokenizer"], ["tokenizer"], quiet=True)


def test_a_stage_that_is_stopped_stops_the_road_and_goes_on_later_with_its_time_added(road, monkeypatch):
    first, second = walking.STAGES
    monkeypatch.setattr(walking, "call", lambda name, words: 130)
    stopped = replace(first, calls=lambda road: [Call.of("generate", "a b")])
    monkeypatch.setattr(walking, "STAGES", (stopped, second))
    assert not walk(road, ["corpus", "tokenizer"], (), quiet=True)
    before = read_record(road / "stages", "corpus")
    assert not before.done
    assert before.calls == ["arriero generate 'a b'"]
    assert not (road / "tokenizer").exists()
    monkeypatch.setattr(walking, "call", lambda name, words: 0)
    assert walk(road, ["corpus"], (), quiet=True)
    after = read_record(road / "stages", "corpus")
    assert after.done
    assert after.began == before.began
    assert after.seconds > before.seconds


def test_a_command_that_stopped_without_what_it_makes_is_not_followed_by_the_next(road, monkeypatch):
    called = []
    monkeypatch.setattr(walking, "call", lambda name, words: called.append(words))
    calls = [Call.of("sft", "first", makes=road / "adapter"), Call.of("sft", "second")]
    monkeypatch.setattr(walking, "STAGES", (replace(walking.STAGES[0], calls=lambda road: calls),))
    assert not walk(road, ["corpus"], (), quiet=True)
    (road / "adapter").touch()
    assert walk(road, ["corpus"], (), quiet=True)
    assert called == [["first"], ["first"], ["second"]]


def test_an_error_keeps_what_the_stage_took(road, monkeypatch):
    def fail(road):
        raise ArrieroError("no text")

    monkeypatch.setattr(walking, "STAGES", (replace(walking.STAGES[0], prepare=fail),))
    with pytest.raises(ArrieroError, match="no text"):
        walk(road, ["corpus"], (), quiet=True)
    assert read_record(road / "stages", "corpus").memory_bytes > 0


def test_a_damaged_record_is_told_in_one_line(road):
    (road / "stages").mkdir()
    (road / "stages" / "corpus.json").write_text(json.dumps({"name": "corpus"}))
    with pytest.raises(FormatError, match="remove it"):
        walk(road, ["corpus"], (), quiet=True)


def test_a_road_keeps_its_pace(tmp_path, monkeypatch):
    monkeypatch.setattr("arriero.train.speed.measure_matmul", lambda: 5e10)
    begun = take_pace(tmp_path, fast=True)
    assert begun.size.pretrain_steps < FAST.pretrain_steps
    monkeypatch.setattr("arriero.train.speed.measure_matmul", lambda: 1e13)
    assert take_pace(tmp_path, fast=True) == begun
    with pytest.raises(ArrieroError, match="begun with --fast"):
        take_pace(tmp_path, fast=False)
