"""Passages: exact offsets, sizes, overlap, sentences in several scripts, headings and pages, linear time."""

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError
from arriero.parsers.document import Document, Section
from arriero.rag.chunk import ChunkConfig, split
from arriero.rag.sentences import ends_sentence
from arriero.rag.words import WORD, Atom, atoms, count_words

_ODD = (
    "a bc . ! ? , ; : 。 ！ ？ ； … 「 」 “ ” ( ) \n \n\n \t 　 \u200b 你 好 あ カ ส วั ก ลา မြ ខ្មែ བོད é "
    "e\u0301 \u0301 \u0316 👩\u200d👩\u200d👧 🇩🇪 🏴\U000e0067\U000e007f 👍🏽 שלום مرحبا \u202e "
    "\ud800 \x00 3.14 e.g. Mr. U.S. - * 1. हिन्दी। 한국어. ﬁ"
)
ODD = _ODD.split(" ")
odd_text = st.lists(st.one_of(st.sampled_from([*ODD, " ", "\n\n"]), st.text(max_size=6)), max_size=80).map("".join)
sections = st.lists(
    st.builds(
        Section, text=odd_text, page=st.none() | st.integers(1, 3), title=st.none() | st.sampled_from(["A", "A > B"])
    ),
    min_size=1,
    max_size=5,
)
configs = st.integers(1, 12).flatmap(
    lambda words: st.builds(
        ChunkConfig,
        kind=st.sampled_from(["words", "sentences"]),
        words=st.just(words),
        overlap=st.integers(0, words // 2),
        heading_words=st.integers(0, 12),
    )
)


def document(*texts, titles=None, pages=None):
    titles = titles or [None] * len(texts)
    pages = pages or [None] * len(texts)
    return Document("d", tuple(map(Section, texts, pages, titles)))


def texts(text, **options):
    return [passage.text for passage in split(document(text), ChunkConfig(**options))]


@settings(max_examples=300, deadline=None)
@given(sections, configs)
def test_passages_are_exact_cuts_that_cover_the_text_in_order(parts, config):
    whole = Document("d", tuple(parts))
    passages = split(whole, config)
    covered = bytearray(len(whole.text))
    for ordinal, passage in enumerate(passages):
        assert passage.text == whole.text[passage.start : passage.end]
        assert passage.ordinal == ordinal
        assert passage.text
        assert len(passage.text) <= config.max_characters
        assert sum(atom.weight for atom in atoms(passage.text)) <= config.words * WORD
        covered[passage.start : passage.end] = b"x" * (passage.end - passage.start)
    blank = [char.isspace() or char in "\u200b\x1c\x1d\x1e\x1f" for char in whole.text]
    assert all(is_covered or is_blank for is_covered, is_blank in zip(covered, blank, strict=True))
    assert all(first.start < second.start for first, second in pairwise(passages))
    assert all(first.end < second.end for first, second in pairwise(passages))
    if config.overlap == 0:
        assert all(first.end <= second.start for first, second in pairwise(passages))
    assert passages == split(whole, config)


@settings(max_examples=200, deadline=None)
@given(odd_text)
def test_atoms_hold_every_character_that_is_no_blank(text):
    found = list(atoms(text))
    assert all(0 < atom.end - atom.start <= 160 for atom in found)
    starts, ends = [atom.start for atom in found], [atom.end for atom in found]
    gaps = [text[end:start] for end, start in zip([0, *ends], [*starts, len(text)], strict=True)]
    assert not "".join(gaps).replace("\u200b", "").strip()


def test_the_papers_passages_are_disjoint_and_of_100_words():
    words = [f"w{number}" for number in range(250)]
    assert [passage.split() for passage in texts(" ".join(words), kind="words")] == [
        words[:100],
        words[100:200],
        words[200:],
    ]


def test_overlap_in_words_is_exact():
    words = [f"w{number}" for number in range(25)]
    found = [passage.split() for passage in texts(" ".join(words), kind="words", words=10, overlap=4)]
    assert found == [words[0:10], words[6:16], words[12:22], words[18:25]]


def test_overlap_in_sentences_is_of_whole_sentences():
    sentences = [f"Sentence number {number} here." for number in range(9)]  # four words each
    found = texts(" ".join(sentences), words=12, overlap=4)
    assert found == [" ".join(sentences[at : at + 3]) for at in (0, 2, 4, 6)]
    assert texts(" ".join(sentences), words=12, overlap=3) == found


def test_a_text_that_fits_is_one_passage_and_none_is_none():
    assert texts("  Short text.  ") == ["Short text."]
    assert texts(" \n ") == []
    assert split(Document("d", ()), ChunkConfig()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He left. She stayed! Why? Nobody knows.", ["He left.", "She stayed!", "Why?", "Nobody knows."]),
        ("Dr. Smith paid $3.50 to J. Doe. Fine.", ["Dr. Smith paid $3.50 to J. Doe.", "Fine."]),
        ("See Fig. 3 and e.g. this. Then go.", ["See Fig. 3 and e.g. this.", "Then go."]),
        ('"Is it?" she asked. "Go." He went.', ['"Is it?" she asked.', '"Go."', "He went."]),
        ("Er kam am 3. Oktober an. Gut.", ["Er kam am 3. Oktober an.", "Gut."]),
        ("他说：“你好吗？”我说很好。走了；再见！", ["他说：“你好吗？”", "我说很好。", "走了；", "再见！"]),
        ("「はい。」と言った。次の文。", ["「はい。」", "と言った。", "次の文。"]),
        ("مرحبا بك؟ نعم. حسنا", ["مرحبا بك؟", "نعم.", "حسنا"]),
        ("यह है। वह है।", ["यह है।", "वह है।"]),
        ("A title\n\nIts text\ngoes on", ["A title", "Its text\ngoes on"]),
        ("List:\n- one\n- two\n2. three", ["List:", "- one", "- two", "2. three"]),
    ],
)
def test_sentence_ends(text, expected):
    found, start = [], 0
    for atom, after in pairwise([*atoms(text), Atom(len(text), len(text), 0)]):
        if ends_sentence(text, atom.start, atom.end, after.start) or after.start == len(text):
            found.append(text[start : atom.end].strip())
            start = atom.end
    assert found == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("one two  three\nfour", 4),
        ("你好世界", 2),
        ("你好，世界。", 2),
        ("使用Python语言", 3),
        ("これはペン", 3),
        ("สวัสดีครับ", 3),  # ten characters, a quarter each, rounded up
        ("한국어 문장", 2),
        ("x" * 320, 10),
        ("10\u00a0000 €", 3),
        ("", 0),
    ],
)
def test_words_are_counted_in_scripts_without_blanks_too(text, words):
    assert count_words(text) == words


@pytest.mark.parametrize("cluster", ["👩\u200d👩\u200d👧", "e\u0301\u0316", "🇩🇪", "👍🏽", "กำ้", "क्षि", "葛\U000e0100"])
def test_a_visible_character_is_never_cut(cluster):
    text = cluster * 500
    for kind in ("words", "sentences"):
        found = texts(text, kind=kind, words=3)
        assert len(found) > 5
        whole_clusters = [len(passage) % len(cluster) == 0 for passage in found]
        assert all(whole_clusters)


def test_chinese_passages_have_about_200_characters():
    text = "我们明天早上去北京开会。" * 100
    found = texts(text)
    assert all(150 <= len(passage) <= 240 for passage in found[:-1])
    assert all(passage.endswith("。") for passage in found)


def test_an_overlong_sentence_is_cut_at_a_line_end_if_there_is_one():
    lines = [f"let value_{number} = compute {number}" for number in range(60)]
    found = texts("\n".join(lines), words=50)
    assert all(passage.split("\n")[0].startswith("let ") for passage in found)
    assert all(passage.split("\n")[-1] in lines for passage in found)


def test_a_heading_starts_a_passage_when_the_one_before_has_enough_words():
    whole = document("word " * 30, "Next. " + "other " * 10, titles=["One", "Two"])
    for kind in ("words", "sentences"):
        found = split(whole, ChunkConfig(kind=kind, heading_words=25, overlap=10))
        assert [passage.section for passage in found] == ["One", "Two"]
        assert found[1].text.startswith("Next.")
        assert len(split(whole, ChunkConfig(kind=kind, heading_words=31))) == 1


def test_small_sections_share_a_passage_titled_by_its_larger_part():
    whole = document("Tiny.", "Long section with several words.", titles=["A", "B"])
    (found,) = split(whole, ChunkConfig())
    assert found.section == "B"
    assert found.text == whole.text


def test_passages_run_over_pages_and_say_so():
    whole = document("A sentence that goes", "on here. And more.", "Last page.", pages=[1, 2, 4])
    (one,) = split(whole, ChunkConfig())
    assert (one.page, one.page_end) == (1, 4)
    found = split(whole, ChunkConfig(words=6))
    assert [(passage.page, passage.page_end) for passage in found] == [(1, 2), (2, 4)]
    assert found[0].text == "A sentence that goes\n\non here."[: len(found[0].text)]


@pytest.mark.parametrize("kind", ["words", "sentences"])
@pytest.mark.parametrize(
    "unit",
    [
        "x",
        "e\u0301",
        "\u0301",
        ".",
        "。」",
        '."',
        "word ",
        "字",
        "ส",
        " ",
        "\n",
        "- \n",
        "a\n\n",
        "🇩",
        "\u200d",
        "(",
        "Mr. ",
    ],
)
def test_time_is_linear_and_passages_bounded_on_monotonous_text(kind, unit):
    config = ChunkConfig(kind=kind, overlap=50)
    spent = []
    for size in (50_000, 400_000):
        text = (unit * (size // len(unit))) + "."
        start = time.process_time()
        found = split(document(text), config)
        spent.append(time.process_time() - start)
        assert max(len(passage.text) for passage in found) <= config.max_characters
    assert spent[1] < 0.3 + 24 * spent[0]  # 8 times the text; quadratic would be 64


def test_many_small_sections_take_linear_time():
    whole = document(*["A short section."] * 60_000, titles=[f"T{number}" for number in range(60_000)])
    start = time.process_time()
    assert split(whole, ChunkConfig())
    assert time.process_time() - start < 10


def test_the_languages_of_xquad_are_covered(data_folder):
    for language in ("en", "zh"):
        data = json.loads((data_folder / f"xquad.{language}.json").read_text(encoding="utf-8"))["data"]
        paragraphs = [paragraph["context"] for article in data for paragraph in article["paragraphs"]]
        whole = document(*paragraphs)
        found = split(whole, ChunkConfig())
        assert all(passage.text == whole.text[passage.start : passage.end] for passage in found)
        ends = sum(
            passage.text.rstrip('"”’»）)」]').endswith((".", "。", "?", "？", "!", "！", "；")) for passage in found
        )
        assert ends > 0.9 * len(found)


@pytest.mark.parametrize(
    "options", [{"words": 0}, {"overlap": -1}, {"words": 10, "overlap": 6}, {"kind": "lines"}, {"heading_words": -1}]
)
def test_bad_settings_are_refused(options):
    with pytest.raises(ArrieroError):
        ChunkConfig(**options)
