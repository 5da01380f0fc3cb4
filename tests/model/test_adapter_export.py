"""Adapters for other tools: by llama.cpp's arithmetic each kind's change is what it is here; chats are the same."""

from pathlib import Path

import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.model.adapter_export import export_gguf, export_peft
from arriero.model.adapters import Adapters
from arriero.model.formats.gguf_adapter import read_adapter_gguf
from arriero.model.lora import weight_of
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_model
from arriero.tokenizer.tokenizer import Tokenizer
from tests.train.tuning import write_base

KINDS = {
    "alpha": LoraConfig(rank=4, alpha=6.0),
    "rslora": LoraConfig(rank=4, alpha=6.0, rslora=True),
    "patterns": LoraConfig(rank=4, rank_pattern={"wq": 2}, alpha_pattern={"w2": 3.0}, rslora=True),
    "pissa": LoraConfig(rank=4, init="pissa"),
}


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_alpha_over_the_rank_times_b_a_is_each_matrix_s_change(tmp_path, config):
    loaded = load_model(str(write_base(tmp_path / "base")), device="cpu", dtype="float32")
    adapters = Adapters.of(loaded.model)
    adapters.add("one", config)
    for change in adapters.changes("one").values():
        change.b.data.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
    export_gguf(loaded, "one", tmp_path / "one.gguf")
    pairs, alpha = read_adapter_gguf(tmp_path / "one.gguf", loaded.model.config)
    assert pairs.keys() == adapters.changes("one").keys()
    for module, change in adapters.changes("one").items():
        a, b = pairs[module]
        ours = change.change(weight_of(loaded.model.get_submodule(module)).detach()).detach()
        torch.testing.assert_close(alpha / len(a) * b @ a, ours, atol=1e-5, rtol=1e-5, msg=module)


def test_a_folder_that_renders_a_chat_as_other_tokens_is_not_written(tmp_path, monkeypatch):
    loaded = load_model(str(write_base(tmp_path / "base")), device="cpu", dtype="float32")
    Adapters.of(loaded.model).add("one", KINDS["alpha"])
    save = Tokenizer.save

    def save_badly(words: Tokenizer, folder: Path) -> None:
        save(words, folder)
        (folder / "chat_template.jinja").write_text("{% for turn in messages %}{{ turn.content }}!{% endfor %}")

    monkeypatch.setattr(Tokenizer, "save", save_badly)
    with pytest.raises(ArrieroError, match="not written: read back, it renders a chat as other tokens"):
        export_peft(loaded, "one", tmp_path / "adapter", str(tmp_path / "base"))
    assert not (tmp_path / "adapter").exists()
