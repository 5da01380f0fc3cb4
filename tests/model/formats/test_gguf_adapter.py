"""Adapters as GGUF: merged by llama.cpp's arithmetic in GGUF's own space they are the model merged in ours."""

import contextlib

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from arriero.common.errors import ArrieroError, FormatError, NotFoundError
from arriero.common.gguf_header import read_header
from arriero.model.config import LlamaConfig
from arriero.model.formats.gguf import load_gguf
from arriero.model.formats.gguf_adapter import read_adapter_gguf, save_adapter_gguf
from arriero.model.formats.gguf_export import save_gguf
from arriero.model.transformer import Llama

SHAPE = {"vocab_size": 300, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "max_seq_len": 64}
BASES = {
    "multi-head": LlamaConfig.of(**SHAPE),
    "grouped": LlamaConfig.of(**SHAPE, n_kv_heads=2),
    "multi-query-wide": LlamaConfig.of(**SHAPE, n_kv_heads=1, head_dim=32),
    "tied": LlamaConfig.of(**SHAPE, n_kv_heads=2, tied_embeddings=True),
}
WQ, WK, W2 = "layers.0.attention.wq", "layers.1.attention.wk", "layers.1.feed_forward.w2"
Q_A, Q_B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"


@pytest.fixture(params=BASES.values(), ids=BASES)
def base(request) -> LlamaConfig:
    """Each base's config in turn."""
    return request.param


def random_pairs(config, *, rank=4, seed=0, modules=None):
    """A (r, in) and B (out, r) of each matrix that an adapter can change, all different."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for name, weight in Llama(config).named_parameters():
        module = name.removesuffix(".weight")
        wanted = weight.dim() == 2 and not (config.tied_embeddings and module == "tok_embeddings")
        if wanted and (modules is None or module in modules):
            outputs, inputs = reversed(weight.shape) if module == "tok_embeddings" else weight.shape
            a, b = (torch.randn(shape, generator=generator) * 0.3 for shape in ((rank, inputs), (outputs, rank)))
            pairs[module] = a, b
    return pairs


def assert_equal_pairs(found, expected):
    assert found.keys() == expected.keys()
    for module, pair in expected.items():
        for letter, ours, theirs in zip("AB", found[module], pair, strict=True):
            torch.testing.assert_close(ours, theirs, atol=0, rtol=0, msg=f"{letter} of {module}")


def merge_like_llama_cpp(base, adapter):
    """W + (α/r) B A of every tensor, in fp64, by the names, order of rows and layout that llama.cpp has."""
    merged = {tensor.name: tensor.data.copy() for tensor in gguf.GGUFReader(base).tensors}
    reader = gguf.GGUFReader(adapter)
    alpha = reader.fields["adapter.lora.alpha"].contents()
    matrices = {tensor.name: tensor for tensor in reader.tensors}
    for name in [name.removesuffix(".lora_b") for name in matrices if name.endswith(".lora_b")]:
        scale = alpha / int(matrices[f"{name}.lora_b"].shape[0])  # ne[0]
        a, b = (matrices[f"{name}.{leaf}"].data.astype(np.float64) for leaf in ("lora_a", "lora_b"))
        looked_up = name == "token_embd.weight"  # rows of A by token, then B times them
        merged[name] = (merged[name] + scale * (a @ b.T if looked_up else b @ a)).astype(np.float32)
    return merged


@torch.no_grad()
@pytest.mark.parametrize("rank", [1, 4])
def test_merged_by_llama_cpps_arithmetic_it_is_the_model_merged_in_ours(
    tmp_path, base, make_model, make_gguf, tiny_tokenizer, tokens, rank
):
    model, pairs, alpha = make_model(base), random_pairs(base, rank=rank), 6.0
    save_gguf(model, tiny_tokenizer, tmp_path / "base.gguf", kind="f32")
    save_adapter_gguf(pairs, tmp_path / "adapter.gguf", alpha=alpha, config=base, name="test")
    file = make_gguf(base)
    file.tensors = merge_like_llama_cpp(tmp_path / "base.gguf", tmp_path / "adapter.gguf")
    theirs = load_gguf(file.write(tmp_path / "merged.gguf"))
    before = model(tokens)
    for module, (a, b) in pairs.items():
        change = alpha / rank * b.double() @ a.double()
        weight = model.get_submodule(module).weight
        weight.copy_(weight.double() + (change.T if module == "tok_embeddings" else change))
    for (name, ours), other in zip(model.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(other, ours, atol=1e-6, rtol=1e-6, msg=name)
    torch.testing.assert_close(theirs(tokens), model(tokens), atol=1e-4, rtol=1e-4)
    assert (model(tokens) - before).abs().max() > 0.1


@pytest.mark.parametrize("rank", [1, 3, 100])
def test_pairs_come_back_bit_for_bit(tmp_path, base, rank):
    pairs = random_pairs(base, rank=rank)
    save_adapter_gguf(pairs, tmp_path / "a.gguf", alpha=0.1, config=base, name="test")
    found, alpha = read_adapter_gguf(tmp_path / "a.gguf", base)
    assert_equal_pairs(found, pairs)
    assert alpha == 0.1


def test_f16_halves_the_file_and_rounds_once(tmp_path, gguf_tiny):
    pairs = random_pairs(gguf_tiny)
    for kind in ("f32", "f16"):
        save_adapter_gguf(pairs, tmp_path / kind, alpha=8, config=gguf_tiny, name="test", kind=kind)
    found, alpha = read_adapter_gguf(tmp_path / "f16", gguf_tiny)
    assert_equal_pairs(found, {module: (a.half().float(), b.half().float()) for module, (a, b) in pairs.items()})
    assert alpha == 8.0
    assert (tmp_path / "f16").stat().st_size < 0.6 * (tmp_path / "f32").stat().st_size
    assert read_header(tmp_path / "f16").metadata["general.file_type"] == gguf.LlamaFileType.MOSTLY_F16


def test_pairs_of_any_dtype_and_of_different_ranks_are_written(tmp_path, gguf_tiny):
    pairs = random_pairs(gguf_tiny, rank=2, modules=[WQ]) | random_pairs(gguf_tiny, rank=5, modules=[WK])
    given = {module: (a.double(), b.double().requires_grad_()) for module, (a, b) in pairs.items()}
    save_adapter_gguf(given, tmp_path / "a.gguf", alpha=2.0, config=gguf_tiny, name="test")
    assert_equal_pairs(read_adapter_gguf(tmp_path / "a.gguf", gguf_tiny)[0], pairs)


def test_the_package_reads_the_names_and_metadata_that_llama_cpp_asks_for(tmp_path, gguf_tiny):
    pairs = random_pairs(gguf_tiny, modules=["tok_embeddings", WQ, W2, "output"])
    save_adapter_gguf(pairs, tmp_path / "a.gguf", alpha=16.0, config=gguf_tiny, name="my adapter")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    expected = {
        "token_embd.weight.lora_a": (4, 300),  # ggml's order: the contiguous dimension first
        "token_embd.weight.lora_b": (4, 64),
        "blk.0.attn_q.weight.lora_a": (64, 4),
        "blk.0.attn_q.weight.lora_b": (4, 64),
        "blk.1.ffn_down.weight.lora_a": (96, 4),
        "blk.1.ffn_down.weight.lora_b": (4, 64),
        "output.weight.lora_a": (64, 4),
        "output.weight.lora_b": (4, 300),
    }
    assert {tensor.name: tuple(tensor.shape.tolist()) for tensor in reader.tensors} == expected
    keys = ("general.type", "general.architecture", "general.name", "adapter.type", "adapter.lora.alpha")
    assert [reader.fields[key].contents() for key in keys] == ["adapter", "llama", "my adapter", "lora", 16.0]
    assert reader.fields["adapter.lora.alpha"].types == [gguf.GGUFValueType.FLOAT32]


def adapter_file(make_gguf, config, **changes):
    """A valid adapter of one matrix by the package's own writer, for mischief."""
    file = make_gguf(config)
    file.metadata = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0} | changes
    a, b = random_pairs(config, modules=[W2])[W2]
    file.tensors = {"blk.1.ffn_down.weight.lora_a": a.numpy(), "blk.1.ffn_down.weight.lora_b": b.numpy()}
    return file


@pytest.mark.parametrize("kind", [Kind.BF16, Kind.Q8_0], ids=lambda kind: kind.name)
def test_other_storage_types_of_other_writers_are_read(tmp_path, make_gguf, gguf_tiny, kind):
    file = adapter_file(make_gguf, gguf_tiny)
    name = "blk.1.ffn_down.weight.lora_a"
    file.tensors[name], file.kinds[name] = gguf.quants.quantize(file.tensors[name], kind), kind
    a, _ = read_adapter_gguf(file.write(tmp_path / "a.gguf"), gguf_tiny)[0][W2]
    assert torch.equal(a, torch.from_numpy(gguf.quants.dequantize(file.tensors[name], kind)))


def test_a_single_row_without_its_dimension_is_read(tmp_path, make_gguf, gguf_tiny):
    file = adapter_file(make_gguf, gguf_tiny)
    a, b = np.arange(96, dtype=np.float32), np.ones((64, 1), np.float32)
    file.tensors = {"blk.1.ffn_down.weight.lora_a": a, "blk.1.ffn_down.weight.lora_b": b}
    found = read_adapter_gguf(file.write(tmp_path / "a.gguf"), gguf_tiny)[0][W2]
    assert_equal_pairs({W2: found}, {W2: (torch.arange(96.0)[None], torch.ones(64, 1))})


def zeros(*shape):
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("pairs", "options", "message"),
    [
        ({}, {}, "without any matrices"),
        ({"layers.0.attention.qw": (zeros(2, 64), zeros(64, 2))}, {}, r"no matrix .*did you mean layers.0.attention.w"),
        ({"layers.2.attention.wq": (zeros(2, 64), zeros(64, 2))}, {}, r"layers.2.attention.wq: no matrix"),
        ({"norm": (zeros(2, 64), zeros(64, 2))}, {}, "norm: no matrix"),
        ({WK: (zeros(2, 64), zeros(64, 2))}, {}, r"wk: A has shape \(2, 64\) and B \(64, 2\): .*\(32, r\)"),
        ({WQ: (zeros(2, 64), zeros(64, 3))}, {}, "wq: A has shape"),
        ({WQ: (zeros(0, 64), zeros(64, 0))}, {}, "rank r of at least 1"),
        ({WQ: (zeros(64), zeros(64, 1))}, {}, r"wq: A has shape \(64,\)"),
        ({"tok_embeddings": (zeros(2, 64), zeros(300, 2))}, {}, r"expected \(r, 300\) and \(64, r\)"),
        ({WQ: (zeros(2, 64), zeros(64, 2) + float("nan"))}, {}, "wq: B holds NaN"),
        ({WQ: (zeros(2, 64) - float("inf"), zeros(64, 2))}, {"kind": "f16"}, "wq: A holds NaN or infinity"),
        ({WQ: (zeros(2, 64) + 1e5, zeros(64, 2))}, {"kind": "f16"}, "wq: A holds values beyond 65504"),
        ({WQ: (zeros(2, 64), zeros(64, 2))}, {"kind": "q8_0"}, "cannot write an adapter as 'q8_0': expected f32 or"),
        ({WQ: (zeros(2, 64), zeros(64, 2))}, {"alpha": 0.0}, "alpha: expected a number above 0"),
        ({WQ: (zeros(2, 64), zeros(64, 2))}, {"alpha": float("nan")}, "alpha: expected"),
        ({WQ: (zeros(2, 64), zeros(64, 2))}, {"alpha": 1e300}, "alpha: expected"),
    ],
)
def test_what_cannot_be_written_leaves_no_file(tmp_path, gguf_tiny, pairs, options, message):
    with pytest.raises(ArrieroError, match=message):
        save_adapter_gguf(pairs, tmp_path / "a.gguf", **({"alpha": 4.0, "config": gguf_tiny, "name": "test"} | options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["tok_embeddings", "output"])
def test_a_tied_embedding_is_refused_both_ways(tmp_path, module):
    tied, untied = BASES["tied"], LlamaConfig(**(vars(BASES["tied"]) | {"tied_embeddings": False}))
    pairs = random_pairs(untied, modules=[module])
    with pytest.raises(ArrieroError, match=f"{module}: llama.cpp has no adapters .*tied: merge"):
        save_adapter_gguf(pairs, tmp_path / "a.gguf", alpha=4.0, config=tied, name="test")
    save_adapter_gguf(pairs, tmp_path / "a.gguf", alpha=4.0, config=untied, name="test")
    with pytest.raises(FormatError, match=r"a\.gguf: tensor .*tied, as this model's are"):
        read_adapter_gguf(tmp_path / "a.gguf", tied)


def put(name, tensor):
    return lambda file: file.tensors.update({name: tensor})


def say(key, value):
    return lambda file: file.metadata.update({key: value})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (say("general.type", "model"), "general.type = 'model': expected 'adapter'"),
        (say("adapter.type", "ia3"), "adapter.type = 'ia3': expected 'lora'"),
        (lambda file: file.metadata.pop("adapter.type"), "adapter.type = None: expected 'lora'"),
        (lambda file: setattr(file, "architecture", "gemma"), "general.architecture = 'gemma': expected 'llama'"),
        (lambda file: file.metadata.pop("adapter.lora.alpha"), "adapter.lora.alpha = None: expected a number above 0"),
        (say("adapter.lora.alpha", 0.0), "adapter.lora.alpha = 0.0: expected"),
        (say("adapter.lora.alpha", float("nan")), "adapter.lora.alpha = nan: expected"),
        (say("adapter.lora.alpha", 4), "adapter.lora.alpha = 4: expected"),
        (say("adapter.lora.alpha", "x" * 1000), "adapter.lora.alpha = 'x{39}: expected"),
        (say("adapter.alora.invocation_tokens", [1, 2]), "alora.invocation_tokens is not supported"),
        (lambda file: file.tensors.clear(), "holds no tensors"),
        (put("blk.0.attn_norm.weight", np.ones(64, np.float32)), "attn_norm.weight': expected a name that ends in"),
        (put("blk.0.attn_norm.weight.lora_a", np.ones((1, 64), np.float32)), "no matrix 'blk.0.attn_norm.weight'"),
        (put("blk.7.attn_q.weight.lora_a", np.ones((1, 64), np.float32)), "no matrix 'blk.7.attn_q.weight' .did you"),
        (put(Q_A, np.ones((1, 64), np.float32)), f"tensor '{Q_A}' stands alone"),
        (put(Q_B, np.ones((64, 1), np.float32)), f"tensor '{Q_B}' stands alone"),
        (put("blk.1.ffn_down.weight.lora_a", np.ones((4, 64), np.float32)), r"lora_a' has shape \(4, 64\), expected"),
        (put("blk.1.ffn_down.weight.lora_a", np.ones((3, 96), np.float32)), r"shape \(3, 96\), expected \(4, 96\)"),
        (put("blk.1.ffn_down.weight.lora_b", np.ones((96, 4), np.float32)), r"shape \(96, 4\), expected \(64, 4\)"),
        (put("blk.1.ffn_down.weight.lora_b", np.ones((64, 0), np.float32)), "lora_b' has the rank 0"),
        (put("blk.1.ffn_down.weight.lora_a", np.full((4, 96), np.nan, np.float32)), "lora_a': holds NaN"),
        (put("blk.1.ffn_down.weight.lora_a", np.ones((4, 96), np.int32)), "lora_a': .*not"),
    ],
)
def test_a_file_that_is_no_such_adapter_is_refused_by_key_or_tensor(tmp_path, make_gguf, gguf_tiny, harm, message):
    file = adapter_file(make_gguf, gguf_tiny)
    harm(file)
    with pytest.raises(FormatError, match=message) as error:
        read_adapter_gguf(file.write(tmp_path / "a.gguf"), gguf_tiny)
    assert str(error.value).startswith(str(tmp_path / "a.gguf"))
    assert "\n" not in str(error.value)


def test_an_adapter_of_another_shape_of_base_is_refused(tmp_path):
    save_adapter_gguf(
        random_pairs(BASES["multi-head"]), tmp_path / "a.gguf", alpha=4.0, config=BASES["multi-head"], name="test"
    )
    with pytest.raises(FormatError, match=r"attn_k.weight.lora_b' has shape \(64, 4\), expected \(32, 4\)"):
        read_adapter_gguf(tmp_path / "a.gguf", BASES["grouped"])


def test_a_model_a_missing_file_and_other_bytes_are_no_adapters(tmp_path, make_gguf, gguf_tiny):
    with pytest.raises(NotFoundError, match="no such file"):
        read_adapter_gguf(tmp_path / "none.gguf", gguf_tiny)
    model = make_gguf(gguf_tiny).write(tmp_path / "model.gguf")
    with pytest.raises(FormatError, match=r"model\.gguf: general\.type = None: expected 'adapter'"):
        read_adapter_gguf(model, gguf_tiny)
    (tmp_path / "noise").write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(FormatError, match="noise: not a GGUF file"):
        read_adapter_gguf(tmp_path / "noise", gguf_tiny)


def test_a_file_cut_anywhere_is_a_format_error(tmp_path, gguf_tiny):
    save_adapter_gguf(
        random_pairs(gguf_tiny, modules=[WQ, W2]), tmp_path / "a.gguf", alpha=4.0, config=gguf_tiny, name="test"
    )
    whole = (tmp_path / "a.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 700, 7), *range(700, len(whole) - 1, 97), len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"cut\.gguf: "):
            read_adapter_gguf(cut, gguf_tiny)


def test_flipped_bytes_never_give_a_traceback(tmp_path, gguf_tiny):
    save_adapter_gguf(
        random_pairs(gguf_tiny, modules=[WQ, W2]), tmp_path / "a.gguf", alpha=4.0, config=gguf_tiny, name="test"
    )
    whole = (tmp_path / "a.gguf").read_bytes()
    random = np.random.default_rng(5)
    flipped, refused = tmp_path / "flipped.gguf", 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(0, 600, 2):  # the head, where nearly every byte means something
            damaged[place] = random.integers(256)
        flipped.write_bytes(damaged)
        with contextlib.suppress(ArrieroError):
            read_adapter_gguf(flipped, gguf_tiny)
            continue
        refused += 1
    assert refused > 200


def test_an_earlier_file_is_replaced(tmp_path, gguf_tiny):
    for name in ("first", "second"):
        pairs = random_pairs(gguf_tiny, modules=[WQ])
        save_adapter_gguf(pairs, tmp_path / "a.gguf", alpha=4.0, config=gguf_tiny, name=name)
    assert read_header(tmp_path / "a.gguf").metadata["general.name"] == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
