"""The commands of the stages: each is one that arriero takes, and reads what a stage before it makes."""

import importlib
from pathlib import Path

import pytest

from arriero.cli.commands import COMMANDS
from arriero.cli.parser import parse
from arriero.cli.road.stage import FAST, FULL, Road
from arriero.cli.road.stages import ANSWER, STAGES

ALL = (ANSWER, *STAGES)


@pytest.mark.parametrize("stage", ALL, ids=lambda stage: stage.name)
@pytest.mark.parametrize("size", [FULL, FAST], ids=["full", "fast"])
def test_every_command_is_one_that_arriero_takes(stage, size, tmp_path):
    (tmp_path / "corpus.toml").write_text("")
    for call in stage.calls(Road(path=tmp_path, size=size, device="cpu")):
        module, _, function = COMMANDS[call.name].target.partition(":")
        parse(f"arriero {call.name}", getattr(importlib.import_module(module), function), list(call.words))


def test_a_stage_needs_only_stages_before_it():
    names = [stage.name for stage in ALL]
    for place, stage in enumerate(ALL):
        assert set(stage.needs) <= set(names[:place])


def test_less_is_done_where_the_machine_is_slow_and_never_nothing():
    slow = FULL.at_speed(0.2)
    assert 0 < slow.pretrain_steps < FULL.pretrain_steps < FULL.at_speed(2.0).pretrain_steps
    assert 0 < slow.prompts < FULL.prompts == FULL.at_speed(2.0).prompts


def test_a_folder_with_a_space_is_one_word_of_the_commands():
    calls = STAGES[0].calls(Road(path=Path("my road"), size=FULL))
    assert str(calls[0]).startswith("arriero corpus run 'my road/corpus' ")
