"""Writing GGUF: it reads back the same, here, in the gguf package and in transformers; files are whole or absent."""

import gguf
import pytest
import torch

from arriero.common.errors import ArrieroError, FormatError
from arriero.common.gguf_header import read_header
from arriero.model.config import LlamaConfig, RopeScaling
from arriero.model.formats.gguf import load_gguf
from arriero.model.formats.gguf_export import save_gguf
from arriero.tokenizer.load import load_tokenizer

TEXTS = ["hello the inner\n", " \t 12345 Grüße 北京 👍", "<|im_end|> is text", ""]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_every_variant_comes_back_with_the_same_logits(tmp_path, variant, make_model, tiny_tokenizer, tokens, kind):
    if variant.rope_scaling is not None and variant.rope_scaling.kind == "dynamic":
        pytest.skip("GGUF cannot express dynamic scaling")
    config = LlamaConfig(**(vars(variant) | {"vocab_size": 300}))
    model = make_model(config)
    if kind == "f16":
        model = model.half().float()  # so that storing as F16 loses nothing
    save_gguf(model, tiny_tokenizer, tmp_path / "m.gguf", kind=kind)
    again = load_gguf(tmp_path / "m.gguf")
    if config.rope_scaling is None or config.rope_scaling.kind == "linear":
        assert again.config == config
        assert torch.equal(again(tokens), model(tokens))
    torch.testing.assert_close(again(tokens), model(tokens), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_q8_0_is_near_and_small(tmp_path, gguf_tiny, make_model, tiny_tokenizer, tokens):
    model = make_model(gguf_tiny)
    save_gguf(model, tiny_tokenizer, tmp_path / "m.gguf", kind="q8_0")
    again = load_gguf(tmp_path / "m.gguf")
    for (name, weight), other in zip(model.named_parameters(), again.parameters(), strict=True):
        step = weight.abs().max() / 127 if weight.dim() == 2 else 0.0
        assert (weight - other).abs().max() <= step, name
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert read_header(tmp_path / "m.gguf").metadata["general.quantization_version"] == 2


def test_matrices_that_do_not_divide_into_blocks_are_f16(tmp_path, make_model, tiny_tokenizer):
    config = LlamaConfig.of(vocab_size=300, dim=48, n_layers=1, n_heads=4, hidden_dim=64)
    save_gguf(make_model(config), tiny_tokenizer, tmp_path / "m.gguf", kind="q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert (kinds["blk.0.attn_q.weight"], kinds["blk.0.ffn_down.weight"]) == ("F16", "Q8_0")
    assert load_gguf(tmp_path / "m.gguf").config == config


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{}, {"n_kv_heads": 1, "head_dim": 32}, {"tied_embeddings": True}],
    ids=["grouped", "multi-query-wide", "tied"],
)
def test_transformers_reads_the_same_logits(tmp_path, make_model, tiny_tokenizer, tokens, options):
    pytest.importorskip("accelerate", reason="transformers reads GGUF only with accelerate installed")
    from transformers import AutoModelForCausalLM

    shape = {"vocab_size": 300, "dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 96}
    model = make_model(LlamaConfig.of(**(shape | options)))
    save_gguf(model, tiny_tokenizer, tmp_path / "m.gguf", kind="f32")
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    torch.testing.assert_close(model(tokens), oracle(tokens).logits, atol=1e-4, rtol=1e-4)


def test_the_tokenizer_comes_back(tmp_path, gguf_tiny, make_model, tiny_tokenizer):
    save_gguf(make_model(gguf_tiny), tiny_tokenizer, tmp_path / "m.gguf", kind="f32")
    again = load_tokenizer(tmp_path / "m.gguf")
    chat = [{"role": "user", "content": "hello <|im_end|>"}]
    assert [again.encode(text) for text in TEXTS] == [tiny_tokenizer.encode(text) for text in TEXTS]
    assert again.encode_chat(chat) == tiny_tokenizer.encode_chat(chat)
    assert (again.bos_id, again.eos_id, again.add_bos) == (1, 2, True)
    metadata = read_header(tmp_path / "m.gguf").metadata
    assert metadata["tokenizer.ggml.pre"] == "smollm"
    assert len(metadata["tokenizer.ggml.tokens"]) == len(metadata["tokenizer.ggml.token_type"]) == 300


@torch.no_grad()
@pytest.mark.weights
def test_smollm2_comes_back(tmp_path, smollm2_gguf):
    model, tokenizer = load_gguf(smollm2_gguf), load_tokenizer(smollm2_gguf)
    save_gguf(model, tokenizer, tmp_path / "m.gguf", kind="f32")
    again = load_gguf(tmp_path / "m.gguf")
    tokens = torch.tensor([tokenizer.encode("The capital of France is Paris, 1234.")])
    assert torch.equal(again(tokens), model(tokens))
    before, after = read_header(smollm2_gguf).metadata, read_header(tmp_path / "m.gguf").metadata
    same = ("tokens", "merges", "token_type", "model", "pre", "bos_token_id", "eos_token_id", "add_bos_token")
    assert {key: after[f"tokenizer.ggml.{key}"] == before[f"tokenizer.ggml.{key}"] for key in same} == dict.fromkeys(
        same, True
    )
    assert after["tokenizer.chat_template"] == before["tokenizer.chat_template"]
    assert not [key for key in after if key.startswith("llama.") and key in before and after[key] != before[key]]


def test_a_model_that_cannot_be_expressed_leaves_no_file(tmp_path, gguf_tiny, make_model, tiny_tokenizer):
    dynamic = RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=16)
    too_large, broken = make_model(gguf_tiny), make_model(gguf_tiny)
    too_large.layers[0].feed_forward.w1.weight.data[3, 3] = 1e5
    broken.norm.weight.data[3] = float("nan")
    small = LlamaConfig(**(vars(gguf_tiny) | {"vocab_size": 100}))
    cases = [
        (make_model(LlamaConfig(**(vars(gguf_tiny) | {"rope_scaling": dynamic}))), "f16", "dynamic rotary scaling"),
        (too_large, "f16", "'blk.0.ffn_gate.weight' holds values beyond 65504"),
        (broken, "f32", "'output_norm.weight' holds NaN"),
        (make_model(small), "f32", "265 tokens, the model's embedding only 100 rows"),
        (make_model(gguf_tiny), "q3", "cannot write GGUF as 'q3': expected f32, f16, q8_0"),
    ]
    for model, kind, message in cases:
        with pytest.raises(ArrieroError, match=message):
            save_gguf(model, tiny_tokenizer, tmp_path / "m.gguf", kind=kind)
        assert not list(tmp_path.iterdir())


def test_an_unnamed_pre_tokenizer_is_refused(tmp_path, gguf_tiny, make_model, tiny_tokenizer):
    from tokenizers import pre_tokenizers

    tiny_tokenizer.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(FormatError, match="pre-tokenizer has no name in GGUF"):
        save_gguf(make_model(gguf_tiny), tiny_tokenizer, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_an_earlier_file_is_replaced(tmp_path, gguf_tiny, make_model, tiny_tokenizer):
    for seed in (0, 1):
        save_gguf(make_model(gguf_tiny, seed), tiny_tokenizer, tmp_path / "m.gguf", name=f"try {seed}")
    assert read_header(tmp_path / "m.gguf").metadata["general.name"] == "try 1"
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
