"""What the pages say is so: `arriero` takes their commands, their links lead somewhere, their code is ours."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError
from tests.documentation import (
    PAGES,
    ROOT,
    blocks,
    commands,
    headings,
    holds,
    links,
    mentions,
    name_of,
    parse_command,
    symbols,
    typed,
)

DOCS = ROOT / "docs"
CHINESE = [page for page in PAGES if page.is_relative_to(DOCS / "zh")]
PAPERS = [page for page in PAGES if page.parent.name == "papers" and page.stem != "index"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_arriero_takes(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # nothing that a command would read is here, but for the settings that it names
    text = page.read_text(encoding="utf-8")
    for words in [*(given := commands(text)), *mentions(text)]:
        for option, path in pairwise(words):
            if option == "--config" and path.endswith(".toml"):
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_text(_settings(words))
        try:
            parse_command(words)
        except (ArrieroError, LookupError, SystemExit) as error:
            printed = isinstance(error, SystemExit) and not error.code  # --help, --print-config
            if not printed and (words in given or "` needs " not in str(error)):
                pytest.fail(f"arriero {shlex.join(words)}: {error!r}")


def _settings(words: list[str]) -> str:
    """What a pretraining needs, which the settings in the text leave out."""
    return 'data.shards = ["shards"]\nloop.steps = 1\n' if words[0] == "pretrain" else ""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_its_anchor_to_something_in_it(page: Path):
    for path, part in links(page):
        assert path.exists(), f"{name_of(page)} links to {path}"
        if part and path.suffix == ".py":
            assert part in symbols(path), f"{name_of(page)} links to {part} in {path}"
        elif part and path.suffix == ".md":
            assert part in headings(path), f"{name_of(page)} links to the heading #{part} of {path}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_is_named_is_there(page: Path):
    text = page.read_text(encoding="utf-8")
    packages = "|".join(sorted(path.name for path in (ROOT / "src" / "arriero").iterdir() if path.is_dir()))
    for name in re.findall(rf"`((?:{packages})/[\w/]*(?:\.py|/))`", text):
        assert (ROOT / "src" / "arriero" / name).exists(), f"{name_of(page)} names {name}"
    for name in re.findall(r"`((?:tests|benchmarks|configs|deploy|tools)/[\w/.]+\.\w+)", text):
        assert (ROOT / name).exists(), f"{name_of(page)} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_that_is_shown_with_a_files_name_is_in_that_file(page: Path):
    for title, shown in blocks(page.read_text(encoding="utf-8"), "python"):
        if named := re.search(r'title="([^"]+)"', title):
            source = (ROOT / named[1]).read_text(encoding="utf-8")
            assert holds(source, shown), f"{name_of(page)} shows other lines of {named[1]} than it has:\n{shown}"


@pytest.mark.parametrize("page", PAPERS, ids=name_of)
def test_a_papers_page_goes_from_formulas_to_code_and_tests(page: Path):
    shown = [title for title, _ in blocks(page.read_text(encoding="utf-8"), "python") if "title=" in title]
    proofs = [part for path, part in links(page) if part.startswith("test_")]
    assert len(shown) >= 4
    assert len(proofs) >= 4


def test_the_sites_menu_has_every_page():
    menu = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]))
    assert menu == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")}


def test_two_pieces_of_a_file_are_found_in_their_order_only():
    source = "def f():\n    a = 1\n    b = 2\n    return a\n"
    assert holds(source, "a = 1\n…\nreturn a\n")
    assert not holds(source, "return a\n…\na = 1\n")
    assert not holds(source, "a = 2\n")
    assert not holds(source, "a = 1\nreturn a\n")


def test_the_chinese_readme_has_the_commands_and_parts_of_the_english_one():
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert typed(chinese) == typed(english)
    assert re.findall(r"^```(\w+)", chinese, re.MULTILINE) == re.findall(r"^```(\w+)", english, re.MULTILINE)
    assert len(re.findall("^## ", chinese, re.MULTILINE)) == len(re.findall("^## ", english, re.MULTILINE))
    assert len(re.findall(r"^- \*\*", chinese, re.MULTILINE)) == len(re.findall(r"^- \*\*", english, re.MULTILINE))


@pytest.mark.parametrize("page", CHINESE, ids=name_of)
def test_a_chinese_page_has_the_commands_and_parts_of_its_english_twin(page: Path):
    twin = DOCS / page.relative_to(DOCS / "zh")
    chinese, english = (path.read_text(encoding="utf-8") for path in (page, twin))
    wanted = typed(english)
    assert [line for line in typed(chinese) if line in wanted] == wanted  # beside them is what Chinese text needs
    for part in ("## ", "```(?:text|json|python|toml|yaml)", r"!\["):
        ours, theirs = (len(re.findall(f"^{part}", text, re.MULTILINE)) for text in (chinese, english))
        assert ours == theirs, f"{name_of(page)} has {ours} of {part}, {name_of(twin)} has {theirs}"


def test_every_page_of_the_road_but_the_clusters_has_a_chinese_twin():
    road = {path for path, _ in links(DOCS / "tutorials" / "index.md")}
    assert len(road) == 7
    assert all((DOCS / "zh" / path.relative_to(DOCS)).exists() for path in road)
