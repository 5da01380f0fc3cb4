"""A decoder-only LLaMA as RAG's generator: documents first and kept, the question whole, log-probabilities exact."""

import pytest
import torch
from transformers import LlamaForCausalLM

from arriero.common.errors import ArrieroError
from arriero.model.adapters import Adapters
from arriero.model.config import LlamaConfig
from arriero.model.formats.hf import save_hf
from arriero.model.lora_config import LoraConfig
from arriero.model.transformer import Llama
from arriero.rag.decode import decode
from arriero.rag.decoding_config import DecodingConfig
from arriero.rag.generator import RagDocument
from arriero.rag.llama_generator import LlamaGenerator
from arriero.tokenizer.tokenizer import Tokenizer

QUESTION = "Who carries it? 你好吗"
DOCUMENTS = [
    RagDocument(text="Llamas carry loads over mountains.", score=0.9, title="llamas.txt"),
    RagDocument(text="Mules do.", score=0.5),
    RagDocument(text="In Peru nobody carries much, as far as anyone knows.", score=0.1),
]


def tiny(context: int = 512) -> Llama:
    shape = LlamaConfig.of(dim=32, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=260, max_seq_len=context)
    model = Llama(shape).init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)
    return model.eval()


@pytest.fixture
def generator(byte_tokenizer) -> LlamaGenerator:
    return LlamaGenerator(tiny(), byte_tokenizer)


@pytest.fixture
def plain(byte_tokenizer) -> LlamaGenerator:
    """A model without a chat template."""
    words = Tokenizer(byte_tokenizer.backend, eos_id=256)
    return LlamaGenerator(tiny(), words)


def read_text(generator: LlamaGenerator, ids) -> str:
    return generator.tokenizer.decode(list(ids), skip_special=False)


def prompts_of(generator: LlamaGenerator, question: str = QUESTION):
    return [generator.prompt(question, document, reserve=8) for document in DOCUMENTS]


@pytest.mark.parametrize("name", ["generator", "plain"])
def test_a_prompt_holds_the_document_then_the_question_as_it_was_typed(name, request):
    generator = request.getfixturevalue(name)
    prompt = generator.prompt(QUESTION, DOCUMENTS[0], reserve=8)
    text = read_text(generator, prompt.ids)
    assert text.index(DOCUMENTS[0].title) < text.index(DOCUMENTS[0].text) < text.index(QUESTION)
    assert not prompt.cut


@pytest.mark.parametrize("name", ["generator", "plain"])
def test_the_shared_beginning_holds_the_document_and_nothing_of_the_question(name, request):
    generator = request.getfixturevalue(name)
    for question in (QUESTION, "A?", "1", "As"):
        prompt = generator.prompt(question, DOCUMENTS[0], reserve=8)
        shared = read_text(generator, prompt.ids[: prompt.shared])
        assert shared.endswith(f"{DOCUMENTS[0].text}\n\nQuestion: ")


def test_a_closed_book_prompt_holds_no_document(generator):
    text = read_text(generator, generator.prompt(QUESTION, None, reserve=8).ids)
    assert QUESTION in text
    assert "text" not in text


def test_a_long_document_is_cut_at_its_end_and_the_question_never(byte_tokenizer):
    generator = LlamaGenerator(tiny(), byte_tokenizer, context=220)
    document = RagDocument(text="Beginning " + "middle " * 60 + "end.", score=1.0, title="long")
    prompt = generator.prompt(QUESTION, document, reserve=20)
    text = read_text(generator, prompt.ids)
    assert prompt.cut
    assert len(prompt.ids) <= 200
    assert len(prompt.ids) > 190
    assert "Beginning middle" in text
    assert "end." not in text
    assert QUESTION in text
    assert "�" not in text


def test_a_question_that_does_not_fit_is_refused(byte_tokenizer):
    generator = LlamaGenerator(tiny(), byte_tokenizer, context=200)
    with pytest.raises(ArrieroError, match=r"the question takes \d+ tokens, and 180 of .* shorten the question"):
        generator.prompt("why " * 60, DOCUMENTS[0], reserve=20)


@pytest.mark.parametrize("name", ["generator", "plain"])
def test_a_target_ends_with_the_token_that_ends_an_answer_and_reads_as_the_answer(name, request):
    generator = request.getfixturevalue(name)
    target = generator.target("the llamas")
    assert target[-1] in generator.stop_ids
    assert generator.text(target) == "the llamas"
    assert generator.pieces(target)[-1] == ""
    with pytest.raises(ArrieroError, match="an empty one"):
        generator.target("  ")


@pytest.mark.parametrize("name", ["generator", "plain"])
def test_log_probabilities_are_those_of_transformers(name, request, tmp_path):
    generator = request.getfixturevalue(name)
    save_hf(generator.model, tmp_path)
    peer = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    prompts, targets = prompts_of(generator), [generator.target(answer) for answer in ("llamas", "a", "no one at all")]
    found = generator.logprobs(prompts, targets)
    read = generator.read(prompts).logprobs(range(3), targets)
    assert found.shape == read.shape == (3, max(map(len, targets)))
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        with torch.no_grad():
            logits = peer(torch.tensor([[*prompt.ids, *target]])).logits[0, len(prompt.ids) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(target)), target]
        torch.testing.assert_close(found[row, : len(target)], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(read[row, : len(target)], expected, atol=1e-4, rtol=1e-4)
        assert not found[row, len(target) :].any()
        assert not read[row, len(target) :].any()


def test_a_kept_beginning_gives_what_reading_it_again_gives(byte_tokenizer):
    keeping, forgetting = (LlamaGenerator(tiny(), byte_tokenizer, keep_bytes=size) for size in (2**24, 0))
    keeping.read(prompts_of(keeping, "Another question?"))
    assert len(keeping.kept) == 3
    kept_bytes = keeping.kept.bytes
    first, second = (each.read(prompts_of(each)).first for each in (keeping, forgetting))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
    assert (len(keeping.kept), keeping.kept.bytes) == (3, kept_bytes)
    assert len(forgetting.kept) == 0
    keeping.forget()
    assert (len(keeping.kept), keeping.kept.bytes) == (0, 0)


def test_the_kept_beginnings_stay_within_their_bytes_and_the_latest_stay(byte_tokenizer):
    generator = LlamaGenerator(tiny(), byte_tokenizer, keep_bytes=200_000)
    for number in range(12):
        generator.read([generator.prompt("Why?", RagDocument(text=f"Number {number}. " * 9, score=0.0), reserve=8)])
    assert 0 < generator.kept.bytes <= 200_000
    before = len(generator.kept)
    generator.read([generator.prompt("How?", RagDocument(text="Number 11. " * 9, score=0.0), reserve=8)])
    assert len(generator.kept) == before


def test_a_beginning_is_kept_for_the_adapter_that_read_it(generator):
    bare = generator.read(prompts_of(generator)).first
    adapters = Adapters.of(generator.model)
    adapters.add("other", LoraConfig(rank=2))
    with torch.no_grad():
        for change in adapters.changes("other").values():
            change.b.normal_()
    changed = generator.read(prompts_of(generator)).first
    assert (changed - bare).abs().max() > 0.1
    adapters.activate(None)
    torch.testing.assert_close(generator.read(prompts_of(generator)).first, bare, atol=1e-6, rtol=0)


def test_prompts_of_unlike_lengths_read_together_as_each_alone(generator):
    prompts = prompts_of(generator)
    together = generator.read(prompts).first
    generator.forget()
    for row, prompt in enumerate(prompts):
        torch.testing.assert_close(generator.read([prompt]).first[0], together[row], atol=1e-4, rtol=1e-4)


def test_a_short_document_with_a_long_question_reads_beside_a_long_one_with_a_short_question(generator):
    prompts = [
        generator.prompt("Why? " * 20, RagDocument(text="Short.", score=0.0), reserve=8),
        generator.prompt("Why?", RagDocument(text="A long document. " * 8, score=0.0), reserve=8),
    ]
    together = generator.read(prompts).first
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            alone = generator.model(torch.tensor([prompt.ids]))[0, -1]
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-4)


def test_steps_and_changes_of_rows_give_the_logits_of_the_whole_text(generator):
    prompts = prompts_of(generator)
    state = generator.read(prompts).start([0, 0, 1, 2], 6)
    state.step(torch.tensor([5, 6, 7, 8]))
    state.select([1, 0, 2, 3])  # beams of one prompt change places: what follows the prompts moves alone
    state.step(torch.tensor([9, 10, 11, 12]))
    state.select([1, 3, 1])
    state.step(torch.tensor([13, 14, 15]))
    expected = [(0, [5, 10, 13]), (2, [8, 12, 14]), (0, [5, 10, 15])]
    for row, (prompt, answer) in enumerate(expected):
        with torch.no_grad():
            whole = generator.model(torch.tensor([[*prompts[prompt].ids, *answer]]))[0, -1]
        torch.testing.assert_close(state.logits[row], whole, atol=1e-4, rtol=1e-4)


def test_gradients_reach_the_generator(generator):
    generator.model.requires_grad_(True).zero_grad()
    targets = [generator.target("llamas")] * 3
    generator.logprobs(prompts_of(generator), targets).sum().backward()
    assert all(parameter.grad is not None for parameter in generator.model.parameters())


@pytest.mark.parametrize("kind", ["sequence", "token"])
def test_a_decoder_only_model_answers_by_both_models(generator, kind):
    config = DecodingConfig(kind=kind, beams=3, max_tokens=5, num_return=3)
    found = decode(generator, [QUESTION, "Why?"], [DOCUMENTS, DOCUMENTS[:2]], config)
    for answer, count in zip(found, (3, 2), strict=True):
        assert len(answer.best.posterior) == count
        joint = torch.tensor(answer.prior).log() + torch.stack(
            [
                generator.logprobs([generator.prompt(answer.question, each, reserve=5)], [answer.best.ids])[0].sum()
                for each in answer.documents
            ]
        )
        if kind == "sequence":
            assert answer.best.logprob == pytest.approx(joint.logsumexp(0).item(), abs=1e-3)
