"""Whatever the layout, the losses are those of one process."""

from functools import cache

import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.model.transformer import Llama
from arriero.train.parallel import Layout, hold_parts
from arriero.train.parallel_config import ParallelConfig, check_divisible
from tests.train.ranks import TOKENS, Notes, Run, launch, tiny_config, train

UNEVEN = {"vocab_size": 67, "hidden_dim": 70}
TWO = {
    "replicas": Run(replicate=2),
    "sharded, accumulated": Run(accumulation=4),
    "sharded, tied, uneven": Run(tied=True, model=UNEVEN, recompute="selective"),
    "tensor and sequence": Run(tensor=2, recompute="selective"),
    "bfloat16": Run(shard=2, dtype="bfloat16"),
    "interrupted": Run(interrupt_after=7),
}
TWO_MORE = {
    "sharded": Run(shard=2),
    "sharded, full, summed every time": Run(shard=2, recompute="full", accumulation=2, sum_every=True),
    "tensor and sequence, accumulated": Run(tensor=2, accumulation=2),
    "tensor and sequence, tied": Run(tensor=2, tied=True),
    "tensor alone, full": Run(tensor=2, sequence=False, recompute="full"),
    "tensor alone, tied, selective": Run(tensor=2, sequence=False, tied=True, recompute="selective"),
    "bfloat16, tensor": Run(tensor=2, dtype="bfloat16"),
}
FOUR = {
    "sharded × tensor, accumulated": Run(shard=2, tensor=2, accumulation=2),
    "replicas × sharded": Run(replicate=2, shard=2),
}
FOUR_MORE = {
    "sharded × tensor, tied, selective": Run(tensor=2, tied=True, recompute="selective"),
    "replicas × tensor": Run(replicate=2, tensor=2),
    "replicas × tensor alone": Run(replicate=2, tensor=2, sequence=False),
    "four of tensor": Run(tensor=4, model={"n_kv_heads": 4}),
    "sharded, uneven": Run(model=UNEVEN),
}
LAUNCHES = ((TWO, 2), (TWO_MORE, 2), (FOUR, 4), (FOUR_MORE, 4))
"""Runs that share their processes, which are costly to start."""
EXACT = [
    pytest.param(number, name, marks=[pytest.mark.slow] if number else [], id=f"{name} on {world}")
    for number, (runs, world) in enumerate(LAUNCHES)
    for name, run in runs.items()
    if run.dtype == "float32" and run.interrupt_after is None
]


@cache
def ranks(number: int) -> dict[str, list[Notes]]:
    """What the ranks of one launch noted, by run."""
    runs, world = LAUNCHES[number]
    return dict(zip(runs, launch(list(runs.values()), world), strict=True))


@cache
def alone(tied: bool, sizes: tuple[tuple[str, int], ...]) -> Notes:
    """The run on this process."""
    return train(Run(tied=tied, model=dict(sizes)))


def check(run: Run, notes: list[Notes], tolerance: float = 1e-5) -> None:
    expected = alone(run.tied, tuple(run.model.items()))
    assert expected.losses[20] < expected.losses[1] - 0.1
    for noted in notes:
        assert noted.losses == pytest.approx(expected.losses, abs=tolerance)
        assert noted.norms == pytest.approx(expected.norms, rel=10 * tolerance)
        assert noted.validation == pytest.approx(expected.validation, abs=tolerance)
        assert noted.last == pytest.approx(expected.last, abs=tolerance)
    assert notes[0].whole == pytest.approx(expected.last, abs=tolerance)


@pytest.mark.parametrize(("number", "name"), EXACT)
def test_processes_train_as_one(number: int, name: str) -> None:
    check(LAUNCHES[number][0][name], ranks(number)[name])


@pytest.mark.parametrize(
    ("number", "name"), [(0, "bfloat16"), pytest.param(1, "bfloat16, tensor", marks=pytest.mark.slow)]
)
def test_bfloat16_computes_near_float32(number: int, name: str) -> None:
    notes = ranks(number)[name]
    check(LAUNCHES[number][0][name], notes, tolerance=0.03)
    assert notes[0].losses != alone(False, ()).losses


def test_a_signal_to_one_rank_ends_all_after_the_same_step() -> None:
    for notes in ranks(0)["interrupted"]:
        assert notes.events == ["interrupted"]
        assert max(notes.losses) == 7


def test_one_process_computes_in_bfloat16_over_float32_weights() -> None:
    layout = Layout(ParallelConfig(), "cpu", torch.bfloat16)
    try:
        model = layout.apply(Llama(tiny_config()).init_weights(0))
        tokens = torch.arange(TOKENS).expand(2, TOKENS)
        total, _ = model.loss(tokens, tokens)
        hold_parts(model)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        plain, _ = Llama(tiny_config()).init_weights(0).loss(tokens, tokens)
        assert total != plain
        assert float(total.detach()) == pytest.approx(float(plain.detach()), rel=1e-2)
    finally:
        layout.close()
    assert not torch.distributed.is_initialized()


def test_one_process_in_float32_computes_as_it_is() -> None:
    layout = Layout()
    model = Llama(tiny_config())
    assert layout.apply(model) is model
    assert type(model) is Llama
    assert (layout.data_rank, layout.data_world, layout.is_main) == (0, 1, True)
    assert not torch.distributed.is_initialized()
    layout.close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ParallelConfig(tensor=2), "expected replicate 1 × shard any × tensor 2 processes, got 1: "),
        (ParallelConfig(shard=3), "expected replicate 1 × shard 3 × tensor 1 processes, got 1: "),
    ],
)
def test_a_product_that_is_not_the_number_of_processes_is_refused(config: ParallelConfig, message: str) -> None:
    with pytest.raises(ArrieroError, match=message):
        Layout(config)


def test_float16_is_refused() -> None:
    with pytest.raises(ArrieroError, match="dtype: expected float32 or bfloat16 "):
        Layout(dtype=torch.float16)


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ArrieroError, match="tensor: expected 1 or more, got 0"):
        ParallelConfig(tensor=0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_kv_heads": 1}, "tensor: expected a divisor of n_kv_heads = 1, got 2"),
        ({"hidden_dim": 63}, "tensor: expected a divisor of hidden_dim = 63, got 2"),
        ({"vocab_size": 63}, "tensor: expected a divisor of vocab_size = 63, got 2"),
    ],
)
def test_sizes_that_cannot_be_divided_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ArrieroError, match=message):
        check_divisible(tiny_config(**sizes), 2)
