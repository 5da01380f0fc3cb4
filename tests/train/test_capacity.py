"""Which models fit: the bytes are those that the model has, and the context is the most that there is room for."""

from dataclasses import replace

import pytest

from arriero.model.formats.weights import blank_model
from arriero.model.packed import held_bytes
from arriero.model.presets import PRESETS
from arriero.train.capacity import PROCESS, Room, cache_bytes, hold, train

GIB = 2**30


def room(gib: float, device: str = "cpu", main: float | None = None) -> Room:
    return Room(device, 1, int(gib * GIB), int((gib if main is None else main) * GIB))


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_are_counted_by_two_layers_as_by_all(preset):
    model, held = blank_model(PRESETS[preset]), hold(PRESETS[preset], room(1))
    assert [held[kind].bytes for kind in ("float32", "int8", "int4")] == [
        held_bytes(model, weights) for weights in ("full", "int8", "int4")
    ]
    assert held["bfloat16"].bytes == 2 * model.n_params


def test_the_context_is_what_is_left():
    shape = PRESETS["llama2-13b"]
    here = room(16)
    held = hold(shape, here)["int8"]
    filled = PROCESS + held.bytes + held.context * cache_bytes(shape, 4)
    assert 0 <= here.bytes - filled < cache_bytes(shape, 4)
    assert hold(shape, room(16, "cuda"))["int8"].context > held.context  # the cache is in bfloat16 there


def test_a_shape_that_cannot_be_packed_is_told():
    odd = replace(PRESETS["tiny-15m"], dim=360, head_dim=60, n_heads=6, n_kv_heads=6)
    assert hold(odd, room(1))["int4"].bytes is None
    assert hold(odd, room(1))["int4"].context == 0
    assert hold(odd, room(1))["float32"].context


def test_training_needs_main_memory_to_read_the_model_in():
    shape = PRESETS["llama2-7b"]
    assert train(shape, room(24, "cuda", main=64))["qlora"].fits
    assert not train(shape, room(24, "cuda", main=16))["qlora"].fits
    assert not train(shape, room(24, "cuda", main=64))["full"].fits
