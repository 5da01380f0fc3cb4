"""Tokenizers embedded in GGUF files: from a file's key-value pairs, and to them.

Keys and defaults are llama.cpp's. Byte-level BPE is `tokenizer.ggml.model` = `gpt2`, whose `.pre` names the way text is
split into words; SentencePiece is `llama`, whose scores rank the merges.
"""

import json
from collections.abc import Mapping
from typing import Any

from arriero.common.errors import FormatError
from arriero.tokenizer.tokenizer import END_OF_TURN, Tokenizer
from arriero.tokenizer.vocabulary import (
    PRE_TOKENIZERS,
    Kind,
    Normalization,
    Vocabulary,
    build_byte_level,
    build_sentencepiece,
    rank_merges,
    split_words,
)

_PREFIX = "tokenizer.ggml."
_IDS = {"bos_id": "bos_token_id", "eos_id": "eos_token_id", "pad_id": "padding_token_id", "unk_id": "unknown_token_id"}

_TYPES: dict[str, tuple[type[Any], type | None]] = {
    f"{_PREFIX}model": (str, None),
    f"{_PREFIX}pre": (str, None),
    f"{_PREFIX}tokens": (list, str),
    f"{_PREFIX}merges": (list, str),
    f"{_PREFIX}token_type": (list, int),
    f"{_PREFIX}scores": (list, float),
    "tokenizer.chat_template": (str, None),
    **{f"{_PREFIX}{key}": (int, None) for key in (*_IDS.values(), "eot_token_id", "eom_token_id")},
}


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's key-value pairs describe.

    Raises:
        FormatError: a kind of vocabulary or of pre-tokenizer that is not supported, or fields that do not fit.
    """
    _check_types(metadata)
    model = metadata.get(f"{_PREFIX}model")
    if model not in ("gpt2", "llama"):
        named = f"tokenizer model '{model}' is not supported" if model else f"there is no {_PREFIX}model"
        raise FormatError(f"{named}: expected gpt2 (byte-level BPE) or llama (SentencePiece)")
    ids = {name: _read_id(metadata, key) for name, key in _IDS.items()}
    turn_ends = {_read_id(metadata, "eot_token_id"), _read_id(metadata, "eom_token_id")} - {None}
    vocabulary = _read_vocabulary(metadata, {ids["bos_id"], ids["eos_id"], *turn_ends} - {None})
    if model == "gpt2":
        pre = metadata.get(f"{_PREFIX}pre", "default")
        backend = build_byte_level(vocabulary, _read_merges(metadata), pre)
        adds_bos = PRE_TOKENIZERS[pre] == "llama-bpe"  # what llama.cpp does where the file does not say
    else:
        scores = metadata.get(f"{_PREFIX}scores", [])
        merges = rank_merges(vocabulary, scores) if len(set(scores)) > 1 else _read_merges(metadata)
        prefix = bool(metadata.get(f"{_PREFIX}add_space_prefix", True))
        backend = build_sentencepiece(vocabulary, merges, Normalization(dummy_prefix=prefix))
        adds_bos = True
    return Tokenizer(
        backend,
        **ids,
        add_bos=bool(metadata.get(f"{_PREFIX}add_bos_token", adds_bos)),
        add_eos=bool(metadata.get(f"{_PREFIX}add_eos_token", False)),
        stop_ids=turn_ends,
        chat_template=metadata.get("tokenizer.chat_template"),
    )


def to_gguf(tokenizer: Tokenizer) -> dict[str, Any]:
    """The key-value pairs that describe `tokenizer`, so that `from_gguf` and llama.cpp read the same one back.

    Raises:
        FormatError: GGUF has no name for its pre-tokenizer, or its merges are not those of any scores.
    """
    state = json.loads(tokenizer.backend.to_str())
    if state["model"]["type"] != "BPE":
        raise FormatError(f"a {state['model']['type']} vocabulary cannot be written to GGUF: expected BPE")
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in state["model"]["merges"]]
    tokens = [tokenizer.backend.id_to_token(token_id) or f"[PAD{token_id}]" for token_id in range(tokenizer.vocab_size)]
    kinds = _kinds(tokenizer, state)
    pairs: dict[str, Any]
    if tokenizer.byte_level:
        pre = _name_words(state["pre_tokenizer"])
        pairs = {"model": "gpt2", "pre": pre, "merges": [f"{left} {right}" for left, right in merges]}
    else:
        vocabulary = Vocabulary(tokens=tokens, kinds=kinds, controls=tokenizer.special_ids)
        prefix = _has_prefix(state)
        pairs = {"model": "llama", "pre": "default", "scores": _score(vocabulary, merges), "add_space_prefix": prefix}
    pairs |= {"tokens": tokens, "token_type": [int(kind) for kind in kinds]}
    pairs |= {"add_bos_token": tokenizer.add_bos, "add_eos_token": tokenizer.add_eos}
    named = {
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
        "unk_id": tokenizer.unk_id,
    }
    pairs |= {_IDS[name]: token_id for name, token_id in named.items() if token_id is not None}
    turn_ends = [
        token_id for token_id in tokenizer.stop_ids if tokens[token_id] in ("<|eot_id|>", "<|im_end|>", "<|end|>")
    ]
    if turn_ends and turn_ends != [tokenizer.eos_id]:
        pairs["eot_token_id"] = min(turn_ends)
    metadata = {f"{_PREFIX}{key}": value for key, value in pairs.items()}
    if tokenizer.chat_template is not None:
        metadata["tokenizer.chat_template"] = tokenizer.chat_template.source
    return metadata


def _check_types(metadata: Mapping[str, Any]) -> None:
    for name, (kind, item) in _TYPES.items():
        value = metadata.get(name)
        if value is None or (type(value) is kind and (item is None or all(type(entry) is item for entry in value))):
            continue
        expected = f"a list of {item.__name__}" if item is not None else kind.__name__
        raise FormatError(f"{name} must be {expected}")


def _read_id(metadata: Mapping[str, Any], key: str) -> Any:
    """A special token's id; some writers put -1, as unsigned, for none."""
    token_id = metadata.get(f"{_PREFIX}{key}")
    return None if token_id in (None, -1, 0xFFFFFFFF) else token_id


def _read_vocabulary(metadata: Mapping[str, Any], named: set[Any]) -> Vocabulary:
    tokens = metadata.get(f"{_PREFIX}tokens", [])
    kinds = metadata.get(f"{_PREFIX}token_type", [Kind.NORMAL] * len(tokens))
    users = (token_id for token_id, kind in enumerate(kinds[: len(tokens)]) if kind == Kind.USER)
    turns = {token_id for token_id in users if tokens[token_id] in END_OF_TURN}
    return Vocabulary(tokens=tokens, kinds=kinds, controls=frozenset(turns | named))


def _read_merges(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges = metadata.get(f"{_PREFIX}merges")
    if not merges:
        more = "" if metadata.get(f"{_PREFIX}model") == "gpt2" else f" and no {_PREFIX}scores"
        raise FormatError(f"there are no {_PREFIX}merges{more}")
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not (left and right):
            raise FormatError(f"merge {merge!r} is not two tokens with a space between")
        pairs.append((left, right))
    return pairs


def _kinds(tokenizer: Tokenizer, state: dict[str, Any]) -> list[Kind]:
    model = state["model"]
    kinds = [Kind.UNUSED] * tokenizer.vocab_size
    for token, token_id in model["vocab"].items():
        is_byte = model["byte_fallback"] and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        kinds[token_id] = Kind.BYTE if is_byte else Kind.NORMAL
    for token in state["added_tokens"]:
        kinds[token["id"]] = Kind.CONTROL if token["special"] else Kind.USER
    if not tokenizer.byte_level and tokenizer.unk_id is not None:
        kinds[tokenizer.unk_id] = Kind.UNKNOWN
    return kinds


def _name_words(state: dict[str, Any] | None) -> str:
    for way in ("smollm", "llama-bpe", "gpt-2"):
        if state is not None and _comparable(state) == _comparable(json.loads(split_words(way).__getstate__())):
            return way
    raise FormatError("its pre-tokenizer has no name in GGUF that we know: expected that of smollm, llama-bpe or gpt-2")


def _comparable(state: dict[str, Any]) -> Any:
    """A pre-tokenizer's state without what does not change its words; a sequence of one is that one."""
    steps = state.get("pretokenizers", [state])
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]


def _has_prefix(state: dict[str, Any]) -> bool:
    """Whether a SentencePiece pipeline puts a space before the text.

    Raises:
        FormatError: it does more to the text than GGUF can say.
    """
    normalizer, words = state["normalizer"] or {"type": "Sequence", "normalizers": []}, state["pre_tokenizer"]
    steps = [step["type"] for step in normalizer.get("normalizers", [normalizer])]
    metaspace = words is not None and words["type"] == "Metaspace"
    if steps in (["Prepend", "Replace"], ["Replace"]) and words is None:
        return len(steps) == 2
    if not steps and metaspace and not words["split"]:
        return bool(words["prepend_scheme"] != "never")
    raise FormatError("its normaliser cannot be described in GGUF: expected SentencePiece's identity")


def _score(vocabulary: Vocabulary, merges: list[tuple[str, ...]]) -> list[float]:
    """Scores that rank the merges: minus the place of the first merge that makes a token.

    Raises:
        FormatError: scored pieces would merge otherwise.
    """
    places: dict[str, int] = {}
    for left, right in merges:
        places.setdefault(left + right, len(places))
    last = -float(len(places))
    scores = [
        -float(places[token]) if token in places else last if kind == Kind.NORMAL else 0.0
        for token, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
    ]
    ranked = rank_merges(vocabulary, scores)
    products = [left + right for left, right in ranked]
    if set(ranked) != set(merges) or products != [left + right for left, right in merges]:
        raise FormatError("its merges cannot be written as SentencePiece scores, which is all that GGUF has for them")
    return scores
