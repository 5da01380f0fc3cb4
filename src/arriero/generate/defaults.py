"""How a model wants to be sampled: what `generation_config.json` in its folder says, as vLLM heeds it.

Only what the file names counts; what it leaves out is left to whoever asks, also where transformers has a default of
its own (top_k 50). `do_sample` says how transformers' `generate` is called, and is passed over. The tokens that end an
answer are the tokenizer's to know (`tokenizer/load.py`).
"""

from pathlib import Path
from typing import Any

from arriero.common.errors import ArrieroError, FormatError
from arriero.generate.sampling_config import SamplingConfig
from arriero.model.formats.hf_config import read_json

FILE = "generation_config.json"
_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
_WHOLE = ("top_k", "max_new_tokens")


def read_defaults(path: Path | None) -> dict[str, Any]:
    """Settings of a `SamplingConfig`, by name; none where `path` is no folder, or its file names none.

    Raises:
        FormatError: the file is damaged, or a value is not one that can be used.
    """
    if path is None or not (path / FILE).is_file():
        return {}
    file = path / FILE
    values = read_json(file)
    found: dict[str, Any] = {}
    for theirs, ours in _NAMES.items():
        if (value := values.get(theirs)) is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int if theirs in _WHOLE else int | float):
            kind = "a whole number" if theirs in _WHOLE else "a number"
            raise FormatError(f"{file}: {theirs}: expected {kind}, got {value!r}")
        found[ours] = max(0, value) if theirs == "top_k" else value  # -1 is vLLM's "all"
    try:
        SamplingConfig(**found)
    except ArrieroError as error:
        raise FormatError(f"{file}: {error}") from error
    return found
