"""A checkpoint becomes a Hugging Face folder with the same logits, or nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import arriero.train.export as module
from arriero.common.errors import ArrieroError, FormatError
from arriero.model.config import LlamaConfig
from arriero.model.export import save_with_tokenizer
from arriero.model.formats.hf import load_hf
from arriero.model.transformer import Llama
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.checkpoint import Checkpoints
from arriero.train.export import export_hugging_face
from arriero.train.optimizer import build_optimizer
from arriero.train.optimizer_config import OptimizerConfig
from tests.train.ranks import tiny_config
from tests.train.shard_folders import byte_tokenizer


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def config(request: pytest.FixtureRequest) -> LlamaConfig:
    return tiny_config(tied=request.param, vocab_size=258)


@pytest.fixture
def model(config: LlamaConfig, tmp_path: Path) -> Llama:
    """A model of which there is a checkpoint in `tmp_path`, with a tokenizer."""
    model = Llama(config).init_weights(3)
    Checkpoints(tmp_path, asynchronous=False).save(5, model, build_optimizer(model, OptimizerConfig()), {"step": 5})
    (tmp_path / "tokenizer").mkdir()
    byte_tokenizer().save(tmp_path / "tokenizer")
    return model


def export(tmp_path: Path, config: LlamaConfig, **options: Any) -> Path:
    out = tmp_path / "exported"
    export_hugging_face(tmp_path / "step-00000005", config, tmp_path / "tokenizer", out, **options)
    return out


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_folder_has_the_logits_of_the_checkpoint(
    model: Llama, config: LlamaConfig, tmp_path: Path, dtype: torch.dtype
) -> None:
    folder = export(tmp_path, config, dtype=dtype)
    tokens = torch.arange(30)[None]
    assert torch.equal(load_hf(folder, dtype=dtype)(tokens), model.to(dtype)(tokens))
    assert (folder / "tokenizer.json").is_file()


@torch.no_grad()
def test_transformers_reads_the_folder(model: Llama, config: LlamaConfig, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export(tmp_path, config))
    tokens = torch.arange(30)[None]
    assert torch.allclose(theirs(tokens).logits, model(tokens), atol=1e-5)


def test_a_folder_whose_logits_differ_is_not_written(
    model: Llama, config: LlamaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_badly(model: Llama, words: Tokenizer, folder: Path, **options: Any) -> None:
        save_with_tokenizer(model, words, folder, **options)
        file = folder / "model.safetensors"
        tensors = load_file(file)
        tensors["model.norm.weight"] *= 1.01
        save_file(tensors, file)

    monkeypatch.setattr(module, "save_with_tokenizer", save_badly)
    with pytest.raises(ArrieroError, match="exported: not written: read back, its logits differ by up to"):
        export(tmp_path, config)
    assert not (tmp_path / "exported").exists()


def test_a_folder_that_renders_a_chat_as_other_tokens_is_not_written(
    model: Llama, config: LlamaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_badly(model: Llama, words: Tokenizer, folder: Path, **options: Any) -> None:
        save_with_tokenizer(model, words, folder, **options)
        (folder / "chat_template.jinja").write_text("{% for turn in messages %}{{ turn.content }}!{% endfor %}")

    monkeypatch.setattr(module, "save_with_tokenizer", save_badly)
    with pytest.raises(ArrieroError, match="exported: not written: read back, it renders a chat as other tokens"):
        export(tmp_path, config)
    assert not (tmp_path / "exported").exists()


def test_what_is_there_is_not_replaced(model: Llama, config: LlamaConfig, tmp_path: Path) -> None:
    (tmp_path / "exported").mkdir()
    with pytest.raises(ArrieroError, match="exists already"):
        export(tmp_path, config)


def test_a_damaged_checkpoint_is_named(model: Llama, config: LlamaConfig, tmp_path: Path) -> None:
    next((tmp_path / "step-00000005").glob("shard-*")).unlink()
    with pytest.raises(FormatError, match=r"shard-00001-model-00001-of-00001\.safetensors: missing"):
        export(tmp_path, config)
    assert not (tmp_path / "exported").exists()
