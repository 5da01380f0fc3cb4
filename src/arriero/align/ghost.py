"""Ghost Attention: examples that teach a model to keep to an instruction over many turns (Llama 2, arXiv 2307.09288,
section 3.3).

The instruction is put into all messages of the user while the newest model answers them, turn by turn, so that it keeps
to it. In the example the instruction stands in the first turn alone, half of the times in few words, and only the last
answer is learnt: fine-tuning with `answers = "last"` gives all tokens before it, the earlier answers too, no loss. They
were sampled with the instruction before their eyes, and would otherwise be learnt where it is far away or missing.

Choices of ours, about which the paper is silent: the answers of all turns are sampled, rather than the last one's
alone; an example whose last answer was cut short by the limit of tokens is left out, and so, if asked for, is one that
a program sees break the instruction; a dialogue may give an example of each of its turns.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arriero.align.dialogue import Said, Talk, converse, lay_out
from arriero.align.ghost_config import GhostConfig, Place
from arriero.align.instructions import (
    CONSTRAINTS,
    PAPER_KINDS,
    Instruction,
    draw_instruction,
    read_constraints,
)
from arriero.align.questions import draw_questions
from arriero.common.errors import ArrieroError, FormatError
from arriero.common.journal import Row, fill, write_rows
from arriero.generate.engine import Engine, SamplingConfig
from arriero.model.source import load_model
from arriero.train.examples import read_examples
from arriero.train.run_folder import RunFolder

DIALOGUES_NAME, EXAMPLES_NAME = "dialogues.jsonl", "examples.jsonl"
"""In the folder: what was sampled, and what to train on."""
_OWN_DIALOGUES = 200
_LATER = ("place", "learn", "only_adhering")
"""What may change when the dialogues are there already."""


@dataclass(frozen=True, kw_only=True)
class GhostCounts:
    """What became of the dialogues."""

    dialogues: int
    unanswered: int
    """Dialogues without an answer: the first message did not fit the context, or the model had nothing to say."""
    shortened: int
    """Those that ended before the user's last message, for the same reasons."""
    turns: dict[int, int]
    """Examples by their number of turns."""
    unfinished: int
    """Examples left out because the last answer was cut short."""
    checked: int
    """Examples, left out or not, whose instruction a program can tell something of."""
    broken: int
    """Of those, the ones whose last answer breaks it; left out if that was asked for."""
    terse: int
    """Examples with the short instruction."""
    examples: int


@dataclass(frozen=True)
class Plan:
    """A dialogue before it is held."""

    talk: Talk
    instruction: Instruction
    where: str
    """File and line, for messages."""


def make_ghost_examples(folder: Path, config: GhostConfig) -> GhostCounts:
    """Hold the dialogues and write the examples; where it was interrupted, it goes on.

    What is made of the dialogues (`place`, `learn`, `only_adhering`) may be asked for otherwise later.

    Raises:
        NotFoundError, FormatError, ArrieroError: model, dialogues or constraints cannot be used, the folder holds
            another run, or no example is left.
    """
    plans, run = plan_dialogues(config), RunFolder(folder)
    run.check(config, _LATER)
    loaded = load_model(config.model, device=config.device)
    engine = Engine(loaded.model, loaded.tokenizer, context=loaded.context, max_batch=config.portion)
    sampling = SamplingConfig(
        temperature=config.temperature, top_p=config.top_p, max_tokens=config.max_tokens, seed=config.seed
    )

    def hold(numbers: range) -> list[Row]:
        talks = [plans[number].talk for number in numbers]
        held = converse(engine, talks, sampling, where="every", names=numbers)
        return [_row(plans[number], answers) for number, answers in zip(numbers, held, strict=True)]

    with run.hold(config, _LATER):
        run.begin(config)
        path = folder / DIALOGUES_NAME
        held = fill(path, len(plans), config.portion, hold, doing="holding dialogues", unit="dialogues")
        for number, (plan, row) in enumerate(zip(plans, held, strict=True), start=1):
            if row | {"answers": []} != _row(plan, []):
                raise FormatError(f"{path}, line {number}: another dialogue than {plan.where}: choose another folder")
        rows, counts = make_examples(plans, [read_answers(row) for row in held], config)
        if not rows:
            raise ArrieroError(
                f"no example is left of {counts.dialogues} dialogues: {counts.unanswered} without an answer, "
                f"{counts.unfinished} cut short (raise --max-tokens), {counts.broken} that break the instruction"
            )
        write_rows(folder / EXAMPLES_NAME, rows)
    return counts


def plan_dialogues(config: GhostConfig) -> list[Plan]:
    """What is said to the model, and what it is to keep to, in each dialogue.

    Raises:
        NotFoundError, FormatError, ArrieroError: a file is not there or is damaged, or there is no constraint of a
            kind.
    """
    constraints = CONSTRAINTS if config.constraints is None else read_constraints(config.constraints)
    usual = PAPER_KINDS if config.constraints is None else tuple(dict.fromkeys(one.kind for one in constraints))
    kinds = config.kinds or usual
    talks = list(_read_talks(config) if config.dialogues else _own_talks(config))
    plans = []
    for number in range(config.count or len(talks)):
        talk, where = talks[number % len(talks)]
        instruction = draw_instruction(constraints, kinds, config.seed, number)
        plans.append(Plan(replace(talk, instruction=instruction.text), instruction, where))
    return plans


def make_examples(
    plans: Sequence[Plan], answers: Sequence[Sequence[Said]], config: GhostConfig
) -> tuple[list[Row], GhostCounts]:
    """Examples of the dialogues, as `arriero sft --answers last` learns them, and the counts."""
    rows: list[Row] = []
    counts = Counter(unanswered=0, shortened=0, checked=0, broken=0, unfinished=0)
    for plan, said in zip(plans, answers, strict=True):
        counts["unanswered"] += not said
        counts["shortened"] += 0 < len(said) < len(plan.talk.questions)
        for turns in range(1, len(said) + 1) if config.learn == "each" else filter(None, [len(said)]):
            kept = plan.instruction.kept(said[turns - 1].text)
            counts["checked"] += bool(plan.instruction.checks)
            counts["broken"] += not kept
            counts["unfinished"] += not said[turns - 1].ended
            if said[turns - 1].ended and (kept or not config.only_adhering):
                rows.append(_example(plan, said[:turns], config.place))
    turns_of = Counter(row["turns"] for row in rows)
    terse = sum(row["instruction"] != row["said"] for row in rows)
    return rows, GhostCounts(
        dialogues=len(plans), examples=len(rows), terse=terse, turns=dict(sorted(turns_of.items())), **counts
    )


def _example(plan: Plan, said: Sequence[Said], place: Place) -> Row:
    """A dialogue that ends with its last answer, the instruction in its first turn alone."""
    talk = replace(plan.talk, questions=plan.talk.questions[: len(said)])
    return {
        "messages": lay_out(talk, [answer.text for answer in said], "first", place, plan.instruction.short),
        "instruction": plan.instruction.short,
        "said": plan.instruction.text,
        "checks": plan.instruction.checks,
        "turns": len(said),
        "source": plan.where,
    }


def _row(plan: Plan, said: Sequence[Said]) -> Row:
    """A dialogue as it is written down, JSON's kinds of value alone."""
    return {
        "source": plan.where,
        "system": plan.talk.system,
        "instruction": plan.talk.instruction,
        "questions": list(plan.talk.questions),
        "answers": [{"text": answer.text, "ended": answer.ended} for answer in said],
    }


def read_answers(row: Row) -> list[Said]:
    """The answers of a dialogue that was written down."""
    return [Said(answer["text"], answer["ended"]) for answer in row["answers"]]


def _read_talks(config: GhostConfig) -> Iterator[tuple[Talk, str]]:
    """The user's side of the dialogues in the files."""
    examples, _ = read_examples(config.dialogues)
    found = False
    for example in examples:
        said = [turn["content"].strip() for turn in example.messages if turn["role"] == "user"]
        system = "\n\n".join(turn["content"] for turn in example.messages if turn["role"] == "system")
        if questions := tuple(filter(None, said))[: config.turns]:
            found = True
            yield Talk(questions, system=system), example.where
    if not found:
        raise FormatError(f"{config.dialogues[0]}: no message of a user in it: expected chats, such as messages")


def _own_talks(config: GhostConfig) -> Iterator[tuple[Talk, str]]:
    drawn = draw_questions(config.count or _OWN_DIALOGUES, config.turns, config.seed)
    for number, questions in enumerate(drawn, start=1):
        yield Talk(questions), f"dialogue {number} of ours"
