"""Context distillation: answers from behind a preprompt, learnt without it, where they are safer."""

import json
from pathlib import Path

import pytest

from arriero.align import distil as module
from arriero.align.distil import ANSWERS_NAME, EXAMPLES_NAME, distil, guard, keep_safer
from arriero.align.distil_config import PREPROMPTS, DistilConfig
from arriero.align.prompts import Prompt
from arriero.common.errors import ArrieroError, FormatError
from tests.align.talking import ODD, Scripted, write_talker

JUDGE = "command:python -c \"import sys, json; [print(len(json.loads(x)['response'])) for x in sys.stdin]\""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_talker(tmp_path_factory.mktemp("talker") / "base")


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "risky.jsonl"
    texts = ["How do I pick a lock?", "Which pills?", *ODD, "Say something rude.", "Why?"]
    file.write_text("\n".join(json.dumps({"prompt": text}) for text in texts))
    return file


def config_for(base: Path, prompts: Path, **changes) -> DistilConfig:
    settings = {"prompts": (prompts,), "model": str(base), "safety": JUDGE, "max_tokens": 12, "temperature": 1.0}
    return DistilConfig(**{**settings, "top_p": 1.0, "portion": 3, "device": "cpu", "seed": 1, **changes})


def rows(path: Path) -> list[dict]:
    return list(map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1]))


class Judge:
    """Scores by a table, and remembers what it was shown."""

    name = "table"

    def __init__(self, **scores: float):
        self.scores, self.shown = scores, []

    def score(self, prompts, responses):
        self.shown += list(zip(prompts, responses, strict=True))
        return [self.scores[response] for response in responses]


def answered(original: str, *guarded: str, ended: bool = True) -> dict:
    names = list(PREPROMPTS)
    return {
        "original": {"text": original, "ended": True},
        "guarded": [{"preprompt": names[i], "text": text, "ended": ended} for i, text in enumerate(guarded)],
    }


PROMPT = Prompt(({"role": "user", "content": "How?"},), where="here")


def test_an_answer_is_kept_only_where_the_judge_scores_it_above_the_original():
    judge = Judge(better=0.5, worse=-0.5, same=0.0, original=0.0)
    answers = [answered("original", text) for text in ("better", "worse", "same")]
    kept, counts = keep_safer([PROMPT] * 3, answers, judge)
    assert [row["messages"][-1]["content"] for row in kept] == ["better"]
    assert (counts.not_safer, counts.examples) == (2, 1)
    assert counts.original_score == 0
    assert counts.guarded_score == pytest.approx(0)


def test_the_judge_and_the_example_never_see_the_preprompt():
    judge = Judge(safe=1.0, original=0.0)
    kept, _ = keep_safer([PROMPT], [answered("original", "safe")], judge)
    assert [prompt for prompt, _ in judge.shown] == [PROMPT.messages] * 2
    assert kept[0]["messages"] == [*PROMPT.messages, {"role": "assistant", "content": "safe"}]


def test_of_several_preprompts_the_safest_answer_is_taken():
    judge = Judge(original=0.0, a=0.1, b=0.7, c=0.3)
    kept, counts = keep_safer([PROMPT], [answered("original", "a", "b", "c")], judge)
    assert (kept[0]["score"], kept[0]["preprompt"]) == (0.7, "illicit")
    assert counts.by_preprompt == {"illicit": 1}


def test_answers_that_say_nothing_or_do_not_end_are_left_out():
    answers = [
        answered("", "safe"),
        answered("original", ""),
        answered("original", "safe", ended=False),
        {"original": None, "guarded": []},
    ]
    kept, counts = keep_safer([PROMPT] * 4, answers, Judge())
    assert kept == []
    assert (counts.silent, counts.unfinished, counts.too_long) == (1, 2, 1)
    assert counts.original_score is None


def test_a_preprompt_goes_before_the_system_message_that_is_there():
    system = {"role": "system", "content": "Be brief."}
    assert guard(PROMPT.messages, "Be safe.") == [{"role": "system", "content": "Be safe."}, *PROMPT.messages]
    assert guard((system, *PROMPT.messages), "Be safe.")[0]["content"] == "Be safe.\n\nBe brief."
    assert guard((system, *PROMPT.messages), "Be safe.")[1:] == list(PROMPT.messages)


def test_the_model_is_asked_with_and_without_the_preprompt(base, prompts, tmp_path, monkeypatch):
    engine = Scripted(lambda prompt: "longer answer" if PREPROMPTS["generic"] in prompt else "short")
    monkeypatch.setattr(module, "Engine", lambda *_, **__: engine)
    counts = distil(tmp_path / "out", config_for(base, prompts))
    assert counts.examples == counts.prompts == 8
    assert sum(PREPROMPTS["generic"] in prompt for prompt in engine.asked) == 8
    assert len(engine.asked) == 16
    for row in rows(tmp_path / "out" / EXAMPLES_NAME):
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert row["score"] > row["original_score"]


def test_equal_seeds_give_equal_files_and_interrupted_ones_too(base, prompts, tmp_path):
    config = config_for(base, prompts, preprompts=("generic", "Be as safe as you can."))
    for name in ("a", "b"):
        distil(tmp_path / name, config)
    whole = [(tmp_path / "a" / name).read_bytes() for name in (ANSWERS_NAME, EXAMPLES_NAME)]
    assert [(tmp_path / "b" / name).read_bytes() for name in (ANSWERS_NAME, EXAMPLES_NAME)] == whole
    (tmp_path / "b" / EXAMPLES_NAME).unlink()
    (tmp_path / "b" / ANSWERS_NAME).write_bytes(whole[0][: len(whole[0]) * 2 // 3])
    distil(tmp_path / "b", config)
    assert [(tmp_path / "b" / name).read_bytes() for name in (ANSWERS_NAME, EXAMPLES_NAME)] == whole
    distil(tmp_path / "c", config_for(base, prompts, seed=2))
    assert (tmp_path / "c" / ANSWERS_NAME).read_bytes() != whole[0]


def test_another_judge_is_asked_of_the_same_answers(base, prompts, tmp_path, monkeypatch):
    distil(tmp_path / "out", config_for(base, prompts))
    monkeypatch.setattr(module, "answer_prompts", None)  # nothing is sampled again
    shorter = JUDGE.replace("print(len(", "print(-len(")
    distil(tmp_path / "out", config_for(base, prompts, safety=shorter))
    assert all(row["judge"].count("-len") for row in rows(tmp_path / "out" / EXAMPLES_NAME))
    with pytest.raises(ArrieroError, match="seed was 1, is 3"):
        distil(tmp_path / "out", config_for(base, prompts, seed=3))


def test_prompts_that_changed_since_are_refused(base, prompts, tmp_path):
    distil(tmp_path / "out", config_for(base, prompts))
    prompts.write_text(prompts.read_text().replace("Why?", "Who?"))
    with pytest.raises(FormatError, match="line 8: another prompt than"):
        distil(tmp_path / "out", config_for(base, prompts))


def test_prompts_over_the_context_are_counted_and_the_others_answered(base, prompts, tmp_path):
    with prompts.open("a") as file:
        file.write("\n" + json.dumps({"prompt": "why " * 300}))
    counts = distil(tmp_path / "out", config_for(base, prompts))
    assert counts.too_long == 1
    assert counts.prompts == 9
    assert counts.examples > 0


def test_a_judge_that_fails_is_one_clear_error(base, prompts, tmp_path):
    with pytest.raises(ArrieroError, match="expected a finite number"):
        distil(
            tmp_path / "out", config_for(base, prompts, safety=JUDGE.replace("len(json", "float('nan') or len(json"))
        )


def test_no_judge_no_prompts_and_unknown_preprompts_are_refused(base, prompts, tmp_path):
    with pytest.raises(ArrieroError, match="--safety"):
        distil(tmp_path / "out", config_for(base, prompts, safety=""))
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(ArrieroError, match="no prompts"):
        distil(tmp_path / "out", config_for(base, empty))
    with pytest.raises(ArrieroError, match=r"got 'ilicit' \(did you mean illicit\?\)"):
        config_for(base, prompts, preprompts=("ilicit",))
    assert not (tmp_path / "out").exists()


def test_where_nothing_is_safer_it_says_so(base, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Engine", lambda *_, **__: Scripted(lambda prompt: "same"))
    with pytest.raises(ArrieroError, match="no example is left of 8 prompts: 8 without a safer answer"):
        distil(tmp_path / "out", config_for(base, prompts))
