"""`arriero generate`: chat and raw, streams, samples, log-probabilities, JSON, standard input."""

import json

import pytest

SHORT = ("--max-tokens", "8")


def test_an_answer_streams_to_standard_output(run, tiny_model):
    code, out, err = run("generate", "Hello", "--model", tiny_model, *SHORT)
    assert (code, err) == (0, "(ended at --max-tokens)\n")
    assert out.endswith("\n")


def test_streamed_and_whole_answers_are_equal(run, tiny_model):
    argv = ("generate", "Hello", "--model", tiny_model, *SHORT)
    assert run(*argv).out == run(*argv, "--no-stream").out


def test_json_tells_everything(run, tiny_model):
    argv = ("generate", "Hello", "--model", tiny_model, *SHORT, "--n", "2", "--temperature", "1", "--seed", "5")
    plain = json.loads(run(*argv, "--logprobs", "2", "--json").out)
    assert plain["model"] == str(tiny_model)
    first, second = plain["completions"]
    assert (first["seed"], second["seed"], first["finish_reason"], first["completion_tokens"]) == (5, 6, "length", 8)
    assert len(first["logprobs"]) == 8
    assert len(first["logprobs"][0]["top"]) == 2
    again = json.loads(run(*argv, "--json").out)
    assert [c["text"] for c in again["completions"]] == [c["text"] for c in plain["completions"]]


def test_samples_and_logprobs_for_people(run, tiny_model):
    argv = ("generate", "Hello", "--model", tiny_model, *SHORT, "--n", "2", "--temperature", "1", "--seed", "5")
    out = run(*argv, "--logprobs", "1").out
    assert "--- 1 of 2" in out
    assert "--- 2 of 2" in out
    assert out.count(" | ") == 16


def test_beams_tell_the_best_answers_of_a_search(run, tiny_model):
    argv = ("generate", "Hello", "--model", tiny_model, *SHORT, "--json")

    best, second = json.loads(run(*argv, "--beams", "4", "--n", "2").out)["completions"]
    assert best["text"] != second["text"]
    assert best["completion_tokens"] == 8
    shown = run("generate", "Hello", "--model", tiny_model, *SHORT, "--beams", "4").out
    assert shown.rstrip("\n") == best["text"].rstrip("\n")


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_an_answer_of_packed_weights(run, tiny_model, weights):
    result = run("generate", "Hello", "--weights", weights, "--model", tiny_model, "--max-tokens", "5", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["completions"][0]["completion_tokens"] == 5


def test_the_prompt_may_come_through_a_pipe(run, tiny_model):
    argv = ("--model", tiny_model, *SHORT)
    assert run("generate", *argv, stdin="Hello").out == run("generate", "Hello", *argv).out
    assert run("generate", "-", *argv, stdin="Hello").out == run("generate", "Hello", *argv).out


def test_raw_and_chat_prompts_differ_in_tokens(run, tiny_model):
    chat = json.loads(run("generate", "Hello", "--model", tiny_model, *SHORT, "--json").out)
    raw = json.loads(run("generate", "Hello", "--raw", "--model", tiny_model, *SHORT, "--json").out)
    assert raw["completions"][0]["prompt_tokens"] == 5
    assert chat["completions"][0]["prompt_tokens"] > 5


def test_a_system_message_is_read(run, tiny_model):
    tokens = [
        json.loads(run("generate", "Hello", *more, "--model", tiny_model, *SHORT, "--json").out)
        for more in ((), ("--system", "Be brief."))
    ]
    assert tokens[1]["completions"][0]["prompt_tokens"] > tokens[0]["completions"][0]["prompt_tokens"]


def test_a_stop_string_ends_the_answer(run, tiny_model):
    whole = json.loads(run("generate", "Hello", "--model", tiny_model, *SHORT, "--json").out)["completions"][0]["text"]
    stop = whole[2]
    cut = json.loads(run("generate", "Hello", "--model", tiny_model, *SHORT, "--stop", stop, "--json").out)
    assert cut["completions"][0]["text"] == whole[: whole.index(stop)]
    assert cut["completions"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("argv", "stdin", "message"),
    [
        ((), "", "the text is empty"),
        (("",), "", "the text is empty"),
        (("Hello", "--raw", "--system", "x"), "", "--system belongs to a chat"),
        (("x" * 300,), "", "tokens"),
        (("Hello", "--max-tokens", "1000"), "", "lower max_tokens"),
        (("\udcff",), "", "no valid UTF-8"),
        (("Hello", "--device", "tpu"), "", "device 'tpu'"),
        (("Hello", "--beams", "0"), "", "beams"),
        (("Hello", "--beams", "2", "--n", "3"), "", "expected --n (3) or more, got 2"),
        (("Hello", "--beams", "2", "--temperature", "1"), "", "takes --max-tokens, --stop-ids and --n alone"),
    ],
)
def test_bad_input_is_told_in_one_line(run, tiny_model, argv, stdin, message):
    code, out, err = run("generate", *argv, "--model", tiny_model, stdin=stdin)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("no-such-folder/model", "arriero model get no-such-folder/model"),
        ("missing.gguf", "no such file"),
        ("tiny-15m", "random weights"),
        (".", "is no model"),
    ],
)
def test_a_model_that_is_not_there_is_told_with_the_way_to_it(run, monkeypatch, tmp_path, model, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = run("generate", "Hello", "--model", model)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_a_missing_default_model_is_told_with_the_way_to_it(run, monkeypatch, tmp_path):
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path))
    err = run("generate", "Hello").err
    assert "run `arriero model get smollm2-135m-instruct`" in err


def test_the_default_model_is_the_one_of_the_model_floor():
    from arriero.model import source
    from arriero.model.choices import DEFAULT_MODEL

    assert DEFAULT_MODEL == source.DEFAULT_MODEL


@pytest.mark.weights
def test_the_real_model_answers(run, smollm2_gguf):
    out = run("generate", "What is the capital of France?", "--max-tokens", "20").out
    assert "Paris" in out


def test_compiling_for_the_first_time_is_told(run, tiny_model, monkeypatch):
    monkeypatch.setattr("arriero.kernels.native.build.will_compile", lambda: True)
    code, _, err = run("generate", "Hello", "--model", tiny_model, "--max-tokens", "2")
    assert (code, "compiling kernels for this processor" in err) == (0, True)
