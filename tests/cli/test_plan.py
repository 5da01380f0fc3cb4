"""`arriero plan`."""

import json

import pytest


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
        (["llama-7b", "--count", "0"], "count: expected 1 or more, got 0"),
    ],
)
def test_bad_input_is_one_line(run, argv, message):
    code, out, err = run("plan", *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
