"""Folders and files: what is read from where, and what is said of those that cannot be read."""

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors
from transformers import AutoTokenizer

from arriero.common.errors import FormatError, MissingExtraError
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def folder(small: Tokenizer, tmp_path: Path) -> Path:
    """A folder with `tokenizer.json` and little else, as an older program would have written it."""
    small.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    _write(
        tmp_path,
        "tokenizer_config.json",
        {"bos_token": "<|im_start|>", "eos_token": {"__type": "AddedToken", "content": "<|im_end|>"}},
    )
    return tmp_path


def _write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def _change(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    _write(folder, "tokenizer_config.json", config | settings)


def test_a_folder_and_its_file_are_the_same(folder: Path) -> None:
    for path in (folder, folder / "tokenizer.json"):
        tokenizer = load_tokenizer(path)
        assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos, tokenizer.chat_template) == (1, 2, False, None)


def test_tokenizer_json_is_preferred_to_the_model(folder: Path, llama_model: Path) -> None:
    size = load_tokenizer(folder).vocab_size
    shutil.copy(llama_model, folder)
    assert load_tokenizer(folder).vocab_size == size
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert load_tokenizer(folder).vocab_size == 700


def test_without_a_post_processor_the_edges_are_those_of_the_config(folder: Path) -> None:
    _write(folder, "tokenizer.json", json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None})
    assert len(load_tokenizer(folder).encode("x")) == 1
    _change(folder, add_bos_token=True, add_eos_token=True)
    assert load_tokenizer(folder).encode("x")[::2] == [1, 2]


@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True}, {"add_bos_token": False}])
@pytest.mark.parametrize("single", ["$A", "<|im_start|> $A", "<|im_start|> $A <|im_end|>"])
def test_the_edges_are_those_of_the_post_processor(folder: Path, settings: dict[str, Any], single: str) -> None:
    _change(folder, **settings)
    backend = load_tokenizer(folder).backend
    tokens = [("<|im_start|>", 1), ("<|im_end|>", 2)]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.add_bos, tokenizer.add_eos) == ("start" in single, "end" in single)
    assert tokenizer.encode("x") == AutoTokenizer.from_pretrained(folder).encode("x")


def test_truncation_and_padding_of_the_file_are_not_applied(folder: Path) -> None:
    backend = load_tokenizer(folder).backend
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode("more than four tokens here")) == "more than four tokens here"
    assert len(tokenizer.encode("x")) == 1


def test_all_ends_of_the_generation_config_stop(folder: Path) -> None:
    _write(folder, "generation_config.json", {"eos_token_id": [0, 7]})
    assert load_tokenizer(folder).stop_ids == {0, 2, 7}
    _write(folder, "generation_config.json", {"eos_token_id": 7})
    assert 7 in load_tokenizer(folder).stop_ids


def test_special_tokens_come_from_the_map_or_the_model_config(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    _write(folder, "special_tokens_map.json", {"bos_token": "<|im_start|>"})
    _write(folder, "config.json", {"eos_token_id": [2, 0]})
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)


def test_tokens_added_by_the_config_are_whole(folder: Path) -> None:
    size = load_tokenizer(folder).vocab_size
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    added = {
        str(size): {"content": "<tool>", "special": True} | flags,
        str(size + 1): {"content": "<think>", "special": False} | flags,
    }
    _change(folder, added_tokens_decoder=added, pad_token="<tool>")
    tokenizer, reference = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    text = "a<tool>b<think>c"
    assert tokenizer.encode(text, parse_special=True) == reference.encode(text)
    assert size not in tokenizer.encode(text)
    assert size + 1 in tokenizer.encode(text)
    assert tokenizer.pad_id == size


def test_an_added_token_with_another_id_is_refused(folder: Path) -> None:
    _change(folder, added_tokens_decoder={"5": {"content": "<tool>", "special": True}})
    with pytest.raises(
        FormatError, match=r"tokenizer_config\.json: token '<tool>' has id 5 there and id \d+ in the voc"
    ):
        load_tokenizer(folder)


def test_added_tokens_may_reach_beyond_the_vocabulary_of_merges(folder: Path) -> None:
    backend = load_tokenizer(folder).backend
    size = backend.get_vocab_size()
    backend.add_special_tokens([AddedToken("<|eot_id|>", special=True)])
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == size + 1
    assert size in tokenizer.stop_ids


@pytest.mark.parametrize("place", ["file", "config", "named"])
def test_the_template_is_found(folder: Path, place: str) -> None:
    if place == "file":
        (folder / "chat_template.jinja").write_text("{{ 'here' }}")
        _change(folder, chat_template="elsewhere")
    elif place == "config":
        _change(folder, chat_template="{{ 'here' }}")
    else:
        named = [{"name": "tool_use", "template": "other"}, {"name": "default", "template": "{{ 'here' }}"}]
        _change(folder, chat_template=named)
    template = load_tokenizer(folder).chat_template
    assert template is not None
    assert template.render([]) == "here"


def test_settings_beside_a_model_file_are_read(llama_model: Path, tmp_path: Path) -> None:
    shutil.copy(llama_model, tmp_path)
    _write(tmp_path, "tokenizer_config.json", {"add_bos_token": False, "chat_template": "{{ bos_token }}"})
    tokenizer = load_tokenizer(tmp_path)
    assert not tokenizer.add_bos
    assert tokenizer.chat_template is not None
    assert tokenizer.chat_template.render([]) == "<s>"


def test_a_model_file_without_sentencepiece_names_the_extra(llama_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'arriero\[sentencepiece\]'"):
        load_tokenizer(llama_model)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "model.gguf"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff rubbish", b"{}", b'{"model": {"type": "BPE"', b"[]", b"null", b"GGUF"]
)
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError) as caught:
        load_tokenizer(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "generation_config.json", "config.json", "special_tokens_map.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'"text"'])
def test_damaged_settings_are_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(FormatError, match=name.replace(".", r"\.")) as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_a_template_file_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match=r"chat_template\.jinja is no UTF-8 text"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "settings",
    [{"bos_token": 5}, {"bos_token": {"text": "x"}}, {"added_tokens_decoder": {"x": {"content": "y"}}},
     {"added_tokens_decoder": [1]}, {"chat_template": 5}, {"added_tokens_decoder": {"600": {}}}],
)  # fmt: skip
def test_settings_of_another_shape_are_named(folder: Path, settings: dict[str, Any]) -> None:
    _change(folder, **settings)
    with pytest.raises(FormatError, match=r"tokenizer_config\.json") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"holds no tokenizer: expected tokenizer\.json or tokenizer\.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(FormatError, match="does not exist"):
        load_tokenizer(tmp_path / "absent.json")
    (tmp_path / "vocab.txt").touch()
    with pytest.raises(FormatError, match=r"vocab\.txt is no tokenizer file"):
        load_tokenizer(tmp_path / "vocab.txt")


def test_a_gguf_file_is_named_when_its_vocabulary_is_not_supported(tmp_path: Path) -> None:
    key, value = b"tokenizer.ggml.model", b"bert"
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair)
    with pytest.raises(FormatError, match=r"model\.gguf: tokenizer model 'bert' is not supported"):
        load_tokenizer(tmp_path / "model.gguf")
