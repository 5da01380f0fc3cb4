"""PEFT's folders: written by `peft` and read here, written here and read by `peft`; and damaged or odd ones."""

import json
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig as OracleConfig
from transformers import LlamaForCausalLM

from arriero.common.errors import ArrieroError, FormatError
from arriero.model.adapters import Adapters
from arriero.model.config import LlamaConfig
from arriero.model.formats.hf import hf_names
from arriero.model.formats.hf_config import read_json, write_hf_config
from arriero.model.formats.peft import CONFIG, WEIGHTS, load_peft, read_base, read_quantised, save_peft
from arriero.model.lora_config import LoraConfig
from arriero.model.transformer import Llama

SHAPE = {
    "vocab_size": 101, "dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 96, "max_seq_len": 64,
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # in peft

Q_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
OURS = {
    "q-v": LoraConfig(rank=4, targets=("wq", "v_proj")),
    "one-layer": LoraConfig(rank=4, targets=(r"layers\.1\.attention\.wq",)),
    "all-linear": LoraConfig(rank=4, alpha=6.0),
    "patterns": LoraConfig(rank=4, rank_pattern={"wq": 2, r"layers\.1\..*": 8}, alpha_pattern={"w2": 3.0}),
    "rslora": LoraConfig(rank=4, rslora=True, rank_pattern={"wk": 9}),
    "dora": LoraConfig(rank=4, dora=True, targets=("all-linear", "output")),
    "pissa": LoraConfig(rank=4, init="pissa"),
    "pissa-wide": LoraConfig(rank=30, init="pissa", targets=("wk",)),
    "pissa-rslora-dora": LoraConfig(rank=4, init="pissa", rslora=True, dora=True),
    "embedding": LoraConfig(rank=4, targets=("tok_embeddings", "wq")),
    "lm_head": LoraConfig(rank=4, targets=("lm_head", "wq")),
    "whole": LoraConfig(rank=4, targets=("wq",), whole=("output", "tok_embeddings")),
    "whole-matrix": LoraConfig(rank=4, targets=("wq",), whole=(r"layers\.1\.feed_forward\.w2",)),
}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
THEIRS = {
    "q-v": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"r": 4, "target_modules": "all-linear"},
    "regex": {"r": 4, "target_modules": r".*layers\.1.*(q|down)_proj"},
    "patterns": {
        "r": 4,
        "target_modules": ALL,
        "rank_pattern": {"q_proj": 2, r"model\.layers\.1\..*": 8},
        "alpha_pattern": {"down_proj": 3},
    },
    "rslora": {"r": 4, "target_modules": ALL, "use_rslora": True},
    "dora": {"r": 4, "target_modules": ALL, "use_dora": True, "use_rslora": True},
    "embedding": {"r": 4, "target_modules": ["embed_tokens", "q_proj"]},
    "lm_head": {"r": 4, "target_modules": ["lm_head", "q_proj"]},
    "whole": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole-embedding": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "wide": {"r": 70, "target_modules": ["q_proj", "k_proj"]},
}


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def model(request, make_model):
    """A small model with grouped queries, in evaluation."""
    return make_model(LlamaConfig.of(**SHAPE, tied_embeddings=request.param)).eval()


@pytest.fixture
def tokens():
    """Two rows of tokens."""
    return torch.randint(101, (2, 20), generator=torch.Generator().manual_seed(3))


def oracle_of(model):
    """The same base as transformers' model."""
    oracle = LlamaForCausalLM(OracleConfig(**write_hf_config(model.config, dtype=torch.float32))).eval()
    parameters = dict(model.named_parameters())
    oracle.load_state_dict({hf: parameters[ours] for ours, hf in hf_names(model.config).items()}, strict=False)
    oracle.tie_weights()
    return oracle


def add(model, config, *, name="one"):
    """An adapter that has learnt something."""
    adapters = Adapters.of(model)
    adapters.add(name, config)
    randomise(p for change in adapters.changes(name).values() for p in change.parameters() if p.requires_grad)
    return adapters


@torch.no_grad()
def randomise(parameters):
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def assert_same_logits(ours, theirs):
    """Within 1e-5 of the logits' size."""
    size = theirs.std()
    torch.testing.assert_close(ours / size, theirs / size, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("config", OURS.values(), ids=OURS)
def test_peft_reads_what_is_written_here(model, tokens, tmp_path, config):
    base = oracle_of(model)
    plain = model(tokens)
    add(model, config)
    save_peft(model, "one", tmp_path, base="some/base")
    ours = model(tokens)
    assert (ours - plain).abs().max() > 0.01
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing.*")
        warnings.filterwarnings("ignore", message=".*tie.*")
        theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert_same_logits(ours, theirs(tokens).logits)


@torch.no_grad()
@pytest.mark.parametrize("settings", THEIRS.values(), ids=THEIRS)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:.*tie.*")
def test_what_peft_wrote_is_read_here(model, tokens, tmp_path, settings):
    theirs = peft.get_peft_model(
        oracle_of(model), peft.LoraConfig(task_type="CAUSAL_LM", lora_alpha=6, **settings)
    ).eval()
    randomise(parameter for parameter in theirs.parameters() if parameter.requires_grad)
    theirs.save_pretrained(tmp_path)
    load_peft(model, tmp_path, "one")
    assert Adapters.of(model).active is None
    before = model(tokens)
    Adapters.of(model).activate("one")
    ours = model(tokens)
    assert (ours - before).abs().max() > 0.01
    assert_same_logits(ours, theirs(tokens).logits)


@torch.no_grad()
@pytest.mark.parametrize("config", OURS.values(), ids=OURS)
def test_what_is_written_here_is_read_here(model, tokens, tmp_path, config):
    add(model, config)
    save_peft(model, "one", tmp_path, base="some/base", quantised="nf4")
    assert (read_base(tmp_path), read_quantised(tmp_path)) == ("some/base", "nf4")
    load_peft(model, tmp_path, "again")
    expected = model(tokens)
    Adapters.of(model).activate("again")
    assert_same_logits(model(tokens), expected)
    save_peft(model, "again", tmp_path / "again", base="some/base", quantised="nf4")
    before, after = load_file(tmp_path / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(after[key].equal(tensor) for key, tensor in before.items())
    assert read_json(tmp_path / "again" / CONFIG) == read_json(tmp_path / CONFIG)


def test_only_the_adapter_is_written_in_fp32(model, tmp_path):
    model.bfloat16()
    add(model, OURS["q-v"], name="other")
    add(model, OURS["q-v"])
    save_peft(model, "one", tmp_path, base="some/base")
    tensors = load_file(tmp_path / WEIGHTS)
    assert len(tensors) == 2 * 2 * 2
    assert tensors[Q_A].shape == (4, 64)
    assert all(tensor.dtype == torch.float32 and "one" not in name for name, tensor in tensors.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS]


def test_a_merged_adapter_is_not_written_as_its_base_is_not_there(model, tmp_path):
    add(model, OURS["q-v"]).merge("one")
    with pytest.raises(ArrieroError, match="merged into the weights: unmerge it before you save one"):
        save_peft(model, "one", tmp_path, base="some/base")
    assert not list(tmp_path.iterdir())


# What is refused


@pytest.fixture
def folder(tmp_path, make_model):
    """An adapter of q and v for an untied base with seed 0."""
    model = make_model(LlamaConfig.of(**SHAPE))
    add(model, OURS["q-v"])
    save_peft(model, "one", tmp_path / "adapter", base="some/base")
    return tmp_path / "adapter"


@pytest.fixture
def base(make_model):
    """The folder's base."""
    return make_model(LlamaConfig.of(**SHAPE))


def change_settings(folder, **settings):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def change_tensors(folder, change, metadata=None):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata=metadata)


def test_an_adapter_for_other_weights_is_refused_and_both_are_named(folder, make_model):
    other = make_model(LlamaConfig.of(**SHAPE), seed=1)
    with pytest.raises(ArrieroError, match="was made for some/base, and this is other/base: their weights differ"):
        load_peft(other, folder, "one", base="other/base")
    assert Adapters.of(other).configs == {}
    load_peft(other, folder, "one", base="other/base", force=True)


def test_an_adapter_for_another_shape_is_refused_and_both_are_named(folder, make_model):
    other = make_model(LlamaConfig.of(**(SHAPE | {"dim": 128, "hidden_dim": 96})))
    message = r"made for some/base, and this is other/base: at module .*q_proj expected .* \(4, 128\), got \(4, 64\)"
    with pytest.raises(ArrieroError, match=message):
        load_peft(other, folder, "one", base="other/base", force=True)
    shallow = make_model(LlamaConfig.of(**(SHAPE | {"n_layers": 1})))
    with pytest.raises(FormatError, match=r"layers\.1\.self_attn.*no module of other/base goes by that name"):
        load_peft(shallow, folder, "one", base="other/base", force=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_base_in_fewer_bits_is_the_same(folder, base, dtype):
    load_peft(base.to(dtype), folder, "one")


def test_keys_that_match_nothing_are_listed(folder, base):
    def rename(tensors):
        for key in list(tensors):
            tensors[key.removeprefix("base_model.model.")] = tensors.pop(key)

    change_tensors(folder, rename)
    with pytest.raises(FormatError, match=r"model\.layers\.0\..* and 5 more: no module of this model goes"):
        load_peft(base, folder, "one")
    change_tensors(folder, dict.clear)
    with pytest.raises(FormatError, match="no tensor at all"):
        load_peft(base, folder, "one")
    assert Adapters.of(base).configs == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, "expected peft_type LORA, got 'LOHA'"),
        ({"bias": "all"}, "bias = 'all' is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = True is not supported"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying"),
        ({"init_lora_weights": "pissa_niter_4"}, "means a base with other weights"),
        ({"init_lora_weights": "OLoRA"}, "means a base with other weights"),
        ({"r": "many"}, "r: expected a number, got 'many'"),
        ({"r": 0}, "rank: expected a rank of 1 or more, got 0"),
        ({"r": 5}, r"q_proj expected a matrix of shape \(5, 64\), got \(4, 64\)"),
        ({"lora_alpha": -1}, "alpha: expected a number above 0"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"use_dora": True}, "q_proj has no lora_magnitude_vector: use_dora says otherwise"),
    ],
)
def test_settings_that_are_not_supported_are_refused_by_name(folder, base, settings, message):
    change_settings(folder, **settings)
    with pytest.raises(FormatError if "shape" not in message else ArrieroError, match=message):
        load_peft(base, folder, "one")
    assert Adapters.of(base).configs == {}


ODD_TENSORS = {
    "half": (lambda t: t.pop(Q_A), "q_proj has only one of its two matrices"),
    "nan": (lambda t: t[Q_A].fill_(torch.nan), "q_proj holds numbers that are not finite"),
    "integers": (lambda t: t.update({Q_A: t[Q_A].int()}), "q_proj holds torch.int32, expected floating point"),
    "flat": (lambda t: t.update({Q_A: t[Q_A].flatten()}), r"q_proj expected a matrix of shape \(4, 64\), got \(256,\)"),
    "norm": (
        lambda t: t.update({"base_model.model.model.norm.weight": torch.ones(64)}),
        "model.norm is a norm, which adapters do not change here",
    ),
    "both": (
        lambda t: t.update({Q_A.replace("lora_A.", ""): torch.ones(64, 64)}),
        "q_proj is changed by LoRA and trained whole at once",
    ),
    "magnitude": (
        lambda t: t.update({Q_A.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(64)}),
        "q_proj has a lora_magnitude_vector: use_dora says otherwise",
    ),
    "copy": (
        lambda t: t.update({"base_model.model.model.embed_tokens.base_layer.weight": torch.ones(101, 64)}),
        "was made for some/base.*the file's copy of model.embed_tokens has other weights",
    ),
}


@pytest.mark.parametrize(("change", "message"), ODD_TENSORS.values(), ids=ODD_TENSORS)
def test_odd_tensors_are_refused(folder, base, change, message):
    change_tensors(folder, change)
    with pytest.raises(ArrieroError, match=message):
        load_peft(base, folder, "one")
    assert set(base.state_dict()) == set(Llama(base.config).state_dict())


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_an_embedding_with_dora_is_refused(base, tmp_path):
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["embed_tokens"], use_dora=True)
    peft.get_peft_model(oracle_of(base), config).save_pretrained(tmp_path)
    with pytest.raises(FormatError, match="embed_tokens: an embedding with use_dora is not supported"):
        load_peft(base, tmp_path, "one")


@pytest.mark.parametrize("sketch", ["[1", "{}", '["x"]', "[1, 2]", "3", f"[{'9' * 400}]", "[NaN]"])
def test_a_damaged_sketch_is_refused(folder, base, sketch):
    change_tensors(folder, lambda tensors: None, metadata={"base_sketch": sketch})
    with pytest.raises(ArrieroError, match=r"was made for some/base, .*(damaged|differ)"):
        load_peft(base, folder, "one")


def test_damaged_files_are_told_by_name(folder, base):
    weights, config = (folder / WEIGHTS).read_bytes(), (folder / CONFIG).read_text()
    for kept in (0, 7, 100, len(weights) - 1):
        (folder / WEIGHTS).write_bytes(weights[:kept])
        with pytest.raises(FormatError, match=f"{WEIGHTS}: not a whole safetensors file"):
            load_peft(base, folder, "one")
    (folder / WEIGHTS).unlink()
    with pytest.raises(FormatError, match=f"{WEIGHTS} is missing"):
        load_peft(base, folder, "one")
    (folder / CONFIG).write_text(config[:50])
    with pytest.raises(FormatError, match=CONFIG):
        load_peft(base, folder, "one")
    (folder / CONFIG).unlink()
    with pytest.raises(FormatError, match=CONFIG):
        read_base(folder)
    assert Adapters.of(base).configs == {}
