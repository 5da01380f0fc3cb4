"""The two built-in formats, and templates that models carry."""

import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from arriero.common.errors import ArrieroError
from arriero.tokenizer.chat import BUILT_IN, ChatTemplate, Message
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer

LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
SYSTEM: Message = {"role": "system", "content": "Be brief."}
CHAT: list[Message] = [
    {"role": "user", "content": " Who are you? "},
    {"role": "assistant", "content": "A llama. "},
    {"role": "user", "content": "Why?"},
]
CHATS: dict[str, list[Message]] = {
    "one turn": CHAT[:1],
    "system": [SYSTEM, *CHAT[:1]],
    "three turns": CHAT,
    "answered": [SYSTEM, *CHAT[:2]],
    "unusual text": [{"role": "user", "content": "  \n你好 😀\t\x00{{ messages }} {% raw %}\n\n"}],
    "empty": [{"role": "user", "content": ""}],
}


def test_llama2_is_the_papers_form() -> None:
    template = ChatTemplate.named("llama2", LLAMA_TOKENS)
    first = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWho are you? [/INST]"
    assert template.render([SYSTEM, CHAT[0]]) == first
    assert template.render([SYSTEM, *CHAT]) == f"{first} A llama. </s><s>[INST] Why? [/INST]"
    assert template.render(CHAT[:1]) == "<s>[INST] Who are you? [/INST]"


@pytest.mark.parametrize("answer", ["A llama.", "A </s> llama <s>[INST]."])
def test_llama2_has_a_bos_each_pair_and_an_eos_each_answer(llama_model: Path, answer: str) -> None:
    tokenizer = load_tokenizer(llama_model)
    tokenizer.use_chat_template("llama2")
    reply: Message = {"role": "assistant", "content": answer}
    ids = tokenizer.encode_chat([SYSTEM, CHAT[0], reply, CHAT[2], reply])
    assert [token_id for token_id in ids if token_id in (1, 2)] == [1, 2, 1, 2]
    pairs = [("<<SYS>>\nBe brief.\n<</SYS>>\n\nWho are you?", answer), ("Why?", answer)]
    as_metas_code = [
        token_id
        for question, answer in pairs
        for token_id in tokenizer.encode(f"[INST] {question} [/INST] {answer} ", bos=True, eos=True)
    ]
    assert ids == as_metas_code


@pytest.mark.parametrize(
    "messages",
    [[CHAT[1]], [CHAT[0], CHAT[0]], [SYSTEM, SYSTEM, CHAT[0]], [CHAT[0], SYSTEM], [SYSTEM, CHAT[1]],
     [{"role": "tool", "content": ""}]],
)  # fmt: skip
def test_llama2_refuses_turns_out_of_order(messages: list[Message]) -> None:
    with pytest.raises(ArrieroError, match="user and assistant in turn"):
        ChatTemplate.named("llama2", LLAMA_TOKENS).render(messages)


def test_chatml() -> None:
    template = ChatTemplate.named("chatml", {})
    head = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Who are you? <|im_end|>\n"
    assert template.render([SYSTEM, CHAT[0]]) == f"{head}<|im_start|>assistant\n"
    assert template.render([SYSTEM, CHAT[0]], add_generation_prompt=False) == head
    answered = f"{head}<|im_start|>assistant\nA llama. <|im_end|>\n"
    assert template.render([SYSTEM, *CHAT[:2]], add_generation_prompt=False) == answered


@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS.keys())
@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_formats_are_the_same_to_transformers(small: Tokenizer, name: str, messages: list[Message]) -> None:
    reference = PreTrainedTokenizerFast(
        tokenizer_object=small.backend, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    small_with = Tokenizer(small.backend, bos_id=1, eos_id=2, chat_template=BUILT_IN[name])
    for prompt in (True, False):
        options: dict[str, Any] = {
            "chat_template": BUILT_IN[name],
            "add_generation_prompt": prompt,
            "return_dict": False,
        }
        assert reference.apply_chat_template(messages, **options) == small_with.encode_chat(
            messages, add_generation_prompt=prompt
        )


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_formats_mark_to_transformers_what_is_learnt_here(small: Tokenizer, name: str) -> None:
    reference = PreTrainedTokenizerFast(
        tokenizer_object=small.backend, bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    small_with = Tokenizer(small.backend, bos_id=1, eos_id=2, chat_template=BUILT_IN[name])
    chat: list[Message] = [SYSTEM, *CHAT, {"role": "assistant", "content": "So."}]
    ids, spans = small_with.encode_answers(chat)
    theirs = reference.apply_chat_template(
        chat, chat_template=BUILT_IN[name], return_dict=True, return_assistant_tokens_mask=True
    )
    assert theirs["input_ids"] == ids
    assert [i for i, learnt in enumerate(theirs["assistant_masks"]) if learnt] == [
        i for start, end in spans for i in range(start, end)
    ]


@pytest.mark.weights
@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS.keys())
def test_smollm2s_own_format_is_the_same_to_transformers(smollm2_gguf: Path, messages: list[Message]) -> None:
    tokenizer = load_tokenizer(smollm2_gguf)
    assert tokenizer.chat_template is not None
    reference = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, chat_template=tokenizer.chat_template.source
    )
    expected = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_chat(messages) == expected


def test_the_date_is_todays() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}", {}).render([]) == str(datetime.date.today().year)


def test_a_model_without_a_template_says_so(llama_model: Path) -> None:
    with pytest.raises(ArrieroError, match=r"no chat template.*'chatml', 'llama2'"):
        load_tokenizer(llama_model).encode_chat(CHAT)


def test_an_unknown_template_suggests_the_nearest() -> None:
    with pytest.raises(ArrieroError, match=r"'lama2' is unknown.*did you mean llama2"):
        ChatTemplate.named("lama2", {})


@pytest.mark.parametrize("role", ["asistant", "", "<|im_end|>", "User"])
def test_an_unknown_role_is_refused(role: str) -> None:
    with pytest.raises(ArrieroError, match="is unknown: expected system"):
        ChatTemplate.named("chatml", {}).render([{"role": role, "content": "x"}])


@pytest.mark.parametrize(
    "message", [{"role": "user"}, {"content": "x"}, {"role": "user", "content": 5}, "text", {"role": 5, "content": ""}]
)
def test_a_message_of_another_shape_is_refused(small: Tokenizer, message: Any) -> None:
    with pytest.raises(ArrieroError, match="message"):
        small.encode_chat([message])
