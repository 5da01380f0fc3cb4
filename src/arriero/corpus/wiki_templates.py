"""What a template leaves in an article's text: {{lang|fr|mot}} mot, {{convert|5|km|mi}} 5 km, {{cite book|…}} nothing.

A dump holds calls of templates, not what they write. Those that only dress a text, a number or a date are rendered
here, so that sentences keep their words; all others (boxes, notes, citations, navigation) leave nothing. Names are
those of the Wikipedias of LLaMA's 20 languages, in lower case and with spaces.
"""

import re
from collections.abc import Callable, Sequence

Arguments = Sequence[str]
Named = dict[str, str]
_Rule = Callable[[Arguments, Named], str]

_PLAIN = "0123456789+-−=()n"
SUPERSCRIPTS = str.maketrans(_PLAIN, "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
SUBSCRIPTS = str.maketrans(_PLAIN, "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₙ")
_NUMBER = re.compile(r"[+\-−]?[\d.,\u00a0 ]*\d(?:[/+⁄][\d/]+)?$")
_RANGES = {
    "-": "–",
    "–": "–",
    "to": " to ",
    "and": " and ",
    "or": " or ",
    "by": " by ",
    "x": " × ",
    "×": " × ",
    "±": "±",
}
_COMPOUND_NAMES = "ft in yd mi lb oz st cwt ch fur"
_COMPOUND = frozenset(_COMPOUND_NAMES.split())
"""Units that stand one after the other, as 5 ft 6 in."""
_UNITS = {"sqmi": "sq mi", "sqft": "sq ft", "cuft": "cu ft", "C": "°C", "F": "°F", "km2": "km²", "m2": "m²", "m3": "m³"}


def render(name: str, arguments: Arguments) -> str:
    """The text of a template.

    Args:
        name: as it is written; also a function with its first argument, `lc:Text`.
        arguments: those behind the bars, themselves rendered: `text`, or `name=text`.
    """
    head, colon, text = name.partition(":")
    if colon and (function := _FUNCTIONS.get(head.strip().lower())):
        return function(text.strip())
    rule = _find(name)
    if rule is None:
        return ""
    positional: list[str] = []
    named: Named = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = key.strip()
        if not equals:
            positional.append(argument.strip())
        elif key.isdecimal() and int(key[:4]) == len(positional) + 1:
            positional.append(value.strip())
        else:
            named[key.lower()] = value.strip()
    return rule(positional, named)


def _find(name: str) -> _Rule | None:
    if len(name) > 100:
        return None
    key = " ".join(name.replace("_", " ").lower().split())
    return _RULES.get(key) or (_first if key.startswith("lang-") or _GERMAN.fullmatch(name) else None)


def _at(index: int) -> _Rule:
    """The positional argument of that index, or the last one before."""

    def rule(arguments: Arguments, _: Named) -> str:
        return arguments[min(index, len(arguments) - 1)] if arguments else ""

    return rule


_first, _second, _last = _at(0), _at(1), _at(1 << 20)


def _foreign(arguments: Arguments, named: Named) -> str:
    """A link to another language's article: its label, else its title here."""
    label = next(filter(None, (named.get(key) for key in ("lt", "texte", "fr"))), "")
    return label or next(filter(None, arguments), "")


def _translated(arguments: Arguments, _: Named) -> str:
    """The same in Russian and Ukrainian: title, then label."""
    return next(filter(None, reversed(arguments[:2])), "")


def _quotation(arguments: Arguments, named: Named) -> str:
    return next(filter(None, (named.get(key) for key in ("text", "quote", "цитата"))), "") or _first(arguments, named)


def _joined(separator: str, most: int | None = None) -> _Rule:
    return lambda arguments, _: separator.join(filter(None, arguments[:most]))


def _between(before: str, after: str = "") -> _Rule:
    """The first argument between two texts; nothing without it."""
    return lambda arguments, _: f"{before}{arguments[0]}{after}" if arguments and arguments[0] else ""


def _constant(text: str) -> _Rule:
    return lambda *_: text


def _items(arguments: Arguments, _: Named) -> str:
    return "".join(f"\n* {argument}" for argument in arguments if argument) + "\n"


def _block(arguments: Arguments, named: Named) -> str:
    return f"\n{_first(arguments, named)}\n"


def _sic(arguments: Arguments, _: Named) -> str:
    return f"{''.join(arguments)} [sic]".strip()


def _script(table: dict[int, int]) -> _Rule:
    def rule(arguments: Arguments, _: Named) -> str:
        text = "".join(arguments[:1])
        return text.translate(table) if set(text) <= set(_PLAIN) else text

    return rule


def _formula(arguments: Arguments, _: Named) -> str:
    """{{chem|H|2|O}}."""
    return "".join(text.translate(SUBSCRIPTS) if text.isdecimal() else text for text in arguments)


def _power(arguments: Arguments, _: Named) -> str:
    return f"×10{arguments[0].translate(SUPERSCRIPTS)}" if arguments else "e"


def _century(arguments: Arguments, _: Named) -> str:
    """French: {{s|XIX|e}}. In Russian the same name keeps words together."""
    return f"{arguments[0]}{arguments[1]} siècle" if len(arguments) > 1 else "".join(arguments)


def _fraction(arguments: Arguments, _: Named) -> str:
    match [argument for argument in arguments if argument]:
        case [below]:
            return f"1/{below}"
        case [above, below]:
            return f"{above}/{below}"
        case [whole, above, below, *_]:
            return f"{whole} {above}/{below}"
    return ""


def _quantity(arguments: Arguments, _: Named) -> str:
    """{{convert}}: what it is given, not what it makes of it. Ranges and units such as feet and inches are read."""
    if not arguments:
        return ""
    text, index = arguments[0], 1
    while len(arguments) > index + 1 and arguments[index] in _RANGES and _NUMBER.match(arguments[index + 1]):
        text += _RANGES[arguments[index]] + arguments[index + 1]
        index += 2
    units = arguments[index:]
    if not units:
        return text
    text += f" {_UNITS.get(units[0], units[0])}"
    if len(units) > 2 and units[0] in _COMPOUND and units[2] in _COMPOUND and _NUMBER.match(units[1]):
        text += f" {units[1]} {units[2]}"
    return text


def _value(arguments: Arguments, named: Named) -> str:
    """{{val|5.2|0.1|e=6|u=km}}: a number, its uncertainty, its power of ten, its unit."""
    text = "±".join(filter(None, arguments[:2]))
    power = named.get("e")
    text = f"{named.get('p', '')}{text}" + (f"×10{power.translate(SUPERSCRIPTS)}" if power else named.get("s", ""))
    return " ".join(filter(None, (text, named.get("u") or named.get("ul"))))


def _date(arguments: Arguments, _: Named) -> str:
    """Numbers are year, month and day; anything else stands as it is, in its order."""
    parts = [argument for argument in arguments[:3] if argument]
    if len(parts) > 1 and all(part.isdecimal() for part in parts) and len(parts[0]) == 4:
        return "-".join(part.zfill(2) for part in parts)
    return " ".join(parts)


def _as_of(arguments: Arguments, named: Named) -> str:
    return named.get("alt") or f"{'as' if 'lc' in named else 'As'} of {_date(arguments, named)}"


def _japanese(arguments: Arguments, _: Named) -> str:
    english, *others = [*arguments[:3], ""]
    within = ", ".join(filter(None, others))
    return f"{english} ({within})" if english and within else english or within


def _chinese(_: Arguments, named: Named) -> str:
    return ", ".join(named[key] for key in ("c", "s", "t", "p") if named.get(key))


_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "formatnum": str,
    "lc": str.lower,
    "uc": str.upper,
    "lcfirst": lambda text: text[:1].lower() + text[1:],
    "ucfirst": lambda text: text[:1].upper() + text[1:],
    "padleft": str,
}
_ROWS: tuple[tuple[_Rule, str], ...] = (
    (
        _first,
        "nowrap|nobr|nobreak|small|smaller|big|larger|large|sc|smallcaps|small caps|abbr|abbrv|tooltip|abréviation|"
        "abréviation discrète|nobold|noitalic|nonitalic|noitalics|em|strong|var|mvar|math|code|codett|tt|kbd|samp|mono|"
        "char|polytonic|unicode|chem2|formatnum|num|nts|number|liczba|число|center|centre|visible anchor|vanchor|flag|"
        "flagu|flagcountry|country|pays|as written|keypress|key press|button|birth year and age|birth-date|death-date|"
        "birth-date and age|death-date and age|start-date|end-date|citation",
    ),
    (_second, "lang|langx|langue|cizojazyčně|vjazyce2|wikt-lang|script|rtl-lang"),
    (_last, "transl|transliteration|translit|color|colour|font color|fontcolor|couleur|background color|hover title"),
    (_foreign, "ill|interlanguage link|link-interwiki|lien"),
    (_translated, "не переведено|не переведено 2|не переведено 3|не переведено 5|нп|нп2|нп3|нп4|нп5|iw|не перекладено"),
    (
        _quotation,
        "quote|blockquote|cquote|quotation|rquote|bq|zitat|cita|citation bloc|citazione|цитата|citaat|citát|citat|"
        "citação|pull quote",
    ),
    (_joined(""), "not a typo|gaps|linktext"),
    (_joined(" ", 2), "ship|sclass|bibleverse"),
    (_joined(", "), "hlist|comma separated entries"),
    (_items, "ubl|unbulleted list|bulleted list"),
    (_block, "plainlist|flatlist"),
    (_sic, "sic"),
    (_formula, "chem"),
    (_fraction, "frac|fraction|sfrac|bruch|дробь"),
    (_quantity, "convert|cvt|unité|unite|unidad|nombre|fmtn"),
    (_value, "val"),
    (_power, "e"),
    (_century, "s|-s"),
    (
        _date,
        "birth date|death date|start date|end date|date|date-|birth date and age|death date and age|bda|dob|dts|"
        "start date and age|film date|date de naissance|date de décès|fecha|datum narození|datum úmrtí|дата",
    ),
    (_as_of, "as of"),
    (_script(SUPERSCRIPTS), "sup|exp|exposant"),
    (_script(SUBSCRIPTS), "sub|ind"),
    (_japanese, "nihongo"),
    (_chinese, "zh"),
    (_between("c. "), "circa|c.|ca."),
    (_between("fl. "), "fl.|floruit"),
    (_between("r. "), "reign|r."),
    (_between("USS "), "uss"),
    (_between("HMS "), "hms"),
    (_between("RMS "), "rms"),
    (_between("SS "), "ss"),
    (_between("“", "”"), '"'),
    (_between("±"), "±"),
    (_between("US$"), "us$|usd"),
    (_between("£"), "£|gbp"),
    (_between("€"), "€|eur"),
    (_between("₹"), "₹|inr"),
    (_constant("1er"), "1er"),
    (_constant("1re"), "1re"),
    (_constant(" – "), "snd|spnd|spaced ndash|spaced en dash"),
    (_constant("–"), "ndash|en dash"),
    (_constant("—"), "mdash|em dash"),
    (_constant(" · "), "·|dot|middot"),
    (_constant(" • "), "•|bull|bullet"),
    (_constant(" "), "nbsp|space|spaces|thinsp|thin space|hair space"),
    (_constant("'"), "'|`"),
    (_constant("'s"), "'s"),
    (_constant("|"), "!"),
    (_constant("="), "="),
)
_RULES = {name: rule for rule, names in _ROWS for name in names.split("|")}
_GERMAN = re.compile(r"\s*[a-z]{2,3}S\s*")
"""{{frS|mot}}: a word and the name of its language."""
