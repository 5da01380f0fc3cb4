"""Adapters come and go while the server runs, and answer as models of their own names."""

from pathlib import Path

import pytest
import torch

from arriero.model.adapters import Adapters
from arriero.model.formats.peft import save_peft
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_merged, load_model

LOAD, UNLOAD, CHAT = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/chat/completions"
GREEDY = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def folder(service, tiny_model) -> Path:
    """An adapter that changes what the model says."""
    loaded = load_model(str(tiny_model), device="cpu")
    adapters = Adapters.of(loaded.model)
    adapters.add("one", LoraConfig(rank=4, targets=("all-linear",)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for change in adapters.changes("one").values():
            change.b.normal_(std=1.0, generator=generator)
    folder = service.settings.adapters_folder / "loud"
    save_peft(loaded.model, "one", folder, base=str(tiny_model))
    return folder


@pytest.fixture
def loud(http, folder):
    assert http.post(LOAD, json={"lora_name": "loud", "lora_path": "loud"}).status_code == 200
    yield "loud"
    assert http.post(UNLOAD, json={"lora_name": "loud"}).json() == {"id": "loud", "deleted": True}


def say(http, **fields) -> str:
    answer = http.post(CHAT, json=GREEDY | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def test_an_adapter_answers_as_the_merged_model_does(http, service, tiny_model, folder, loud):
    from arriero.generate.engine import Engine
    from arriero.generate.request import Request
    from arriero.generate.sampling_config import SamplingConfig

    merged = load_merged(str(tiny_model), folder, device="cpu")
    engine = Engine(merged.model, merged.tokenizer)
    ids = engine.tokenizer.encode_chat(GREEDY["messages"])
    (expected,) = engine.generate([Request(prompt_ids=ids, sampling=SamplingConfig(max_tokens=12))])
    assert say(http, model="loud") == expected.text
    assert say(http, model="loud") != say(http, model=service.default_model) == say(http)


def test_adapters_are_listed_with_their_base(http, service, loud):
    cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert cards["loud"]["parent"] == service.default_model
    kinds = {model["id"]: model["kind"] for model in http.get("/api/info").json()["models"]}
    assert kinds["loud"] == "adapter"


def test_an_adapter_may_answer_from_documents(http, loud):
    asked = {"model": "arriero:notes", "arriero": {"model": "loud", "threshold": -1.0}}
    plain = say(http, model="arriero:notes", arriero={"threshold": -1.0})
    assert say(http, **asked) != plain


def test_a_name_is_taken_once(http, service, loud):
    again = http.post(LOAD, json={"lora_name": "loud", "lora_path": "loud"})
    assert (again.status_code, again.json()["error"]["param"]) == (409, "lora_name")


def test_what_was_unloaded_is_gone(http, folder):
    assert http.post(LOAD, json={"lora_name": "brief", "lora_path": str(folder)}).status_code == 200
    assert http.post(UNLOAD, json={"lora_name": "brief"}).status_code == 200
    assert http.post(CHAT, json=GREEDY | {"model": "brief"}).status_code == 404


@pytest.mark.parametrize("path", ["..", "/", "/etc", "../collections/notes", "none", "loud/../..", "a\0b"])
def test_only_adapters_below_the_folder_are_loaded(http, folder, path):
    answer = http.post(LOAD, json={"lora_name": "x", "lora_path": path})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "lora_path")


def test_a_link_out_of_the_folder_is_not_followed(http, service, folder, tmp_path):
    link = service.settings.adapters_folder / "link"
    (tmp_path / "adapter_config.json").write_text("{}")
    link.symlink_to(tmp_path)
    assert http.post(LOAD, json={"lora_name": "x", "lora_path": "link"}).status_code == 404
    link.unlink()


def test_a_damaged_adapter_is_told(http, service):
    broken = service.settings.adapters_folder / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{}")
    answer = http.post(LOAD, json={"lora_name": "x", "lora_path": "broken"})
    assert answer.status_code == 400
    assert say(http)
