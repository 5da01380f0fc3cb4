"""Templates: text, numbers and dates stay in their sentences; boxes and notes leave nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.corpus.wiki_templates import _RULES, render
from arriero.corpus.wikitext import to_text


@pytest.mark.parametrize(
    ("wikitext", "text"),
    {
        "Called {{lang|fr|le {{nowrap|petit lama}}}} there": "Called le petit lama there",
        "From {{lang-la|lama|lit=x}}, {{langx|es|llama}}, {{laS|lama}}": "From lama, llama, lama",
        "It is {{convert|5|km|mi}} long and {{formatnum:1234}} old": "It is 5 km long and 1234 old",
        "{{convert|5|-|10|km|mi|0}} or {{convert|3|x|4|m}}": "5–10 km or 3 × 4 m",
        "{{convert|5|ft|6|in|m}} and {{cvt|7|sqmi|0}} and {{convert|3|ft|1}}": "5 ft 6 in and 7 sq mi and 3 ft",
        "{{unité|12|km}}, {{nombre|1000|habitants}}, {{unité|5}}": "12 km, 1000 habitants, 5",
        "About {{frac|1|2}} or {{frac|3|1|2}} or {{frac|4}} of it": "About 1/2 or 3 1/2 or 1/4 of it",
        "{{val|5.2|0.1|e=-6|u=kg}} and {{val|7|ul=m}}": "5.2±0.1×10⁻⁶ kg and 7 m",
        "Born {{birth date|1999|2|3|df=yes}} in Cusco": "Born 1999-02-03 in Cusco",
        "Le {{date|1|janvier|2020}} au {{s|XIX|e}}": "Le 1 janvier 2020 au XIXe siècle",
        "{{circa|1900}} {{as of|2020|1|lc=y}} {{reign|1|2}}": "c. 1900 as of 2020-01 r. 1",
        "{{sc|Small}} {{abbr|HTML|a language}} {{nobr|1=a = b}}": "Small HTML a = b",
        "{{ill|Ana|es|Ana B|lt=Anna}} {{нп5|Тема||en|Theme}} {{нп3|Тема|теме}}": "Anna Тема теме",
        "{{nihongo|Tokyo|東京|Tōkyō}} {{zh|s=北京|p=Běijīng}}": "Tokyo (東京, Tōkyō) 北京, Běijīng",
        "{{chem|H|2|O}} {{sup|2}} {{sub|n}} {{e|6}}": "H₂O ² ₙ ×10⁶",
        "{{quote|text=To be|author=W}}": "To be",
        "{{blockquote|A = b is}}{{cquote|c}}": "c",
        "{{ubl|a|b}}": "- a\n- b",
        "x {{hlist|a||b}} y": "x a, b y",
        "1990{{snd}}1995{{ndash}}6 {{mdash}} {{'}}t {{=}}": "1990 – 1995–6 — 't =",
        "{{US$|5}} {{ship|HMS|Victory|1765}} {{sic|wrod}}": "US$5 HMS Victory wrod [sic]",
        "{{color|red|text}} {{transl|ar|ALA|kitāb}}": "text kitāb",
        "{{uc:abc}} {{ucfirst:abc}} {{lc:ABC}}": "ABC Abc abc",
        "x{{sfn|Smith|2000}} {{cite book|title=y}}{{main|z}}{{#if:a|b|c}}{{coord|1|2}}{{PAGENAME}}{{lang}}": "x",
        "{{ Lang | fr | mot }} {{Small_caps|x}} {{small  caps|y}}": "mot x y",
    }.items(),
)
def test_what_dresses_a_text_leaves_it(wikitext: str, text: str) -> None:
    assert to_text(wikitext) == text


@pytest.mark.parametrize("name", ["e", "val|1|e=", "sup", "chem", "date", "padleft:", "uc:"])
def test_what_is_no_markup_may_stand_in_any_of_them(name: str) -> None:
    assert "\x00" not in to_text(f"x {{{{{name}|<nowiki>6</nowiki>}}}} {{{{{name}<nowiki>6</nowiki>}}}}")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(_RULES)), st.lists(st.text(max_size=8), max_size=5))
def test_no_arguments_are_an_error(name: str, arguments: list[str]) -> None:
    assert isinstance(render(name, arguments), str)


def test_a_name_without_end_is_none() -> None:
    assert render("nowrap" * 100_000, ["x"]) == ""
