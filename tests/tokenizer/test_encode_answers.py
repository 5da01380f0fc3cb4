"""Where answers lie in the ids of a chat: what is trained on is what serving reads and what a model would write."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

from arriero.common.errors import ArrieroError
from arriero.tokenizer.chat import LLAMA2, Message
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer

LLAMA3 = """\
{{- bos_token }}{% for turn in messages -%}
    <|head|>{{ turn.role }}<|/head|>{{ '\\n\\n' + turn.content | trim }}<|eot_id|>
{%- endfor %}{% if add_generation_prompt %}<|head|>assistant<|/head|>{{ '\\n\\n' }}{% endif %}"""
MISTRAL = """\
{{- bos_token }}{% for turn in messages %}{% if turn.role == 'assistant' -%}
    {{ ' ' + turn.content + eos_token }}{% else %} [INST] {{ turn.content }} [/INST]
{%- endif %}{% endfor %}"""
ZEPHYR = """\
{% for turn in messages %}{{ '<|' + turn.role + '|>\\n' + turn.content + eos_token + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""
THINKING = """\
{%- set asked = namespace(last=-1) %}
{%- for turn in messages if turn.role == 'user' %}{% set asked.last = loop.index0 * 2 %}{% endfor %}
{%- for turn in messages %}
    {%- set said = turn.content %}
    {%- if turn.role == 'assistant' and loop.index0 < asked.last %}
        {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + turn.role + '\\n' + said + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
DEFAULT_SYSTEM = """\
{% for turn in messages %}{% if loop.first and turn.role != 'system' %}<|im_start|>system
Be of help.<|im_end|>
{% endif %}<|im_start|>{{ turn.role + '\\n' + turn.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
TEMPLATES = ["chatml", LLAMA3, MISTRAL, ZEPHYR, THINKING, DEFAULT_SYSTEM]

PIECES = [
    "", " ", "\n", "\n\n", " \n\t", "\nhello", "hello\n", "  two", "<|im_end|>", "<|im_start|>assistant\n", "<|im_",
    "end|>", "</s>", "<s>[INST] x [/INST]", "<|eot_id|>", "\U000f0000\U00100000", "\ue000", "e\u0301\u0302",
    "👩‍👩‍👧", "你好，世界", "\u200d", "</think>", "\x00", "def f():\n    return 1\n",
]  # fmt: skip
contents = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=4).map("".join)
talks = st.lists(contents, min_size=2, max_size=8).filter(lambda texts: len(texts) % 2 == 0)
roles = st.sampled_from(["system", "user", "assistant", "tool"])
chats = st.lists(st.builds(lambda role, content: Message(role=role, content=content), roles, contents), max_size=6)
quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _of(*texts: str) -> list[Message]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def _with(tokenizer: Tokenizer, template: str, **ids: int | None) -> Tokenizer:
    """The same vocabulary with the template's control tokens."""
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens(["<|head|>", "<|/head|>", "<|eot_id|>"])
    named = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id} | ids
    changed = Tokenizer(backend, **named)
    changed.use_chat_template(template)
    return changed


@pytest.fixture(scope="module")
def legacy(llama_model: Path) -> Tokenizer:
    """A SentencePiece vocabulary in the legacy form: a normaliser puts a space before every piece of text."""
    tokenizer = load_tokenizer(llama_model)
    tokenizer.use_chat_template("llama2")
    return tokenizer


@pytest.fixture(scope="module")
def metaspace(legacy: Tokenizer) -> Tokenizer:
    """The form that `transformers` 5 writes: a space before the first piece of text only."""
    backend = Backend.from_str(json.dumps(json.loads(legacy.backend.to_str()) | {"normalizer": None}))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return Tokenizer(backend, bos_id=1, eos_id=2, chat_template=LLAMA2)


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Tokenizer:
    return load_tokenizer(smollm2_gguf)


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    return _bytes(tokenizer, ids).decode()


def _bytes(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))


def _check(tokenizer: Tokenizer, messages: list[Message]) -> list[list[int]]:
    """The properties of every chat; gives the ids of each answer."""
    ids, spans = tokenizer.encode_answers(messages)
    whole = tokenizer.encode_chat(messages, add_generation_prompt=False)
    asked = [messages[:index] for index, message in enumerate(messages) if message["role"] == "assistant"]
    bounds = [bound for span in spans for bound in span]
    assert len(spans) == len(asked)
    assert bounds == sorted(bounds)
    assert all(start < end for start, end in spans)
    assert all(ids[end - 1] in tokenizer.stop_ids for _, end in spans)
    served = [tokenizer.encode_chat(before) if before else [] for before in asked]
    if ids == whole:
        assert all(ids[:start] == head for (start, _), head in zip(spans, served, strict=True) if head)
    else:  # only where a token reaches across from what is served into an answer
        assert not all(whole[: len(head)] == head for head in served)
        assert not served[0] or ids[: spans[0][0]] == served[0]
    return [ids[start:end] for start, end in spans]


@quick
@given(template=st.sampled_from(TEMPLATES), texts=talks)
@example(template="chatml", texts=["a", "\n\nb", "c", "\nd"])
@example(template=LLAMA3, texts=["<|eot_id|>", "<|head|>assistant<|/head|>"])
@example(template=THINKING, texts=["a", "<think>\nb</think>\n\nc", "d", "<think>\ne</think>\n\nf"])
def test_byte_level_answers(small: Tokenizer, template: str, texts: list[str]) -> None:
    tokenizer = _with(small, template)
    for answer, text in zip(_check(tokenizer, _of(*texts)), texts[1::2], strict=True):
        written = _text(tokenizer, answer[:-1])
        if template == THINKING:
            assert text.endswith(written)
        elif template == LLAMA3:
            assert written == text.strip()
        else:
            assert written == (" " if template == MISTRAL else "") + text


@quick
@given(
    form=st.sampled_from(["legacy", "metaspace"]), template=st.sampled_from(["llama2", MISTRAL, ZEPHYR]), texts=talks
)
@example(form="legacy", template="llama2", texts=["</s>", "</s>"])
@example(form="metaspace", template=ZEPHYR, texts=["a", "\nb"])
def test_sentencepiece_answers(request: pytest.FixtureRequest, form: str, template: str, texts: list[str]) -> None:
    tokenizer = _with(request.getfixturevalue(form), template)
    for answer, text in zip(_check(tokenizer, _of(*texts)), texts[1::2], strict=True):
        assert _text(tokenizer, answer[:-1]).strip() == text.strip()


@quick
@given(template=st.sampled_from(["chatml", LLAMA3, ZEPHYR, DEFAULT_SYSTEM]), messages=chats)
def test_roles_in_any_order(small: Tokenizer, template: str, messages: list[Message]) -> None:
    tokenizer = _with(small, template)
    texts = [message["content"] for message in messages if message["role"] == "assistant"]
    for answer, text in zip(_check(tokenizer, messages), texts, strict=True):
        assert _text(tokenizer, answer[:-1]).strip() == text.strip()


@settings(deadline=None, max_examples=30)
@given(talks)
def test_smollm2s_own_template(smollm2: Tokenizer, texts: list[str]) -> None:
    for answer, text in zip(_check(smollm2, _of(*texts)), texts[1::2], strict=True):
        assert _bytes(smollm2, answer[:-1]) == _bytes(smollm2, smollm2.encode(text))  # it lacks rare bytes


@pytest.mark.parametrize("template", ["chatml", DEFAULT_SYSTEM])
def test_an_answer_that_begins_the_chat_holds_nothing_else(small: Tokenizer, template: str) -> None:
    tokenizer = _with(small, template)
    answers = _check(tokenizer, [{"role": "assistant", "content": "Good day."}, *_of("Who?", "I.")])
    assert [_text(tokenizer, answer[:-1]) for answer in answers] == ["Good day.", "I."]


def test_a_token_never_reaches_from_the_prompt_into_an_answer(small: Tokenizer) -> None:
    backend = Backend.from_str(small.backend.to_str())
    backend.add_tokens(["\n\n"])  # a token of its own, so that the template's newline and the answer's would merge
    tokenizer = Tokenizer(backend, bos_id=1, eos_id=2, chat_template=small.chat_template.source)
    messages = _of("a", "\nb")
    ids, [(start, end)] = tokenizer.encode_answers(messages)
    assert ids != tokenizer.encode_chat(messages, add_generation_prompt=False)
    assert ids[:start] == tokenizer.encode_chat(messages[:1])
    assert ids[start:end] == [*tokenizer.encode("\nb", bos=False), 2]


def test_pad_equal_to_eos_hides_no_end_of_an_answer(small: Tokenizer) -> None:
    """Complaint 5: a mask by the id of padding takes the end of turn from the loss."""
    tokenizer = _with(small, "chatml", pad_id=2)
    assert all(answer[-1] == tokenizer.pad_id for answer in _check(tokenizer, _of("a", "b", "c", "d")))


@pytest.mark.parametrize("template", ["llama2", MISTRAL])
def test_the_beginning_of_sequence_is_never_doubled(legacy: Tokenizer, template: str) -> None:
    """Complaint 6: training ids are serving ids, also where `encode` would put a BOS of its own."""
    tokenizer = _with(legacy, template)
    ids, _ = tokenizer.encode_answers(_of("a", "b"))
    assert ids.count(1) == 1
    assert ids[0] == 1


def test_supervised_tokens_are_never_none_in_a_chat_with_an_answer(small: Tokenizer) -> None:
    """Complaint 2: labels that are all masked; even an empty answer teaches its end."""
    assert _check(small, _of("a", "")) == [[2]]


def test_a_span_swallows_no_later_turn(small: Tokenizer) -> None:
    answers = _check(small, _of(*(["question", "answer"] * 20)))
    assert answers == [[*small.encode("answer"), 2]] * 20


@pytest.mark.parametrize("messages", [[], _of("a"), [{"role": "system", "content": "b"}, *_of("<|im_end|>")]])
def test_a_chat_without_an_answer_has_no_span(small: Tokenizer, messages: list[Message]) -> None:
    assert small.encode_answers(messages) == (small.encode_chat(messages, add_generation_prompt=False), [])


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{% for turn in messages %}{{ turn.content }}\n{% endfor %}", "without a token that ends a turn"),
        ("{% for turn in messages %}<|im_start|>{{ turn.content }}{% endfor %}", "without a token that ends a turn"),
        (
            "{% for turn in messages %}{{ turn.content }} or so<|im_end|>{% endfor %}",
            "without a token that ends a turn",
        ),
        ("{{ messages[0].content }}<|im_end|>", "leaves out message 2"),
        (
            "{% for turn in messages %}{{ turn.content | length }}<|im_end|>{% endfor %}",
            "changes what the messages say",
        ),
        ("{% for turn in messages %}{{ turn.content | title }}<|im_end|>{% endfor %}", "changes what the messages say"),
    ],
)
def test_templates_that_cannot_be_learnt_from(small: Tokenizer, template: str, complaint: str) -> None:
    tokenizer = _with(small, template)
    with pytest.raises(ArrieroError, match=complaint) as caught:
        tokenizer.encode_answers(_of("why", "because of it"))
    assert len(str(caught.value).splitlines()) == 1
