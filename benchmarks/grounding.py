"""Grounded answers measured: how often they are right, refused and marked as supported, and whether the marks can be
believed.

XQuAD's English paragraphs are the documents. Each question is asked to all of them; an answer counts as right when it
holds the gold answer. Marks are judged on the answers: what share of right and of wrong answers is supported, and how
often the same sentences are "supported" by passages about something else, or after a number or a name in them was
changed.

    python benchmarks/grounding.py [--data ../shared/data] [--questions 60] [--sentences 3] [--k 4] [--dtype auto]
    [--json]
"""

import argparse
import json
import os
import random
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import Figure, as_json

from arriero.cli.quickstart import reference
from arriero.generate.engine import Engine
from arriero.model.choices import DEFAULT_MODEL
from arriero.parsers.document import Document, Section
from arriero.rag.answer import Answer, ask, retrieve
from arriero.rag.answer_config import AnswerConfig
from arriero.rag.citations import without_markers
from arriero.rag.collection import Collection
from arriero.rag.evidence import Evidence, content_words, sentence_spans

Question = tuple[str, list[str]]


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("ARRIERO_DATA") or Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of xquad.en.json")
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--sentences", type=int, default=AnswerConfig.sentences, help="0 = passages whole")
    parser.add_argument("--k", type=int, default=AnswerConfig.k)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--collection", type=Path, help="keep the collection here between runs")
    parser.add_argument("--answers", type=Path, help="write the answers here, one JSON object a line")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(given, given.collection or Path(folder) / "xquad")
    if given.json:
        print(json.dumps({**figures, "targets": as_json(judge(figures))}))
    else:
        print("\n".join(f"{name:<58}{value}" for name, value in figures.items()))


def judge(figures: dict[str, Any]) -> list[Figure]:
    """How often answers are right, and marks wrong."""
    names = ("right (holds the gold answer)", "sentences supported by another question's passages")
    shares = {name: figures[name].partition(" ")[0].split("/") for name in names}
    return [
        Figure(what=f"grounding: {name}", value=100 * int(part) / max(1, int(whole)), unit="%")
        for name, (part, whole) in shares.items()
    ]


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures, by what they say."""
    documents, questions = read_xquad(given.data / "xquad.en.json")
    random.Random(0).shuffle(questions)
    config = AnswerConfig(k=given.k, sentences=given.sentences)
    with Collection.open(folder) as collection:
        collection.add_documents(documents)
        engine = Engine.load(given.model, dtype=given.dtype)
        started = time.perf_counter()
        asked = [(ask(collection, engine, question, config), gold) for question, gold in questions[: given.questions]]
        seconds = (time.perf_counter() - started) / len(asked)
        marks = judge_marks([answer for answer, _ in asked], collection)
    with Collection.open(folder.with_name(f"{folder.name}-python")) as foreign:
        foreign.add_documents(reference())
        top = [max(hit.dense for hit in retrieve(foreign, question, config).hits) for question, _ in questions]
    if given.answers:
        lines = [json.dumps({"gold": gold, "right": is_right(a, gold)} | a.to_dict()) for a, gold in asked]
        given.answers.write_text("\n".join(lines) + "\n", encoding="utf-8")
    answered = [(answer, gold) for answer, gold in asked if not answer.refused]
    right = [answer for answer, gold in answered if is_right(answer, gold)]
    wrong = [answer for answer, gold in answered if not is_right(answer, gold)]
    return {
        "questions": len(asked),
        "refused, of all": share([answer.refused for answer, _ in asked]),
        "refused, of all questions put to Python's reference": share([score < config.threshold for score in top]),
        "gold answer in the passages that were found": share([has_gold(a, gold) for a, gold in answered]),
        "right (holds the gold answer)": share([is_right(a, gold) for a, gold in answered]),
        "right, of those marked fully supported": share([is_right(a, g) for a, g in answered if a.grounded == "full"]),
        "right answers marked fully supported": share([answer.grounded == "full" for answer in right]),
        "wrong answers marked fully supported": share([answer.grounded == "full" for answer in wrong]),
        "wrong answers marked as not supported at all": share([answer.grounded == "none" for answer in wrong]),
        "tokens of an answer": round(sum(a.completion_tokens for a, _ in answered) / max(1, len(answered)), 1),
        "seconds a question": round(seconds, 2),
    } | marks


def judge_marks(answers: list[Answer], collection: Collection) -> dict[str, Any]:
    """How often sentences of the answers are supported by their own passages, by others, and when they are
    falsified."""
    own, other, changed = [], [], []
    for index, answer in enumerate(answers):
        if answer.refused:
            continue
        strangers = answers[(index + 1) % len(answers)]
        evidence, foreign = (
            Evidence(
                [hit.passage.text for hit in source.passages],
                [hit.passage.document for hit in source.passages],
                answer.question,
                collection.encoder,
            )
            for source in (answer, strangers)
        )
        plain = without_markers(answer.text)
        for start, end in sentence_spans(plain, line_breaks=True):
            sentence = plain[start:end]
            if not content_words(sentence):
                continue
            supported = evidence.support(sentence) is not None
            own.append(supported)
            other.append(foreign.support(sentence) is not None)
            if supported and (false := falsify(sentence)):
                changed.append(evidence.support(false) is not None)
    return {
        "sentences supported by their own passages": share(own),
        "sentences supported by another question's passages": share(other),
        "supported sentences still supported when falsified": share(changed),
    }


def falsify(sentence: str) -> str | None:
    """The sentence with another number or name, or with 'not'; None where neither fits."""
    if number := re.search(r"\d+", sentence):
        return sentence[: number.start()] + str(int(number[0]) + 7) + sentence[number.end() :]
    if name := re.search(r"(?<=[a-z,] )[A-Z][a-z]{2,}", sentence):
        return sentence[: name.start()] + "Rosalind" + sentence[name.end() :]
    if verb := re.search(r"\b(is|was|are|were|can|does|did)\b", sentence):
        return sentence[: verb.end()] + " not" + sentence[verb.end() :]
    return None


def is_right(answer: Answer, gold: list[str]) -> bool:
    """Whether the answer holds a gold answer, whatever the case."""
    return any(text.lower().rstrip(".") in answer.text.lower() for text in gold)


def has_gold(answer: Answer, gold: list[str]) -> bool:
    """Whether the passages hold a gold answer."""
    return any(text.lower() in hit.passage.text.lower() for text in gold for hit in answer.passages)


def share(outcomes: list[bool]) -> str:
    """'34/60 (57%)'."""
    return f"{sum(outcomes)}/{len(outcomes)}" + (f" ({sum(outcomes) / len(outcomes):.0%})" if outcomes else "")


def read_xquad(file: Path) -> tuple[list[Document], list[Question]]:
    """Paragraphs as documents, and questions with their gold answers."""
    documents: list[Document] = []
    questions: list[Question] = []
    for article in json.loads(file.read_text(encoding="utf-8"))["data"]:
        for number, paragraph in enumerate(article["paragraphs"], 1):
            documents.append(Document(f"{article['title']}-{number}", (Section(paragraph["context"]),)))
            questions += [(qa["question"], [gold["text"] for gold in qa["answers"]]) for qa in paragraph["qas"]]
    return documents, questions


if __name__ == "__main__":
    main()
