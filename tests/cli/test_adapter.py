"""`arriero adapter` and adapters as models: listed, merged, exported, compared; `arriero model export` compares too."""

import json
from pathlib import Path

import pytest
import torch

from arriero.model.adapters import Adapters
from arriero.model.export import compare_models, export_model, logit_distance
from arriero.model.formats import gguf_export
from arriero.model.formats.peft import read_quantised, save_peft
from arriero.model.lora_config import LoraConfig
from arriero.model.quantised import quantise_model
from arriero.model.source import LoadedModel, load_merged, load_model


def _adapter(model: Path, folder: Path, seed: int, **config) -> Path:
    """An adapter with random weights, saved as training saves it."""
    loaded = load_model(str(model))
    adapters = Adapters.of(loaded.model)
    adapters.add("new", LoraConfig(**config), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for change in adapters.changes("new").values():
        change.b.data.normal_(0, 0.3, generator=generator)
    save_peft(loaded.model, "new", folder, base=str(model))
    loaded.tokenizer.save(folder)
    return folder


def _logits(source: Path) -> torch.Tensor:
    tokens = torch.arange(40)[None] % 250
    with torch.inference_mode():
        logits: torch.Tensor = load_model(str(source)).model.eval()(tokens)
    return logits


@pytest.fixture
def law(tiny_model: Path, tmp_path: Path) -> Path:
    return _adapter(tiny_model, tmp_path / "runs" / "law", 1)


@pytest.fixture
def tax(tiny_model: Path, tmp_path: Path) -> Path:
    return _adapter(tiny_model, tmp_path / "runs" / "tax", 2, rank=4, targets=("wq", "wv"), rslora=True)


def test_adapters_are_listed(run, law, tax):
    rows = json.loads(run("adapter", "list", law.parent, "--json").out)
    assert [(Path(row["adapter"]).name, row["rank"], row["kind"]) for row in rows] == [
        ("law", 8, "lora"),
        ("tax", 4, "rslora"),
    ]
    assert "q_proj v_proj" in run("adapter", "list", law.parent).out
    assert "no adapter below" in run("adapter", "list", law / "nothing").err


def test_a_folder_with_an_adapter_is_a_model(run, tiny_model, law):
    plain, adapted = load_model(str(tiny_model)), load_model(str(law))
    assert adapted.name.endswith("+law")
    assert logit_distance(plain.model, adapted.model) > 0.1
    merged = load_merged(str(law))
    assert merged.model.adapters.configs == {}
    assert logit_distance(adapted.model, merged.model) < 1e-5
    by_option = run("generate", "hi", "--model", tiny_model, "--adapter", law, "--max-tokens", "8").out
    assert by_option == run("generate", "hi", "--model", law, "--max-tokens", "8").out


def test_merged_models_answer_as_the_adapter_does(run, law, tmp_path):
    for name in ("merged", "merged.gguf"):
        assert run("adapter", "merge", tmp_path / name, law, "--store", "f32").code == 0
        torch.testing.assert_close(_logits(tmp_path / name), _logits(law), atol=1e-5, rtol=1e-5)


def test_several_are_merged_by_shares_or_become_one(run, tiny_model, law, tax, tmp_path):
    shares = ("--shares", "0.25", "--shares", "0.75")
    assert run("adapter", "merge", tmp_path / "both", law, tax, *shares, "--store", "f32").code == 0
    assert run("adapter", "merge", tmp_path / "one", law, tax, *shares, "--to", "adapter").code == 0
    torch.testing.assert_close(_logits(tmp_path / "both"), _logits(tmp_path / "one"), atol=1e-5, rtol=1e-5)
    assert run("adapter", "merge", tmp_path / "small", law, tax, *shares, "--to", "adapter", "--rank", "2").code == 0
    ranks = {row["adapter"]: row["rank"] for row in json.loads(run("adapter", "list", tmp_path, "--json").out)}
    assert ranks[str(tmp_path / "small")] == 2
    code, _, err = run("adapter", "merge", tmp_path / "x", law, tax, "--shares", "1")
    assert code == 2
    assert "expected one for each of 2 adapters, got 1" in err


def test_an_adapter_becomes_a_gguf_file_and_another_folder(run, law, tmp_path):
    assert run("adapter", "export", law, tmp_path / "law.gguf").code == 0
    assert (tmp_path / "law.gguf").read_bytes()[:4] == b"GGUF"
    assert run("adapter", "export", law, tmp_path / "copy").code == 0
    assert run("model", "export", law, tmp_path / "copy2", "--to", "peft").code == 0
    for name in ("copy", "copy2"):
        assert torch.equal(_logits(tmp_path / name), _logits(law))
    code, _, err = run("adapter", "export", law, tmp_path / "copy")
    assert code == 2
    assert "--force" in err


def test_dora_is_merged_but_has_no_gguf_adapter(run, tiny_model, tmp_path):
    dora = _adapter(tiny_model, tmp_path / "dora", 3, dora=True)
    code, _, err = run("adapter", "export", dora, tmp_path / "dora.gguf")
    assert code == 2
    assert "has DoRA" in err
    assert not (tmp_path / "dora.gguf").exists()
    assert run("adapter", "merge", tmp_path / "merged", dora, "--store", "f32").code == 0
    torch.testing.assert_close(_logits(tmp_path / "merged"), _logits(dora), atol=1e-5, rtol=1e-5)


def test_an_adapter_of_another_model_is_refused(run, law, tmp_path, tiny_model):
    other = load_model(str(tiny_model))
    other.model.init_weights(77)
    export_model(other, tmp_path / "other", "f32")
    code, _, err = run("generate", "hi", "--model", tmp_path / "other", "--adapter", law)
    assert code == 2
    assert "was made for" in err
    assert "their weights differ" in err


def test_comparison_in_the_terminal_and_as_a_page(run, tiny_model, law, tmp_path):
    rows = [{"prompt": f"{n}?", "completion": f"<b>{n}</b>"} for n in range(5)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    argv = ("adapter", "compare", tiny_model, law, "--prompts", "<i>hi</i>", "--max-tokens", "5")
    code, out, _ = run(*argv, "--data", tmp_path / "data.jsonl", "--out", tmp_path / "page.html")
    assert code == 0
    assert "# <i>hi</i>" in out
    assert out.count("nats a token") == 2
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;i&gt;hi&lt;/i&gt;" in page
    assert "<i>hi</i>" not in page
    models = json.loads(run(*argv, "--json").out)["models"]
    assert [len(model["answers"]) for model in models] == [1, 1]
    code, _, err = run("adapter", "compare", law)
    assert code == 2
    assert "expected two models or more" in err


def test_an_export_that_reads_back_differently_is_no_export(tiny_model, tmp_path, monkeypatch):
    from arriero.common.errors import ArrieroError

    loaded = load_model(str(tiny_model), dtype="float32")
    for layer in loaded.model.layers:
        layer.attention.wq.weight.data *= 50  # random weights attend to all alike, whatever the order of Q and K
    monkeypatch.setattr(gguf_export, "pairs_from_halves", lambda weight, heads: weight)  # Q and K keep the wrong order
    (tmp_path / "wrong.gguf").write_text("precious")
    with pytest.raises(ArrieroError, match="not written: read back, its logits differ"):
        export_model(loaded, tmp_path / "wrong.gguf", "f16")
    assert (tmp_path / "wrong.gguf").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["wrong.gguf"]


def test_an_export_with_another_template_is_no_export(tiny_model, tmp_path):
    from arriero.common.errors import ArrieroError

    before, after = (load_model(str(tiny_model)) for _ in range(2))
    after.tokenizer.use_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(ArrieroError, match="renders a chat as other tokens"):
        compare_models(before, after, 1.0, tmp_path)


def test_a_model_with_an_adapter_on_is_not_exported_without_it(tiny_model, law, tmp_path):
    from arriero.common.errors import ArrieroError

    loaded: LoadedModel = load_model(str(law))
    with pytest.raises(ArrieroError, match="merge it first"):
        export_model(loaded, tmp_path / "half")


def test_the_template_that_an_adapter_learnt_goes_with_it(run, tiny_model, law, tmp_path):
    taught = load_model(str(law)).tokenizer
    taught.use_chat_template("llama2")
    taught.save(law)
    run("adapter", "merge", tmp_path / "merged", law)
    run("adapter", "export", law, tmp_path / "copy")
    run("model", "export", law, tmp_path / "whole")
    for name in ("merged", "copy", "whole"):
        assert load_model(str(tmp_path / name)).tokenizer.chat_template.source == taught.chat_template.source


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_an_adapter_over_a_quantised_base_is_used_exported_and_merged_over_it(run, tiny_model, tmp_path, kind):
    live = load_model(str(tiny_model), dtype="float32")
    quantise_model(live.model, kind)
    adapters = Adapters.of(live.model)
    adapters.add("new", LoraConfig(), seed=1)
    for change in adapters.changes("new").values():
        change.b.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
    folder = tmp_path / "few-bits"
    save_peft(live.model, "new", folder, base=str(tiny_model), quantised=kind)
    assert logit_distance(live.model, load_model(str(folder)).model) == 0
    assert logit_distance(live.model, load_merged(str(tiny_model), folder).model) < 1e-5
    assert run("adapter", "export", folder, tmp_path / "copy").code == 0
    assert read_quantised(tmp_path / "copy") == kind
    assert run("model", "export", folder, tmp_path / "copy2", "--to", "peft").code == 0
    assert run("adapter", "merge", tmp_path / "merged", tmp_path / "copy2", "--store", "f32").code == 0
    assert logit_distance(live.model, load_model(str(tmp_path / "merged")).model) < 1e-5
