"""Training runs over HTTP, in progress and damaged; and what a name must not reach."""

import json
import os
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from arriero.serve.app import create_app
from arriero.serve.service import Service
from arriero.serve.settings import ServeSettings

START = {"kind": "start", "step": 0, "time": 1.0, "total_steps": 60, "model": {"dim": 8}, "n_params": 10}


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def client(root) -> TestClient:
    return TestClient(create_app(Service(ServeSettings(runs=root), {})), base_url="http://127.0.0.1:8080")


def step(number: int, **values) -> dict:
    return {"kind": "step", "step": number, "time": 1.0, "loss": 2 + 8 / number} | values


def write(root: Path, name: str, *rows: dict, start: dict = START) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    folder.joinpath("metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (start, *rows)))
    folder.joinpath("config.toml").write_text('model = "tiny"\n')
    return folder


def test_runs_are_listed_the_last_written_first(client, root):
    end = {"kind": "event", "step": 3, "time": 2.0, "event": "finished"}
    write(root, "done", *(step(n) for n in (1, 2, 3)), end)
    going = write(root, "going", step(1), step(2, loss=4.0), start=START | {"base": "x"})
    os.utime(going / "metrics.jsonl", (2**31, 2**31))
    first, second = client.get("/api/runs").json()
    assert first["name"] == "going"
    assert (first["kind"], first["step"], first["steps"], first["finished"]) == ("sft", 2, 60, False)
    assert first["loss"] == 7.0
    assert first["updated"] == "2038-01-19T03:14:08Z"
    assert (second["kind"], second["step"], second["finished"], second["state"]) == ("pretrain", 3, True, "finished")


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({}, "pretrain"),
        ({"base": "x", "method": "lora"}, "sft"),
        ({"base": "x", "judged_by": "helpfulness"}, "reward"),
        ({"base": "x", "prompts": 3}, "ppo"),
        ({"base": "x", "model": {"kind": "bert"}}, "retriever"),
        ({"base": "x", "rag": "sequence"}, "rag"),
    ],
)
def test_what_is_trained_is_told(client, root, facts, kind):
    write(root, "run", start=START | facts)
    assert client.get("/api/runs").json()[0]["kind"] == kind


def test_long_diaries_are_listed_by_their_ends(client, root):
    write(root, "long", *(step(n, more="x" * 200) for n in range(1, 2000)))
    (run,) = client.get("/api/runs").json()
    assert (run["kind"], run["step"], run["steps"]) == ("pretrain", 1999, 60)


def test_rows_come_since_the_last_ones(client, root):
    folder = write(root, "run", *(step(n) for n in range(1, 5)))
    told = client.get("/api/runs/run/metrics").json()
    assert [row["step"] for row in told["rows"]] == [0, 1, 2, 3, 4]
    again = client.get("/api/runs/run/metrics", params={"after": told["next"]}).json()
    assert again == {"rows": [], "next": told["next"], "restarted": False}
    with (folder / "metrics.jsonl").open("a") as diary:
        diary.write(json.dumps(step(5)) + "\n" + json.dumps(step(6))[:-9])
        diary.flush()
        more = client.get("/api/runs/run/metrics", params={"after": told["next"]}).json()
        assert [row["step"] for row in more["rows"]] == [5]
        diary.write(json.dumps(step(6))[-9:] + "\n")
    last = client.get("/api/runs/run/metrics", params={"after": more["next"]}).json()
    assert last["rows"] == [step(6)]


def test_a_diary_that_was_cut_is_told_from_its_start(client, root):
    folder = write(root, "run", *(step(n) for n in range(1, 50)))
    told = client.get("/api/runs/run/metrics").json()
    (folder / "metrics.jsonl").write_text(json.dumps(START) + "\n" + json.dumps(step(1)) + "\n")
    for after in (told["next"], 3, 2**63 - 1):
        again = client.get("/api/runs/run/metrics", params={"after": after}).json()
        assert [row["step"] for row in again["rows"]] == [0, 1]
        assert again["restarted"]


def test_damaged_lines_are_passed_over(client, root):
    folder = write(root, "run")
    lines = [
        b"\xff\xfe\n", b"[1]\n", b"null\n", b"{}\n", b'{"step": "1"}\n', b"[" * 100_000 + b"\n", b"\n",
        b'{"kind": "step", "step": 1, "loss": NaN, "a": 1e999, "b": -Infinity}\n',
        b'{"kind": "step", "step": 2, "loss": 3e38, "text": "\\ud800", "big": ' + b"9" * 400 + b"}\n",
        b'{"kind": "step", "step": 3, "loss": 1e308, "digits": ' + b"9" * 5000 + b"}\n", b'{"kind": "st',
    ]  # fmt: skip
    with (folder / "metrics.jsonl").open("ab") as diary:
        diary.writelines(lines)
    told = client.get("/api/runs/run/metrics").json()
    assert [row["step"] for row in told["rows"]] == [0, 1, 2]
    assert [told["rows"][1][name] for name in ("loss", "a", "b")] == [None] * 3
    assert client.get("/api/runs").json()[0]["step"] == 2
    assert client.get("/api/runs/run/report").status_code == 200


def test_one_answer_is_bounded(client, root, monkeypatch):
    monkeypatch.setattr("arriero.serve.runs._MOST_BYTES", 1000)
    write(root, "run", *(step(n) for n in range(1, 100)))
    steps, after = [], 0
    while rows := (told := client.get("/api/runs/run/metrics", params={"after": after}).json())["rows"]:
        assert len(rows) < 30
        steps += [row["step"] for row in rows]
        after = told["next"]
    assert steps == list(range(100))


def test_a_report_is_a_page_that_can_do_nothing(client, root):
    name = "<script>alert(1)<_script>"
    write(root, name, step(1, source_tokens={"<img src=x onerror=alert(1)>": 5}), step(2))
    answer = client.get(f"/api/runs/{name}/report")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'")
    assert "script-src" not in policy
    assert "<script>alert" not in answer.text
    assert "<img" not in answer.text


class TestNames:
    @pytest.mark.parametrize(
        "name", ["..", ".", "%2e%2e", "..%2fsecret", "%2fetc", "a%00b", "x" * 300, "nothing", "%ff"]
    )
    def test_what_is_no_run_does_not_exist(self, client, root, name):
        write(root.parent, "secret", step(1))
        for what in ("metrics", "report"):
            answer = client.get(f"/api/runs/{name}/{what}")
            assert answer.status_code == 404
            assert str(root) not in answer.text

    def test_links_that_lead_out_do_not_exist(self, client, root):
        outside = write(root.parent, "outside", step(1))
        (root / "linked").symlink_to(outside)
        write(root, "diary")
        (root / "diary" / "metrics.jsonl").unlink()
        (root / "diary" / "metrics.jsonl").symlink_to(outside / "metrics.jsonl")
        write(root, "config")
        (root / "config" / "config.toml").unlink()
        (root / "config" / "config.toml").symlink_to("/etc/passwd")
        write(root, "loop")
        (root / "loop" / "metrics.jsonl").unlink()
        (root / "loop" / "metrics.jsonl").symlink_to(root / "loop" / "metrics.jsonl")
        (root / "pipe").mkdir()
        os.mkfifo(root / "pipe" / "metrics.jsonl")
        write(root, ".hidden", step(1))
        (root / "file").write_text("x")
        assert client.get("/api/runs").json() == []
        for name in ("linked", "diary", "config", "loop", "pipe", ".hidden", "file"):
            for what in ("metrics", "report"):
                assert client.get(f"/api/runs/{name}/{what}").status_code == 404

    def test_a_link_within_is_followed(self, client, root):
        write(root, "one", step(1))
        (root / "latest").symlink_to(root / "one")
        assert {run["name"] for run in client.get("/api/runs").json()} == {"one", "latest"}

    def test_names_that_are_no_text_are_passed_over(self, client, root):
        write(root, "good", step(1))
        write(root, "bad", step(1)).rename(root / os.fsdecode(b"\xff"))
        assert [run["name"] for run in client.get("/api/runs").json()] == ["good"]


def test_a_folder_of_ten_thousand_is_listed_in_part(client, root):
    for number in range(10_000):
        (root / f"{number:05}").mkdir()
    for number in range(1_100):
        (root / f"{number:05}" / "metrics.jsonl").write_text(json.dumps(START) + "\n")
    assert len(client.get("/api/runs").json()) == 1000


def test_without_a_folder_there_are_no_runs(tmp_path):
    client = TestClient(create_app(Service(ServeSettings(runs=tmp_path / "none"), {})), base_url="http://localhost")
    assert client.get("/api/runs").json() == []
    assert client.get("/api/runs/x/metrics").status_code == 404
