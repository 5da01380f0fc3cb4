"""benchmarks/run.py: what it runs, keeps and writes; no benchmark is run here, but small scripts of their names."""

import ast
import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import peers
import pytest
import run
from catalogue import AREAS, BENCHMARKS, BY_NAME
from charts import draw_charts
from figures import Figure, beside
from results import (
    BEGIN,
    END,
    Result,
    Run,
    anchors,
    explanation,
    read_result,
    read_results,
    write_result,
    write_summary,
)

from arriero.common.errors import ArrieroError
from tests.documentation import headings

FOLDER = Path(__file__).parents[2] / "benchmarks"
SAYS = """
import json, pathlib, sys
here = pathlib.Path(__file__).with_suffix(".asked")
here.write_text((here.read_text() if here.exists() else "") + " ".join(sys.argv[1:]) + "\\n")
print("on its way", file=sys.stderr)
print(json.dumps({{"targets": [{{"what": "{what}", "value": 0.5, "least": 1.0, "met": False}}]}}))
sys.exit(1)
"""
FAILS = "raise SystemExit('there was no room left')"


@pytest.fixture
def settings(tmp_path):
    """A small house: scripts of three benchmarks, data, a page with hand-written sections."""
    for name in ("index", "rag_ingest", "packed"):
        (tmp_path / f"{name}.py").write_text(SAYS.format(what=f"{name}, speed"))
    data = tmp_path / "data"
    data.mkdir()
    for name in ("tinyshakespeare.txt", "xquad.en.json"):
        (data / name).touch()
    sections = "\n\n".join(f"## {one.section.removesuffix(': ')}: by hand\n\nSaid of {one.name}." for one in BENCHMARKS)
    (tmp_path / "RESULTS.md").write_text(f"# Head\n\n{BEGIN}\nold\n{END}\n\n{sections}\n")
    return run.Settings(
        mode="full",
        threads=1,
        data=data,
        peers=tmp_path / "peers",
        scripts=tmp_path,
        home=tmp_path,
        names=("index", "rag_ingest"),
    )


@pytest.fixture
def no_peer(monkeypatch):
    def refuse(name, folder):
        raise peers.PeerMissing(f"{name}: no compiler")

    monkeypatch.setattr(run, "prepare", refuse)


def options_of(script: Path) -> set[str]:
    """What a script's parser knows."""
    calls = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Call)]
    adds = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]
    return {str(call.args[0].value) for call in adds if isinstance(call.args[0], ast.Constant)}


@pytest.mark.parametrize("one", BENCHMARKS, ids=lambda one: one.name)
def test_the_catalogue_names_scripts_and_options_that_they_take(one):
    known = options_of(FOLDER / f"{one.name}.py")
    asked = {word for text in (one.full, one.quick or "") for word in text.split() if word.startswith("--")}
    asked |= {"--json", *([one.peer_option] if one.peer_option else []), *(["--threads"] if one.threads else [])}
    assert asked <= known
    assert ("--threads" in known) == one.threads or one.name in ("tinyshakespeare",)
    assert one.area in AREAS
    assert not one.peer or one.peer in peers.PEERS


def test_every_script_beside_run_is_in_the_catalogue_or_serves_another():
    serving = {"catalogue", "charts", "figures", "kneser_ney", "peers", "results", "run", "serve_llama", "serve_sides"}
    assert {path.stem for path in FOLDER.glob("*.py")} == set(BY_NAME) | serving | {"vectors"}


def test_every_benchmark_has_a_section_and_its_link_leads_there():
    known = headings(FOLDER / "RESULTS.md")
    assert set(anchors((FOLDER / "RESULTS.md").read_text()).values()) <= set(known)


def test_the_committed_page_and_charts_are_made_of_the_committed_results(tmp_path):
    page = tmp_path / "RESULTS.md"
    page.write_text((FOLDER / "RESULTS.md").read_text())
    results = read_results(FOLDER / "results")
    write_summary(page, results, draw_charts(tmp_path / "charts", results))
    assert page.read_text() == (FOLDER / "RESULTS.md").read_text()


def test_every_missed_target_is_explained():
    for name, result in read_results(FOLDER / "results").items():
        for figure, made in ((figure, one) for one in result.runs for figure in one.figures if figure.met is False):
            assert explanation(BY_NAME[name], figure, made), f"{name}: {figure.what}"


def test_a_missed_target_is_measured_and_its_run_kept(settings):
    assert run.run_all(settings, again=False) == []
    (kept,) = read_result(settings.file_of("index")).runs
    assert kept.figures == (Figure(what="index, speed", value=0.5, least=1.0),)
    assert kept.command == "OMP_NUM_THREADS=1 python benchmarks/index.py --sizes 20000 100000 200000 --json"
    assert "1 threads" in kept.machine
    assert "faiss-cpu" in kept.versions
    assert kept.mode == "full"


def test_a_failing_benchmark_is_told_of_and_the_others_go_on(settings, capsys):
    (settings.scripts / "index.py").write_text(FAILS)
    (failed,) = run.run_all(settings, again=False)
    assert "it ended with 1: there was no room left" in failed
    assert read_result(settings.file_of("rag_ingest")).runs
    assert "there was no room left" in read_result(settings.file_of("index")).why
    assert "[2 of 2] rag_ingest: about 4 min" in capsys.readouterr().err


def test_what_failed_leaves_an_earlier_result_as_it_is(settings):
    run.run_all(settings, again=False)
    before = settings.file_of("index").read_text()
    (settings.scripts / "index.py").write_text(FAILS)
    assert run.run_all(settings, again=True)
    assert settings.file_of("index").read_text() == before


def test_the_same_command_goes_on_where_it_was_stopped(settings):
    (settings.scripts / "rag_ingest.py").write_text(FAILS)
    run.run_all(settings, again=False)
    (settings.scripts / "rag_ingest.py").write_text(SAYS.format(what="speed"))
    assert run.run_all(settings, again=False) == []
    assert len((settings.scripts / "index.asked").read_text().splitlines()) == 1
    run.run_all(settings, again=False)  # nothing is left over, so all are run
    assert len((settings.scripts / "index.asked").read_text().splitlines()) == 2


def test_what_a_benchmark_kept_to_go_on_from_is_gone_when_it_is_done(settings):
    folder = run.keep_of(BY_NAME["index"], settings)
    folder.mkdir(parents=True)
    assert run.run_all(settings, again=False) == []
    assert not folder.exists()


def test_other_benchmarks_or_another_mode_begin_anew(settings):
    run.write_done(settings, ["index"])
    assert run.read_done(settings) == ["index"]
    assert run.read_done(dataclasses.replace(settings, mode="quick")) == []
    assert run.read_done(dataclasses.replace(settings, names=("index",))) == []


def test_missing_data_is_told_and_left_out(settings):
    (settings.data / "xquad.en.json").unlink()
    (failed,) = run.run_all(dataclasses.replace(settings, names=("packed",)), again=False)
    assert failed.endswith("data has no xquad.en.json")


def test_without_its_peer_a_script_measures_what_it_can_and_the_rest_stays(settings, no_peer):
    earlier = Run(mode="recorded", command="", date="2026-01-01", commit="", machine="", figures=(
        beside("packed ÷ peer", 1.0, 2.0, "peer", "MB"), Figure(what="packed, speed", value=9.0)))  # fmt: skip
    write_result(settings.file_of("packed"), Result(runs=(earlier,)))
    assert run.run_all(dataclasses.replace(settings, names=("packed",)), again=False) == [
        "packed: llama.cpp: no compiler"
    ]
    now = read_result(settings.file_of("packed"))
    assert [[one.what for one in each.figures] for each in now.runs] == [["packed, speed"], ["packed ÷ peer"]]
    assert now.why == "llama.cpp: no compiler"
    assert "--peer-python" not in (settings.scripts / "packed.asked").read_text()


def test_a_script_that_needs_its_peer_is_not_run_without_it(settings, no_peer):
    (settings.data / "demonstrations.jsonl.gz").touch()
    assert run.run_all(dataclasses.replace(settings, names=("sft",)), again=False) == ["sft: TRL: no compiler"]
    run.write(settings)
    assert "not measured: TRL: no compiler" in (settings.home / "RESULTS.md").read_text()


def test_a_quick_run_leaves_out_what_would_say_nothing(settings):
    run.run_all(dataclasses.replace(settings, mode="quick", names=("ghost", "index")), again=False)
    assert not settings.file_of("ghost").exists()
    assert (settings.scripts / "index.asked").read_text() == "--sizes 20000 --json\n"


def test_a_quick_run_stands_beside_what_counts_more(settings):
    page, recorded = settings.home / "RESULTS.md", Figure(what="index, speed", value=2.0, least=1.0)
    earlier = Run(mode="recorded", command="", date="2026-01-01", commit="", machine="", figures=(recorded,))
    write_result(settings.file_of("index"), Result(runs=(earlier,)))
    for _ in range(2):
        run.run_all(dataclasses.replace(settings, mode="quick", names=("index",)), again=False)
    kept = read_result(settings.file_of("index"))
    assert [one.mode for one in kept.runs] == ["quick", "recorded"]
    assert kept.counted["index, speed"] == (recorded, earlier)
    run.write(settings)
    assert "Of 4 targets 1 are met, 0 missed" in page.read_text()
    assert "a quick run on a busy machine" in page.read_text()
    run.run_all(dataclasses.replace(settings, names=("index",)), again=False)
    assert [one.mode for one in read_result(settings.file_of("index")).runs] == ["full"]


def test_the_summary_changes_nothing_outside_its_marks(settings):
    page = settings.home / "RESULTS.md"
    before = page.read_text()
    run.run_all(settings, again=False)
    run.write(settings)
    run.write(settings)
    after = page.read_text()
    assert after.partition(BEGIN)[0] == before.partition(BEGIN)[0]
    assert after.partition(END)[2] == before.partition(END)[2]
    assert "old" not in after
    assert "[index, speed][index] | 0.5 | – | – | ≥ 1 | **no**: see its section" in after
    assert "\n[index]: #index-by-hand\n" in after
    assert "Of 5 targets 0 are met, 2 missed and 3 not measured" in after


def test_a_page_that_can_not_be_written_stays_whole(settings, monkeypatch):
    page = settings.home / "RESULTS.md"
    before = page.read_text()
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write_summary(page, read_results(settings.results), {})
    assert page.read_text() == before
    assert not list(settings.home.glob("*.part"))


def test_a_page_without_marks_and_a_foreign_file_are_refused(settings):
    (settings.home / "RESULTS.md").write_text("# Head\n")
    with pytest.raises(ArrieroError, match="summary"):
        run.write(settings)
    settings.results.mkdir(exist_ok=True)
    settings.file_of("index").write_text('{"runs": [{"mode": "full"}]}')
    with pytest.raises(ArrieroError, match=r"index\.json: expected what"):
        run.write(settings)


def test_a_chart_has_each_ratio_and_the_colours_of_light_and_dark(tmp_path):
    figures = (beside("speed ÷ peer", 3.0, 2.0, "peer", "x", least=2.0), Figure(what="KL", value=3.0, most=10.0))
    one = Run(mode="full", command="", date="", commit="", machine="", figures=figures)
    results = {name: Result() for name in BY_NAME} | {"sft": Result(runs=(one,))}
    assert draw_charts(tmp_path, results) == {"fine-tuning": "speed ÷ peer 1.50"}
    text = (tmp_path / "fine-tuning.svg").read_text()
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in text
    assert ">1.50<" in text
    assert "KL" not in text


def test_an_environment_is_built_once_for_its_pins(tmp_path, monkeypatch):
    (tmp_path / "trl" / "bin").mkdir(parents=True)
    (tmp_path / "trl" / "bin" / "python").touch()
    built = []
    monkeypatch.setattr(peers, "_pip", lambda name, python, home, words: built.append(words))
    monkeypatch.setattr(peers, "_versions", lambda peer, python, path: {"trl": "1.16.0"})
    for _ in range(2):
        ready = peers.prepare("TRL", tmp_path)
    assert ready.python == tmp_path / "trl" / "bin" / "python"
    assert len(built) == 1
    assert {"trl==1.16.0"} <= set(built[0])
    assert any(re.fullmatch(r"torch==[\d.]+", word) for word in built[0])
    stamp = tmp_path / "trl" / peers.STAMP
    stamp.write_text(json.dumps({"pins": ["trl==1.0.0"], "options": []}))
    peers.prepare("TRL", tmp_path)
    assert len(built) == 2


def test_what_can_not_be_built_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    with pytest.raises(peers.PeerMissing, match="no C\\+\\+ compiler"):
        peers.prepare("llama.cpp", tmp_path)
    monkeypatch.setitem(peers.PEERS, "none", peers.Peer(folder="none", packages=("./absent==1",), told=(), beside=True))
    with pytest.raises(peers.PeerMissing, match=r"none could not be installed: ERROR.*pip\.log"):
        peers.prepare("none", tmp_path)


def test_bad_options_are_one_line(capsys):
    for words in (["--only", "poetry"], ["--threads", "0"]):
        with pytest.raises(SystemExit, match="2"):
            run.main(words)
    assert "poetry" in capsys.readouterr().err
    assert run.main(["--list", "--only", "corpus", "retrieval.py"]) == 0
    assert "corpus" in capsys.readouterr().out


def test_an_interrupted_run_says_how_it_goes_on(monkeypatch, tmp_path, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_one", interrupted)
    monkeypatch.setattr(run, "HERE", tmp_path)
    assert run.main(["--only", "index.py", "--again", "--peers", str(tmp_path)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
