"""`arriero sft`: from examples to an adapter or a model, with everything that is told on the way."""

import json
from pathlib import Path

import pytest

from arriero.model.source import load_model
from arriero.train.trained import load_trained

SHORT = ("--steps", "2", "--batch", "4", "--tokens", "128", "--eval-share", "0.25", "--samples", "hi")


def _write(path: Path, count: int = 12) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return _write(tmp_path / "my.jsonl")


def test_data_alone_is_enough_to_ask_for_a_run(run, tiny_model, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("sft", "--data", data, "--model", tiny_model, "--steps", "1")
    assert code == 0, err
    assert Path("runs/my/adapter/adapter_config.json").is_file()
    assert "arriero chat --model runs/my/adapter" in out


def test_the_first_example_and_the_counts_are_told_before_training(run, tiny_model, data, tmp_path):
    _, _, err = run("sft", tmp_path / "run", "--data", data, "--model", tiny_model, *SHORT)
    assert "format: messages (9 examples to train on)" in err
    assert "<|im_start|>assistant\nIt is " in err
    assert "of which supervised: " in err
    assert "held out              3" in err


def test_the_supervised_part_is_green(tiny_model, data):
    from arriero.cli.sft import _coloured
    from arriero.train.sft import prepare
    from arriero.train.sft_config import ExamplesConfig, SftConfig

    text = _coloured(prepare(SftConfig(model=str(tiny_model), examples=ExamplesConfig(data=(data,)))))
    green = [text.plain[span.start : span.end] for span in text.spans if span.style == "green"]
    assert green == [f"It is {text.plain.split('user')[1].split('?')[0].strip()}.<|im_end|>"]


def test_a_dry_run_tells_time_and_memory_and_trains_nothing(run, tiny_model, data, tmp_path):
    argv = ("sft", tmp_path / "run", "--data", data, "--model", tiny_model, *SHORT, "--dry-run")
    code, out, _ = run(*argv)
    assert code == 0
    assert "2 steps take about" in out
    assert "GiB" in out
    facts = json.loads(run(*argv, "--json").out)
    assert facts["census"]["examples"] == 9
    assert facts["estimate"]["seconds"] > 0
    assert facts["estimate"]["trained"] < facts["estimate"]["parameters"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_comes_out_is_a_model_source(run, tiny_model, data, tmp_path, method):
    argv = ("sft", tmp_path / "run", "--data", data, "--model", tiny_model, "--method", method, *SHORT, "--json")
    facts = json.loads(run(*argv).out)
    assert facts["end"] == "finished"
    assert load_model(facts["made"]).tokenizer.chat_template is not None
    assert run("generate", "hi", "--model", facts["made"], "--max-tokens", "4").code == 0
    assert load_trained(str(tmp_path / "run")).name.endswith("adapter" if method == "lora" else "model")
    assert run("report", tmp_path / "run").code == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "tokens with a loss" in page


def test_the_same_command_again_says_that_it_is_done(run, tiny_model, data, tmp_path):
    argv = ("sft", tmp_path / "run", "--data", data, "--model", tiny_model, *SHORT)
    run(*argv)
    before = (tmp_path / "run/adapter/adapter_model.safetensors").stat().st_mtime_ns
    code, out, _ = run(*argv)
    assert (code, out.splitlines()[0]) == (0, f"finished: {tmp_path / 'run' / 'adapter'}")
    assert (tmp_path / "run/adapter/adapter_model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("--targets", "w9"), "target 'w9' matches no module"),
        (("--lora.rank", "0"), "expected a rank of 1 or more"),
        (("--method", "full", "--quantise", "nf4"), "nf4 weights do not learn"),
        (("--tokens", "100000"), "within the model's context of 256"),
        (("--batch", "4", "--rows", "3"), "expected a divisor of the batch"),
        (("--eval-share", "1"), "expected a share from 0 up to 1"),
        (("--template", "chatmll"), "did you mean chatml"),
        (("--samples", "x" * 400), "samples: expected a prompt of 1 to 255 tokens"),
        (("--config", "lama2-sft"), "did you mean llama2-sft"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(run, tiny_model, data, tmp_path, argv, told):
    code, _, err = run("sft", tmp_path / "run", "--data", data, "--model", tiny_model, *argv)
    assert code == 2
    assert told in err.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_bad_row_is_named(run, tiny_model, data, tmp_path):
    with data.open("a") as file:
        file.write('\n{"message": []}')
    code, _, err = run("sft", tmp_path / "run", "--data", data, "--model", tiny_model)
    assert code == 2
    assert f"{data}, line 13: found the keys 'message', without 'messages'" in err


ROW = {"prompt": "q", "completion": "a"}
LONG = {"prompt": "q" * 300, "completion": "a" * 300}


@pytest.mark.parametrize(
    ("rows", "argv", "told"),
    [
        ([], (), "a.jsonl: no row in it"),
        ([ROW, ROW], (), "expected examples of two prompts or more"),
        ([ROW, {"prompt": "q", "completion": float("nan")}], (), "a.jsonl, line 2: found 'completion' as float"),
        ([ROW, ROW | {"completion": "\ud800"}], (), "a.jsonl, line 2: found a lone surrogate"),
        ([{"text": ""}], ("--eval-share", "0"), "a.jsonl, line 1: no token to learn"),
        (
            [LONG],
            ("--eval-share", "0"),
            "none of 1 examples ends within 256 tokens: raise --tokens, or give --too-long",
        ),
        ([LONG], ("--eval-share", "0", "--too-long", "truncate"), "none of 1 examples begins its answer within 256"),
        ([ROW, ROW, ROW, LONG], (), "none of 1 held-out examples ends within 256 tokens"),
        ([ROW, LONG], ("--eval-share", "0", "--too-long", "error"), "a.jsonl, line 2: 621 tokens, more than the 256"),
    ],
)
def test_examples_that_cannot_be_learnt_are_told_in_one_line(run, tiny_model, tmp_path, rows, argv, told):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    share = () if "--eval-share" in argv else ("--eval-share", "0.25")
    code, _, err = run(
        "sft", tmp_path / "run", "--data", file, "--model", tiny_model, "--tokens", "256", *argv, *share, "--dry-run"
    )
    assert code == 2
    assert told in err.strip().splitlines()[-1]


def test_a_template_s_file_must_be_text(run, tiny_model, data, tmp_path):
    (tmp_path / "a.jinja").write_bytes(b"\xff{{")
    code, _, err = run("sft", "--data", data, "--model", tiny_model, "--template", tmp_path / "a.jinja", "--dry-run")
    assert code == 2
    assert "template: expected a file of Jinja text in UTF-8" in err


def test_the_preset_has_llama_2s_settings(data):
    from arriero.cli.parser import parse
    from arriero.cli.sft import sft

    config = parse("arriero sft", sft, ["--config", "llama2-sft", "--data", str(data)])
    training, examples = config.training, config.examples
    assert (config.method, training.epochs, training.batch, examples.tokens, examples.pack) == (
        "full",
        2,
        64,
        4096,
        True,
    )
    assert (config.optim.lr, config.optim.weight_decay, config.schedule.schedule) == (2e-5, 0.1, "cosine")
    assert (examples.template, examples.answers) == ("llama2", "all")
