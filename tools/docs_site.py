"""What `mkdocs.yml` cannot say: reference pages made from the modules, and links that lead out of `docs/`.

In the repository a page links to a file beside it, as GitHub and an editor follow it. On the site a link to a module
leads to its reference page, and a link to any other file to a copy of it.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SOURCE = "src/arriero/"
_LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_config(config: Any) -> Any:
    """Add the reference to the pages' menu."""
    by_package: dict[str, list[str]] = {}
    for module in _modules():
        by_package.setdefault(module.split("/")[0] if "/" in module else "arriero", []).append(_reference(module))
    config.nav.append({"Reference": [{package: pages} for package, pages in by_package.items()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Make the reference's pages, and copies of the files that pages link to."""
    for module in _modules():
        name = f"arriero.{module.removesuffix('.py').replace('/', '.')}"
        text = (
            f"---\ntitle: {module}\n---\n\n# `{module}`\n\n::: {name}\n    options:\n      show_root_heading: false\n"
        )
        files.append(File.generated(config, _reference(module), content=text))
    for path in _linked(files):
        if path.suffix == ".md":
            files.append(File.generated(config, _copy(path), content=path.read_text(encoding="utf-8")))
        else:
            files.append(File.generated(config, _copy(path), content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Turn links that lead out of `docs/`."""
    own = page.file.src_uri
    place = own.removeprefix("files/") if own.startswith("files/") else f"docs/{own}"

    def turn(link: re.Match[str]) -> str:
        start, target, end = link.groups()
        path = _resolve(place, target)
        if path is None or (path.startswith("docs/") and place.startswith("docs/")) or not (ROOT / path).is_file():
            return link[0]
        if path.startswith("docs/"):
            wanted = path.removeprefix("docs/")
        elif path.startswith(SOURCE) and path.endswith(".py"):
            module = path.removeprefix(SOURCE)
            wanted = _reference(module)
            anchor = f"arriero.{module.removesuffix('.py').replace('/', '.')}.{end[1:-1]}"
            end = f"#{anchor})" if end != ")" else end
        else:
            wanted, end = _copy(ROOT / path), ")"
        return f"{start}{posixpath.relpath(wanted, posixpath.dirname(own) or '.')}{end}"

    return _LINK.sub(turn, markdown)


def _modules() -> list[str]:
    """Modules by their path in the package; no page for those that only say that there is a package."""
    folder = ROOT / SOURCE
    paths = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.py")))
    return [path for path in paths if not path.endswith(("__init__.py", "__main__.py"))]


def _reference(module: str) -> str:
    return f"reference/{module.removesuffix('.py')}.md"


def _copy(path: Path) -> str:
    """Where the site has a file of the repository: Markdown as a page, anything else as text."""
    name = path.relative_to(ROOT).as_posix()
    return f"files/{name}" if path.suffix == ".md" else f"files/{name}.txt"


def _linked(files: Files) -> list[Path]:
    """Files outside `docs/` and the package that pages link to, and those that these link to."""
    found: dict[Path, None] = {}
    waiting = [ROOT / "docs" / file.src_uri for file in files.documentation_pages() if file.generated_by is None]
    while waiting:
        page = waiting.pop()
        for _, target, _ in _LINK.findall(page.read_text(encoding="utf-8")):
            name = _resolve(page.relative_to(ROOT).as_posix(), target)
            path = ROOT / (name or "docs")
            if name and path.is_file() and not name.startswith(("docs/", SOURCE)) and path not in found:
                found[path] = None
                if path.suffix == ".md":
                    waiting.append(path)
    return list(found)


def _resolve(place: str, target: str) -> str | None:
    """The path in the repository that a link on the page at `place` has; None for other sites."""
    if re.match(r"[a-z]+:", target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
