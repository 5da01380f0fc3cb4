"""Documents and passages a second into a collection, and what each part of the work takes, by kind of file.

Real text in each format that people have: Python's language reference as text and Markdown, pages of pydoc as HTML,
docstrings as PDF (reportlab) and Word, sources of the standard library. Each kind goes into a collection of its own by
`Collection.add`, in a process of its own, so that the peak is its own; the parser's process is counted by itself.
Time is that of the processor, with one thread, which other processes hardly disturb; the wall clock is printed beside.

    python benchmarks/rag_ingest.py [--passages 400] [--rounds 3] [--json]
"""

import argparse
import importlib
import inspect
import json
import os
import pydoc
import pydoc_data.topics
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from figures import Figure, as_json

KINDS = ("txt", "md", "html", "pdf", "docx", "py")
WORDS_A_PASSAGE = 90  # roughly; decides how many files are written
MODULES = "argparse ast asyncio collections concurrent.futures configparser csv dataclasses datetime decimal difflib "
MODULES += "email.message enum fractions functools heapq http.client imaplib inspect io itertools json logging mailbox "
MODULES += "multiprocessing.pool optparse os pathlib pickle pprint random re shutil smtplib socket sqlite3 ssl string "
MODULES += "subprocess tarfile tempfile textwrap threading tkinter.ttk traceback turtle typing unittest.mock "
MODULES += "urllib.request uuid xml.dom.minidom xml.sax.handler zipfile"
PARTS = ("parsing", "cutting", "encoding", "writing", "index")


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=400, help="about so many of each kind (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            files = Path(folder) / kind
            files.mkdir()
            write_files(kind, files, options.passages * WORDS_A_PASSAGE)
        for kind in KINDS:
            rounds = []
            for number in range(options.rounds):
                rounds.append(run_apart(Path(folder) / kind, Path(folder) / f"{kind} {number}"))
                print(f"{kind}: {rounds[-1]}", file=sys.stderr)
            rows.append({"kind": kind, **sorted(rounds, key=lambda each: each["seconds"])[len(rounds) // 2]})
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows, "targets": as_json(judge(rows))}, indent=2))
    else:
        print_table(rows)


def judge(rows: list[dict[str, Any]]) -> list[Figure]:
    """Passages a second of each kind."""
    return [
        Figure(what=f"ingest, {row['kind']}", value=row["passages"] / row["seconds"], unit="passages/s") for row in rows
    ]


def write_files(kind: str, folder: Path, words: int) -> None:
    """Files of a kind with about so many words in all."""
    written = 0
    for number, (title, text) in enumerate(read_texts(kind)):
        WRITERS.get(kind, write_text)(folder / f"{number:03} {title[:40]}.{kind}".replace("/", "-"), title, text)
        written += len(text.split())
        if written >= words:
            return


def read_texts(kind: str) -> Iterator[tuple[str, str]]:
    """Title and text: the reference's topics, pydoc's pages, sources, or modules' docstrings."""
    if kind in ("txt", "md"):
        yield from sorted(pydoc_data.topics.topics.items())
    elif kind == "py":
        root = Path(sysconfig.get_paths()["stdlib"])
        yield from ((path.stem, path.read_text("utf-8")) for path in sorted(root.glob("*.py")))
    else:
        for name in MODULES.split():
            module = importlib.import_module(name)
            yield name, pydoc.HTMLDoc().docmodule(module) if kind == "html" else docstrings(module)


def docstrings(module: Any) -> str:
    """Of a module, its classes and functions, a paragraph each."""
    members = [each for _, each in inspect.getmembers(module) if inspect.isclass(each) or inspect.isroutine(each)]
    nested = [each for owner in members if inspect.isclass(owner) for _, each in inspect.getmembers(owner)]
    found = [inspect.getdoc(each) or "" for each in [module, *members, *filter(inspect.isroutine, nested)]]
    return "\n\n".join(dict.fromkeys(filter(None, found)))


def write_text(path: Path, title: str, text: str) -> None:
    """As it is; as Markdown under a heading, as a page with its title."""
    before = {".md": f"# {title}\n\n", ".html": f"<!doctype html><html><head><title>{title}</title></head><body>\n"}
    path.write_text(before.get(path.suffix, "") + text, "utf-8")


def write_pdf(path: Path, title: str, text: str) -> None:
    """Pages of paragraphs."""
    from xml.sax.saxutils import escape

    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer

    styles = getSampleStyleSheet()
    story = [Paragraph(escape(title), styles["Title"])]
    for part in text.split("\n\n"):
        story += [Paragraph(escape(part), styles["BodyText"]), Spacer(1, 6)]
    SimpleDocTemplate(str(path)).build(story)


def write_docx(path: Path, title: str, text: str) -> None:
    """A heading and paragraphs."""
    import docx

    document = docx.Document()
    document.add_heading(title)
    for part in text.split("\n\n"):
        document.add_paragraph("".join(letter for letter in part if letter.isprintable() or letter.isspace()))
    document.save(str(path))


WRITERS: dict[str, Callable[[Path, str, str], None]] = {"pdf": write_pdf, "docx": write_docx}


def run_apart(files: Path, collection: Path) -> dict[str, Any]:
    """One ingest in a process of its own with one thread."""
    command = [sys.executable, __file__, "ingest", str(files), str(collection)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    told: dict[str, Any] = json.loads(output)
    return told


def ingest(files: Path, folder: Path) -> dict[str, Any]:
    """Take a folder in, and tell where the time went."""
    from arriero.model.source import DEFAULT_ENCODER
    from arriero.parsers.isolation import ParserProcess
    from arriero.rag import ingest as module
    from arriero.rag.collection import Collection
    from arriero.rag.encoder import Encoder, load_encoder
    from arriero.rag.live_index import LiveIndex
    from arriero.rag.store import Store

    encoder = load_encoder(DEFAULT_ENCODER, device="cpu")
    encoder.encode_passages(["The weights are read at the first text."])
    parser_memory: list[int] = []
    close = ParserProcess.close

    def note_memory(parser: ParserProcess) -> None:
        if parser._child is not None:
            parser_memory.append(peak(parser._child.pid))
        close(parser)

    ParserProcess.close = note_memory  # type: ignore[method-assign]
    clock = Clock()
    clock.watch(module, "split", "cutting")
    clock.watch(Encoder, "encode_passages", "encoding")
    clock.watch(LiveIndex, "save", "index")
    clock.watch_block(Store, "write", "writing")
    began, wall, memory = time.process_time(), time.perf_counter(), peak()
    with Collection.open(folder, encoder) as collection:
        report = collection.add(files)
        characters = sum(info.characters for info in collection.list())
    parsing = resource.getrusage(resource.RUSAGE_CHILDREN)
    parts = {"parsing": parsing.ru_utime + parsing.ru_stime, **clock.spent}
    return {
        "documents": len(report.added),
        "failed": len(report.failed),
        "passages": report.passages,
        "bytes": sum(path.stat().st_size for path in files.iterdir()),
        "characters": characters,
        "seconds": time.process_time() - began + parts["parsing"],
        "wall": time.perf_counter() - wall,
        "parts": parts,
        "memory_before": memory,
        "peak": peak(),
        "parser_peak": max(parser_memory),
    }


class Clock:
    """Processor time by part of the work: of what is outermost, so that nothing counts twice."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inside = False

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Count a block, unless it is inside another one."""
        if self._inside:
            yield
            return
        self._inside, began = True, time.process_time()
        try:
            yield
        finally:
            self._inside = False
            self.spent[part] += time.process_time() - began

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Stand before a function."""
        watched = getattr(owner, name)

        def timed(*values: Any, **named: Any) -> Any:
            with self.time(part):
                return watched(*values, **named)

        setattr(owner, name, timed)

    def watch_block(self, owner: Any, name: str, part: str) -> None:
        """Stand before a context manager: its block counts too."""
        watched = getattr(owner, name)

        @contextmanager
        def timed(*values: Any, **named: Any) -> Iterator[None]:
            with self.time(part), watched(*values, **named):
                yield

        setattr(owner, name, timed)


def peak(process: int | str = "self") -> int:
    """Most bytes of memory that a process had since it began its program."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def machine() -> str:
    """Processor, threads and versions, in one line."""
    import faiss
    import torch

    from arriero.common.machine import machine_line

    torch.set_num_threads(1)
    return f"{machine_line(torch.device('cpu'))}, faiss {faiss.__version__}"


def print_table(rows: list[dict[str, Any]]) -> None:
    """The results as Markdown."""
    print(f"{machine()}; seconds of the processor\n")
    heads = ("kind", "documents", "MB", "passages", "documents/s", "passages/s", *PARTS, "rest", "passages/s unencoded")
    print(f"| {' | '.join(heads)} | peak, parser's |\n{'|---' * (len(heads) + 1)}|")
    for row in rows:
        total, parts = row["seconds"], row["parts"]
        shares = [f"{parts.get(part, 0) / total:.1%}" for part in PARTS]
        rest = total - sum(parts.values())
        alone = row["passages"] / (total - parts["encoding"])
        print(
            f"| {row['kind']} | {row['documents']} | {row['bytes'] / 1e6:.2f} | {row['passages']} "
            f"| {row['documents'] / total:.1f} | {row['passages'] / total:.1f} | {' | '.join(shares)} "
            f"| {rest / total:.1%} | {alone:.0f} | {row['peak'] / 1e6:.0f}, {row['parser_peak'] / 1e6:.0f} MB |"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["ingest"]:
        print(json.dumps(ingest(Path(sys.argv[2]), Path(sys.argv[3]))))
    else:
        main()
