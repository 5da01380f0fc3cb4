"""What identifies a person, and what opens a door: marked (`<EMAIL>`) or a reason to drop the document.

Found are e-mail addresses, telephone numbers, IP addresses of public networks, credit cards and bank accounts with a
right checksum, and keys: PEM blocks, the tokens of large services, and values that look random and that a name such as
`api_key` is given. Telephone numbers are taken only with a country's code, or grouped as people write them, so that
other numbers stay; names and addresses are not found. Every pattern takes linear time.
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
    holds: Callable[[str], bool] = lambda found: True
    """Whether what was found is what it looks like."""
    only_if: str = ""
    """A text without this, lower case, holds none: a quick look that spares the pattern."""


def _has_luhn(found: str) -> bool:
    """The checksum of credit cards (ISO/IEC 7812)."""
    digits = [int(sign) for sign in found if sign.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _has_iban_checksum(found: str) -> bool:
    """The checksum of bank accounts (ISO 13616)."""
    signs = found.replace(" ", "")
    if not 15 <= len(signs) <= 34:
        return False
    return int("".join(str(int(sign, 36)) for sign in signs[4:] + signs[:4])) % 97 == 1


def _is_public(found: str) -> bool:
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False


def _is_random(found: str) -> bool:
    """Whether the value given to a name looks like a secret."""
    value = found.split("=", 1)[-1].split(":", 1)[-1].strip().strip("\"'")
    counts = Counter(value).values()
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
    return entropy >= LEAST_ENTROPY and any(map(str.isdigit, value)) and any(map(str.isalpha, value))


_SERVICES = (
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bgithub_pat_[A-Za-z0-9_]{60,90}\b"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{10,80}|\bsk-[A-Za-z0-9_-]{20,120}|\bAIza[A-Za-z0-9_-]{35}\b|\bglpat-[A-Za-z0-9_-]{20}\b"
    r"|\bhf_[A-Za-z0-9]{30,40}\b|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[A-Za-z0-9_-]{50,200}"
    r"|\beyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}"
)
_GIVEN = (
    r"(?i:\b[a-z_]{0,30}(?:api_?key|secret|token|passwd|password|access_?key)[a-z_]{0,20}[\"']?\s{0,3}[:=]\s{0,3}"
    r"[\"'][A-Za-z0-9+/_=.-]{12,200}[\"'])"
)
_PHONE = (
    r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}"
    r"|\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4})(?![\w-])"
)
_PEM = r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]{0,20000}-----END [A-Z ]{0,30}PRIVATE KEY-----"
_EMAIL = r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"
_IBAN = r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"
_CARD = r"(?<![\w.])(?:(?:\d{4}[ -]?){3}\d{1,7}|3\d{3}[ -]?\d{6}[ -]?\d{5})(?![\w.])"
_IPV4 = r"(?<![\w.])(?<!ersion )(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"
_IPV6 = r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){3,7}(?::?[0-9A-Fa-f]{1,4}){1,4}(?![\w:])"
KINDS: tuple[Kind, ...] = (
    Kind("PRIVATE_KEY", re.compile(_PEM), only_if="private key-----"),
    Kind("KEY", re.compile(_SERVICES)),
    Kind("SECRET", re.compile(_GIVEN), _is_random),
    Kind("EMAIL", re.compile(_EMAIL), only_if="@"),
    Kind("IBAN", re.compile(_IBAN), _has_iban_checksum),
    Kind("CREDIT_CARD", re.compile(_CARD), _has_luhn),
    Kind("PHONE", re.compile(_PHONE)),
    Kind("IP_ADDRESS", re.compile(_IPV4), _is_public),
    Kind("IP_ADDRESS", re.compile(_IPV6), _is_public, only_if=":"),
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
        if kind.only_if and kind.only_if not in lower:
            continue

        def put(found: re.Match[str], kind: Kind = kind) -> str:
            if not kind.holds(found[0]):
                return found[0]
            counts[kind.mark] = counts.get(kind.mark, 0) + 1
            return f"<{kind.mark}>"

        text = kind.pattern.sub(put, text)
    return text, counts
