"""Ghost Attention's examples: instructed throughout while sampling, in the first turn alone while training."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from arriero.align import ghost
from arriero.align.dialogue import Said, Talk
from arriero.align.ghost import DIALOGUES_NAME, EXAMPLES_NAME, Plan, make_examples, make_ghost_examples
from arriero.align.ghost_config import GhostConfig
from arriero.align.instructions import Instruction
from arriero.common.errors import ArrieroError, FormatError
from arriero.train.examples import read_examples
from arriero.train.supervised import supervise
from tests.align.talking import ODD, Scripted, talker_tokenizer, write_talker


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_talker(tmp_path_factory.mktemp("talker") / "base")


def config_for(base: Path, **changes) -> GhostConfig:
    settings = {"model": str(base), "count": 5, "turns": 3, "max_tokens": 12, "temperature": 1.0, "top_p": 1.0}
    return GhostConfig(**{**settings, "portion": 2, "device": "cpu", "seed": 1, **changes})


def rows(path: Path) -> list[dict]:
    return list(map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1]))


def write_dialogues(path: Path, *dialogues: list[str]) -> Path:
    chats = [
        {"messages": [{"role": role, "content": text} for text in said for role in ("user", "assistant")]}
        for said in dialogues
    ]
    path.write_text("\n".join(map(json.dumps, chats)), encoding="utf-8")
    return path


PLAN = Plan(
    Talk(("Who?", "What?", "Where?"), "Begin every answer with Ahoy."),
    Instruction(text="Begin every answer with Ahoy.", short="Opening: Ahoy.", checks=("begins:Ahoy",)),
    "here",
)
SAID = [Said("Ahoy, I", True), Said("a llama", True), Said("Ahoy, there", True)]


def test_while_sampling_the_instruction_is_in_every_message(base, tmp_path, monkeypatch):
    engine = Scripted(lambda prompt: "I am")
    monkeypatch.setattr(ghost, "Engine", lambda *_, **__: engine)
    make_ghost_examples(tmp_path / "out", config_for(base))
    held = rows(tmp_path / "out" / DIALOGUES_NAME)
    assert len(held) == 5
    for row in held:
        texts = [prompt for prompt in engine.asked if f"{row['questions'][-1]} {row['instruction']}" in prompt]
        assert any(all(f"{question} {row['instruction']}" in text for question in row["questions"]) for text in texts)


def test_while_training_it_is_in_the_first_turn_alone(base, tmp_path):
    make_ghost_examples(tmp_path / "out", config_for(base))
    for row in rows(tmp_path / "out" / EXAMPLES_NAME):
        first, *others = [message["content"] for message in row["messages"] if message["role"] == "user"]
        assert first.endswith(row["instruction"])
        assert not any(row["instruction"] in text or row["said"] in text for text in others)


@pytest.mark.parametrize("place", ["user", "system"])
def test_no_token_before_the_last_answer_has_a_loss(base, tmp_path, place):
    """Neither the user's messages nor the earlier answers: they were sampled with the instruction before their eyes."""
    make_ghost_examples(tmp_path / "out", config_for(base, place=place))
    examples, format = read_examples([tmp_path / "out" / EXAMPLES_NAME])
    assert format == "messages"
    tokenizer = talker_tokenizer()
    learnt, kept, _ = supervise(examples, tokenizer, max_tokens=1024, answers="last")
    assert any(len(example.messages) > 3 for example in kept)
    for row, example in zip(learnt, kept, strict=True):
        ids, spans = tokenizer.encode_answers(example.messages)
        start, end = spans[-1]
        assert row.ids.tolist() == ids
        assert np.flatnonzero(row.learnt).tolist() == list(range(start, end))
        assert tokenizer.decode(ids[start : end - 1]) == example.messages[-1]["content"]


def test_in_a_system_message_no_message_of_the_user_has_it(base, tmp_path):
    make_ghost_examples(tmp_path / "out", config_for(base, place="system"))
    for row in rows(tmp_path / "out" / EXAMPLES_NAME):
        assert row["messages"][0] == {"role": "system", "content": row["instruction"]}
        assert not any(row["instruction"] in message["content"] for message in row["messages"][1:])


def test_equal_seeds_give_equal_files(base, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_ghost_examples(tmp_path / name, config_for(base, seed=seed))
    for name in (DIALOGUES_NAME, EXAMPLES_NAME):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert (tmp_path / "a" / name).read_bytes() != (tmp_path / "c" / name).read_bytes()


def test_interrupted_and_resumed_gives_the_same_files(base, tmp_path):
    make_ghost_examples(tmp_path / "out", config_for(base))
    paths = [tmp_path / "out" / name for name in (DIALOGUES_NAME, EXAMPLES_NAME)]
    whole = [path.read_bytes() for path in paths]
    paths[0].write_bytes(whole[0][: len(whole[0]) * 3 // 4])
    paths[1].unlink()
    make_ghost_examples(tmp_path / "out", config_for(base))
    assert [path.read_bytes() for path in paths] == whole


def test_other_settings_are_refused_but_for_what_is_made_of_the_dialogues(base, tmp_path, monkeypatch):
    make_ghost_examples(tmp_path / "out", config_for(base))
    with pytest.raises(ArrieroError, match=r"temperature was 1\.0, is 0\.5"):
        make_ghost_examples(tmp_path / "out", config_for(base, temperature=0.5))
    monkeypatch.setattr(ghost, "converse", None)  # nothing is sampled again
    counts = make_ghost_examples(tmp_path / "out", config_for(base, learn="each", place="system"))
    assert max(counts.turns) > min(counts.turns) == 1


def test_dialogues_that_changed_since_are_refused(base, tmp_path):
    data = write_dialogues(tmp_path / "chats.jsonl", ["Who?", "I"], ["When?", "Now"])
    config = config_for(base, dialogues=(data,), count=None)
    make_ghost_examples(tmp_path / "out", config)
    write_dialogues(data, ["Who?", "I"], ["Why?", "So"])
    with pytest.raises(FormatError, match="line 2: another dialogue than"):
        make_ghost_examples(tmp_path / "out", config)


def test_an_example_ends_with_the_last_turn_or_there_is_one_of_each():
    config = config_for(Path("base"))
    last, counts = make_examples([PLAN], [SAID], config)
    assert [row["turns"] for row in last] == [3]
    assert counts.terse == 1
    each, counts = make_examples([PLAN], [SAID], dataclasses.replace(config, learn="each"))
    assert [row["turns"] for row in each] == [1, 2, 3]
    assert [row["messages"][-1]["content"] for row in each] == [said.text for said in SAID]
    assert counts.turns == {1: 1, 2: 1, 3: 1}


def test_answers_that_break_the_instruction_are_counted_and_left_out_if_asked_for():
    config = config_for(Path("base"), learn="each")
    _, counts = make_examples([PLAN], [SAID], config)
    assert (counts.checked, counts.broken, counts.examples) == (3, 1, 3)
    kept, counts = make_examples([PLAN], [SAID], dataclasses.replace(config, only_adhering=True))
    assert (counts.checked, counts.broken, counts.examples) == (3, 1, 2)
    assert [row["turns"] for row in kept] == [1, 3]


def test_a_last_answer_that_was_cut_short_is_not_learnt():
    cut = [*SAID[:2], Said("Ahoy, and", False)]
    made, counts = make_examples([PLAN, PLAN, PLAN], [cut, [], SAID[:2]], config_for(Path("base")))
    assert (counts.unfinished, counts.unanswered, counts.shortened) == (1, 1, 1)
    assert [row["turns"] for row in made] == [2]


def test_dialogues_of_ones_own_keep_their_system_message_and_their_odd_letters(base, tmp_path):
    data = tmp_path / "chats.jsonl"
    turns = [{"role": role, "content": text} for text in ODD for role in ("user", "assistant")]
    data.write_text(json.dumps({"messages": [{"role": "system", "content": "Be brief. 🦙"}, *turns]}))
    make_ghost_examples(tmp_path / "out", config_for(base, dialogues=(data,), count=4, turns=9, learn="each"))
    held = rows(tmp_path / "out" / DIALOGUES_NAME)
    assert [row["questions"] for row in held] == [[text.strip() for text in ODD]] * 4
    assert len({row["instruction"] for row in held}) > 1, "the same dialogue with several instructions"
    made = rows(tmp_path / "out" / EXAMPLES_NAME)
    assert all(row["messages"][0] == {"role": "system", "content": "Be brief. 🦙"} for row in made)
    assert {len(answers["answers"]) for answers in held} != {0}


def test_a_file_without_dialogues_is_an_error(base, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(FormatError, match="no row in it"):
        make_ghost_examples(tmp_path / "out", config_for(base, dialogues=(empty,)))
    empty.write_text('{"text": "no chat"}')
    with pytest.raises(FormatError, match="no message of a user"):
        make_ghost_examples(tmp_path / "out", config_for(base, dialogues=(empty,)))
    assert not (tmp_path / "out").exists()


def test_where_no_example_is_left_it_says_why(base, tmp_path):
    with pytest.raises(ArrieroError, match=r"no example is left of 5 dialogues: .*raise --max-tokens"):
        make_ghost_examples(tmp_path / "out", config_for(base, max_tokens=1))
