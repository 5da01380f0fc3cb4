"""`arriero serve`: what it refuses before anything is loaded, what it serves, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from arriero.serve.server import listen, url_of
from arriero.serve.settings import ServeSettings


@pytest.fixture
def served(monkeypatch):
    """What `serve` would run: its services, closed again."""
    runs = []

    def run(service, listener, ready) -> None:
        ready()
        runs.append(service)
        service.close()

    monkeypatch.setattr("arriero.serve.server.run", run)
    return runs


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--host", "0.0.0.0"), "a token is required"),
        (("--host", "192.0.2.1", "--token", "x"), "no address of this machine"),
        (("--host", "no.such.host.invalid", "--token", "x"), "no address of this machine"),
        (("--port", "70000"), "between 0 (a free one) and 65535"),
        (("--token", "schlüssel"), "printable ASCII"),
        (("--max-batch", "0"), "max_batch must be above 0"),
        (("--kv-cache-gib", "0"), "kv_cache_gib must be above 0"),
        (("--kv-cache-gib", "1e9"), "kv_cache_gib 1e+09 is more than the"),
        (("--speculate", "-1"), "speculate must be 0 or above"),
        (("--weights", "int2"), "--weights"),
        (("--adapter", "loud"), "NAME"),
        (("--documents", "/no/such/folder"), "does not exist"),
    ],
)
def test_what_cannot_be_served_is_one_line(run, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("serve", "--no-open", "--port", "0", *argv)
    assert (code, out) == (2, "")
    assert message.replace("NAME", "KEY=VALUE") in err.splitlines()[-1]


def test_a_port_in_use_is_told_before_anything_is_loaded(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = run("serve", "--no-open", "--port", port, "--model", "no-such-model")
    assert (code, err.count("\n")) == (2, 1)
    assert f"port {port} is in use" in err


def test_a_missing_model_is_told(run):
    code, _, err = run("serve", "--no-open", "--port", "0", "--model", "no-such-model")
    assert code == 2
    assert "unknown model 'no-such-model'" in err


def test_documents_are_taken_in_first(run, served, tiny_model, tiny_encoder, tmp_path):
    notes = tmp_path / "my notes"
    notes.mkdir()
    (notes / "wool.txt").write_text("the llamas carry wool")
    more = ("--model", tiny_model, "--encoder", tiny_encoder, "--collections", tmp_path / "kept", "--no-open")
    code, out, err = run("serve", "--port", "0", "--documents", notes, *more)
    assert (code, list(served[0].collections)) == (0, ["my-notes"])
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+\n", out)
    assert "1 documents" in err
    code, _, _ = run("serve", "--port", "0", "--documents", tmp_path / "kept" / "my-notes", *more)
    assert (code, list(served[1].collections)) == (0, ["my-notes"])
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, err = run("serve", "--port", "0", "--documents", empty, *more)
    assert code == 2
    assert "no document that can be read" in err


def test_a_models_cache_is_as_large_as_is_said_and_bounds_its_context(run, served, tiny_model, tmp_path):
    where = ("--port", "0", "--no-open", "--model", tiny_model, "--collections", tmp_path)
    assert run("serve", *where).code == 0
    usual = served[0].models[served[0].default_model]
    assert (usual.engine.speculate, usual.context) == (0, usual.engine.context)
    page = 16 * usual.engine.token_bytes
    small = ("--kv-cache-gib", 2.5 * page / 2**30)
    assert run("serve", *where, *small, "--speculate", 4).code == 0
    live = served[1].models[served[1].default_model]
    assert (live.engine.speculate, live.context) == (4, 32)
    stats = live.stats()
    assert (stats.cache_room, stats.cache_bytes) == (32, 2 * page)
    code, _, err = run("serve", *where, "--kv-cache-gib", page / 2**31)
    assert (code, err.count("is too small: 16 tokens take")) == (2, 1)


def test_two_models_of_one_name_and_bad_adapters_are_refused(run, tiny_model, tmp_path):
    code, _, err = run("serve", "--no-open", "--port", "0", "--model", tiny_model, "--model", tiny_model)
    assert code == 2
    assert "two models are called" in err
    adapter = f"loud={tmp_path}"
    code, _, err = run("serve", "--no-open", "--port", "0", "--model", tiny_model, "--adapter", adapter)
    assert code == 2
    assert "is no adapter" in err


@pytest.mark.parametrize(("display", "opened"), [("", 0), (":0", 1)])
def test_the_page_is_opened_where_there_is_a_display(run, served, tiny_model, tmp_path, monkeypatch, display, opened):
    if sys.platform == "darwin":
        pytest.skip("macOS always has a display")
    calls: list[str] = []
    monkeypatch.setattr("webbrowser.open", calls.append)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert run("serve", "--port", "0", "--model", tiny_model, "--collections", tmp_path).code == 0
    assert len(calls) == opened


@pytest.mark.parametrize("stop", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_it_after_the_answers_that_run(tiny_model: Path, tmp_path: Path, stop):
    command = [sys.executable, "-m", "arriero", "serve", "--model", str(tiny_model), "--port", "0", "--no-open"]
    command += ["--patience-s", "60"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().strip()
        body = {"prompt": "x", "max_tokens": 200, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(stop)
            rest = [line for line in lines if line]
        assert process.wait(60) == 0
        assert rest[-1] == "data: [DONE]"
        assert "Traceback" not in process.stderr.read()


def test_addresses_are_written_as_browsers_take_them():
    with listen(ServeSettings(port=0)) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    with listen(ServeSettings(port=0, host="0.0.0.0", token="x")) as listener:
        assert url_of(listener) == f"http://localhost:{listener.getsockname()[1]}"
