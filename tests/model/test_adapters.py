"""Adapters of a model: switched, mixed in a batch, merged and unmerged, combined, trained, refused."""

import copy
import gc

import pytest
import torch

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.model.adapters import Adapters
from arriero.model.config import LlamaConfig
from arriero.model.formats.hf import load_hf, save_hf
from arriero.model.lora import LowRank, weight_of
from arriero.model.lora_config import LoraConfig
from arriero.model.quantised import QuantisedLinear, quantise_model
from arriero.model.transformer import Llama

SHAPE = {
    "vocab_size": 101, "dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 96, "max_seq_len": 64,
}  # fmt: skip
CLOSE = {"atol": 1e-4, "rtol": 1e-5}
EVERYTHING = ("all-linear", "output", "tok_embeddings")
KINDS = {
    "q-v": LoraConfig(rank=4, targets=("wq", "wv")),
    "all": LoraConfig(rank=4, targets=EVERYTHING),
    "rslora": LoraConfig(rank=8, rslora=True),
    "dora": LoraConfig(rank=4, dora=True, targets=("all-linear", "output")),
    "pissa": LoraConfig(rank=4, init="pissa"),
    "whole": LoraConfig(rank=4, targets=("wq",), whole=("output", "tok_embeddings")),
    "patterns": LoraConfig(rank=4, rank_pattern={"wq": 2, r"layers\.1\..*": 8}, alpha_pattern={"w2": 3.0}),
}


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def model(request, make_model):
    """A small model with grouped queries, in evaluation."""
    return make_model(LlamaConfig.of(**SHAPE, tied_embeddings=request.param)).eval()


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    """Each kind of adapter in turn."""
    return request.param


def add(model, name, config, *, seed=0, size=0.1):
    """A new adapter that has learnt something: all its numbers are moved."""
    adapters = Adapters.of(model)
    adapters.add(name, config, seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for change in adapters.changes(name).values():
            for leaf, parameter in change.named_parameters():
                if not leaf.startswith("anchor"):
                    parameter.add_((torch.randn(parameter.shape, generator=generator) * size).to(parameter.dtype))
    return adapters


@torch.no_grad()
def logits(model, tokens):
    return model(tokens)


def bits(model):
    """Copies of the base's own weights."""
    return {
        name: value.detach().clone()
        for name, value in model.named_parameters(remove_duplicate=False)
        if ".adapters." not in name
    }


def assert_same_bits(model, before):
    after = bits(model)
    assert after.keys() == before.keys()
    assert all(after[name].equal(value) for name, value in before.items())


# What an adapter changes


def test_a_new_adapter_changes_nothing_and_an_old_one_does(model, kind, tokens):
    before = logits(model, tokens)
    Adapters.of(model).add("new", kind)
    torch.testing.assert_close(logits(model, tokens), before, atol=1e-5, rtol=0)
    add(model, "old", kind)
    assert (logits(model, tokens) - before).abs().max() > 0.01


def test_the_logits_are_those_of_a_model_with_changed_matrices(model, kind, tokens):
    """In fp64, by W + s (B A − B₀ A₀), rows scaled to DoRA's lengths."""
    adapters = add(model, "new", kind)
    found = logits(model, tokens)
    reference = Llama(model.config).double()
    reference.load_state_dict(bits(model))
    if model.config.tied_embeddings:
        reference.output.weight = torch.nn.Parameter(reference.tok_embeddings.weight.detach().clone())
    for module, change in adapters.changes("new").items():
        host = reference.get_submodule(module)
        if not isinstance(change, LowRank):
            host.weight.data = change.weight.detach().double()
            continue
        a, b = (factor.detach().double() for factor in change.factors())
        changed = weight_of(host).detach() + change.scale * (b @ a)
        if change.magnitude is not None:
            changed = changed * (change.magnitude.double() / changed.norm(dim=1))[:, None]
        host.weight.data = changed.T if module == "tok_embeddings" else changed
    torch.testing.assert_close(found.double(), logits(reference, tokens), **CLOSE)


def test_switched_off_the_base_is_as_it_was_bit_for_bit(model, kind, tokens):
    before, weights = logits(model, tokens), bits(model)
    adapters = add(model, "one", kind)
    with_one = logits(model, tokens)
    adapters.activate(None)
    assert logits(model, tokens).equal(before)
    adapters.activate("one")
    assert logits(model, tokens).equal(with_one)
    assert_same_bits(model, weights)


def test_inference_mode_gives_the_same(model, kind, tokens):
    adapters = add(model, "one", kind)
    expected = logits(model, tokens)
    with torch.inference_mode():
        assert model(tokens).equal(expected)
        with adapters.mixed([None, "one"]):
            torch.testing.assert_close(model(tokens)[1], expected[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("merged", [False, True], ids=["live", "merged"])
def test_the_chunked_loss_is_that_of_the_logits(model, kind, tokens, merged):
    adapters = add(model, "one", kind)
    if merged:
        adapters.merge("one")
    total, _ = model.loss(tokens[:, :-1], tokens[:, 1:])
    expected = torch.nn.functional.cross_entropy(
        logits(model, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"
    )
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_fp32_adapter_over_a_bf16_base_is_near_that_over_an_fp32_base(model, kind, tokens):
    half = copy.deepcopy(model).bfloat16()
    whole = Llama(model.config).eval()
    whole.load_state_dict(half.state_dict())  # the same numbers, computed with in fp32
    for each in (half, whole):
        add(each, "one", kind)
    assert all(p.dtype == torch.float32 for c in Adapters.of(half).changes("one").values() for p in c.parameters())
    found, expected = logits(half, tokens), logits(whole, tokens)
    assert found.dtype == torch.bfloat16
    Adapters.of(half).activate(None)
    Adapters.of(whole).activate(None)
    rounding = (logits(half, tokens).float() - logits(whole, tokens)).norm() / logits(whole, tokens).norm()
    assert (found.float() - expected).norm() / expected.norm() < 2 * rounding
    Adapters.of(half).activate("one")
    with Adapters.of(half).mixed([None, "one"]):
        torch.testing.assert_close(logits(half, tokens)[1].float(), found[1].float(), atol=0.2, rtol=0.05)
    half.train().loss(tokens[:, :-1], tokens[:, 1:])[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in half.parameters() if p.requires_grad)


# Merging


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_twice_over_and_back_restores_every_bit(model, kind, tokens, dtype):
    model = model.to(dtype)
    adapters = add(model, "one", kind)
    weights, live, config = bits(model), logits(model, tokens), model.config
    for _ in range(2):
        adapters.merge("one")
        close = CLOSE if dtype == torch.float32 else {"atol": 1.0, "rtol": 0.1}
        torch.testing.assert_close(logits(model, tokens), live, **close)
        adapters.unmerge()
        assert_same_bits(model, weights)
        assert logits(model, tokens).equal(live)
    assert model.config == config
    assert (model.output.weight is model.tok_embeddings.weight) is config.tied_embeddings


def test_a_bf16_merge_is_computed_in_fp32_and_rounded_once(model):
    model = model.bfloat16()
    adapters = add(model, "one", KINDS["q-v"])
    before = model.layers[0].attention.wq.weight.detach().clone()
    change = adapters.changes("one")["layers.0.attention.wq"]
    adapters.merge("one")
    expected = (before.double() + change.scale * change.b.double() @ change.a.double()).detach()
    found = model.layers[0].attention.wq.weight.detach()
    rounding = (expected.to(torch.bfloat16).double() - expected).abs().max()
    assert (found.double() - expected).abs().max() <= rounding * 1.001


def test_merging_rslora_uses_its_scale(model):
    adapters = add(model, "one", LoraConfig(rank=16, alpha=8.0, rslora=True, targets=("wq",)))
    before = model.layers[0].attention.wq.weight.detach().clone()
    change = adapters.changes("one")["layers.0.attention.wq"]
    adapters.merge("one")
    torch.testing.assert_close(
        model.layers[0].attention.wq.weight.detach() - before,
        (8 / 4) * (change.b @ change.a).detach(),
        atol=1e-5,
        rtol=0,
    )


def test_a_share_of_an_adapter_is_merged(model):
    adapters = add(model, "one", KINDS["pissa"])
    before = model.layers[1].feed_forward.w2.weight.detach().clone()
    expected = before + 0.25 * adapters.changes("one")["layers.1.feed_forward.w2"].change(before).detach()
    adapters.merge("one", 0.25)
    torch.testing.assert_close(model.layers[1].feed_forward.w2.weight.detach(), expected, atol=1e-6, rtol=0)


def test_merged_on_a_tied_head_the_embedding_stays_and_a_reload_keeps_both(make_model, tokens, tmp_path):
    model = make_model(LlamaConfig.of(**SHAPE, tied_embeddings=True)).eval()
    embedding = model.tok_embeddings.weight.detach().clone()
    adapters = add(model, "one", LoraConfig(rank=4, targets=("output",)))
    live = logits(model, tokens)
    adapters.absorb("one")
    assert model.tok_embeddings.weight.equal(embedding)
    assert not model.config.tied_embeddings
    torch.testing.assert_close(logits(model, tokens), live, **CLOSE)
    save_hf(model, tmp_path)
    torch.testing.assert_close(logits(load_hf(tmp_path).eval(), tokens), live, **CLOSE)


@pytest.mark.parametrize("bits_of_weight", ["nf4", "int8"])
def test_over_a_quantised_base_live_merged_and_unmerged_agree(model, tokens, bits_of_weight):
    quantise_model(model, bits_of_weight)
    adapters = add(model, "one", KINDS["q-v"])
    live, original = logits(model, tokens), model.layers[0].attention.wq
    assert isinstance(original, QuantisedLinear)
    adapters.merge("one")
    torch.testing.assert_close(logits(model, tokens), live, **CLOSE)
    assert not isinstance(model.layers[0].attention.wq, QuantisedLinear)
    adapters.unmerge()
    assert model.layers[0].attention.wq is original
    assert logits(model, tokens).equal(live)


def test_unmerged_or_absorbed_nothing_holds_the_weights_that_are_no_longer_used(model):
    adapters = add(model, "one", KINDS["all"])
    host = model.layers[0].attention.wq
    original = host.weight.data_ptr()
    adapters.merge("one")
    merged = host.weight.data_ptr()
    assert holders(original)
    adapters.unmerge()
    assert not holders(merged)
    adapters.absorb("one")
    assert not holders(original)


def holders(pointer):
    """The tensors whose numbers begin at an address."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
    return [tensor for tensor in tensors if tensor.layout == torch.strided and tensor.data_ptr() == pointer]


def test_absorbed_for_good_the_adapter_and_the_old_weights_are_gone(model, kind, tokens):
    adapters = add(model, "one", kind)
    live, names = logits(model, tokens), {name for name, _ in model.named_parameters() if ".adapters." not in name}
    adapters.absorb("one")
    torch.testing.assert_close(logits(model, tokens), live, **CLOSE)
    assert {name for name, _ in model.named_parameters()} - names <= {"output.weight"}
    assert adapters.configs == adapters._unmerged == {}
    with pytest.raises(ArrieroError, match="nothing is merged"):
        adapters.unmerge()


# Several in a batch


@pytest.fixture
def crowd(model):
    """A model with adapters of different ranks, targets and kinds."""
    for seed, (name, config) in enumerate(KINDS.items()):
        add(model, name, config, seed=seed)
    return model


@pytest.mark.parametrize(
    "rows",
    [
        ["q-v", None, "rslora", "pissa"],
        ["patterns", "patterns", "q-v", None],
        ["dora", "whole", None, "all"],
        [None, None, None, None],
    ],
    ids=["plain", "patterns", "any-kind", "none"],
)
def test_the_rows_of_a_mixed_batch_are_as_alone(crowd, rows):
    tokens = torch.randint(101, (4, 12), generator=torch.Generator().manual_seed(1))
    adapters = Adapters.of(crowd)
    alone = []
    for i, row in enumerate(rows):
        adapters.activate(row)
        alone.append(logits(crowd, tokens[i : i + 1]))
    with adapters.mixed(rows):
        together = logits(crowd, tokens)
        with_gradients = crowd(tokens).detach()
    size = torch.cat(alone).std()
    torch.testing.assert_close(together / size, torch.cat(alone) / size, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(with_gradients / size, torch.cat(alone) / size, atol=1e-5, rtol=1e-5)
    assert adapters.switch.rows is None


def test_a_mixed_batch_sees_an_adapter_that_took_the_place_of_another(model, tokens):
    config = KINDS["q-v"]
    adapters = add(model, "one", config)
    with adapters.mixed(["one", None]):
        before = logits(model, tokens)
    for seed in range(3):
        adapters.remove("one")
        add(model, "one", config, seed=seed + 1)
        expected = logits(model, tokens)
        with adapters.mixed(["one", None]):
            found = logits(model, tokens)
        torch.testing.assert_close(found[0], expected[0], **CLOSE)
        torch.testing.assert_close(found[1], before[1], **CLOSE)


def test_a_mixed_batch_follows_the_model_into_another_dtype(model, tokens):
    adapters = add(model, "one", KINDS["q-v"])
    with adapters.mixed(["one", None]):
        logits(model, tokens)
        model.double()
        expected = logits(model, tokens)
    assert expected.dtype == torch.float64
    adapters.activate("one")
    torch.testing.assert_close(expected[0], logits(model, tokens)[0], atol=1e-10, rtol=0)


def test_a_mixed_batch_has_an_adapter_for_each_row(crowd, tokens):
    with (
        Adapters.of(crowd).mixed(["q-v"]),
        pytest.raises(ArrieroError, match="adapters: expected one of each of 2 rows, got 1"),
    ):
        crowd(tokens)
    with Adapters.of(crowd).mixed(["all", None]), pytest.raises(ArrieroError, match="activate one"):
        crowd.loss(tokens, tokens)
    with (
        pytest.raises(NotFoundError, match=r"there is no adapter 'q_v' \(did you mean q-v"),
        Adapters.of(crowd).mixed(["q_v"]),
    ):
        pass


# Combinations


def test_a_weighted_combination_is_the_weighted_sum_of_the_changes(model, tokens):
    """rsLoRA's scale goes into the matrices: the combination has none of its own."""
    shares = {"one": 0.5, "two": -0.25, "three": 1.5}
    configs = LoraConfig(rank=16, alpha=4.0, rslora=True), KINDS["pissa"], KINDS["all"]
    for seed, (name, config) in enumerate(zip(shares, configs, strict=True)):
        adapters = add(model, name, config, seed=seed)
    adapters.combine("sum", shares)
    assert not adapters.configs["sum"].rslora
    for module, change in adapters.changes("sum").items():
        weight = weight_of(model.get_submodule(module)).detach()
        parts = [
            share * adapters.changes(name)[module].change(weight)
            for name, share in shares.items()
            if module in adapters.changes(name)
        ]
        assert change.scale == 1.0
        torch.testing.assert_close(change.change(weight), sum(parts), atol=2e-5, rtol=1e-5)
    adapters.activate("sum")
    adapters.merge("sum")
    merged = logits(model, tokens)
    adapters.unmerge()
    torch.testing.assert_close(logits(model, tokens), merged, **CLOSE)


def test_a_combination_truncated_to_a_rank_is_the_nearest_of_that_rank(model):
    for seed, name in enumerate(("one", "two")):
        adapters = add(model, name, LoraConfig(rank=6, targets=("wq", "tok_embeddings")), seed=seed)
    adapters.combine("exact", {"one": 1.0, "two": 1.0})
    adapters.combine("near", {"one": 1.0, "two": 1.0}, rank=5)
    for module, change in adapters.changes("near").items():
        weight = weight_of(model.get_submodule(module)).detach()
        whole = adapters.changes("exact")[module].change(weight).double()
        u, s, v = torch.linalg.svd(whole, full_matrices=False)
        nearest = (u[:, :5] * s[:5]) @ v[:5]
        assert change.a.shape[0] == 5
        torch.testing.assert_close(change.change(weight).double(), nearest, atol=1e-4, rtol=0)


def test_what_does_not_add_up_is_not_combined(crowd):
    adapters = Adapters.of(crowd)
    for name in ("dora", "whole"):
        with pytest.raises(ArrieroError, match="cannot be combined: their changes do not add"):
            adapters.combine("sum", {"q-v": 0.5, name: 0.5})
        with pytest.raises(ArrieroError, match=f"adapter '{name}' replaces .* only be merged whole"):
            adapters.merge(name, 0.5)
    for shares, rank in (({}, None), ({"q-v": 1.0}, 0)):
        with pytest.raises(ArrieroError, match="expected shares of one adapter or more, and a rank of 1 or more"):
            adapters.combine("sum", shares, rank)
    with pytest.raises(NotFoundError, match="'qv'"):
        adapters.combine("sum", {"qv": 1.0})
