"""Hub models: from the hub's own cache, and one line where there is no network; nothing here calls out."""

import subprocess
import sys

import pytest

from arriero.model.hub import is_hub_id

REVISION = "0" * 40


@pytest.mark.parametrize("source", ["HuggingFaceTB/SmolLM2-135M", "a/b", "meta-llama/Llama-2-7b-hf"])
def test_owner_and_name_are_a_hub_id(source):
    assert is_hub_id(source)


@pytest.mark.parametrize("source", ["a", "a/b/c", "./a/b", "/a/b", "../b", "a/b.gguf", "~/a", "a/", "a/b c", ".a/b"])
def test_paths_are_not(source):
    assert not is_hub_id(source)


def run(code, tmp_path, **environment):
    """Run code in a process whose hub cache is `tmp_path` and whose hub is a closed port."""
    setup = "import sys; from arriero.common.errors import ArrieroError; from arriero.model.hub import *\n"
    setup += f"try:\n    print({code})\nexcept ArrieroError as error:\n    print(type(error).__name__, error)"
    environment = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "PATH": ""} | environment
    done = subprocess.run([sys.executable, "-c", setup], capture_output=True, text=True, env=environment, timeout=120)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_an_unreachable_hub_is_one_line(tmp_path):
    answer = run("fetch_snapshot('a/b')", tmp_path)
    assert answer == "ArrieroError 'a/b' cannot be fetched: the hub cannot be reached, and it is not in the hub's cache"


def test_offline_is_respected(tmp_path):
    answer = run("fetch_snapshot('a/b')", tmp_path, HF_HUB_OFFLINE="1")
    assert answer == "ArrieroError 'a/b' cannot be fetched: HF_HUB_OFFLINE is set, and it is not in the hub's cache"
    assert run("cached_snapshot('a/b')", tmp_path) == "None"


def test_the_hubs_cache_is_read(tmp_path):
    repository = tmp_path / "hub" / "models--a--b"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    (snapshot / "config.json").write_text("{}")
    assert run("cached_snapshot('a/b')", tmp_path) == str(snapshot)
    answer = run("fetch_snapshot('a/b')", tmp_path, HF_HUB_OFFLINE="1")
    assert answer.startswith("ArrieroError 'a/b' holds no .safetensors weights")
    (snapshot / "model.safetensors").write_bytes(b"")
    assert run("fetch_snapshot('a/b')", tmp_path, HF_HUB_OFFLINE="1") == str(snapshot)
