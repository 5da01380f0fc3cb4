"""`arriero plan`."""

import json
import re
import shlex

import pytest

from tests.documentation import parse_command


def test_llamas_65b_as_json(run):
    argv = ["llama-65b", "--count", "2048", "--tokens-per-second", "380", "--total-tokens", "1.4e12", "--json"]
    facts = json.loads(run("plan", *argv).out)
    assert facts["parameters"] == 65_285_660_672
    assert (round(facts["days"]), round(facts["tonnes"]), facts["fits"]) == (21, 173, True)
    assert facts["memory_bytes"]["total"] == pytest.approx(
        sum(bytes_ for name, bytes_ in facts["memory_bytes"].items() if name != "total")
    )


def test_a_table_for_people(run):
    code, out, err = run("plan", "llama-7b", "--count", "8")
    assert code == 0
    assert "It fits" in out
    assert "AdamW's two moments, fp32" in out
    assert "CO₂ equivalent" in out
    assert "an estimate" in err


def test_what_does_not_fit_is_told_with_what_would_help(run):
    code, out, _ = run("plan", "llama-7b", "--card", "rtx-4090", "--count", "8", "--rows", "4")
    assert code == 0
    assert "It does not fit" in out
    assert "--recompute full" in out


def test_a_folder_is_a_model_too(run, tiny_model):
    facts = json.loads(run("plan", tiny_model, "--card", "cpu-core", "--dtype", "float32", "--json").out)
    assert facts["fits"]
    assert facts["memory_bytes"]["gathered"] == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["llama-7c"], "unknown model 'llama-7c' (did you mean llama-7b?)"),
        (["llama-7b", "--card", "RTX-4080"], "unknown card 'RTX-4080' (did you mean rtx-4090?)"),
        (["llama-7b", "--count", "8", "--tensor", "3"], "count: expected as many devices as the layout has"),
        (["llama-7b", "--total-tokens", "10Q"], "total_tokens: expected a number above 0, such as 4e6, 4M or 100B"),
        (["llama-7b", "--quantise", "nf4"], "quantise: nf4 weights do not learn: expected --method lora beside it"),
        (["llama-7b", "--method", "lora"], "total_tokens: expected the tokens of all examples"),
        (["llama-7b", "--count", "0"], "count: expected 1 or more, got 0"),
    ],
)
def test_bad_input_is_one_line(run, argv, message):
    code, out, err = run("plan", *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_goal_becomes_days_and_the_line_that_starts_it(run):
    goal = ["--total-tokens", "100B", "--card", "h100", "--count", "8", "--rows", "4", "--batch-tokens", "4M"]
    facts = json.loads(run("plan", "llama-7b", *goal, "--json").out)
    assert (facts["total_tokens"], facts["batch_tokens"], round(facts["days"])) == (1e11, 4 * 2048 * 8 * 62, 15)
    assert facts["command"].startswith("torchrun --standalone --nproc-per-node 8 -m arriero pretrain ")
    config = config_of(facts["command"])
    assert (config.model, config.loop.accumulation) == ("llama-7b", 62)
    assert config.loop.steps * facts["batch_tokens"] == pytest.approx(1e11, rel=1e-4)


def test_the_line_has_the_settings_that_make_it_fit(run):
    setting = ["--card", "rtx-4090", "--count", "16", "--rows", "4", "--accumulation", "2", "--tensor", "2"]
    facts = json.loads(run("plan", "llama-7b", *setting, "--json").out)
    assert not facts["fits"]
    assert "--nnodes 2 --nproc-per-node 8" in facts["command"]
    config = config_of(facts["command"])
    assert config.parallel.tensor == 2
    assert config.parallel.sum_every
    assert run("plan", "llama-65b", "--card", "rtx-4090", "--json").out.endswith('"command": null}\n')


def test_an_adapter_is_planned_for_sft(run):
    argv = ["llama-7b", "--method", "lora", "--card", "rtx-4090", "--total-tokens", "20M"]
    plain, quantised = (json.loads(run("plan", *argv, *more, "--json").out) for more in ([], ["--quantise", "nf4"]))
    assert plain["learning"] == quantised["learning"] == 19_988_480
    assert (plain["fits"], quantised["fits"]) == (False, True)
    assert config_of(quantised["command"]).quantise == "nf4"
    assert plain["command"] is not None


def test_cores_are_threads_of_one_process(run):
    argv = ["tiny-15m", "--card", "cpu-core", "--count", "2", "--dtype", "float32", "--rows", "4", "--json"]
    facts = json.loads(run("plan", *argv).out)
    assert facts["command"].startswith("OMP_NUM_THREADS=2 arriero pretrain ")
    assert config_of(facts["command"]).data.rows == 8


def config_of(command):
    """What `arriero` makes of a line that the plan gives."""
    return parse_command(shlex.split(re.split(r"arriero (?=pretrain|sft)", command)[1]))
