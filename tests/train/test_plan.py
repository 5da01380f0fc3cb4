"""LLaMA's own run from the calculator, and its memory formulas against what our modules keep."""

from dataclasses import replace

import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.model.adapters import Adapters
from arriero.model.config import LlamaConfig
from arriero.model.formats.weights import blank_model
from arriero.model.lora_config import LoraConfig
from arriero.model.presets import PRESETS
from arriero.model.quantised import quantise_model
from arriero.model.rope import rotation
from arriero.model.transformer import Llama
from arriero.train.cards import CARDS
from arriero.train.parallel_config import ParallelConfig
from arriero.train.plan import (
    Adapter,
    Setup,
    block_activations,
    count_learning,
    count_parameters,
    estimate_cost,
    estimate_memory,
    fits,
    palm_flops_per_token,
)
from arriero.train.plan_advice import advise

A100 = CARDS["A100-80GB"]
SMALL = LlamaConfig.of(vocab_size=64, dim=64, n_layers=3, n_heads=4, n_kv_heads=2, hidden_dim=192)


def setup(shape: LlamaConfig | str = "llama-7b", **changes) -> Setup:
    shape = PRESETS[shape] if isinstance(shape, str) else shape
    layout = {name: changes.pop(name) for name in ("replicate", "shard", "tensor", "sequence") if name in changes}
    values = {"card": A100, "count": 1, "rows": 1, "tokens": shape.max_seq_len} | changes
    return Setup(shape=shape, layout=ParallelConfig(**layout), **values)


def test_llamas_65b_takes_21_days_as_the_paper_says():
    """Section 2.4: 380 tokens/s/GPU on 2,048 A100s with 80 GB, 1.4T tokens, about 21 days; table 15: energy, CO₂."""
    run = setup("llama-65b", count=2048)
    cost = estimate_cost(run, total_tokens=1.4e12, tokens_per_second=380)
    assert round(cost.days) == 21
    assert cost.days == pytest.approx(20.8, abs=0.05)
    assert cost.device_hours == pytest.approx(1_022_362, rel=2e-3)  # 1,023,392: "around 380" is 380.4
    assert cost.mwh == pytest.approx(449, rel=5e-3)  # 450.3; the paper's own hours give 449.8
    assert round(cost.tonnes) == 173
    assert run.batch_tokens == 4_194_304  # 4M, at a row of 2,048 tokens a GPU
    assert fits(run)


def test_what_mfu_the_papers_rate_implies():
    run = setup("llama-65b", count=2048)
    cost = estimate_cost(run, total_tokens=1.4e12, tokens_per_second=380)
    assert cost.mfu == pytest.approx(0.485, abs=5e-4)
    palm = cost.mfu * palm_flops_per_token(run.shape, run.tokens) / cost.flops_per_token
    assert palm == pytest.approx(0.495, abs=5e-4)


def test_the_mfu_gives_the_rate_back():
    run = setup("llama-65b", count=2048)
    mfu = estimate_cost(run, tokens_per_second=380).mfu
    assert estimate_cost(run, mfu=mfu).tokens_per_second == pytest.approx(380)


@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_are_counted_as_the_model_counts_them(preset):
    assert count_parameters(PRESETS[preset]) == blank_model(PRESETS[preset]).n_params


class Kept:
    """Bytes that autograd keeps, each storage once; hooks that are set inside, as `recomputed` does, are heard too."""

    def __init__(self, monkeypatch, besides):
        self.tensors, self.hooks = {}, torch.autograd.graph.saved_tensors_hooks
        self.besides = {tensor.untyped_storage().data_ptr() for tensor in besides}
        monkeypatch.setattr(
            torch.autograd.graph,
            "saved_tensors_hooks",
            lambda pack, unpack: self.hooks(lambda tensor: self.note(pack(tensor)), unpack),
        )

    def note(self, kept):
        if isinstance(kept, torch.Tensor) and kept.untyped_storage().data_ptr() not in self.besides:
            self.tensors[kept.untyped_storage().data_ptr()] = kept
        return kept

    @property
    def bytes(self):
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors.values())


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_a_blocks_activations_are_what_autograd_keeps(recompute, monkeypatch):
    rows, tokens = 2, 64
    run = setup(SMALL, rows=rows, tokens=tokens, dtype="float32", recompute=recompute)
    model = Llama(SMALL).init_weights(0)
    for layer in model.layers:
        layer.recompute = recompute
    x = torch.randn(rows, tokens, SMALL.dim, requires_grad=True)
    turn = rotation(SMALL, torch.arange(tokens).expand(rows, tokens))
    kept = Kept(monkeypatch, [*model.parameters(), *turn])
    with kept.hooks(kept.note, lambda tensor: tensor):
        for layer in model.layers:
            x = layer(x, turn, None, None)
    stream = 4 * SMALL.dim
    formula = stream if recompute == "full" else block_activations(run)
    assert kept.bytes / (rows * tokens * SMALL.n_layers) == pytest.approx(formula, rel=0.01)


def test_states_are_16_bytes_a_parameter_spread_over_shards_and_matrices():
    run = setup(count=16, shard=4, tensor=2, replicate=2)
    memory = estimate_memory(run)
    states = memory.parameters + memory.gradients + memory.optimizer
    assert states == pytest.approx(16 * 6_738_415_616 / 8)


def test_several_micro_batches_keep_whole_gradients_unless_they_are_summed_each():
    one, many = setup(count=8), setup(count=8, accumulation=2)
    gathered = estimate_memory(many).gradients - estimate_memory(one).gradients
    assert gathered == pytest.approx(4 * 6_738_415_616)
    each = replace(many, layout=ParallelConfig(sum_every=True))
    assert estimate_memory(each).gradients == estimate_memory(one).gradients


def test_each_recomputation_saves_memory_and_only_the_full_one_takes_time():
    none, selective, full = (setup(count=8, recompute=policy) for policy in ("none", "selective", "full"))
    memories = [estimate_memory(run).activations for run in (none, selective, full)]
    assert memories == sorted(memories, reverse=True)
    assert estimate_cost(none).days == estimate_cost(selective).days
    assert estimate_cost(full).days == pytest.approx(4 / 3 * estimate_cost(none).days, rel=0.02)


def test_advice_names_options_that_make_it_fit():
    run = setup(card=CARDS["RTX-4090"], count=8, rows=4)
    assert not fits(run)
    assert {"--recompute full", "--card L40S"} <= {advice.options for advice in advise(run) if advice.fits}
    assert fits(replace(run, recompute="full"))


def test_where_no_setting_alone_is_enough_they_are_advised_together():
    run = setup("llama-13b", card=CARDS["RTX-4090"], count=16, rows=8, recompute="none", replicate=2)
    advice = advise(run)
    together = next(each for each in advice if each.costs == "all of that")
    assert together.fits
    assert together.options.count("--") > 2
    assert not any(each.fits for each in advice[: advice.index(together)])
    assert advice[-1].options == "--card MI300X"


def test_what_cannot_fit_is_told_without_advice_that_fits():
    advice = advise(setup("llama-65b", card=CARDS["cpu-core"], count=1, dtype="float32"))
    assert not any(each.fits for each in advice)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 8, "replicate": 3}, "count: expected as many devices as the layout has, replicate 3"),
        ({"count": 8, "shard": 3}, "shard 3 × tensor 1, got 8"),
        ({"count": 2, "replicate": 4}, "replicate 4 × shard any × tensor 1, got 2"),
        ({"count": 64, "tensor": 64}, "tensor: expected a divisor of n_kv_heads = 32, got 64"),
        ({"tokens": 4096}, "tokens: expected rows within the model's context of 2048, got 4096"),
        ({"count": 2, "tensor": 2, "adapter": Adapter(quantise="nf4")}, "tensor: quantised matrices cannot be divided"),
        ({"rows": 0}, "rows: expected 1 or more, got 0"),
        ({"count": 2, "tensor": 2, "tokens": 33}, "tokens: expected a multiple of tensor = 2, got 33"),
    ],
)
def test_setups_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ArrieroError, match=message):
        setup(**changes)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"total_tokens": 0}, "total_tokens: expected a number above 0, got 0"),
        ({"mfu": 1.5}, "mfu: expected a share above 0, and at most 1, got 1.5"),
        ({"pue": 0.9}, "pue: expected 1 or more"),
        ({"watts": float("nan")}, "watts: expected a number above 0, got nan"),
        ({"tokens_per_second": 1e6}, "beyond the peak of the A100-80GB, 7,5"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, message):
    with pytest.raises(ArrieroError, match=message):
        estimate_cost(setup(), **numbers)


def test_an_adapters_run_is_as_long_as_its_examples():
    with pytest.raises(ArrieroError, match="total_tokens: expected the tokens of all examples"):
        estimate_cost(setup(adapter=Adapter()))


@pytest.mark.parametrize("quantise", ["none", "nf4", "int8"])
def test_an_adapters_bytes_are_what_the_model_then_holds(quantise):
    model = Llama(SMALL).init_weights(0)
    if quantise != "none":
        quantise_model(model, quantise)
    Adapters.of(model).add("adapter", LoraConfig(rank=4), seed=0)
    run = setup(SMALL, tokens=64, dtype="float32", adapter=Adapter(rank=4, quantise=quantise))
    assert count_learning(run) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    parameters = sum(p.nbytes for p in model.parameters())
    codes = sum(b.nbytes for layer in model.layers for b in layer.buffers())
    whole = 0 if quantise == "none" else 8 * SMALL.dim * SMALL.hidden_dim
    memory = estimate_memory(run)
    assert memory.parameters == parameters + codes + whole
    assert memory.gradients + memory.optimizer == 12 * count_learning(run)


def test_an_adapter_takes_less_memory_and_a_third_less_time_and_a_quantised_base_less_again():
    full, lora, qlora = (setup(adapter=adapter) for adapter in (None, Adapter(), Adapter(quantise="nf4")))
    memories = [estimate_memory(run).total for run in (full, lora, qlora)]
    assert memories == sorted(memories, reverse=True)
    assert not fits(full)
    assert fits(replace(qlora, card=CARDS["RTX-4090"], recompute="full"))
    times = [estimate_cost(run, total_tokens=1e8).days for run in (full, lora)]
    assert times[1] == pytest.approx(2 / 3 * times[0], rel=0.03)


def test_a_quantised_base_is_advised_where_an_adapter_does_not_fit():
    run = setup(card=CARDS["RTX-4090"], adapter=Adapter())
    assert "--quantise nf4" in {advice.options for advice in advise(run)}
