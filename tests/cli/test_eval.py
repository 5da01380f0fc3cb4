"""`arriero eval`: sources in a table or as JSON, tasks of lm-eval, and bad input in one line."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.train.shard_folders import byte_tokenizer


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two files, one longer than the tiny model's context of 256."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "long.txt").write_text("An arriero drives llamas. " * 20)
    (folder / "short.txt").write_text("Wool and salt.")
    return folder


def shards_of(run, tokenizer: Path, texts: Path, out: Path) -> Path:
    outcome = run("tokenize", texts, "--tokenizer", tokenizer, "--out", out, "--workers", "1")
    assert outcome.code == 0, outcome.err
    return out


def test_each_source_has_a_row_and_all_together_one(run, tiny_model: Path, texts: Path, tmp_path: Path) -> None:
    shards = shards_of(run, tiny_model, texts, tmp_path / "shards")
    outcome = run("eval", tiny_model, "--shards", f"held={shards}", "--text", f"notes={texts / 'short.txt'}")
    assert outcome.code == 0, outcome.err
    header, *rows = [line.split() for line in outcome.out.splitlines()]
    assert header == ["source", "documents", "tokens", "bytes", "loss", "perplexity", "bits/byte"]
    assert [row[:4] for row in rows] == [
        ["held", "2", "534", "532"],
        ["notes", "1", "14", "13"],
        ["total", "3", "548", "545"],
    ]
    assert "Evaluating held" in outcome.err


def test_json_is_for_scripts_and_text_is_what_its_shards_are(
    run, tiny_model: Path, texts: Path, tmp_path: Path
) -> None:
    shards = shards_of(run, tiny_model, texts, tmp_path / "text")
    rows = []
    for option in (("--shards", shards), ("--text", texts)):
        outcome = run("eval", tiny_model, *option, "--stride", "64", "--json")
        assert outcome.code == 0, outcome.err
        facts = json.loads(outcome.out)
        assert facts["model"] == tiny_model.name
        rows += facts["sources"]
    assert rows[0] == rows[1]
    assert rows[0]["loss"] == pytest.approx(rows[0]["nats"] / rows[0]["tokens"])
    assert rows[0]["perplexity"] == pytest.approx(math.exp(rows[0]["loss"]))
    assert rows[0]["bits_per_byte"] == pytest.approx(rows[0]["nats"] / math.log(2) / rows[0]["bytes"])
    limited = run("eval", tiny_model, "--text", texts, "--limit", "1", "--no-eos", "--bos", "--json")
    (row,) = json.loads(limited.out)["sources"]
    assert (row["documents"], row["tokens"], row["bytes"]) == (1, 520, 520)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "nothing to evaluate on: give --shards, --text or --tasks"),
        (("--text", "nowhere.txt"), "no such file or folder: nowhere.txt"),
        (("--shards", "nowhere"), "nowhere holds no token shards"),
        (("--text", "EMPTY"), "source 'text' is empty"),
        (("--text", "TEXTS", "--context", "257"), "context: expected 1 to the model's 256 tokens, got 257"),
        (("--text", "TEXTS", "--stride", "0"), "stride: expected 1 to the context of 256, got 0"),
        (("--text", "TEXTS", "--batch-tokens", "0"), "batch_tokens: expected at least 1, got 0"),
        (("--text", "TEXTS", "--limit", "0"), "limit: expected at least 1, got 0"),
        (("--text", "x=TEXTS", "--shards", "x=SHARDS"), "two sources have the name 'x'"),
        (("--shards", "OTHER"), "vocabulary mismatch"),
    ],
)
def test_bad_input_is_one_line(
    run, tiny_model: Path, texts: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("")
    places = {"TEXTS": texts, "EMPTY": tmp_path / "empty.txt"}
    if any("SHARDS" in option for option in options):
        places["SHARDS"] = shards_of(run, tiny_model, texts, tmp_path / "shards")
    if "OTHER" in options:
        byte_tokenizer().save(tmp_path / "tokenizer")
        places["OTHER"] = shards_of(run, tmp_path / "tokenizer", texts, tmp_path / "other")
    given = list(options)
    for name, path in places.items():
        given = [option.replace(name, str(path)) for option in given]
    outcome = run("eval", tiny_model, *given)
    assert outcome.code == 2, outcome.out
    assert message in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err


def test_damaged_weights_and_models_without_words_are_one_line(
    run, tiny_model: Path, texts: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    outcome = run("eval", broken, "--text", texts)
    assert outcome.code == 2
    assert "its weights are damaged" in outcome.err.splitlines()[-1]
    outcome = run("eval", "tiny-15m", "--text", texts)
    assert outcome.code == 2
    assert "has random weights and no tokenizer" in outcome.err


def test_a_gguf_file_is_as_good_as_a_folder(run, tiny_model: Path, texts: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    assert run("model", "export", tiny_model, file).code == 0
    losses = [
        json.loads(run("eval", m, "--text", texts, "--json").out)["sources"][0]["nats"] for m in (tiny_model, file)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_packed_weights_are_compared_with_full_ones(run, tiny_model: Path, texts: Path, weights: str) -> None:
    sources = ("--text", f"long={texts / 'long.txt'}", "--text", f"short={texts / 'short.txt'}", "--weights", weights)
    outcome = run("eval", tiny_model, *sources)
    assert outcome.code == 0, outcome.err
    header, *rows = [line.split() for line in outcome.out.splitlines()]
    assert header == ["source", "tokens", "perplexity", weights, "ratio", "KL", "same", "token"]
    assert [row[:2] for row in rows] == [["long", "520"], ["short", "14"], ["total", "534"]]
    assert f"in memory: full 0.3 MB, {weights} 0.1 MB" in " ".join(outcome.err.split())
    facts = json.loads(run("eval", tiny_model, *sources, "--json").out)
    full = json.loads(run("eval", tiny_model, *sources[:-2], "--json").out)
    assert facts["weights"] == weights
    assert facts["memory"][weights] < facts["memory"]["full"]
    for with_packed, alone in zip(facts["sources"], full["sources"], strict=True):
        assert {key: with_packed[key] for key in alone} == alone
        drift = with_packed["drift"]
        assert drift["perplexity_ratio"] == pytest.approx(with_packed["packed"]["perplexity"] / alone["perplexity"])
        assert drift["perplexity_ratio"] == pytest.approx(1, abs=0.01)
        assert 0 < drift["mean_kl"] < 0.001
        assert 0.5 < drift["agreement"] <= 1


def test_tasks_without_lm_eval_name_the_extra(run, tiny_model: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as the command does, and taken back after the test
    outcome = run("eval", tiny_model, "--tasks", "quiz")
    assert outcome.code == 2
    assert "pip install 'arriero[eval]'" in outcome.err


@pytest.mark.filterwarnings("ignore")  # lm-eval and what it brings warn of each other
def test_tasks_run_with_a_task_file_of_ones_own(run, tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("lm_eval")
    rows = [{"question": "Wool?", "choices": ["yes", "no"], "answer": 0}] * 3
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "quiz.yaml").write_text(
        f"""
task: local_quiz
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path / "quiz.jsonl"}}}, cache_dir: {tmp_path / "cache"}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
    )
    command = ("eval", tiny_model, "--tasks", "local_quiz", "--include-path", tmp_path)
    outcome = run(*command, "--limit", "2", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out.splitlines()[-1])["tasks"]["local_quiz"]["acc,none"] in (0.0, 1.0)
    asked = run(*command, "--chat")
    assert asked.code == 0, asked.err
    assert "|local_quiz|" in asked.out
    unknown = run("eval", tiny_model, "--tasks", "no_such_task", "--include-path", tmp_path)
    assert unknown.code == 2
    assert "lm-eval has no task 'no_such_task'" in unknown.err
