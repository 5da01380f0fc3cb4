"""Adapters in training: which parameters learn, recomputed activations; copies, state dicts, and what is refused."""

import copy

import pytest
import torch

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.model.adapters import Adapters, copy_adapters
from arriero.model.config import LlamaConfig
from arriero.model.formats.gguf_export import save_gguf
from arriero.model.formats.hf import load_hf, save_hf
from arriero.model.lora_config import LoraConfig
from arriero.model.transformer import Llama

SHAPE = {
    "vocab_size": 101, "dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 96, "max_seq_len": 64,
}  # fmt: skip
KINDS = {
    "q-v": LoraConfig(rank=4, targets=("wq", "wv")),
    "all": LoraConfig(rank=4, targets=("all-linear", "output", "tok_embeddings")),
    "dora": LoraConfig(rank=4, dora=True),
    "pissa": LoraConfig(rank=4, init="pissa"),
    "whole": LoraConfig(rank=4, targets=("wq",), whole=("output", "tok_embeddings")),
}


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def model(request, make_model):
    """A small model with grouped queries."""
    return make_model(LlamaConfig.of(**SHAPE, tied_embeddings=request.param))


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    """Each kind of adapter in turn."""
    return request.param


def train(model, tokens, steps, optimizer=None):
    """Some steps of AdamW upon what learns."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(learning, lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(tokens[:, :-1], tokens[:, 1:])[0].backward()
        optimizer.step()
    return optimizer


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# Training


def test_only_the_adapter_learns_and_the_base_keeps_its_bits(model, kind, tokens):
    adapters = Adapters.of(model)
    adapters.add("other", KINDS["q-v"], seed=5)
    adapters.add("one", kind)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning
    assert all(".adapters.one." in name and ".anchor" not in name for name in learning)
    before = state(model)
    train(model, tokens, 2)
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in learning), name
        assert before[name].equal(parameter) == (name not in learning), name


def test_the_loss_falls_by_training_an_adapter(model, kind, tokens):
    Adapters.of(model).add("one", kind)
    before = model.loss(tokens[:, :-1], tokens[:, 1:])[0].item()
    train(model, tokens, 20)
    assert model.loss(tokens[:, :-1], tokens[:, 1:])[0].item() < 0.8 * before


@pytest.mark.parametrize("recompute", ["full", "selective"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_give_the_same_gradients_and_b_moves(model, kind, tokens, recompute, dropout):
    """The embedding is frozen, so that nothing that enters the first layer wants a gradient."""
    if dropout and kind is KINDS["all"]:
        kind = LoraConfig(rank=4)
    config = LoraConfig(**(vars(kind) | {"dropout": dropout}))
    other = copy.deepcopy(model)
    for each, how in ((model, "none"), (other, recompute)):
        Adapters.of(each).add("one", config)
        for layer in each.layers:
            layer.recompute = how
        torch.manual_seed(0)
        train(each, tokens, 1)
        torch.manual_seed(1)
        train(each, tokens, 1)
    expected = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-4, rtol=1e-4, msg=name)
    moved = [change.b.abs().max() for change in Adapters.of(other).changes("one").values() if hasattr(change, "b")]
    assert min(moved) > 0


def test_dropout_is_active_in_training_only(model, tokens):
    adapters = Adapters.of(model)
    model.eval()
    adapters.add("one", LoraConfig(rank=4, dropout=0.5))  # added to a model in evaluation
    train(model, tokens, 2)
    assert model(tokens).equal(model(tokens))
    model.train()
    assert not model(tokens).equal(model(tokens))
    model.eval()
    assert model(tokens).equal(model(tokens))


def test_the_seed_makes_an_adapter(model, tokens):
    adapters = Adapters.of(model)
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        adapters.add(name, KINDS["q-v"], seed=seed)
    for module, change in adapters.changes("one").items():
        assert change.a.equal(adapters.changes("same")[module].a)
        assert not change.a.equal(adapters.changes("other")[module].a)


def test_resumed_training_is_that_without_a_break(model, kind, tokens):
    Adapters.of(model).add("one", kind)
    broken = copy.deepcopy(model)
    train(model, tokens, 4)

    optimizer = train(broken, tokens, 2)
    resumed = Llama(broken.config)
    copy_adapters(broken, resumed)
    resumed.load_state_dict(broken.state_dict())
    resumed.tie_weights()
    Adapters.of(resumed).train_only("one")
    again = torch.optim.AdamW([p for p in resumed.parameters() if p.requires_grad], lr=1e-2)
    again.load_state_dict(optimizer.state_dict())
    train(resumed, tokens, 2, again)
    expected = state(model)
    assert all(value.equal(expected[name]) for name, value in state(resumed).items())


@pytest.mark.parametrize("targets", [("wq",), ("output",)])
def test_training_while_merged_is_refused(model, tokens, targets):
    adapters = Adapters.of(model)
    adapters.add("one", LoraConfig(rank=4, targets=targets))
    model.train()
    adapters.merge("one")
    with pytest.raises(ArrieroError, match="merged into the weights: unmerge it before training"):
        model.loss(tokens[:, :-1], tokens[:, 1:])
    with torch.no_grad():
        model.loss(tokens[:, :-1], tokens[:, 1:])
    adapters.unmerge()
    train(model, tokens, 1)


# Copies and files


def test_a_deep_copy_has_adapters_of_its_own(model, kind, tokens):
    adapters = Adapters.of(model)
    adapters.add("one", kind)
    train(model, tokens, 2)
    model.eval()
    before = model(tokens).detach()
    other = copy.deepcopy(model)
    assert Adapters.of(other).model is other
    assert Adapters.of(other) is not adapters
    assert other(tokens).equal(before)

    train(other, tokens, 1)
    Adapters.of(other).activate(None)
    assert model(tokens).equal(before)
    Adapters.of(other).remove("one")
    assert model(tokens).equal(before)
    adapters.activate(None)
    assert other(tokens).equal(model(tokens))
    assert {name for name, _ in other.named_parameters()} == {
        name for name, _ in Llama(model.config).named_parameters()
    }


def test_a_state_dict_goes_into_a_copy_with_blank_adapters(model, kind, tokens):
    Adapters.of(model).add("a", kind)
    Adapters.of(model).add("b", KINDS["q-v"])
    Adapters.of(model).activate("a")
    Adapters.of(model).train_only("a")
    train(model, tokens, 1)
    other = Llama(model.config)
    copy_adapters(model, other)
    assert other.load_state_dict(model.state_dict(), strict=True)
    assert Adapters.of(other).active == "a"
    assert other.eval()(tokens).equal(model.eval()(tokens))


def test_a_removed_adapter_leaves_nothing_behind(model, kind, tokens):
    model.eval()
    before, names = model(tokens).detach(), set(model.state_dict())
    adapters = Adapters.of(model)
    adapters.add("one", kind)
    adapters.add("two", KINDS["q-v"])
    train(model, tokens, 1)
    adapters.remove("two")
    assert adapters.active is None
    adapters.remove("one")
    assert set(model.state_dict()) == names
    assert not any(module._forward_hooks or hasattr(module, "switch") for module in model.modules())
    assert model(tokens).equal(before)
    adapters.add("one", kind)
    assert adapters.active == "one"


def test_names_are_any_that_pytorch_can_keep(model, tokens):
    adapters = Adapters.of(model)
    for name in ("a", "b", "7b", "chat-v2", "lambda", "größe"):
        adapters.add(name, KINDS["q-v"])
        assert name in "".join(model.state_dict())
    for name in ("", "a.b", "a b", "a/b", "weight", "switch", "on", "handle", "training", "keys", "_mix", "_modules"):
        with pytest.raises(ArrieroError, match="expected a name of letters, digits, - and _, none of PyTorch's own"):
            adapters.add(name, KINDS["q-v"])
    with pytest.raises(ArrieroError, match="there is an adapter 'a' already"):
        adapters.add("a", KINDS["q-v"])
    assert list(adapters.configs) == ["a", "b", "7b", "chat-v2", "lambda", "größe"]
    model(tokens)


def test_the_models_size_is_that_of_the_base(model):
    size = model.n_params
    Adapters.of(model).add("one", KINDS["all"])
    assert model.n_params == size


@pytest.mark.parametrize("merged", [False, True], ids=["live", "merged"])
def test_a_models_own_formats_hold_merged_weights_and_refuse_to_lose_a_live_adapter(model, tokens, tmp_path, merged):
    model.eval()
    adapters = Adapters.of(model)
    adapters.add("one", KINDS["q-v"])
    train(model, tokens, 2)
    expected = model(tokens).detach()
    if merged:
        adapters.merge("one")
        save_hf(model, tmp_path / "folder")
        torch.testing.assert_close(load_hf(tmp_path / "folder").eval()(tokens), expected, atol=1e-4, rtol=1e-5)
        return
    with pytest.raises(ArrieroError, match="adapter 'one' is on and not merged"):
        save_hf(model, tmp_path / "folder")
    with pytest.raises(ArrieroError, match="adapter 'one' is on and not merged"):
        save_gguf(model, None, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
    adapters.activate(None)
    save_hf(model, tmp_path / "folder")
    assert load_hf(tmp_path / "folder").eval()(tokens).equal(model(tokens))


# What is refused


@pytest.mark.parametrize(
    ("target", "near"), [("w_q", "wq"), ("q_porj", "q_proj"), ("outputs", "output"), ("xyzzy", "")]
)
def test_a_target_that_matches_nothing_names_near_ones(model, target, near):
    before = set(model.state_dict())
    with pytest.raises(ArrieroError, match=f"target '{target}' matches no module") as error:
        Adapters.of(model).add("one", LoraConfig(targets=("wv", target)))
    assert f"did you mean {near}" in str(error.value) if near else "did you mean" not in str(error.value)
    assert set(model.state_dict()) == before
    assert Adapters.of(model).configs == {}
    with pytest.raises(ArrieroError, match="matches no module"):
        Adapters.of(model).add("one", LoraConfig(targets=("wv",), whole=("norm",)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(rank=65, targets=("wq",)), r"rank of layers.0.attention.wq: expected at most 64, .* got 65"),
        (LoraConfig(rank=40, targets=("all-linear",)), r"rank of layers.0.attention.wk: expected at most 32"),
        (LoraConfig(targets=("tok_embeddings",), dora=True), "an embedding has no dora"),
        (LoraConfig(targets=("embed_tokens",), init="pissa"), "an embedding has no dora, dropout or init pissa"),
        (LoraConfig(targets=("lm_head",), dropout=0.1), "target 'output': .* has no dropout"),
    ],
)
def test_what_a_module_cannot_do_is_refused(model, config, message):
    with pytest.raises(ArrieroError, match=message):
        Adapters.of(model).add("one", config)
    assert Adapters.of(model).configs == {}


def test_merging_twice_or_what_is_not_merged_is_refused(model, tokens):
    adapters = Adapters.of(model)
    with pytest.raises(ArrieroError, match="nothing is merged: expected `merge` before `unmerge`"):
        adapters.unmerge()
    adapters.add("one", KINDS["q-v"])
    adapters.add("two", KINDS["q-v"])
    adapters.merge("one")
    for act in (
        lambda: adapters.merge("one"),
        lambda: adapters.merge("two"),
        lambda: adapters.absorb("two"),
        lambda: adapters.add("three", KINDS["q-v"]),
        lambda: adapters.remove("one"),
        lambda: adapters.activate("two"),
        lambda: adapters.combine("sum", {"one": 1.0}),
        lambda: adapters.mixed(["one", "two"]).__enter__(),
    ):
        with pytest.raises(ArrieroError, match="an adapter is merged into the weights: unmerge it before you"):
            act()
    adapters.unmerge()
    with pytest.raises(ArrieroError, match="nothing is merged"):
        adapters.unmerge()


def test_an_unknown_adapter_is_told_with_near_names(model):
    adapters = Adapters.of(model)
    adapters.add("medicine", KINDS["q-v"])
    for act in (adapters.activate, adapters.merge, adapters.remove, adapters.train_only, adapters.changes):
        with pytest.raises(NotFoundError, match=r"no adapter 'medicin' \(did you mean medicine\?\): there is medicine"):
            act("medicin")


def test_a_change_of_a_module_that_is_not_there_is_refused(model):
    adapters = Adapters.of(model)
    adapters.add("one", KINDS["q-v"])
    changes = {module.replace("layers.1", "layers.7"): x.blank() for module, x in adapters.changes("one").items()}
    before = set(model.state_dict())
    with pytest.raises(ArrieroError, match=r"the model has no module layers\.7\.attention\.wq"):
        adapters.insert("two", KINDS["q-v"], changes)
    assert set(model.state_dict()) == before
