"""The tokenizer of a model, out of whichever file carries it."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from arriero.common.errors import FormatError
from arriero.common.gguf_header import read_header
from arriero.tokenizer.gguf import from_gguf
from arriero.tokenizer.spm import load_sentencepiece
from arriero.tokenizer.tokenizer import Tokenizer

__all__ = ["from_gguf", "load_tokenizer"]

_NAMES = ("bos", "eos", "pad", "unk")


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.

    Args:
        path: a folder in Hugging Face format (`tokenizer.json`, else `tokenizer.model`), or one `.json`, `.model` or
        `.gguf`
            file. Beside a `.json` or `.model` file its folder's settings are read too.

    Raises:
        FormatError: there is no such file, it is damaged, or it is of a kind that is not supported.
        MissingExtraError: a `.model` file, without the package `sentencepiece`.
    """
    file = _find_file(path)
    if file.suffix == ".gguf":
        metadata = read_header(file).metadata
        try:
            return from_gguf(metadata)
        except FormatError as error:
            raise FormatError(f"{file}: {error}") from error
    if not file.stat().st_size:
        raise FormatError(f"{file} is empty: expected a tokenizer")
    settings = _Settings(file.parent)
    try:
        if file.suffix == ".model":
            return load_sentencepiece(file, **settings.options(None))
        backend = _read_backend(file)
        settings.add_tokens(backend)
        return Tokenizer(backend, **settings.options(backend))
    except FormatError as error:
        raise error if str(file.parent) in str(error) else FormatError(f"{file}: {error}") from error


def _find_file(path: Path) -> Path:
    if path.is_dir():
        for name in ("tokenizer.json", "tokenizer.model"):
            if (path / name).is_file():
                return path / name
        raise FormatError(f"{path} holds no tokenizer: expected tokenizer.json or tokenizer.model in it")
    if not path.is_file():
        raise FormatError(f"{path} does not exist: expected a folder, or a .json, .model or .gguf file")
    if path.suffix not in (".json", ".model", ".gguf"):
        raise FormatError(f"{path} is no tokenizer file: expected .json, .model or .gguf")
    return path


def _read_backend(file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(file.read_bytes().decode())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exceptions, and a Rust panic is not even one of those
        raise FormatError(f"{file} is no tokenizer.json: {' '.join(str(error).split())}") from error


class _Settings:
    """What the files beside a vocabulary say of it: special tokens, defaults of encoding, chat template."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._config = self._read("special_tokens_map.json") | self._read("tokenizer_config.json")
        self._model = self._read("config.json")
        self._generation = self._read("generation_config.json")

    def add_tokens(self, backend: tokenizers.Tokenizer) -> None:
        """Add or re-declare the tokens that `tokenizer_config.json` lists."""
        for token_id, token in sorted(self._listed_tokens().items()):
            backend.add_tokens([token])
            found = backend.token_to_id(token.content)
            if found != token_id:
                raise self._error(f"token {token.content!r} has id {token_id} there and id {found} in the vocabulary")
        named = [content for name in _NAMES if (content := self._named(name)) is not None]
        extra = self._config.get("additional_special_tokens") or self._config.get("extra_special_tokens") or []
        contents = [self._content(token) for token in (extra.values() if isinstance(extra, dict) else extra)]
        known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        missing = [content for content in [*named, *contents] if content and content not in known]
        backend.add_special_tokens([AddedToken(content, special=True, normalized=False) for content in missing])

    def options(self, backend: tokenizers.Tokenizer | None) -> dict[str, Any]:
        """Arguments for `Tokenizer`; what no file says is left out."""
        options: dict[str, Any] = {"chat_template": self._template()}
        ends = self._generation.get("eos_token_id")
        options["stop_ids"] = [end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)]
        for name in ("add_bos_token", "add_eos_token"):
            if self._config.get(name) is not None:
                options[name.removesuffix("_token")] = bool(self._config[name])
        if backend is None:
            return options
        for name in _NAMES:
            content = self._named(name)
            token_id = None if content is None else backend.token_to_id(content)
            options[f"{name}_id"] = self._numbered(name, backend) if token_id is None else token_id
        if backend.post_processor is not None:  # it outranks the flags, as in transformers 5
            sequence = backend.encode("a", add_special_tokens=True).ids
            options["add_bos"] = sequence[:1] == [options["bos_id"]]
            options["add_eos"] = sequence[-1:] == [options["eos_id"]]
        return options

    def _listed_tokens(self) -> dict[int, AddedToken]:
        listed = self._config.get("added_tokens_decoder") or {}
        if not isinstance(listed, dict) or not all(key.isdecimal() for key in listed):
            raise self._error("its added_tokens_decoder must map ids to tokens")
        tokens = {}
        for key, token in listed.items():
            content = self._content(token)
            flags = {
                name: name in token and bool(token[name]) for name in ("lstrip", "rstrip", "single_word", "special")
            }
            normalized = bool(token.get("normalized", not flags["special"])) if isinstance(token, dict) else False
            tokens[int(key)] = AddedToken(content, normalized=normalized, **flags)
        return tokens

    def _named(self, name: str) -> str | None:
        return self._content(self._config.get(f"{name}_token"))

    def _content(self, token: Any) -> str | None:
        """The text of a token, which files write bare or as an object."""
        content = token.get("content") if isinstance(token, dict) else token
        if not (isinstance(content, str) or token is None):
            raise self._error(f"it names a special token by {token!r}: expected a text")
        return content

    def _error(self, message: str) -> FormatError:
        return FormatError(f"{self._folder / 'tokenizer_config.json'}: {message}")

    def _numbered(self, name: str, backend: tokenizers.Tokenizer) -> int | None:
        """The id that the model's own configuration gives, of several the first, if the vocabulary has it."""
        given = self._model.get(f"{name}_token_id")
        token_id = given[0] if isinstance(given, list) and given else given
        if not isinstance(token_id, int) or token_id < 0 or backend.id_to_token(token_id) is None:
            return None
        return token_id

    def _template(self) -> str | None:
        file = self._folder / "chat_template.jinja"
        if file.is_file():
            try:
                return file.read_bytes().decode()
            except UnicodeDecodeError as error:
                raise FormatError(f"{file} is no UTF-8 text") from error
        template = self._config.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = named.get("default")
        if not (template is None or isinstance(template, str)):
            raise self._error(f"its chat_template is no text: {template!r}")
        return template

    def _read(self, name: str) -> dict[str, Any]:
        file = self._folder / name
        if not file.is_file():
            return {}
        try:
            content = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{file} is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise FormatError(f"{file} must hold an object, not {type(content).__name__}")
        return content
