"""Bytes to text, strictly: by the encoding that is declared, else UTF-8; what does not fit is refused, not patched."""

import codecs
import re

from arriero.common.errors import require

_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{2,40})""", re.IGNORECASE)
_HEAD = 4096
"""Bytes of a page in which its encoding is declared."""


def why_unusable(data: bytes) -> str | None:
    """The reason for which no text can be had from bytes, whatever their encoding."""
    if not data.strip():
        return "empty"
    if b"\x00" in data and not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "nul bytes"
    return None


def decode_utf8(data: bytes) -> tuple[str, str | None]:
    """A text, and the reason why it is none: then the text is empty."""
    if reason := why_unusable(data):
        return "", reason
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError:
        return "", "utf-8: invalid"


def decode_page(data: bytes, declared: str | None) -> str | None:
    """A web page's text by the encoding that its server or its own head declares, as browsers read the names.

    Without a declaration it is UTF-8, or if it is not that, what its bytes look like. None if it does not fit.
    """
    encoding = require("resiliparse.parse.encoding", extra="corpus", purpose="reading web pages")
    meta = _META.search(data[:_HEAD])
    name = declared or (meta[1].decode("ascii", "replace") if meta else None)
    if name is None:
        return _decode(data, "utf-8") or _decode(data, encoding.detect_encoding(data))
    return _decode(data, encoding.map_encoding_to_html5(name) or name)


def _decode(data: bytes, name: str) -> str | None:
    try:
        return data.decode("utf-8-sig" if name.lower() in ("utf-8", "utf8") else name)
    except (UnicodeDecodeError, LookupError):
        return None
