"""Bytes to text: byte order mark, UTF-8, UTF-16 without a mark, then charset-normalizer's guess."""

import codecs
import re

from arriero.common.errors import FormatError, require

SAMPLE = 256 * 1024
"""Bytes that are looked at to recognise binary data or to guess an encoding."""

# UTF-32's little-endian mark begins with UTF-16's: the longer first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")
_MAX_CONTROL_SHARE = 0.02
# French, German, Portuguese or a lone “smart quote” tie with cp1250 and rarer encodings: the commonest wins the tie.
# It is no candidate for Czech, Polish, Hungarian, Greek or Russian text; Turkish loses by it.
_MULTI_BYTE = frozenset(
    {"big5", "big5hkscs", "cp932", "cp949", "cp950", "euc_jis_2004", "euc_jisx0213", "euc_jp", "euc_kr", "gb18030"}
    | {"gb2312", "gbk", "hz", "johab", "shift_jis", "shift_jis_2004", "shift_jisx0213", "utf_7", "utf_8", "utf_16"}
)


def decode(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """The text and the name of its encoding; `declared` is what the file itself says (HTML meta, PEP 263 cookie).

    A few invalid bytes in a file that is otherwise UTF-8 become U+FFFD: they must not cost the whole file.

    Raises:
        FormatError: the bytes are no text.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, errors="replace"), name
    if declared and (text := _decode_as(data, declared)) is not None:
        return text, codecs.lookup(declared).name
    wide = _utf16_without_mark(data)
    if wide and (text := _decode_as(data, wide)) is not None:
        return text, wide
    refuse_binary(data)
    if (text := _decode_as(data, "utf-8")) is not None:
        return text, "utf-8"
    if _is_damaged_utf8(data):
        return data.decode("utf-8", errors="replace"), "utf-8"
    guess = _guess(data)
    return data.decode(guess, errors="replace"), guess


def refuse_binary(data: bytes) -> None:
    """Raise `FormatError` when the bytes hold NULs or too many control characters to be text."""
    if b"\0" in data:
        raise FormatError("binary data, not text (it holds NUL bytes)")
    sample = data[:SAMPLE]
    controls = len(_CONTROLS.findall(sample))
    if controls > 1 and controls > _MAX_CONTROL_SHARE * len(sample):
        raise FormatError("binary data, not text (it is full of control characters)")


def _decode_as(data: bytes, name: str) -> str | None:
    try:
        text = data.decode(name)
    except (UnicodeDecodeError, LookupError, ValueError):  # LookupError: a made-up name, or a codec that gives no text
        return None
    return None if "\0" in text else text


def _utf16_without_mark(data: bytes) -> str | None:
    """Latin text in UTF-16 has a NUL in every second byte; which half tells the byte order."""
    sample = data[:SAMPLE]
    if len(sample) < 4 or len(data) % 2:
        return None
    half = len(sample) // 2
    even, odd = sample[0::2].count(0) / half, sample[1::2].count(0) / half
    if odd > 0.3 and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if even > 0.3 and odd < 0.05 else None


def _is_damaged_utf8(data: bytes) -> bool:
    """Ten times as many valid multi-byte characters as broken ones, or nothing broken but a cut last character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=False)
        return True
    except UnicodeDecodeError:
        pass
    text = data.decode("utf-8", errors="replace")
    broken = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    whole = sum(map(len, re.findall(r"[^\x00-\x7f\ufffd]+", text)))
    return whole >= 10 * broken


def _guess(data: bytes) -> str:
    normalizer = require("charset_normalizer", extra="rag", purpose="reading text that is not UTF-8")
    names = [str(match.encoding) for match in normalizer.from_bytes(data[:SAMPLE])]
    if not names:
        raise FormatError("binary data, or text in an encoding that could not be recognised: save it as UTF-8")
    if names[0] not in _MULTI_BYTE and "cp1252" in names:
        return "cp1252"
    return names[0]
