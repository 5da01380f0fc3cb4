"""Sizes that keep the house readable, checked without exemptions: `python tools/check_sizes.py`.

A file has at most 400 lines (a test file 500), a function 60 (a Triton kernel 120), a dataclass 20 fields; and no file
is named after nothing in particular.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES, TEST_FILE_LINES = 400, 500
FUNCTION_LINES, KERNEL_LINES = 60, 120
DATACLASS_FIELDS = 20
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "base", "manager", "common_utils"}
FOLDERS = ("src", "tests", "benchmarks", "tools")


def find_faults(path: Path) -> Iterator[str]:
    """Yield one line for each size or name in `path` that is over its limit."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    limit = TEST_FILE_LINES if path.parts[0] == "tests" else FILE_LINES
    if lines > limit:
        yield f"{path}: {lines} lines, at most {limit}: split it"
    if path.stem in VAGUE_NAMES:
        yield f"{path}: name a file after what it holds"
    for node in ast.walk(ast.parse(text, filename=str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            longest = KERNEL_LINES if any("triton" in ast.unparse(d) for d in node.decorator_list) else FUNCTION_LINES
            if length > longest:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines, at most {longest}"
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            fields = sum(isinstance(child, ast.AnnAssign) for child in node.body)
            if fields > DATACLASS_FIELDS:
                yield f"{path}:{node.lineno}: {node.name} has {fields} fields, at most {DATACLASS_FIELDS}"


def main() -> int:
    """Print every fault; return 1 if there is one."""
    faults = [fault for folder in FOLDERS for path in sorted(Path(folder).rglob("*.py")) for fault in find_faults(path)]
    print("\n".join(faults) or "sizes: within bounds")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
