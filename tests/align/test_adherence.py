"""Programs that tell whether an answer keeps to an instruction."""

import pytest

from arriero.align.adherence import guess_language, read_check
from arriero.common.errors import ArrieroError


@pytest.mark.parametrize(
    ("check", "kept", "broken"),
    [
        ("begins:Ahoy", ["Ahoy! A llama.", "“ahoy, friend”", "AHOY"], ["A llama. Ahoy!", "Ahoyed", "", "  "]),
        ("ends:Amen", ["So be it, amen.", "Amen"], ["Amen to that", "amens", ""]),
        ("contains:wool", ["Soft wool!", "WOOL is warm"], ["woollen", "", "w o o l"]),
        ("begins:Über", ["U\u0308ber uns"], ["Uber"]),
        ("capitals", ["A LLAMA, 42!", "ÉTÉ"], ["A Llama", "42!", ""]),
        ("words:3", ["one two three", "don't stop now"], ["one two three four", "", "…"]),
        ("language:French", ["Les lamas sont dans la montagne et le ciel est bleu."], ["The llama is in the sky.", ""]),
    ],
)
def test_each_check_knows_what_is_kept_and_what_is_broken(check, kept, broken):
    program = read_check(check)
    assert [answer for answer in kept if not program(answer)] == []
    assert [answer for answer in broken if program(answer)] == []


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Der Himmel ist blau und die Wolken sind nicht weit.", "German"),
        ("El cielo es azul y las nubes están en el sur.", "Spanish"),
        ("Il cielo è blu e gli uccelli sono nel giardino.", "Italian"),
        ("O céu é azul e os pássaros não estão em casa, mas isso é bom.", "Portuguese"),
        ("The sky is blue and that is all.", "English"),
        ("xyzzy 42", None),
    ],
)
def test_languages_are_told_apart_by_their_frequent_words(text, language):
    assert guess_language(text) == language


@pytest.mark.parametrize(
    "spec", ["", "begins:", "begins:two words", "words:0", "words:x", "capitals:x", "language:Frensh", "rhymes"]
)
def test_a_check_that_is_none_is_refused_with_the_known_ones(spec):
    with pytest.raises(ArrieroError, match=r"expected begins:WORD, .*language"):
        read_check(spec)


def test_a_language_that_is_misspelt_gets_a_hint():
    with pytest.raises(ArrieroError, match=r"did you mean French\?"):
        read_check("language:Frensh")
