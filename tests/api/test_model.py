"""A model in Python answers as the commands do, and its adapters leave it as it was."""

import copy
import json
from pathlib import Path

import pytest
import torch

from arriero import ArrieroError, Model, SamplingConfig
from arriero.model.adapters import Adapters
from arriero.model.formats.peft import save_peft
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_model

SHORT = SamplingConfig(max_tokens=8)


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return Model.load(tiny_model)


def make_adapter(base: Path, folder: Path, seed: int, *, quantised: str = "none") -> Path:
    """An adapter with random weights, saved as training saves it."""
    loaded = load_model(str(base))
    adapters = Adapters.of(loaded.model)
    adapters.add("new", LoraConfig(), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for change in adapters.changes("new").values():
        change.b.data.normal_(0, 0.3, generator=generator)
    save_peft(loaded.model, "new", folder, base=str(base), quantised=quantised)
    return folder


@pytest.fixture(scope="module")
def adapters(tiny_model, tmp_path_factory) -> list[Path]:
    room = tmp_path_factory.mktemp("adapters")
    return [make_adapter(tiny_model, room / f"adapter-{seed}", seed) for seed in (1, 2)]


def test_an_answer_is_what_the_command_prints(run, tiny_model, model):
    for said, flags in ((model.chat("Hello", SHORT), ()), (model.generate("Hello", SHORT), ("--raw",))):
        told = json.loads(run("generate", "Hello", "--model", tiny_model, "--max-tokens", "8", "--json", *flags).out)
        assert said == told["completions"][0]["text"]
        assert said.finish_reason == told["completions"][0]["finish_reason"]


def test_a_message_is_a_talk_of_one_turn_and_system_goes_before(model):
    user = {"role": "user", "content": "Hello"}
    assert model.chat("Hello", SHORT) == model.chat([user], SHORT)
    with_system = model.chat([{"role": "system", "content": "Be kind."}, user], SHORT)
    assert model.chat("Hello", SHORT, system="Be kind.") == with_system


def test_a_stream_gives_the_same_answer_in_pieces(model):
    stream = model.chat("Hello", SHORT, stream=True)
    with pytest.raises(ArrieroError, match="take all pieces"):
        _ = stream.reply
    pieces = list(stream)
    assert all(pieces)
    assert "".join(pieces) == stream.reply == model.chat("Hello", SHORT)


def test_a_stream_can_be_left(model):
    stream = model.chat("Hello", SHORT, stream=True)
    next(stream)
    stream.close()
    assert list(stream) == []
    assert model.chat("Hello", SHORT)


def test_several_texts_together_are_each_as_alone(model):
    texts = ["One", "Two, three", "Four"]
    assert model.generate(texts, SHORT) == [model.generate(text, SHORT) for text in texts]


def test_a_reply_is_a_string_that_knows_how_it_came_about(model):
    reply = model.chat("Hello", SHORT)
    assert json.loads(json.dumps({"said": reply})) == {"said": str(reply)}
    assert type(str(reply)) is str
    assert len(reply.completion.ids) == 8
    copied = copy.deepcopy(reply)
    assert copied == reply
    assert copied.completion == reply.completion
    again = model.chat([{"role": "assistant", "content": reply}, {"role": "user", "content": "Go on"}], SHORT)
    assert again.completion.prompt_tokens > reply.completion.prompt_tokens


def test_an_answer_gets_the_room_that_the_context_leaves(model):
    reply = model.generate("x" * 250)
    assert len(reply.completion.ids) == model.context - 250
    with pytest.raises(ArrieroError, match="context"):
        model.generate("x" * 300)


def test_several_samples_of_one_prompt_are_asked_for_as_prompts(model):
    with pytest.raises(ArrieroError, match="n = 1"):
        model.chat("Hello", SamplingConfig(n=2))


def test_tokens_become_text_again(model):
    assert model.tokenizer.decode(model.tokenize("Qué tal, 🦙?")) == "Qué tal, 🦙?"


def test_perplexity_is_what_the_command_measures(run, tiny_model, model, tmp_path):
    text = "The llama walks. " * 20
    (tmp_path / "text.txt").write_text(text)
    told = json.loads(run("eval", tiny_model, "--text", tmp_path / "text.txt", "--no-eos", "--json").out)
    assert model.perplexity(text) == pytest.approx(told["sources"][0]["perplexity"], rel=1e-6)
    with pytest.raises(ArrieroError, match="2 tokens"):
        model.perplexity("x")


def test_adapters_lie_over_one_model_which_stays_as_it_is(tiny_model, adapters):
    model = Model.load(tiny_model)
    before, perplexity = model.chat("Hello", SHORT), model.perplexity("Hello there")
    first, second = map(model.with_adapter, adapters)
    assert first.engine is second.engine is model.engine
    for view, folder in ((first, adapters[0]), (second, adapters[1])):
        merged = Model.load(tiny_model, adapter=folder)
        assert view.chat("Hello", SHORT) == merged.chat("Hello", SHORT) != before
        assert view.perplexity("Hello there") == pytest.approx(merged.perplexity("Hello there"), rel=1e-4)
        assert "".join(view.chat("Hello", SHORT, stream=True)) == merged.chat("Hello", SHORT)
    assert model.chat("Hello", SHORT) == before
    assert model.perplexity("Hello there") == perplexity


def test_an_adapter_is_put_over_its_own_base_alone(tiny_model, adapters, tmp_path):
    model = Model.load(tiny_model)
    with pytest.raises(ArrieroError, match="no adapter"):
        model.with_adapter(tmp_path)
    for merged in (Model.load(adapters[0]), Model.load(tiny_model, adapter=adapters[0])):
        with pytest.raises(ArrieroError, match="without it"):
            merged.with_adapter(adapters[1])
    few_bits = make_adapter(tiny_model, tmp_path / "few-bits", 3, quantised="nf4")
    with pytest.raises(ArrieroError, match="nf4"):
        model.with_adapter(few_bits)


def test_a_saved_model_is_the_same_model(tiny_model, adapters, tmp_path):
    view = Model.load(tiny_model).with_adapter(adapters[0])
    for target in (tmp_path / "folder", tmp_path / "model.gguf"):
        saved = Model.load(view.save(target, "f32"), weights="full")
        assert saved.chat("Hello", SHORT) == view.chat("Hello", SHORT)
        with pytest.raises(ArrieroError, match="exists already"):
            view.save(target)


def test_a_model_is_found_again_from_another_folder(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    model = Model.load(tiny_model.name)
    monkeypatch.chdir(tmp_path)
    assert Model.load(model.save("saved")).context == model.context
