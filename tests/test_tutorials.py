"""The commands of tutorials run, in order, as a reader with small data would type them."""

import bz2
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from arriero.cli.road.examples import make_examples
from tests.documentation import ROOT, commands
from tests.parsers.test_parse_pdf import make_pdf
from tests.test_readme import serve

ROAD = "tutorials/index.md"
LITTLE = {
    "tokenizer train": "--vocab-size 400",
    "corpus train-lm": "--pieces 300",
    "corpus train-classifier": "--shortest 200",
    "pretrain": "--steps 4 --rows 2 --tokens 64 --warmup-steps 1 --validation-rows 2",
    "generate": "--max-tokens 4",
    "sft": "--steps 2 --batch 2 --tokens 128 --validate-every 2 --samples Hello?",
    "adapter compare": "--prompts Hello? --max-tokens 4",
    "align sample": "--most 12 --max-tokens 6",
    "align reward": "--steps 2 --batch 4 --validate-every 2",
    "align reject": "--samples 2 --max-tokens 24 --steps 2 --batch 2 --validate-every 2",
    "align ppo": "--iterations 1 --batch 4 --mini-batch 4 --max-tokens 6 --eval-count 2",
    "rag ask": "--max-tokens 6",
    "rag questions": "--limit 6 --max-tokens 60",
    "rag retriever": "--steps 2 --batch 4 --validate-every 2",
    "rag train": "--steps 1 --batch 2 --k 2",
    "rag evaluate": "--limit 2 --k 2 --max-tokens 4",
}
"""Options that make a command short; they change nothing else."""
TYPED = {"align annotate": "a2\nb4\na1\nb1\n" * 3}
"""What is typed while a command runs; the others get an end of input."""
TUNED = {f"runs/{name}": "runs/tuned" for name in ("tuned", "a", "b", "support")}
NEEDS: dict[str, dict[str, str]] = {
    ROAD: {},
    "tutorials/tokenizer.md": {"corpus": "corpus", "corpus/english": "corpus/files", "corpus/chinese": "corpus/files"},
    "tutorials/pretraining.md": {"shards": "shards"},
    "corpus.md": {"tokenizer.json": "tokenizer/tokenizer.json"},
    "finetuning.md": TUNED,
    "rag.md": {},
    "serving.md": TUNED | {"runs/mine": "runs/base"},
}
"""What a page begins with, beside examples, prompts and texts: where it lies there, and where the road made it."""
CONTRACT = """# Supply contract

## Payment

An invoice is due thirty days after delivery. For late payment, interest of 5% a year is agreed.

## Term

The contract ends on 31 May 2027. A notice period of three months is agreed. Ana Quispe signed it.
"""


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the road was gone; other pages take from it what they begin with."""
    room = tmp_path_factory.mktemp("road")
    lay_out(room)
    go(room, ROAD)
    return room


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", NEEDS)
def test_every_command_of_the_page_runs(page: str, road: Path, tmp_path: Path, smollm2_gguf, minilm_folder, lid176):
    if page == ROAD:
        answer = json.loads(arriero(road, ["rag", "ask", "When is an invoice due?", "--json"]))
        assert "thirty days after delivery" in answer["text"]
        assert answer["grounded"] == "full"
        return
    lay_out(tmp_path)
    for here, there in NEEDS[page].items():
        copy = shutil.copytree if (road / there).is_dir() else shutil.copy
        (tmp_path / here).parent.mkdir(parents=True, exist_ok=True)
        copy(road / there, tmp_path / here)
    go(tmp_path, page)


def go(room: Path, page: str) -> None:
    """Type a page's commands in a folder."""
    for words in commands((ROOT / "docs" / page).read_text(encoding="utf-8")):
        at_home = [word.replace("~", str(room)) for word in words]
        if words[0] == "serve":
            serve(shlex.join(["arriero", *at_home]), how(room))
        else:
            name = " ".join(words[: 1 + (words[0] in ("align", "adapter", "corpus", "model", "rag", "tokenizer"))])
            arriero(room, [*at_home, *shlex.split(LITTLE.get(name, ""))], TYPED.get(name, ""))


def arriero(room: Path, words: list[str], typed: str = "") -> str:
    """What a command prints; it ends well."""
    result = subprocess.run(["arriero", *words], input=typed, capture_output=True, **how(room))
    assert result.returncode == 0, f"arriero {shlex.join(words)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def how(room: Path) -> dict[str, Any]:
    """Where commands run, and with what around them."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"cwd": room, "env": os.environ | {"PATH": path}, "text": True}


def lay_out(room: Path) -> None:
    """The data that pages speak of: texts, examples, prompts, questions, dumps."""
    lay_texts(room)
    rows = [(row["prompt"], row["completion"]) for row in make_examples()[:60]]
    chats = [{"messages": [_say("user", asked), _say("assistant", answer)]} for asked, answer in rows]
    for name in ("examples.jsonl", "my.jsonl"):
        _write_rows(room / name, chats)
    prompts = [f"What is {n} plus {n}? Answer with the number alone." for n in range(12)]
    (room / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))
    asked = [f"What is said about {topic.lower()}?" for topic in sorted(topics)[:12]]
    questions = [{"question": each, "answers": ["contract"], "title": str(n)} for n, each in enumerate(asked)]
    for name in ("qa.jsonl", "squad.json"):
        _write_rows(room / name, questions)


def lay_texts(room: Path) -> None:
    """Folders of documents, and what a dump of an encyclopedia and a library of books look like."""
    written = {f"{name}.txt": text for name, text in sorted(topics.items())[:24]} | {"contract.md": CONTRACT}
    for folder in ("texts", "notes", "manuals", "gutenberg"):
        (room / folder).mkdir()
        for name, text in [*written.items()][-25 if folder == "gutenberg" else -12 :]:
            (room / folder / name).write_text(text)
    (room / "report.pdf").write_bytes(make_pdf([["The roof of the mill leaks. Ana asks two roofers for an offer."]]))
    pages = "".join(
        f"<page><title>{n}</title><ns>0</ns><id>{n}</id><revision><id>{n}</id><text>{_escape(text)}</text>"
        "</revision></page>"
        for n, text in enumerate(written.values(), 1)
    )
    (room / "dumps").mkdir()
    dump = f'<mediawiki xml:lang="en">{pages}</mediawiki>'.encode()
    (room / "dumps" / "lvwiki-latest-pages-articles.xml.bz2").write_bytes(bz2.compress(dump))
    _write_rows(room / "references.jsonl", [{"text": text} for text in written.values()])


def _say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
