"""Encoders come back as they were written, for ourselves and for the libraries whose form they have."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from arriero.common.errors import ArrieroError, FormatError
from arriero.rag.encoder import Encoder, load_encoder, load_query_encoder
from arriero.rag.encoder_save import save_encoder, save_query_encoder
from tests.rag.test_encoder import TEXTS, WORDS, write_bert, write_json

transformers = pytest.importorskip("transformers")


def sentence_folder(folder: Path, seed: int = 0) -> Path:
    """Mean pooling, a dense layer, vectors of length 1, a prompt for queries."""
    write_bert(folder, seed=seed)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")]
    write_json(
        folder / "modules.json",
        [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for n, (path, kind) in enumerate(kinds)
        ],
    )
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True})
    settings = {"in_features": 16, "out_features": 12, "bias": True}
    write_json(
        folder / "2_Dense" / "config.json", settings | {"activation_function": "torch.nn.modules.activation.Tanh"}
    )
    torch.manual_seed(seed)
    weights = {"linear.weight": torch.randn(12, 16), "linear.bias": torch.randn(12)}
    from safetensors.torch import save_file

    save_file(weights, folder / "2_Dense" / "model.safetensors")
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20})
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "query : "}})
    return folder


def dpr_folder(folder: Path) -> Path:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.DPRConfig(vocab_size=len(WORDS), max_position_embeddings=64, **shape)
    for name, kind in (
        ("question_encoder", transformers.DPRQuestionEncoder),
        ("ctx_encoder", transformers.DPRContextEncoder),
    ):
        kind(config).save_pretrained(folder / name)
        (folder / name / "vocab.txt").write_text("\n".join(WORDS))
        transformers.BertTokenizer(str(folder / name / "vocab.txt")).save_pretrained(folder / name)
    return folder


def shake(encoder: Encoder) -> None:
    """Other weights, as training leaves them."""
    torch.manual_seed(3)
    for tower in {encoder.query, encoder.passage}:
        with torch.no_grad():
            for parameter in tower.network.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


@pytest.mark.parametrize("kind", ["sentence", "plain", "dpr"])
def test_an_encoder_that_was_trained_is_saved_twice_moved_and_read_again(kind, tmp_path):
    makers = {"sentence": sentence_folder, "plain": lambda folder: write_bert(folder) and folder, "dpr": dpr_folder}
    makers[kind](tmp_path / "source")
    encoder = load_encoder(tmp_path / "source", device="cpu")
    before = encoder.encode_queries(TEXTS)
    shake(encoder)
    expected = encoder.encode_queries(TEXTS), encoder.encode_passages(TEXTS)
    assert np.abs(expected[0] - before).max() > 1e-3
    save_encoder(encoder, tmp_path / "one")
    save_encoder(encoder, tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    again = load_encoder(tmp_path / "two", device="cpu")
    np.testing.assert_allclose(again.encode_queries(TEXTS), expected[0], atol=1e-6)
    np.testing.assert_allclose(again.encode_passages(TEXTS), expected[1], atol=1e-6)
    assert again.fingerprint != encoder.fingerprint
    for file in (tmp_path / "two").rglob("*.json"):
        assert str(tmp_path) not in file.read_text()


def test_sentence_transformers_reads_what_is_written(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    encoder = load_encoder(sentence_folder(tmp_path / "source"), device="cpu")
    shake(encoder)
    save_encoder(encoder, tmp_path / "saved")
    peer = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(peer.encode(TEXTS[:3]), encoder.encode_passages(TEXTS[:3]), atol=1e-5)
    asked = peer.encode(TEXTS[:3], prompt_name="query")
    np.testing.assert_allclose(asked, encoder.encode_queries(TEXTS[:3]), atol=1e-5)


def test_transformers_dpr_classes_read_what_is_written(tmp_path):
    encoder = load_encoder(dpr_folder(tmp_path / "source"), device="cpu")
    shake(encoder)
    save_encoder(encoder, tmp_path / "saved")
    for name, kind, vectors in (
        ("question_encoder", transformers.DPRQuestionEncoder, encoder.encode_queries(TEXTS[:1])),
        ("ctx_encoder", transformers.DPRContextEncoder, encoder.encode_passages(TEXTS[:1])),
    ):
        peer = kind.from_pretrained(tmp_path / "saved" / name).eval()
        words = transformers.BertTokenizer.from_pretrained(tmp_path / "saved" / name)
        with torch.inference_mode():
            found = peer(**words(TEXTS[0], return_tensors="pt")).pooler_output[0].numpy()
        np.testing.assert_allclose(found, vectors[0], atol=1e-5)


def test_the_embedding_that_trains_is_the_one_that_searches(tmp_path):
    encoder = load_encoder(sentence_folder(tmp_path / "source"), device="cpu")
    prompt = encoder.query.tower.query_prompt
    vectors = encoder.query.embed(TEXTS, prompt)
    np.testing.assert_allclose(vectors.detach().numpy(), encoder.encode_queries(TEXTS), atol=1e-6)
    vectors.sum().backward()
    assert all(p.grad is not None for p in encoder.query.network.dense.parameters())


def test_a_trained_query_side_finds_the_passages_of_its_encoder_and_of_no_other(tmp_path):
    base = load_encoder(sentence_folder(tmp_path / "source"), device="cpu")
    passages = base.encode_passages(TEXTS)
    trained = load_encoder(tmp_path / "source", device="cpu")
    shake(trained)
    asked = trained.encode_queries(TEXTS)
    save_query_encoder(trained, tmp_path / "queries")
    both = load_query_encoder(tmp_path / "queries", base)
    np.testing.assert_allclose(both.encode_queries(TEXTS), asked, atol=1e-6)
    np.testing.assert_allclose(both.encode_passages(TEXTS), passages, atol=1e-6)
    assert both.fingerprint == base.fingerprint

    other = load_encoder(sentence_folder(tmp_path / "other", seed=5), device="cpu")
    with pytest.raises(ArrieroError, match=r"for passages of the encoder 'source' .* not of 'other'"):
        load_query_encoder(tmp_path / "queries", other)
    with pytest.raises(FormatError, match="is no trained query encoder"):
        load_query_encoder(tmp_path / "source", base)
    (tmp_path / "queries" / "arriero_passages.json").write_text(json.dumps([1]))
    with pytest.raises(FormatError, match="expected the texts"):
        load_query_encoder(tmp_path / "queries", base)


def test_a_collection_is_searched_by_a_trained_query_side_without_encoding_its_passages_again(tmp_path):
    from arriero.rag.collection import Collection

    source = sentence_folder(tmp_path / "source")
    note = tmp_path / "note.txt"
    note.write_text("the llama carries wool")
    with Collection.open(tmp_path / "collection", source, device="cpu") as collection:
        collection.add(note)
        plain = collection.search("llama", mode="dense")[0]
        trained = load_encoder(source, device="cpu")
        shake(trained)
        save_query_encoder(trained, tmp_path / "queries")
    with Collection.open(tmp_path / "collection", device="cpu", query_encoder=tmp_path / "queries") as collection:
        found = collection.search("llama", mode="dense")[0]
        assert found.passage == plain.passage
        expected = (
            trained.encode_queries(["llama"])[0] @ next(collection.store.vectors(np.array([found.passage_id])))[1][0]
        )
        assert found.dense == pytest.approx(float(expected), abs=1e-5)
        assert found.dense != plain.dense
