"""Perplexity by source: the same from shards and from text, that of a run's validation, and of the plain definition."""

import math
from pathlib import Path

import pytest
import torch

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.model.transformer import Llama
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.batches import RowLayout, ValidationBatches
from arriero.train.evaluate import (
    Document,
    DocumentSource,
    Evaluation,
    add_up,
    check_tokenizer,
    evaluate,
    shard_source,
    text_source,
)
from arriero.train.parallel import Layout
from arriero.train.parallel_config import ParallelConfig
from arriero.train.pretrain import pretrain, validate
from arriero.train.shards import ShardReader
from arriero.train.text_files import TextOptions
from arriero.train.tokenize import ShardOptions, tokenize_files
from arriero.train.trained import load_trained
from tests.train.pretraining import SHAPE, byte_shards, config_for, write_source
from tests.train.shard_folders import byte_tokenizer, write_shards

TEXTS = ["llama " * 4, "é", "arrieros drive " * 9, "salt"]


@pytest.fixture(scope="module")
def model() -> Llama:
    model = Llama(SHAPE).init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


def write_texts(folder: Path) -> Path:
    file = folder / "texts.txt"
    file.write_text("\n\n".join(TEXTS), encoding="utf-8")
    return file


@pytest.mark.parametrize("bos", [False, True])
def test_shards_and_the_text_they_were_made_of_give_the_same(model: Llama, tmp_path: Path, bos: bool) -> None:
    tokenizer, text = byte_tokenizer(add_bos=bos), TextOptions(split="paragraphs")
    file = write_texts(tmp_path)
    tokenize_files([file], tokenizer, tmp_path / "shards", ShardOptions(source="plays"), text=text, workers=1)
    from_shards = evaluate(model, shard_source(ShardReader(tmp_path / "shards")))
    from_text = evaluate(model, text_source("plays", [file], tokenizer, text=text))
    assert from_shards == from_text
    all_bytes = sum(len(each.encode()) for each in TEXTS)
    assert from_text.documents == len(TEXTS)
    assert from_text.tokens == all_bytes + (len(TEXTS) if bos else 0)  # </s> is predicted, and the first is not
    assert from_text.bytes == (all_bytes if bos else all_bytes - len(TEXTS))


@torch.no_grad()
def test_the_loss_is_that_of_the_definition(model: Llama) -> None:
    tokenizer = byte_tokenizer()
    ids = [tokenizer.encode(text, eos=True) for text in TEXTS]
    source = DocumentSource(name="x", documents=[Document(each, len(each) - 2, 0) for each in ids], size=1)
    got = evaluate(model, source, context=16, stride=5, batch_tokens=64)
    nats = 0.0
    for each in ids:
        for place in range(1, len(each)):
            end = min(len(each), 17 + 5 * math.ceil(max(0, place - 16) / 5))
            before = torch.tensor([each[max(0, end - 17) : place]])
            nats -= float(model(before)[0, -1].log_softmax(-1)[each[place]])
    assert got.nats == pytest.approx(nats, rel=1e-5)
    assert got.loss == pytest.approx(nats / got.tokens, rel=1e-5)
    assert got.perplexity == pytest.approx(math.exp(got.loss))
    assert got.bits_per_byte == pytest.approx(nats / math.log(2) / got.bytes, rel=1e-5)


def test_it_is_the_loss_of_a_runs_validation_where_no_document_is_cut(model: Llama, tmp_path: Path) -> None:
    texts = [text for text in TEXTS if len(text) < 30]
    reader = byte_shards(tmp_path / "held", texts)
    rows = ValidationBatches(reader, RowLayout(rows=1, tokens=64))
    layout = Layout(ParallelConfig(), torch.device("cpu"), torch.float32)
    expected = validate(model, {"held": rows}, layout)["by_source"]["held"]
    got = evaluate(model, shard_source(reader))
    assert got.tokens == expected["tokens"]
    assert got.loss == pytest.approx(expected["loss"], rel=1e-5)


def test_a_shorter_stride_gives_more_context(tmp_path: Path) -> None:
    copying = Llama(SHAPE).init_weights(0)
    source = [Document(list(b"abcdefgh" * 20), 159, 0)]
    counted = [
        evaluate(copying, DocumentSource(name="x", documents=source, size=1), context=32, stride=stride)
        for stride in (1, 16, 32)
    ]
    assert len({each.tokens for each in counted}) == 1
    assert len({each.nats for each in counted}) == 3


def test_progress_ends_at_the_whole_source(model: Llama, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    file = write_texts(tmp_path)
    evaluate(model, text_source("x", [file], byte_tokenizer()), tell=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (file.stat().st_size, file.stat().st_size)


def test_a_limit_takes_the_first_documents(model: Llama, tmp_path: Path) -> None:
    shards = shard_source(byte_shards(tmp_path / "shards", TEXTS), limit=2)
    text = text_source("x", [write_texts(tmp_path)], byte_tokenizer(), text=TextOptions(split="lines"), limit=2)
    for source in (shards, text):
        got = evaluate(model, source)
        assert (got.documents, got.tokens) == (2, sum(len(each.encode()) for each in TEXTS[:2]))


def test_the_total_counts_every_token_the_same() -> None:
    parts = [
        Evaluation(source=name, documents=1, tokens=n, bytes=2 * n, nats=2.0 * n * n)
        for name, n in (("a", 1), ("b", 3))
    ]
    total = add_up(parts)
    assert (total.source, total.documents, total.tokens, total.bytes, total.nats) == ("total", 2, 4, 8, 20.0)
    assert total.facts()["loss"] == 5.0
    endless = Evaluation(source="x", documents=1, tokens=1, bytes=0, nats=1e4).facts()
    assert (endless["perplexity"], endless["bits_per_byte"]) == (None, None)


def test_bad_input_is_told(model: Llama, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(ArrieroError, match="source 'x' is empty: expected documents of 2 tokens or more, got 0"):
        evaluate(model, text_source("x", [empty], byte_tokenizer()))
    with pytest.raises(NotFoundError, match="no such file or folder"):
        text_source("x", [tmp_path / "nowhere"], byte_tokenizer())
    reader = write_shards(tmp_path / "bad", [[1, 2, 300]], vocab_size=258, tokenizer=_backend(byte_tokenizer()))
    with pytest.raises(FormatError, match="it holds the id 300, and its vocabulary ends at 257"):
        evaluate(model, shard_source(reader))
    with pytest.raises(ArrieroError, match="context: expected 1 to the model's 64 tokens, got 65"):
        evaluate(model, shard_source(reader), context=65)
    with pytest.raises(ArrieroError, match="the tokenizer has 268 tokens and the model 258 rows"):
        check_tokenizer(byte_tokenizer(words=10), SHAPE.vocab_size)


def _backend(tokenizer: Tokenizer) -> str:
    return str(tokenizer.backend.to_str())


@pytest.mark.usefixtures("two_layers")
def test_a_run_and_its_checkpoints_are_models(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shards = write_source(tmp_path / "plays", "llama")
    pretrain(run, config_for(shards))
    last, exported = load_trained(str(run), device="cpu"), load_trained(str(run / "model"), device="cpu")
    for name, weight in last.model.named_parameters():
        assert torch.equal(weight, exported.model.get_parameter(name)), name
    checkpoints = sorted((run / "checkpoints").glob("step-*"))
    earlier = load_trained(str(checkpoints[0]), device="cpu")
    assert earlier.name == f"run/{checkpoints[0].name}"
    assert earlier.model.config == last.model.config
    assert earlier.tokenizer.vocab_size == 258
    assert not torch.equal(earlier.model.output.weight, last.model.output.weight)


def test_a_run_that_has_nothing_yet_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("seed = 0\n")
    with pytest.raises(NotFoundError, match="is a run without a checkpoint yet"):
        load_trained(str(tmp_path))
    with pytest.raises(NotFoundError, match="unknown model"):
        load_trained("no-such-model")
