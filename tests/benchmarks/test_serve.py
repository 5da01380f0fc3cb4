"""The arithmetic of benchmarks/serve.py."""

import pytest

from benchmarks import serve


def test_a_rate_counts_the_prompt_or_what_follows_the_first_token_or_whole_answers():
    times = {"first": 1.0, "whole": 5.0, "first_cpu": 2.0, "whole_cpu": 10.0}
    assert serve.CASES["prefill"].rate(times, "") == 1024 / 5
    assert serve.CASES["decode"].rate(times, "") == 127 / 4
    assert serve.CASES["parallel"].rate(times, "") == 16 * 128 / 5
    assert serve.CASES["decode"].rate(times, "_cpu") == 127 / 8


def test_a_ratio_is_the_median_of_the_rounds():
    rates = {serve.INT4: [10.0, 40.0, 30.0], serve.LLAMA: [10.0, 10.0, 10.0], serve.TRANSFORMERS: [5.0, 5.0, 5.0]}
    found = serve.compare(rates)
    assert found["medians"][serve.INT4] == 30
    assert found["ratios"][serve.INT4][serve.LLAMA] == {"median": 3, "least": 1, "most": 4}
    assert found["ratios"][serve.INT4][serve.TRANSFORMERS]["median"] == 6
    assert set(found["ratios"]) == {serve.INT4}


def test_a_target_is_judged_where_both_sides_were_measured():
    decode = serve.compare({serve.INT4: [9.0], serve.TRANSFORMERS: [2.0]})
    perplexity = {serve.INT4: 10.2, serve.FULL: 10.0, serve.LLAMA: 10.0}
    verdicts = serve.judge({"decode": decode, "perplexity": perplexity, "prefix": {serve.FULL: {"share": 1.0}}})
    assert [(one.wanted, one.met) for one in verdicts] == [("≥ 4", True), ("≤ 1.01", False)]


def test_only_known_cases_and_sides_are_measured(capsys):
    assert serve.parse(["--cases", "decode,lookup", "--sides", "llama.cpp"]).cases == ["decode", "lookup"]
    with pytest.raises(SystemExit):
        serve.parse(["--cases", "decoding"])
    assert "decoding" in capsys.readouterr().err


def test_llama_takes_part_where_it_can(tmp_path):
    assert "--llama-python" in serve.missing_llama(None, tmp_path / "model.gguf")
    assert "GGUF" in serve.missing_llama("python", tmp_path / "folder")
