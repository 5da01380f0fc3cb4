"""Only answers have a loss, the token that ends them too; long examples are counted, none is lost in packing."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from arriero.common.errors import ArrieroError
from arriero.tokenizer.chat import CHATML, LLAMA2, Message
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.examples import Example, read_examples
from arriero.train.sft_config import Answers
from arriero.train.supervised import Supervised, encode_example, pack, split_held_out, supervise

BOS, START, END = 256, 257, 258


def byte_tokenizer(template: str | None = CHATML, **options: bool) -> Tokenizer:
    """A token a byte; as in SmolLM2, the token that ends a turn is the one that would pad."""
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    control = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    backend.add_special_tokens([AddedToken(word, special=True) for word in control])
    return Tokenizer(backend, bos_id=BOS, eos_id=END, chat_template=template, **options)


CHATML_TOKENIZER = byte_tokenizer()


def chat(*contents: str, where: str = "here", system: str | None = None) -> Example:
    """Contents of user and assistant in turn."""
    turns: list[Message] = [{"role": "system", "content": system}] if system is not None else []
    turns += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return Example(tuple(turns), "", where)


def learnt(row: Supervised, tokenizer: Tokenizer = CHATML_TOKENIZER) -> list[str]:
    """The stretches that are learnt, as text with its control tokens."""
    stretches: list[list[int]] = []
    for i, (token, said) in enumerate(zip(row.ids.tolist(), row.learnt.tolist(), strict=True)):
        if said and (i == 0 or not row.learnt[i - 1]):
            stretches.append([])
        if said:
            stretches[-1].append(token)
    return [tokenizer.decode(stretch, skip_special=False) for stretch in stretches]


contents = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=150, deadline=None)
@given(turns=st.lists(st.tuples(contents, contents), min_size=1, max_size=4), system=st.none() | contents)
def test_the_loss_is_on_each_answer_and_the_token_that_ends_it(
    turns: list[tuple[str, str]], system: str | None
) -> None:
    example = chat(*(text for turn in turns for text in turn), system=system)
    answers = [f"{answer}<|im_end|>" for _, answer in turns]
    assert learnt(encode_example(example, CHATML_TOKENIZER)) == answers
    assert learnt(encode_example(example, CHATML_TOKENIZER, "last")) == answers[-1:]


@pytest.mark.parametrize("answers", ["all", "last"])
def test_the_end_of_a_turn_is_learnt_though_padding_has_the_same_token(answers: Answers) -> None:
    row = encode_example(chat("a", "b", "c", "d"), CHATML_TOKENIZER, answers)
    ends = [row.learnt[i] for i, token in enumerate(row.ids.tolist()) if token == END]
    assert ends == [False, answers == "all", False, True]


def test_llama_2_s_answers_end_with_its_end_of_sequence() -> None:
    tokenizer = byte_tokenizer(LLAMA2)
    row = encode_example(chat("Hi", "Hello", "Bye", "Farewell", system="Be kind."), tokenizer)
    assert learnt(row, tokenizer) == [" Hello <|im_end|>", " Farewell <|im_end|>"]
    assert row.ids.tolist().count(BOS) == 2


@pytest.mark.parametrize("template", [CHATML, LLAMA2])
@pytest.mark.parametrize("add_bos", [False, True])
def test_what_is_learnt_stands_behind_the_very_ids_that_serving_gives(template: str, add_bos: bool) -> None:
    tokenizer = byte_tokenizer(template, add_bos=add_bos)
    example = chat("Hi", "Hello", "What carries wool?", "A llama.", system="Be kind.")
    row = encode_example(example, tokenizer)
    for i, message in enumerate(example.messages):
        if message["role"] == "assistant":
            served = tokenizer.encode_chat(example.messages[:i])
            assert row.ids[: len(served)].tolist() == served
            assert row.learnt[len(served)]
            assert not row.learnt[len(served) - 1]


def test_a_chat_quoted_in_a_question_is_not_learnt() -> None:
    quoted = "<|im_end|>\n<|im_start|>assistant\nquoted<|im_end|>"
    row = encode_example(chat(f"Say {quoted}", f"No {quoted}", "Why?", "So."), CHATML_TOKENIZER)
    assert learnt(row) == [f"No {quoted}<|im_end|>", "So.<|im_end|>"]
    assert row.ids.tolist().count(START) == 4


def test_a_chat_may_begin_with_an_answer() -> None:
    turns: tuple[Message, ...] = ({"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Hello"})
    assert learnt(encode_example(Example(turns, "", "here"), CHATML_TOKENIZER)) == ["Hi<|im_end|>"]


def test_an_empty_answer_teaches_to_end_the_turn() -> None:
    assert learnt(encode_example(chat("a", ""), CHATML_TOKENIZER)) == ["<|im_end|>"]


@pytest.mark.parametrize("add_bos", [False, True])
def test_of_a_text_all_but_the_first_token_is_learnt_and_its_end_too(add_bos: bool) -> None:
    row = encode_example(Example((), "wool", "here"), byte_tokenizer(None, add_bos=add_bos))
    assert row.learnt.tolist() == [False, *[True] * (len(row) - 1)]
    assert row.ids[-1] == END
    assert len(row) == 5 + add_bos


SILENT = "{% for message in messages %}{% if message.role == 'user' %}{{ message.content }}{% endif %}{% endfor %}"
ENDLESS = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("example", "template", "message"),
    [
        (Example((), "", "a.jsonl, line 3"), None, "no token to learn: expected an answer"),
        (chat("a", where="a.jsonl, line 3"), CHATML, "no token to learn: expected an answer"),
        (chat("a", "b", where="a.jsonl, line 3"), SILENT, "the chat template leaves out message 2"),
        (chat("a", "b", where="a.jsonl, line 3"), ENDLESS, "without a token that ends a turn"),
        (chat("a", "b", where="a.jsonl, line 3"), None, "carries no chat template"),
        (chat("a", "b", "c", "d", where="a.jsonl, line 3", system="s"), "{{ 1 // 0 }}", "the chat template"),
        (Example((*chat("a", "b").messages, *chat("c", "d").messages[1:]), "", "a.jsonl, line 3"), LLAMA2, "in turn"),
    ],
)
def test_an_example_with_nothing_to_learn_is_an_error_that_names_the_line(
    example: Example, template: str | None, message: str
) -> None:
    with pytest.raises(ArrieroError, match=message) as raised:
        encode_example(example, byte_tokenizer(template))
    assert str(raised.value).startswith("a.jsonl, line 3: ")


def length(example: Example) -> int:
    return len(encode_example(example, CHATML_TOKENIZER))


def test_too_long_examples_are_dropped_truncated_or_an_error_and_counted() -> None:
    short, long, hopeless = chat("a", "b"), chat("a", "b" * 50, where="a.jsonl, line 2"), chat("a" * 90, "b")
    examples, size = [short, long, hopeless, short], length(short) + 10
    rows, kept, census = supervise(examples, CHATML_TOKENIZER, max_tokens=size)
    assert kept == [short, short]
    assert [len(row) for row in rows] == [length(short)] * 2
    assert (census.examples, census.kept, census.dropped, census.truncated, census.repeated) == (4, 2, 2, 0, 1)

    rows, kept, census = supervise(examples, CHATML_TOKENIZER, max_tokens=size, too_long="truncate")
    assert kept == [short, long, short]
    whole = encode_example(long, CHATML_TOKENIZER)
    assert rows[1].ids.tolist() == whole.ids[:size].tolist()
    assert learnt(rows[1])[0] == "b" * (len(learnt(rows[1])[0]))
    assert (census.kept, census.dropped, census.truncated) == (3, 1, 1)
    assert census.tokens == sum(map(len, rows))
    assert census.supervised == sum(int(row.learnt.sum()) for row in rows)
    assert census.longest_tokens == length(hopeless)
    assert census.median_tokens == (length(short) + length(long)) // 2

    with pytest.raises(ArrieroError, match=rf"^a\.jsonl, line 2: {length(long)} tokens, more than the {size} of a row"):
        supervise(examples, CHATML_TOKENIZER, max_tokens=size, too_long="error")


def test_an_example_that_just_fits_is_whole() -> None:
    example = chat("a", "b" * 20)
    for policy in ("drop", "truncate", "error"):
        rows, _, census = supervise([example], CHATML_TOKENIZER, max_tokens=length(example), too_long=policy)
        assert learnt(rows[0]) == ["b" * 20 + "<|im_end|>"]
        assert (census.dropped, census.truncated) == (0, 0)


def test_no_examples_are_none() -> None:
    assert supervise([], CHATML_TOKENIZER, max_tokens=9)[:2] == ([], [])


prompts = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(asked=prompts, share=st.floats(0.01, 0.9), seed=st.integers(0, 5))
def test_equal_prompts_are_on_one_side_of_the_split(asked: list[str], share: float, seed: int) -> None:
    examples = [chat(prompt, str(i), f"more {i}", "x") for i, prompt in enumerate(asked)]
    counts = Counter(asked)
    if len(counts) == 1:
        with pytest.raises(ArrieroError, match="examples of two prompts or more"):
            split_held_out(examples, share, seed)
        return
    training, held_out = split_held_out(examples, share, seed)
    assert training
    assert held_out
    assert sorted([*training, *held_out], key=examples.index) == examples
    assert not {e.messages[0]["content"] for e in training} & {e.messages[0]["content"] for e in held_out}
    assert len(held_out) <= max(1, round(share * len(examples)), min(counts.values()))
    again = split_held_out(examples[::-1], share, seed)
    assert (again[0][::-1], again[1][::-1]) == (training, held_out)


def test_the_seed_says_which_prompts_are_held_out() -> None:
    examples = [chat(f"question {i}", "b") for i in range(200)]
    first, second = (split_held_out(examples, 0.1, seed)[1] for seed in (0, 1))
    assert len(first) == len(second) == 20
    assert first != second


def test_a_prompt_is_all_that_stands_before_the_first_answer() -> None:
    polite = [chat("a", str(i), system="Be polite.") for i in range(5)]
    rude = [chat("a ", str(i), f"and {i}", "x", system="Be rude. ") for i in range(5)]
    training, held_out = split_held_out([*polite, *rude], 0.5, 0)
    assert {True: (rude, polite), False: (polite, rude)}[held_out == polite] == (training, held_out)


def test_texts_are_split_by_themselves_and_no_share_holds_out_nothing() -> None:
    texts = [Example((), text, "here") for text in "aabbcc"]
    training, held_out = split_held_out(texts, 0.3, 0)
    assert len(held_out) == 2
    assert held_out[0] == held_out[1]
    assert split_held_out(texts, 0.0, 0) == (texts, [])
    assert len(training) == 4


def best_fit_decreasing(lengths: Sequence[int], size: int) -> list[int]:
    """Tokens of each row, one row tried after the other."""
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, used in enumerate(rows) if used + length <= size]
        if fitting:
            rows[max(fitting, key=rows.__getitem__)] += length
        else:
            rows.append(length)
    return rows


@settings(max_examples=300, deadline=None)
@given(data=st.data(), size=st.integers(1, 40))
def test_packing_is_best_fit_decreasing_with_every_example_whole_and_once(data: st.DataObject, size: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, size), max_size=40))
    rows = pack(lengths, size)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    used = [sum(lengths[i] for i in row) for row in rows]
    assert all(total <= size for total in used)
    assert sorted(used) == sorted(best_fit_decreasing(lengths, size))
    assert rows == sorted(rows)


def test_many_examples_are_packed_in_no_time() -> None:
    lengths = [(i * 7919) % 2047 + 1 for i in range(50_000)]
    rows = pack(lengths, 2048)
    assert sum(lengths) / (len(rows) * 2048) > 0.99


@pytest.mark.weights
def test_smollm2_learns_its_own_answers(smollm2_gguf: Path, data_folder: Path) -> None:
    tokenizer = load_tokenizer(smollm2_gguf)
    for file in ("demonstrations.jsonl.gz", "hh_harmless_dev.jsonl.gz"):
        examples = read_examples([data_folder / file])[0][:40]
        rows, kept, census = supervise(examples, tokenizer, max_tokens=2048, too_long="error")
        assert kept == examples
        for row, example in zip(rows, kept, strict=True):
            answers = [m["content"] for m in example.messages if m["role"] == "assistant"]
            assert learnt(row, tokenizer) == [f"{answer}<|im_end|>" for answer in answers]
        assert 0 < census.supervised < census.tokens
