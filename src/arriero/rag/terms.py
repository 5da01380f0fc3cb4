"""Words of BM25: one rule for what is indexed and what is asked.

SQLite's `unicode61` tokenizer splits at spaces and punctuation and folds case and accents. Chinese, Japanese and Korean
have no spaces where words end, so their runs are cut into bigrams first, the usual measure: 你好吗 → 你好 好吗 吗.
Every character thus begins one term, and a question of a single character is asked as a prefix.
"""

import re
import unicodedata
from itertools import pairwise

# Han with its extensions and marks, kana (half-width too), bopomofo, hangul.
_CJK = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u3131-\u318e\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_CJK}]+")
_WORD = re.compile(rf"[{_CJK}]+|[^\W{_CJK}]+")


def index_text(text: str) -> str:
    """What the full-text index is given for a passage."""
    return _RUN.sub(lambda run: f" {' '.join(_bigrams(run.group()))} {run.group()[-1]} ", _normalise(text))


def match_expression(question: str) -> str:
    """An FTS5 expression that finds passages with any of the question's words; '' where it has none.

    Every word is quoted and holds letters, digits and underscores only, so no question is a syntax error.
    """
    terms: dict[str, None] = {}
    for word in _WORD.findall(_normalise(question)):
        if not _RUN.fullmatch(word):
            terms[f'"{word}"'] = None
        elif len(word) == 1:
            terms[f'"{word}"*'] = None
        else:
            terms.update((f'"{bigram}"', None) for bigram in _bigrams(word))
    return " OR ".join(terms)


def _bigrams(run: str) -> list[str]:
    return [first + second for first, second in pairwise(run)]


def _normalise(text: str) -> str:
    """Compatibility forms (full-width letters, half-width kana, ligatures) become ordinary; NUL becomes a space."""
    return unicodedata.normalize("NFKC", text).replace("\0", " ").encode("utf-8", "replace").decode()
