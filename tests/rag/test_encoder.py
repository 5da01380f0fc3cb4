"""Encoders: the vectors that the folder's makers meant, whatever else is encoded with a text."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arriero.common.errors import FormatError, NotFoundError
from arriero.rag.encoder import load_encoder
from arriero.rag.tower import pool

transformers = pytest.importorskip("transformers")

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "the", "llama", "carries", "wool", "over", "mountains", "query", ":", "passage", *"abcdefgh"]
TEXTS = ["the llama carries wool", "a b", "over mountains the llama carries a b c d e f g h " * 4, "", "b a"]


def write_bert(folder: Path, *, seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **shape, **settings)
    model = transformers.BertModel(config).eval()
    for parameter in model.parameters():  # as drawn they are near 0, and every text gives nearly one vector
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return model


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    write_bert(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def sentence(tmp_path: Path) -> Callable[..., Path]:
    """Builds a sentence-transformers folder."""

    def build(pooling: dict[str, Any], *modules: tuple[str, str], prompts: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / f"sentence{len(list(tmp_path.iterdir()))}"
        write_bert(folder)
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *modules]
        listed = [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for n, (path, kind) in enumerate(kinds)
        ]
        write_json(folder / "modules.json", listed)
        write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **pooling})
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": False})
        write_json(folder / "config_sentence_transformers.json", prompts or {})
        return folder

    return build


def last_hidden(folder: Path, text: str, model: Any = None) -> np.ndarray:
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    model = model or transformers.BertModel.from_pretrained(folder)
    with torch.inference_mode():
        return model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()


def test_a_plain_folder_gives_the_first_tokens_vector(bert: Path) -> None:
    encoder = load_encoder(bert)
    vector = encoder.encode_passages(["the llama"])[0]
    np.testing.assert_allclose(vector, last_hidden(bert, "the llama")[0], atol=1e-6)
    assert (vector.dtype, encoder.dim, encoder.name) == (np.float32, 16, "bert")


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode_mean_tokens": True},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_sqrt_len_tokens": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode": "weightedmean"},
        {"pooling_mode": ["lasttoken", "cls"]},
    ],
)
@pytest.mark.parametrize("normalise", [True, False])
def test_equals_sentence_transformers(sentence, pooling: dict, normalise: bool) -> None:
    peer = pytest.importorskip("sentence_transformers")
    folder = sentence(pooling, *([("2_Normalize", "Normalize")] if normalise else []))
    expected = peer.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(load_encoder(folder).encode_passages(TEXTS), expected, atol=2e-6)


def test_prompts_of_queries_and_passages_are_separate(sentence) -> None:
    prompts = {"prompts": {"query": "query : ", "passage": "passage : "}, "default_prompt_name": None}
    encoder = load_encoder(sentence({"pooling_mode": "mean"}, prompts=prompts))
    bare = load_encoder(sentence({"pooling_mode": "mean"}))
    assert encoder.fingerprint != bare.fingerprint
    np.testing.assert_allclose(encoder.encode_queries(["a b"]), bare.encode_queries(["query : a b"]), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_passages(["a b"]), bare.encode_passages(["passage : a b"]), atol=1e-6)


def test_a_prompt_outside_the_pooling(sentence) -> None:
    peer = pytest.importorskip("sentence_transformers")
    prompts = {"prompts": {"query": "query : ", "document": ""}, "default_prompt_name": None}
    folder = sentence({"pooling_mode": "mean", "include_prompt": False}, prompts=prompts)
    expected = peer.SentenceTransformer(str(folder), device="cpu").encode_query(["a b", "the llama"])
    np.testing.assert_allclose(load_encoder(folder).encode_queries(["a b", "the llama"]), expected, atol=2e-6)


def test_a_dense_module(sentence) -> None:
    from safetensors.torch import save_file

    folder = sentence({"pooling_mode": "mean"}, ("2_Dense", "Dense"))
    config = {
        "in_features": 16,
        "out_features": 6,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }
    write_json(folder / "2_Dense" / "config.json", config)
    weight, bias = torch.randn(6, 16), torch.randn(6)
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    encoder = load_encoder(folder)
    pooled = last_hidden(folder, "the llama").mean(axis=0)
    np.testing.assert_allclose(
        encoder.encode_passages(["the llama"])[0], np.tanh(weight.numpy() @ pooled + bias.numpy()), atol=1e-5
    )
    assert encoder.dim == 6


def write_dpr(folder: Path, side: str, *, seed: int, safe: bool = True, position_ids: bool = True) -> Any:
    from safetensors.torch import save_file

    model = write_bert(folder, seed=seed)
    (folder / "model.safetensors").unlink()
    tensors = {f"{side}.bert_model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    if position_ids:
        tensors[f"{side}.bert_model.embeddings.position_ids"] = torch.arange(64)[None]
    config = json.loads((folder / "config.json").read_text())
    architecture = {"ctx_encoder": "DPRContextEncoder", "question_encoder": "DPRQuestionEncoder"}[side]
    write_json(
        folder / "config.json", {**config, "model_type": "dpr", "architectures": [architecture], "projection_dim": 0}
    )
    if safe:
        save_file(tensors, folder / "model.safetensors")
    else:
        torch.save(tensors, folder / "pytorch_model.bin")
    return model


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("position_ids", [True, False])
def test_dpr_pair(tmp_path: Path, safe: bool, position_ids: bool) -> None:
    pair = tmp_path / "pair"
    query = write_dpr(pair / "question_encoder", "question_encoder", seed=1, safe=safe, position_ids=position_ids)
    passage = write_dpr(pair / "ctx_encoder", "ctx_encoder", seed=2, safe=safe, position_ids=position_ids)
    encoder = load_encoder(pair)
    for model, vectors in (
        (query, encoder.encode_queries(["the llama"])),
        (passage, encoder.encode_passages(["the llama"])),
    ):
        expected = last_hidden(pair / "ctx_encoder", "the llama", model)[0]
        np.testing.assert_allclose(vectors[0], expected, atol=1e-6)
    apart = load_encoder(pair / "ctx_encoder", query_source=pair / "question_encoder")
    assert apart.fingerprint == encoder.fingerprint


def test_half_a_dpr_pair_is_refused(tmp_path: Path) -> None:
    write_dpr(tmp_path / "q", "question_encoder", seed=1)
    write_dpr(tmp_path / "c", "ctx_encoder", seed=1)
    for side in "qc":
        with pytest.raises(FormatError, match="one side of a DPR pair"):
            load_encoder(tmp_path / side)


def test_dpr_without_a_tensor_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for side, name in (("question_encoder", "question_encoder"), ("ctx_encoder", "ctx_encoder")):
        write_dpr(tmp_path / name, side, seed=1)
    path = tmp_path / "ctx_encoder" / "model.safetensors"
    tensors = load_file(path)
    del tensors["ctx_encoder.bert_model.encoder.layer.1.output.dense.weight"]
    save_file(tensors, path)
    with pytest.raises(FormatError, match=r"layer\.1\.output\.dense\.weight"):
        load_encoder(tmp_path).encode_passages(["x"])


def test_a_text_does_not_depend_on_its_batch(bert: Path, monkeypatch) -> None:
    encoder = load_encoder(bert)
    texts = [" ".join(WORDS[5 + (i * j) % 17] for j in range(1 + i % 40)) for i in range(64)]
    together = encoder.encode_passages(texts)
    for index in (0, 13, 39, 63):
        np.testing.assert_allclose(encoder.encode_passages([texts[index]])[0], together[index], atol=1e-6)
    np.testing.assert_array_equal(encoder.encode_passages(texts), together)  # the same call, the same bits
    np.testing.assert_allclose(encoder.encode_passages(texts[::-1])[::-1], together, atol=1e-6)


def test_equal_texts_get_equal_vectors_and_all_are_counted(bert: Path) -> None:
    done: list[int] = []
    vectors = load_encoder(bert).encode_passages(["a b", "c", "a b", "the llama " * 9, "a b"], done.append)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_array_equal(vectors[0], vectors[4])
    assert sum(done) == 5


def test_no_texts_and_odd_texts(bert: Path) -> None:
    encoder = load_encoder(bert)
    assert encoder.encode_passages([]).shape == (0, 16)
    assert np.isfinite(encoder.encode_queries(["", "\ud800", "\0", "你好", "x" * 5000])).all()


def test_a_long_text_is_cut_at_its_end(sentence) -> None:
    encoder = load_encoder(sentence({"pooling_mode": "mean"}))
    long = "the llama carries wool " * 20
    np.testing.assert_array_equal(encoder.encode_passages([long]), encoder.encode_passages([long + "over mountains"]))


def test_fingerprint_follows_content_and_not_place(bert: Path, tmp_path: Path) -> None:
    before = load_encoder(bert).fingerprint
    shutil.copytree(bert, tmp_path / "elsewhere")
    config = json.loads((bert / "config.json").read_text())
    write_json(
        tmp_path / "elsewhere" / "config.json", {**config, "_name_or_path": "/some/where", "transformers_version": "0"}
    )
    assert load_encoder(tmp_path / "elsewhere").fingerprint == before
    write_bert(tmp_path / "other", seed=1)
    assert load_encoder(tmp_path / "other").fingerprint != before
    write_json(bert / "config.json", {**config, "layer_norm_eps": 0.1})
    assert load_encoder(bert).fingerprint != before


def test_folders_that_are_no_encoders_are_refused(bert: Path, sentence, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no encoder folder"):
        load_encoder(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=r"config\.json"):
        load_encoder(tmp_path / "empty")
    with pytest.raises(FormatError, match="'Sparse'"):
        load_encoder(sentence({}, ("2_Sparse", "Sparse")))
    with pytest.raises(FormatError, match="'median'"):
        load_encoder(sentence({"pooling_mode": "median"}))
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(FormatError, match="does not load"):
        load_encoder(bert).encode_passages(["x"])
    weights.unlink()
    with pytest.raises(FormatError, match="no weights"):
        load_encoder(bert)


def test_missing_tensors_are_never_filled_with_random_ones(bert: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(bert / "model.safetensors")
    del tensors["encoder.layer.0.output.dense.weight"]
    save_file(tensors, bert / "model.safetensors", {"format": "pt"})
    with pytest.raises(FormatError, match=r"lacks 1 .*layer\.0\.output\.dense\.weight"):
        load_encoder(bert).encode_passages(["x"])


def test_pooling_by_hand() -> None:
    hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    mask = torch.tensor([[True, True, False]])
    expected = {
        "cls": 1.0,
        "lasttoken": 3.0,
        "max": 3.0,
        "mean": 2.0,
        "mean_sqrt_len_tokens": 4 / 2**0.5,
        "weightedmean": 7 / 3,
    }
    for mode, value in expected.items():
        assert pool(hidden, mask, mode).item() == pytest.approx(value)


@pytest.mark.weights
def test_minilm_knows_what_is_near(minilm_folder: Path) -> None:
    encoder = load_encoder(minilm_folder)
    passages = encoder.encode_passages(
        ["Llamas live in the Andes.", "Bread is baked in an oven.", "Stars are very hot."]
    )
    query = encoder.encode_queries(["Where do llamas live?"])[0]
    assert (passages @ query).argmax() == 0
    np.testing.assert_allclose(np.linalg.norm(passages, axis=1), 1, atol=1e-5)
    texts = ["A short one.", "A somewhat longer text about the wool that llamas carry over the mountains of Peru. " * 8]
    together = encoder.encode_passages(texts)
    np.testing.assert_allclose(encoder.encode_passages(texts[:1]), together[:1], atol=1e-6)
