"""Hostile and damaged adapters, and targets in the way: one line, exit code 2, and what was there stays as it was."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from arriero.common.errors import ArrieroError
from arriero.model.adapters import Adapters
from arriero.model.formats.peft import CONFIG, WEIGHTS, save_peft
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_model
from arriero.model.staging import staged

Q = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"


@pytest.fixture(scope="session")
def adapter(tiny_model, tmp_path_factory) -> Path:
    """A good adapter."""
    loaded = load_model(str(tiny_model))
    adapters = Adapters.of(loaded.model)
    adapters.add("new", LoraConfig(), seed=1)
    for change in adapters.changes("new").values():
        change.b.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("good") / "law"
    save_peft(loaded.model, "new", folder, base=str(tiny_model))
    loaded.tokenizer.save(folder)
    return folder


@pytest.fixture
def bad(adapter, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    shutil.copytree(adapter, tmp_path / "bad")
    return tmp_path / "bad"


def _set(folder: Path, **settings: object) -> None:
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(values | settings))


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _refused(outcome, message: str) -> None:
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert len(outcome.err) < 800
    assert message in outcome.err


SETTINGS = {
    "huge rank": ({"r": 10**9}, "expected a matrix of shape (1000000000, "),
    "infinite rank": ({"r": float("inf")}, "r: expected a whole number, got inf"),
    "half a rank": ({"r": 8.5}, "r: expected a whole number, got 8.5"),
    "text for a rank": ({"r": "8"}, "r: expected a number, got '8'"),
    "truth for a rank": ({"r": True}, "r: expected a number, got True"),
    "negative rank": ({"r": -1}, "rank: expected a rank of 1 or more, got -1"),
    "endless alpha": ({"lora_alpha": 10**400}, "lora_alpha: expected a number of a usual size"),
    "overflowing alpha": ({"lora_alpha": 1e300}, "is no finite number"),
    "nan alpha": ({"lora_alpha": float("nan")}, "alpha: expected a number above 0, got nan"),
    "nested alpha": ({"lora_alpha": {"a": [1]}}, "lora_alpha: expected a number, got {'a': [1]}"),
    "number for targets": ({"target_modules": 5}, "target_modules: expected names of modules, got 5"),
    "nested targets": ({"target_modules": [["q_proj"]]}, "target_modules: expected names of modules"),
    "number for whole": ({"modules_to_save": 5}, "modules_to_save: expected names of modules, got 5"),
    "text for a flag": ({"use_rslora": "no"}, "use_rslora: expected true or false, got 'no'"),
    "list of patterns": ({"rank_pattern": [1]}, "rank_pattern: expected an object"),
    "nan of a pattern": ({"alpha_pattern": {"q_proj": float("nan")}}, "q_proj: expected a number above 0, got nan"),
    "long kind": ({"peft_type": "x" * 100_000}, "expected peft_type LORA, got 'xxx"),
    "long setting": ({"bias": ["x" * 100_000]}, "bias = ['xxx"),
}


@pytest.mark.parametrize(("settings", "message"), SETTINGS.values(), ids=SETTINGS)
def test_settings_of_wrong_types_and_sizes_are_refused(run, bad, tmp_path, settings, message):
    _set(bad, **settings)
    _refused(run("adapter", "export", bad, tmp_path / "out"), message)
    _refused(run("generate", "hi", "--model", bad, "--max-tokens", "1"), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "([a-z._0-9]+)*X",
        "(.|.)" * 40 + "X",
        ".*" * 20 + "X",
        "a?" * 40,
        "(?:.*){9}X",
        "x" * 201 + "*",
        "[a]*" * 9,
    ],
)
@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_expressions_that_never_end_are_refused_before_they_run(run, bad, tmp_path, key, pattern):
    _set(bad, **{key: {pattern: 4}})
    _refused(run("adapter", "export", bad, tmp_path / "out"), "repeats or groups, and no repeated group")


@pytest.mark.parametrize(
    "pattern", ["q_proj", "model.layers.0.self_attn.q_proj", r"^model\.layers\.[0-9]+\..*_proj$", ".*0.*(q|v)_proj"]
)
def test_expressions_that_people_write_are_taken(run, bad, tmp_path, pattern):
    _set(bad, alpha_pattern={pattern: 4})
    assert run("adapter", "export", bad, tmp_path / "out").code == 0


def test_a_flood_of_patterns_is_refused(run, bad, tmp_path):
    _set(bad, alpha_pattern={f"a{i}": 1 for i in range(10_001)})
    _refused(run("adapter", "export", bad, tmp_path / "out"), "at most 10000 patterns")
    _set(bad, alpha_pattern={f"a{i}.*": 1 for i in range(17)})
    _refused(run("adapter", "export", bad, tmp_path / "out"), "at most 16 regular expressions, got 17")


CONFIGS = {
    "empty": b"",
    "list": b"[]",
    "cut": b'{"r": 8',
    "deep": b'{"a":' * 5000,
    "binary": b"\xff\xfe\x00",
    "zeros": bytes(100),
    "digits": b'{"r":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_is_none_is_refused_by_every_command(run, bad, tmp_path, content):
    (bad / CONFIG).write_bytes(content)
    for words in (("export", bad, tmp_path / "out"), ("merge", tmp_path / "out", bad), ("list", bad)):
        _refused(run("adapter", *words), CONFIG)


@pytest.mark.parametrize(
    "base",
    [
        "/etc/passwd",
        "/dev/null",
        "/nowhere",
        "owner/name",
        "..",
        "a\0b",
        "\ud800",
        "\x1b[31mred",
        "x" * 100_000,
        5,
        None,
        "",
    ],
    ids=lambda base: repr(base)[:12],
)
def test_bases_that_are_no_models_are_refused(run, bad, tmp_path, base):
    _set(bad, base_model_name_or_path=base)
    for words in (("adapter", "export", bad, tmp_path / "out"), ("generate", "hi", "--model", bad)):
        outcome = run(*words)
        assert outcome.code == 2
        assert len(outcome.err.splitlines()) == 1
        assert "\x1b" not in outcome.err


def test_adapters_that_go_round_in_circles_are_refused(run, bad, adapter, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(bad, other)
    _set(bad, base_model_name_or_path=str(other))
    _set(other, base_model_name_or_path=str(bad))
    for words in (
        ("adapter", "export", bad, tmp_path / "out"),
        ("adapter", "merge", tmp_path / "out", bad),
        ("model", "export", bad, tmp_path / "out"),
        ("generate", "hi", "--model", bad),
        ("generate", "hi", "--model", adapter, "--adapter", adapter),
        ("adapter", "merge", tmp_path / "out", adapter, "--model", adapter),
    ):
        _refused(run(*words), "which is an adapter itself")


TENSORS = {
    "integers": (lambda t: t.update({A: t[A].int()}), "holds torch.int32, expected floating point"),
    "nan": (lambda t: t[A].fill_(torch.nan), "numbers that are not finite"),
    "infinities": (lambda t: t[B].fill_(torch.inf), "numbers that are not finite"),
    "beyond fp32": (lambda t: t.update({A: t[A].double().fill_(1e300)}), "numbers that are not finite"),
    "empty": (lambda t: t.update({A: torch.empty(0, 32)}), "expected a matrix of shape (8, 32), got (0, 32)"),
    "scalar": (lambda t: t.update({A: torch.tensor(1.0)}), "expected a matrix of shape (8, 32), got ()"),
    "half": (lambda t: t.pop(B), "has only one of its two matrices"),
    "norm": (lambda t: t.update({"base_model.model.model.norm.weight": torch.ones(32)}), "is a norm"),
    "both": (lambda t: t.update({f"{Q}.weight": torch.ones(32, 32)}), "by LoRA and trained whole at once"),
    "no tensor": (lambda t: t.clear(), "no tensor at all"),
    "long name": (lambda t: t.update({"k" * 100_000: torch.ones(1)}), "no module of"),
    "many names": (lambda t: t.update({f"k{i}": torch.zeros(0) for i in range(20_000)}), "and 19997 more"),
    "odd name": (lambda t: t.update({"a\x1b[31m\nb": torch.ones(1)}), "no module of"),
}


@pytest.mark.parametrize(("damage", "message"), TENSORS.values(), ids=TENSORS)
def test_odd_tensors_are_refused(run, bad, tmp_path, damage, message):
    tensors = load_file(bad / WEIGHTS)
    damage(tensors)
    save_file(tensors, bad / WEIGHTS)
    outcome = run("adapter", "merge", tmp_path / "out", bad)
    _refused(outcome, message)
    assert "\x1b" not in outcome.err
    assert not (tmp_path / "out").exists()


FILES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "a byte short": lambda data: data[:-1],
    "a byte long": lambda data: data + b"x",
    "huge header": lambda data: b"\xff" * 8 + data[8:],
    "names twice": lambda data: data.replace(b"layers.1.", b"layers.0."),
    "text": lambda data: b"hello world, this is text",
}


@pytest.mark.parametrize("damage", FILES.values(), ids=FILES)
def test_damaged_weights_are_refused(run, bad, tmp_path, damage):
    (bad / WEIGHTS).write_bytes(damage((bad / WEIGHTS).read_bytes()))
    _refused(run("adapter", "export", bad, tmp_path / "out.gguf"), WEIGHTS)
    assert not (tmp_path / "out.gguf").exists()


def test_a_sketch_without_end_is_refused(run, bad, tmp_path):
    save_file(load_file(bad / WEIGHTS), bad / WEIGHTS, metadata={"base_sketch": "[" * 100_000})
    _refused(run("adapter", "export", bad, tmp_path / "out"), "the sketch of its base is damaged")


@pytest.mark.parametrize("share", ["nan", "inf", "1e300"])
def test_shares_that_make_no_model_leave_nothing(run, adapter, tmp_path, share):
    for to in ("model", "adapter"):
        outcome = run("adapter", "merge", tmp_path / "out", adapter, f"--shares={share}", "--to", to)
        assert outcome.code == 2
        assert "Traceback" not in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_ranks_out_of_bounds(run, adapter, tmp_path):
    for rank in ("0", "-1", "x"):
        assert run("adapter", "merge", tmp_path / "out", adapter, f"--rank={rank}", "--to", "adapter").code == 2
    assert run("adapter", "merge", tmp_path / "out", adapter, "--rank", "100000", "--to", "adapter").code == 0
    _refused(run("adapter", "merge", tmp_path / "x.gguf", adapter, "--to", "adapter"), "writes a folder")


EXPORTS = ("adapter", "model")


@pytest.mark.parametrize("kind", EXPORTS)
def test_what_is_in_the_way_stays(run, adapter, tmp_path, kind):
    notes, photos, empty = tmp_path / "notes.txt", tmp_path / "photos", tmp_path / "x.gguf"
    notes.write_text("mine")
    photos.mkdir()
    (photos / "config.json").write_text("{}")
    (photos / "llama.jpg").write_text("mine")
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    before = _snapshot(tmp_path)
    for target in (notes, photos, empty):
        _refused(run(kind, "export", adapter, target), "give --force")
        outcome = run(kind, "export", adapter, target, "--force")
        assert outcome.code == 2
        assert "replace" in outcome.err
    _refused(run(kind, "export", adapter, notes / "below"), "Not a directory")
    _refused(run(kind, "export", adapter, tmp_path / ("n" * 255)), "File name too long")
    assert _snapshot(tmp_path) == before
    os.mkfifo(tmp_path / "pipe")
    assert run(kind, "export", adapter, tmp_path / "pipe", "--force").code == 2
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.parametrize("name", ["out", "out.gguf", "é\u202e 🦙", "a\nb"])
def test_force_replaces_a_model_and_leaves_nothing_beside_it(run, adapter, tmp_path, kind, name):
    for force in ((), ("--force",)):
        assert run(kind, "export", adapter, tmp_path / name, *force).code == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.parametrize("name", ["out", "out.gguf"])
def test_a_full_disk_leaves_the_model_that_was_there(run, adapter, tmp_path, kind, name):
    assert run(kind, "export", adapter, tmp_path / name).code == 0
    before = _snapshot(tmp_path)
    old, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # Python ignores SIGXFSZ: a write fails with EFBIG
    try:
        outcome = run(kind, "export", adapter, tmp_path / name, "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (old, hard))
    _refused(outcome, "cannot be written")
    assert _snapshot(tmp_path) == before


KILLED = """
import sys, time
from pathlib import Path
from arriero.model.staging import staged
with staged(Path(sys.argv[1])) as path:
    path.mkdir()
    (path / "half").write_text("x")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_export_is_repeated_and_a_second_one_is_refused(run, adapter, tmp_path):
    target = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", KILLED, target], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        _refused(run("adapter", "export", adapter, target), f"another process (id {writer.pid})")
        writer.send_signal(signal.SIGKILL)
    assert run("adapter", "export", adapter, target).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_exchange_took_away_comes_back(tmp_path):
    target, aside = tmp_path / "out", tmp_path / ".out.new"
    (aside / ".replaced").mkdir(parents=True)
    (aside / ".replaced" / "config.json").write_text("old")
    with pytest.raises(ArrieroError, match="no luck"), staged(target) as path:
        path.mkdir()
        raise ArrieroError("no luck")
    assert _snapshot(tmp_path) == {"out/config.json": b"old"}


def test_a_comparison_is_refused_before_it_takes_its_time(run, adapter, tmp_path):
    _refused(run("adapter", "compare", adapter, adapter, "--out", tmp_path), "expected a file, such as")
