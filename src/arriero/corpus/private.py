"""What identifies a person, and what opens a door: marked (`<EMAIL>`) or a reason to drop the document.

Found are e-mail addresses, telephone numbers, IP addresses of public networks, credit cards and bank accounts with a
right checksum, and keys: PEM blocks, the tokens of large services, and values that look random and that a name such as
`api_key` is given. Telephone numbers are taken only with a country's code, or grouped as people write them, so that
other numbers stay; names and addresses are not found, nor keys without an end. Every pattern takes linear time.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from arriero.corpus.document import Document, Each

Mode = Literal["replace", "drop"]
LEAST_ENTROPY = 3.0
"""Bits a character of a value that is taken for a secret; words have less."""


@dataclass(frozen=True)
class Kind:
    """Something private."""

    mark: str
    """What stands in its place, in angle brackets."""
    pattern: re.Pattern[str]
    """What it looks like; its first group, if it has one, is what is private."""
    holds: Callable[[str], bool] = lambda found: True
    """Whether what was found is what it looks like."""
    only_if: tuple[str, ...] = ("",)
    """A text with none of these, lower case, holds none: a quick look that spares the pattern."""


def _has_luhn(found: str) -> bool:
    """The checksum of credit cards (ISO/IEC 7812)."""
    digits = [int(sign) for sign in found if sign.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _has_iban_checksum(found: str) -> bool:
    """The checksum of bank accounts (ISO 13616)."""
    signs = found.replace(" ", "")
    return int("".join(str(int(sign, 36)) for sign in signs[4:] + signs[:4])) % 97 == 1


def _is_public(found: str) -> bool:
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False


def _is_phone(found: str) -> bool:
    """A number of E.164 has at most 15 digits; those of less than 8 are rare, and other things look like them."""
    return 8 <= sum(map(str.isdigit, found)) <= 15


def _has_digit(found: str) -> bool:
    return any(map(str.isdigit, found))


def _is_random(found: str) -> bool:
    """Whether a value that is given to a name looks like a secret."""
    counts = Counter(found).values()
    entropy = -sum(n / len(found) * math.log2(n / len(found)) for n in counts)
    return entropy >= LEAST_ENTROPY and _has_digit(found) and any(map(str.isalpha, found))


def _start(signs: str, not_after: str) -> str:
    """The first character of a pattern, which `re` looks for quickly if it comes before what must not precede it."""
    return f"[{signs}](?<![{not_after}][{signs}])"


def _account(length: int, countries: str) -> str:
    """What follows on the two letters of these countries."""
    return f"(?<={countries.replace(' ', '|')})[0-9]{{2}}(?: ?[A-Z0-9]){{{length - 4}}}"


_ACCOUNTS = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC", 32: "LC",
}  # fmt: skip
"""Countries by the length of their account numbers (registry of ISO 13616)."""
_SERVICES = (
    r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}\b|gh[pousr]_[A-Za-z0-9]{36,255}\b|github_pat_[A-Za-z0-9_]{60,90}\b"
    r"|xox[abeprs]-[A-Za-z0-9-]{10,80}|sk-[A-Za-z0-9_-]{20,120}|sk_(?:live|test)_[A-Za-z0-9]{16,99}\b"
    r"|AIza[A-Za-z0-9_-]{35}\b|glpat-[A-Za-z0-9_-]{20}\b|hf_[A-Za-z0-9]{30,40}\b|npm_[A-Za-z0-9]{36}\b"
    r"|pypi-[A-Za-z0-9_-]{50,200}"
    r"|eyJ(?<!-eyJ)[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000})"
)
_NAMES = (
    *("api_key", "apikey", "api-key", "secret", "token", "passwd", "password"),
    *("access_key", "accesskey", "access-key"),
)
_GIVEN = (
    rf"(?i:(?:{'|'.join(_NAMES)})[a-z_]{{0,20}}[\"']?\s{{0,3}}[:=]\s{{0,3}}"
    r"[\"']([A-Za-z0-9+/_=.-]{12,200})[\"'])"
)
_PHONE = _start("+(0-9", r"\w.+-") + (
    r"(?:(?<=\+)[1-9][0-9]{0,2}[ .-]?(?:\(0?[0-9]{1,4}\)[ .-]?)?[0-9]{1,4}(?:[ .-]?[0-9]{2,4}){2,4}"
    r"|(?<=\()[2-9][0-9]{2}\) ?[0-9]{3}-[0-9]{4}|(?<=[2-9])[0-9]{2}-[0-9]{3}-[0-9]{4})(?![\w-])"
)
_PEM = (
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----[^-]*+(?:-(?!----)[^-]*+)*+"
    r"-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
)
_EMAIL = r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"
_IBAN = _start("A-Z", r"\w") + f"[A-Z](?:{'|'.join(_account(*entry) for entry in _ACCOUNTS.items())})" + r"(?!\w)"
_CARD = _start("0-9", r"\w.") + (
    r"(?:[0-9]{3}[ -]?(?:[0-9]{4}[ -]?){2}[0-9]{1,7}|[0-9]{3}[ -]?[0-9]{6}[ -]?[0-9]{5})(?!\w|\.[0-9])"
)
_IPV4 = _start("0-9", r"\w.") + r"(?<!ersion .)[0-9]{0,2}\.(?:[0-9]{1,3}\.){2}[0-9]{1,3}(?!\w|\.\w)"
_IPV6 = _start("23", r"\w:.") + "[0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}" + r"(?![\w:])"
KINDS: tuple[Kind, ...] = (
    Kind("PRIVATE_KEY", re.compile(_PEM), only_if=("private key",)),
    Kind("KEY", re.compile(_SERVICES), _has_digit),
    Kind("SECRET", re.compile(_GIVEN), _is_random, only_if=_NAMES),
    Kind("EMAIL", re.compile(_EMAIL), only_if=("@",)),
    Kind("IBAN", re.compile(_IBAN), _has_iban_checksum),
    Kind("CREDIT_CARD", re.compile(_CARD), _has_luhn),
    Kind("PHONE", re.compile(_PHONE), _is_phone),
    Kind("IP_ADDRESS", re.compile(_IPV4), _is_public),
    Kind("IP_ADDRESS", re.compile(_IPV6), _is_public, only_if=(":",)),
)


def private_data(mode: Mode) -> Each:
    """The step: marks what is private and counts it by kind, or drops the document."""

    def look(document: Document) -> Document:
        text, counts = mark(document.text)
        if not counts:
            return document
        if mode == "drop":
            return document.with_text("").drop("private: " + ", ".join(sorted(counts)).lower().replace("_", " "))
        return document.with_text(text).with_metadata(private=dict(sorted(counts.items())))

    return Each("private data", look)


def mark(text: str) -> tuple[str, dict[str, int]]:
    """The text with marks, and how many of each kind."""
    counts: dict[str, int] = {}
    lower = text.lower()
    for kind in KINDS:
        if not any(sign in lower for sign in kind.only_if):
            continue
        group = min(1, kind.pattern.groups)

        def put(found: re.Match[str], kind: Kind = kind, group: int = group) -> str:
            if not kind.holds(found[group]):
                return found[0]
            counts[kind.mark] = counts.get(kind.mark, 0) + 1
            start, end = found.start(group) - found.start(), found.end(group) - found.start()
            return f"{found[0][:start]}<{kind.mark}>{found[0][end:]}"

        text = kind.pattern.sub(put, text)
    return text, counts
