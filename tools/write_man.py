"""Write man/arriero.1 from the commands' own help: `python tools/write_man.py`.

The wheel carries the page as share/man/man1/arriero.1, where `man` looks beside the programs in $PATH.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from arriero import __version__
from arriero.cli.commands import COMMANDS, GROUPS
from arriero.cli.help import GENERAL, explain, name_flag, name_word
from arriero.cli.main import SUMMARY
from arriero.cli.options import Run, config_class, options_of
from arriero.kernels.attention import FORCE
from arriero.kernels.native.build import SWITCH
from arriero.rag.qdrant_index import KEY

PAGE = Path(__file__).parents[1] / "man" / "arriero.1"
ENVIRONMENT = {
    "ARRIERO_CACHE": "Folder of models and compiled kernels; otherwise $XDG_CACHE_HOME/arriero, or ~/.cache/arriero.",
    KEY: "API key of the Qdrant server that `arriero rag index --server` names.",
    FORCE: "Force one implementation of attention: reference, tiled, triton or sdpa.",
    SWITCH: "0: compute without the kernels that are compiled for this CPU.",
    "NO_COLOR": "If it is set, nothing is coloured.",
}
EXIT_STATUS = {
    "0": "Done.",
    "1": "Done in part, such as when some files could not be read; of `arriero doctor`: something needed is broken.",
    "2": "A mistake in the input, told in one line on the error stream.",
    "130": "Interrupted.",
}


def man_page() -> str:
    """The page, in roff's man macros."""
    lines = [
        f'.TH ARRIERO 1 "" "arriero {__version__}" "User Commands"',
        *(".SH NAME", f"arriero \\- {_text(SUMMARY[0].lower() + SUMMARY[1:-1])}"),
        *(".SH SYNOPSIS", ".B arriero", r"\fICOMMAND\fR [\fIARGUMENT\fR ...] [\fIOPTION\fR ...]"),
        ".SH DESCRIPTION",
        "From raw text to a tokenizer, a model, an aligned assistant and cited answers from your own documents.",
        *_paragraph("Options and arguments may come in any order. An option is written as --top-k 5 or --top-k=5."),
        *(".SH OPTIONS", "Every command takes these."),
        *_terms(dict(GENERAL)),
        ".SH COMMANDS",
    ]
    for name in COMMANDS:
        group = name.partition(" ")[0]
        if group in GROUPS and name == next(other for other in COMMANDS if other.startswith(f"{group} ")):
            lines += [f".SS {group}", _text(f"{GROUPS[group]}.")]
        lines += _command(name)
    lines += [".SH ENVIRONMENT", *_terms(ENVIRONMENT), ".SH EXIT STATUS", *_terms(EXIT_STATUS)]
    return "\n".join(lines) + "\n"


def _command(name: str) -> Iterator[str]:
    module, _, function = COMMANDS[name].target.partition(":")
    run: Run = getattr(importlib.import_module(module), function)
    options = options_of(config_class(run))
    words = [option for option in options if option.positional]
    yield f'.SS "arriero {" ".join([name, *map(name_word, words)])} [options]"'
    for block in (inspect.getdoc(run) or "").split("\n\n"):
        yield from _block(block)
    yield from _terms({option.positional or "": explain(option) for option in words})
    yield from _terms({name_flag(option): explain(option) for option in options if not option.positional})


def _block(block: str) -> Iterator[str]:
    """A paragraph; what is indented stays as it is."""
    head, *rest = block.splitlines()
    if rest and all(line.startswith("  ") for line in rest):
        yield from (*_paragraph(head), ".RS 4", ".nf", *(_text(line.strip()) for line in rest), ".fi", ".RE")
    else:
        yield from _paragraph(" ".join(line.strip() for line in block.splitlines()))


def _paragraph(text: str) -> list[str]:
    return [".PP", _text(text)]


def _terms(rows: dict[str, str]) -> Iterator[str]:
    """Terms in bold, each with its explanation."""
    for term, text in rows.items():
        yield from (".TP", rf"\fB{_text(term)}\fR", _text(text))


def _text(text: str) -> str:
    """Roff's escapes: of backslashes, hyphens that are to be typed, and dots and quotes that begin a line."""
    text = text.replace("\\", r"\e").replace("₂", "2").replace("‖", "||")  # which few terminals' fonts have
    text = re.sub(r"(?<![\w-])-(?=[\w-])|(?<=\W-)-(?=\w)", r"\-", text)
    return rf"\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(man_page(), encoding="utf-8")
