"""Encoder-decoders as RAG's generator give transformers' own log-probabilities, whatever is padded or cached."""

import json
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.rag.decode import decode
from arriero.rag.decoding_config import DecodingConfig
from arriero.rag.generator import RagDocument
from arriero.rag.generators import load_generator
from arriero.rag.llama_generator import LlamaGenerator
from arriero.rag.seq2seq_generator import Seq2SeqGenerator
from arriero.rag.shared_attention import share_prompts

QUESTION = "Who carries it? 你好吗"
DOCUMENTS = [
    RagDocument(text="Llamas carry loads.", score=0.9, title="llamas"),
    RagDocument(text="Mules do.", score=0.5),
    RagDocument(text="In Peru nobody carries much, as far as anyone knows.", score=0.1),
]


def words() -> transformers.PreTrainedTokenizerFast:
    """A token a byte, between <s> and </s>."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*special, *letters])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=200
    )


def make(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "bart":
        config = transformers.BartConfig(
            vocab_size=260,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=200,
            init_std=0.3,
        )
        return transformers.BartForConditionalGeneration(config).eval()
    config = transformers.T5Config(
        vocab_size=260,
        d_model=32,
        d_kv=8,
        num_layers=2,
        num_heads=4,
        d_ff=64,
        eos_token_id=2,
        pad_token_id=1,
        decoder_start_token_id=1,
        initializer_factor=3.0,
    )
    return transformers.T5ForConditionalGeneration(config).eval()


@pytest.fixture(scope="module", params=["bart", "t5"])
def folder(request, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp(request.param) / "model"
    make(request.param).save_pretrained(place)
    words().save_pretrained(place)
    return place


@pytest.fixture
def generator(folder) -> Seq2SeqGenerator:
    return Seq2SeqGenerator.load(folder, device="cpu")


def prompts_of(generator: Seq2SeqGenerator):
    return [generator.prompt(QUESTION, document, reserve=8) for document in DOCUMENTS]


def test_a_folder_says_which_kind_it_is(folder, smollm2_gguf):
    assert isinstance(load_generator(str(folder), device="cpu"), Seq2SeqGenerator)
    assert isinstance(load_generator(str(smollm2_gguf), device="cpu"), LlamaGenerator)
    with pytest.raises(ArrieroError, match="an adapter is for a LLaMA"):
        load_generator(str(folder), adapter=Path("x"))


def test_a_prompt_is_title_document_and_the_question_as_typed(generator):
    text = [generator.text(prompt.ids) for prompt in prompts_of(generator)]
    assert text[0] == f"llamas / Llamas carry loads. // {QUESTION}"
    assert text[1] == f"Mules do. // {QUESTION}"
    assert generator.text(generator.prompt(QUESTION, None, reserve=8).ids) == QUESTION


def test_a_long_document_is_cut_at_its_end_and_the_question_never(generator):
    long = RagDocument(text="Beginning " + "middle " * 40 + "end.", score=1.0)
    prompt = generator.prompt(QUESTION, long, reserve=8)
    assert prompt.cut
    assert 170 < len(prompt.ids) <= 200
    text = generator.text(prompt.ids)
    assert text.startswith("Beginning middle")
    assert text.endswith(f"middle // {QUESTION}")
    with pytest.raises(ArrieroError, match="shorten the question"):
        generator.prompt("why " * 60, DOCUMENTS[0], reserve=8)


def test_log_probabilities_are_those_of_transformers_alone_and_padded(folder, generator):
    peer = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts, targets = prompts_of(generator), [generator.target(answer) for answer in ("llamas", "a", "no one at all")]
    assert all(target[-1] == 2 for target in targets)
    found = generator.logprobs(prompts, targets)
    read = generator.read(prompts).logprobs([0, 1, 2], targets)
    first = len(generator.given) - 1
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        inputs = torch.tensor([[*generator.given, *target[:-1]]])
        with torch.no_grad():
            logits = peer(input_ids=torch.tensor([prompt.ids]), decoder_input_ids=inputs).logits[0, first:]
        expected = logits.log_softmax(-1)[range(len(target)), target]
        for logprobs in (found, read):
            torch.testing.assert_close(logprobs[row, : len(target)], expected, atol=1e-5, rtol=1e-4)
            assert not logprobs[row, len(target) :].any()


def test_steps_and_changes_of_rows_give_the_logits_of_the_whole_answer(generator):
    prompts = prompts_of(generator)
    reading = generator.read(prompts)
    state, other = reading.start([0, 0, 1, 2], 6), reading.start([2], 6)
    state.step(torch.tensor([5, 6, 7, 8]))
    state.select([1, 0, 2, 3])
    state.step(torch.tensor([9, 10, 11, 12]))
    state.select([1, 3, 1])
    state.step(torch.tensor([13, 14, 15]))
    torch.testing.assert_close(other.logits, reading.first[2:])
    for row, (prompt, answer) in enumerate([(0, [5, 10, 13]), (2, [8, 12, 14]), (0, [5, 10, 15])]):
        with torch.no_grad():
            whole = generator.model(
                input_ids=torch.tensor([prompts[prompt].ids]),
                decoder_input_ids=torch.tensor([[*generator.given, *answer]]),
            ).logits[0, -1]
        torch.testing.assert_close(state.logits[row], whole, atol=1e-4, rtol=1e-4)


def test_beams_of_a_prompt_share_its_cross_attention_and_what_is_no_longer_read_is_dropped(generator):
    state = generator.read(prompts_of(generator)).start([2, 0, 0, 2, 2], 6)
    rows = [len(layer.keys) for layer in state._cache.cross_attention_cache.layers]
    assert rows == [2, 2]
    state.step(torch.tensor([5, 6, 7, 8, 9]))
    state.select([1, 2, 1])
    assert [len(layer.keys) for layer in state._cache.cross_attention_cache.layers] == [1, 1]


def test_shared_prompts_give_what_copies_of_them_give(generator):
    prompts, answers = prompts_of(generator), [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14], [15, 2]]
    rows = [1, 0, 2, 1, 1]  # uneven groups
    generator.model.double()  # the order of sums differs, which this random T5 makes large in float32
    found = {}
    for shares in (True, False):
        generator.shares = shares
        reading = generator.read(prompts)
        state = reading.start(rows, 6)
        state.step(torch.tensor([5, 6, 7, 8, 9]))
        state.select([4, 1, 3, 0])
        state.step(torch.tensor([10, 11, 12, 13]))
        found[shares] = state.logits, reading.logprobs(rows, answers)
    for shared, copied in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(shared, copied, atol=1e-5, rtol=1e-5)


def test_a_score_is_the_same_whichever_answers_stand_beside_it(generator):
    prompts, answers = prompts_of(generator), [[2], [5, 6, 2], [7, 2]]
    reading = generator.read(prompts)
    for order in ([0, 1, 2], [2, 0, 1], [0]):
        found = reading.logprobs(order, [answers[i] for i in order])
        for row, i in enumerate(order):
            alone = generator.logprobs([prompts[i]], [answers[i]])[0]
            torch.testing.assert_close(found[row, : len(answers[i])], alone.detach(), atol=1e-5, rtol=1e-4)


def test_a_model_that_is_not_known_to_share_prompts_gets_copies(generator):
    generator.model.config.model_type = "other"
    assert not share_prompts(generator.model)


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_it_answers_by_both_models(generator, kind):
    config = DecodingConfig(kind=kind, beams=3, max_tokens=5, num_return=3)
    found = decode(generator, [QUESTION, "Why?"], [DOCUMENTS, DOCUMENTS[:2]], config)
    for answer, count in zip(found, (3, 2), strict=True):
        assert len(answer.best.posterior) == count
        if kind == "sequence":
            prompts = [generator.prompt(answer.question, each, reserve=5) for each in answer.documents]
            with torch.no_grad():
                scores = generator.logprobs(prompts, [answer.best.ids] * count).sum(1)
            joint = torch.tensor(answer.prior).log() + scores
            assert answer.best.logprob == pytest.approx(joint.logsumexp(0).item(), abs=1e-4)


def test_gradients_reach_encoder_and_decoder(generator):
    targets = [generator.target("llamas")] * 3
    generator.logprobs(prompts_of(generator), targets).sum().backward()
    assert all(p.grad is not None for name, p in generator.model.named_parameters() if "layer_norm" in name)


def test_it_is_saved_twice_moved_and_read_again(generator, tmp_path):
    generator.save(tmp_path / "one")
    generator.save(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    again = Seq2SeqGenerator.load(tmp_path / "two", device="cpu")
    prompts = prompts_of(generator)
    torch.testing.assert_close(again.read(prompts).first, generator.read(prompts).first)
    written = (tmp_path / "two" / "config.json").read_text()
    assert str(tmp_path) not in written
    assert "arriero" not in written  # transformers knows no attention of ours


def test_what_is_no_encoder_decoder_is_told(tmp_path):
    with pytest.raises(NotFoundError, match="no model folder"):
        Seq2SeqGenerator.load(tmp_path / "absent")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bart", "is_encoder_decoder": True}))
    with pytest.raises(FormatError, match="does not load as an encoder-decoder"):
        load_generator(str(tmp_path))
