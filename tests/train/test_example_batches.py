"""A micro-batch computes what each of its examples alone would; however a step is divided, it is the same step."""

import json
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig as OracleConfig
from transformers import LlamaForCausalLM

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import IGNORED
from arriero.model.formats.hf import hf_names
from arriero.model.formats.hf_config import write_hf_config
from arriero.model.transformer import Llama
from arriero.train.batch import Batch
from arriero.train.example_batches import EvaluationBatches, ExampleBatches, lay_out
from arriero.train.pretrain import next_token_loss
from arriero.train.supervised import Supervised, pack
from tests.train.ranks import tiny_config

VOCABULARY = 64


def make_examples(lengths: Iterable[int], seed: int = 0) -> list[Supervised]:
    """Random tokens, of which a random part is learnt, and the last one always."""
    random = np.random.default_rng(seed)
    examples = []
    for length in lengths:
        learnt = random.random(length) < 0.4
        learnt[0], learnt[-1] = False, True
        examples.append(Supervised(random.integers(0, VOCABULARY, length).astype(np.int32), learnt))
    return examples


def numbered(lengths: list[int]) -> list[Supervised]:
    """Examples that each consist of their own number."""
    return [
        Supervised(np.full(length, i, np.int32), np.arange(length) == length - 1) for i, length in enumerate(lengths)
    ]


def contents(batch: Batch) -> list[int]:
    """Numbers of the examples in a batch of numbered ones, sorted."""
    starts = [start for _, start, end in batch.documents.spans if (batch.targets[0, start:end] != IGNORED).any()]
    return sorted(batch.tokens[0, starts].tolist())


def alone(count: int) -> list[tuple[int, ...]]:
    return [(i,) for i in range(count)]


def make_model(dtype: torch.dtype = torch.float32) -> Llama:
    model = Llama(tiny_config())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1))
    return model.to(dtype)


def oracle_loss(model: Llama, examples: list[Supervised]) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the losses of padded rows by transformers, and its gradients by our names."""
    oracle = LlamaForCausalLM(OracleConfig(**write_hf_config(model.config, dtype=torch.float32)))
    parameters = dict(model.named_parameters())
    names = hf_names(model.config)
    oracle.load_state_dict({theirs: parameters[ours] for ours, theirs in names.items()}, strict=False)
    oracle = oracle.to(next(model.parameters()).dtype)
    width = max(map(len, examples))
    ids, mask, labels = (torch.full((len(examples), width), fill) for fill in (0, 0, IGNORED))  # (B, T)
    for row, example in enumerate(examples):
        tokens = torch.from_numpy(example.ids.astype(np.int64))
        ids[row, : len(example)], mask[row, : len(example)] = tokens, 1
        labels[row, : len(example)] = torch.where(torch.from_numpy(example.learnt), tokens, IGNORED)
    logits = oracle(input_ids=ids, attention_mask=mask).logits[:, :-1].double()  # (B, T − 1, V)
    total = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    total.backward()
    theirs = dict(oracle.named_parameters())
    return total.detach(), {ours: theirs[name].grad for ours, name in names.items()}


def assert_close_to(model: Llama, wanted: dict[str, Tensor], bound: float) -> None:
    """Each gradient is within `bound` of the wanted one, relative to its norm."""
    for name, parameter in model.named_parameters():
        error = (parameter.grad.double() - wanted[name].double()).norm() / wanted[name].double().norm()
        assert error < bound, f"{name}: {error}"


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
@pytest.mark.parametrize("multiple", [1, 16])
def test_examples_end_to_end_have_the_loss_and_gradients_of_padded_rows(dtype, bound, multiple) -> None:
    examples = make_examples([7, 2, 19, 12, 3])
    model = make_model(dtype)
    wanted, gradients = oracle_loss(model, examples)
    loss = next_token_loss(model, lay_out(examples, multiple))
    loss.total.backward()
    assert loss.count == sum(int(example.learnt.sum()) for example in examples)
    assert loss.total.detach().item() == pytest.approx(wanted.item(), rel=bound)
    assert_close_to(model, gradients, bound)


def test_packed_logits_are_those_of_each_example_alone() -> None:
    examples, model = make_examples([5, 9, 2, 14]), make_model(torch.float64)
    batch = lay_out(examples)
    together = model(batch.tokens, documents=batch.documents)[0]  # (N, V)
    each = [model(torch.from_numpy(example.ids[None].astype(np.int64)))[0] for example in examples]
    torch.testing.assert_close(together, torch.cat(each), rtol=1e-6, atol=1e-6)


def test_no_example_s_first_token_is_predicted_from_the_one_before() -> None:
    examples = make_examples([4, 1, 6, 3])
    for example in examples:
        example.learnt[:] = True  # even if an example asked for it
    batch = lay_out(examples, multiple=8)
    assert batch.tokens.shape == batch.targets.shape == batch.sources.shape == (1, 16)
    tokens, targets = batch.tokens[0].tolist(), batch.targets[0].tolist()
    ends = [3, 4, 10, 13]
    assert [i for i, target in enumerate(targets) if target == IGNORED] == [*ends, 14, 15]
    assert all(targets[i] == tokens[i + 1] for i in range(14) if i not in ends)
    assert batch.documents.positions()[0].tolist() == [*range(4), 0, *range(6), *range(3), *range(2)]


@pytest.mark.parametrize("multiple", [1, 8])
def test_a_batch_of_no_examples_has_no_loss_and_no_gradient(multiple: int) -> None:
    model, batch = make_model(), lay_out([], multiple)
    assert batch.tokens.shape == (1, multiple)
    loss = next_token_loss(model, batch)
    loss.total.backward()
    assert (loss.total.detach().item(), loss.count) == (0.0, 0)
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


LENGTHS = [3, 17, 5, 5, 2, 11, 8, 23, 4, 9, 6, 2, 13, 7, 3, 10, 5, 12, 2]


def step_gradients(examples: list[Supervised], rows: int, accumulation: int, world: int) -> dict[str, Tensor]:
    """The gradients of the first step's mean loss, as all ranks together come to."""
    model, count = make_model(), 0
    for rank in range(world):
        batches = ExampleBatches(
            examples, alone(len(examples)), rows=rows, accumulation=accumulation, rank=rank, world=world
        )
        for _ in range(accumulation):
            loss = next_token_loss(model, next(batches))
            loss.total.backward()
            count += loss.count
    return {name: parameter.grad / count for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("rows", "accumulation", "world"), [(1, 8, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8)])
def test_eight_by_one_is_one_by_eight(rows: int, accumulation: int, world: int) -> None:
    examples = make_examples(LENGTHS)
    wanted = step_gradients(examples, 8, 1, 1)
    for name, gradient in step_gradients(examples, rows, accumulation, world).items():
        assert (gradient - wanted[name]).norm() / wanted[name].norm() < 1e-5, name


shapes = {"rows": st.integers(1, 4), "accumulation": st.integers(1, 4), "world": st.sampled_from([1, 2, 3])}
lengths_of_examples = st.lists(st.integers(2, 20), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(lengths=lengths_of_examples, packed=st.booleans(), seed=st.integers(0, 3), **shapes)
def test_ranks_share_out_one_order_in_which_each_epoch_has_each_example_once(
    lengths: list[int], packed: bool, seed: int, rows: int, accumulation: int, world: int
) -> None:
    examples = numbered(lengths)
    units = pack(lengths, 24) if packed else alone(len(lengths))
    batch = rows * accumulation * world
    single = ExampleBatches(examples, units, rows=batch, seed=seed)
    ranks = [
        ExampleBatches(examples, units, rows=rows, accumulation=accumulation, rank=rank, world=world, seed=seed)
        for rank in range(world)
    ]
    steps = -(-len(units) // batch)
    assert {batches.steps_per_epoch for batches in [single, *ranks]} == {steps}
    for _ in range(3):
        seen: list[int] = []
        for step in range(steps):
            shared = sorted(i for batches in ranks for _ in range(accumulation) for i in contents(next(batches)))
            assert shared == contents(next(single))
            last = step == steps - 1
            assert len([unit for unit in units if unit[0] in shared]) == (len(units) - step * batch if last else batch)
            seen += shared
        assert sorted(seen) == list(range(len(lengths)))


def test_each_epoch_has_an_order_of_its_own_that_the_seed_gives() -> None:
    examples = numbered([3] * 40)

    def epochs(seed: int) -> list[list[int]]:
        batches = ExampleBatches(examples, alone(40), rows=1, seed=seed)
        return [[contents(next(batches))[0] for _ in range(40)] for _ in range(2)]

    first, second = epochs(0)
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first


def test_a_step_s_micro_batches_have_about_as_many_tokens_and_no_padding() -> None:
    lengths = [64, 3, 3, 3, 30, 30, 2, 2, 20, 20, 20, 4]
    batches = ExampleBatches(numbered(lengths), alone(12), rows=3, accumulation=4)
    sizes = [next(batches).tokens.numel() for _ in range(4)]
    assert sum(sizes) == sum(lengths)
    assert sorted(sizes)[-1] == 64
    assert min(sizes) > 40


def test_the_largest_micro_batch_is_known_before_the_first_step() -> None:
    examples = numbered(LENGTHS)
    batches = ExampleBatches(examples, alone(len(LENGTHS)), rows=2, accumulation=2)
    seen = [next(batches).tokens.numel() for _ in range(200)]
    assert max(seen) <= batches.largest.tokens.numel() <= sum(sorted(LENGTHS)[-4:])


@settings(max_examples=60, deadline=None)
@given(before=st.integers(0, 40), **shapes)
def test_a_saved_position_gives_the_same_batches_again(before: int, rows: int, accumulation: int, world: int) -> None:
    def make() -> ExampleBatches:
        return ExampleBatches(
            make_examples(LENGTHS), alone(19), rows=rows, accumulation=accumulation, rank=world - 1, world=world, seed=3
        )

    first, after = make(), make()
    for _ in range(before):
        next(first)
    after.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for _ in range(30):
        assert torch.equal(next(first).tokens, next(after).tokens)
    assert first.state_dict() == after.state_dict()


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7])
def test_between_two_steps_a_position_is_regained_with_other_rows_and_ranks(steps: int) -> None:
    examples = numbered(LENGTHS)
    first = ExampleBatches(examples, alone(19), rows=2, accumulation=4)
    for _ in range(4 * steps):
        next(first)
    ranks = [ExampleBatches(examples, alone(19), rows=4, rank=rank, world=2) for rank in range(2)]
    for batches in ranks:
        batches.load_state_dict(first.state_dict())
    for _ in range(5):
        wanted = Counter(i for _ in range(4) for i in contents(next(first)))
        assert Counter(i for batches in ranks for i in contents(next(batches))) == wanted


def test_a_position_among_other_examples_is_refused() -> None:
    examples, units = make_examples(LENGTHS), alone(19)
    state = ExampleBatches(examples, units, rows=2).state_dict()
    other_mask = make_examples(LENGTHS)
    other_mask[3].learnt[2] ^= True
    for changed, message in (
        (ExampleBatches(make_examples(LENGTHS, seed=1), units, rows=2), "the examples changed"),
        (ExampleBatches(examples[:-1], units[:-1], rows=2), "the examples changed"),
        (ExampleBatches(other_mask, units, rows=2), "the examples changed"),
        (ExampleBatches(examples, pack(LENGTHS, 24), rows=2), "the examples changed"),
        (ExampleBatches(examples, units, rows=2, seed=1), "the seed changed"),
        (ExampleBatches(examples, units, rows=3), "the number of examples a step changed"),
    ):
        before = changed.state_dict()
        with pytest.raises(ArrieroError, match=f"resume: {message} since the run began; choose another folder"):
            changed.load_state_dict(state)
        assert changed.state_dict() == before


def test_no_units_are_an_error() -> None:
    with pytest.raises(ArrieroError, match="no example is left to train on"):
        ExampleBatches([], [], rows=1)


@pytest.mark.parametrize("world", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7, 10])
def test_an_evaluation_sees_each_example_once_in_equally_many_micro_batches(count: int, world: int) -> None:
    examples = numbered(LENGTHS[:count])
    ranks = [list(EvaluationBatches(examples, rows=2, rank=rank, world=world, multiple=4)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(i for batches in ranks for batch in batches for i in contents(batch)) == list(range(count))
    assert all(batch.tokens.numel() % 4 == 0 for batches in ranks for batch in batches)
