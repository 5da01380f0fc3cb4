"""The mathematics of one matrix's change, against fp64 written out here."""

import math

import pytest
import torch
from torch import nn

from arriero.common.errors import ArrieroError
from arriero.kernels.linear import Linear
from arriero.model.lora import LowRank, LowRankEmbedding, WholeEmbedding, WholeLinear, truncate, weight_of
from arriero.model.lora_config import LoraConfig, matches

INPUTS, OUTPUTS, RANK = 24, 40, 4


def make_linear(seed=0):
    host = Linear(INPUTS, OUTPUTS, bias=False)
    with torch.no_grad():
        host.weight.copy_(torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(seed)) * 0.3)
    return host


def make_change(host, config, *, kind=LowRank, seed=0, random=True):
    """The change of a host's matrix, moved away from its beginning."""
    weight, names = weight_of(host).detach(), ("layers.0.attention.wq",)
    outputs, inputs = weight.shape
    change = kind(inputs, outputs, config.rank_of(names), config.scale_of(names), dropout=config.dropout)
    generator = torch.Generator().manual_seed(seed)
    change.start(weight, config, generator)
    if random:
        with torch.no_grad():
            for name, parameter in change.named_parameters():
                if not name.startswith("anchor"):
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return change


def changed_matrix(host, change):
    """W' in fp64: the papers' equations, with nothing but matrices."""
    weight = weight_of(host).detach().double()
    b, a = change.b.detach().double(), change.a.detach().double()
    low_rank = b @ a
    if change.anchor_a is not None:
        low_rank = low_rank - change.anchor_b.detach().double() @ change.anchor_a.detach().double()
    changed = weight + change.scale * low_rank
    if change.magnitude is None:
        return changed
    return change.magnitude.detach().double()[:, None] * changed / changed.norm(dim=1, keepdim=True)


@pytest.fixture
def x():
    """Rows of inputs."""
    return torch.randn(2, 5, INPUTS, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_the_scale_is_alpha_over_r_and_with_rslora_over_its_root(rank, rslora):
    config = LoraConfig(rank=rank, alpha=24.0, rslora=rslora)
    assert config.scale_of(("wq",)) == pytest.approx(24 / (math.sqrt(rank) if rslora else rank), rel=1e-12)


def test_patterns_give_a_module_its_own_rank_and_alpha_and_so_its_scale():
    config = LoraConfig(rank=8, alpha=16, rank_pattern={r"layers\.0\..*": 2}, alpha_pattern={"q_proj": 6.0})
    names = ("layers.0.attention.wq", "model.layers.0.self_attn.q_proj")
    assert (config.rank_of(names), config.alpha_of(names), config.scale_of(names)) == (2, 6.0, 3.0)
    others = ("layers.1.attention.wk", "model.layers.1.self_attn.k_proj")
    assert (config.rank_of(others), config.alpha_of(others), config.scale_of(others)) == (8, 16, 2.0)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("wq", "layers.0.attention.wq", True),
        ("attention.wq", "layers.0.attention.wq", True),
        ("w", "layers.0.attention.wq", False),
        ("q", "layers.0.attention.wq", False),
        ("wq|wk", "layers.0.attention.wk", True),
        (r"layers\.1\..*", "layers.11.attention.wq", False),
        (r"^layers\.1\..*", "layers.1.attention.wq", True),
        ("layers.0", "layers.0.attention.wq", False),
    ],
)
def test_a_pattern_means_whole_parts_between_dots(pattern, name, expected):
    assert matches(pattern, (name,)) is expected


CONFIGS = {
    "lora": LoraConfig(rank=RANK, alpha=6.0),
    "rslora": LoraConfig(rank=RANK, alpha=6.0, rslora=True),
    "gaussian": LoraConfig(rank=RANK, alpha=6.0, init="gaussian"),
    "dora": LoraConfig(rank=RANK, alpha=6.0, dora=True),
    "pissa": LoraConfig(rank=RANK, alpha=6.0, init="pissa"),
    "dora-pissa-rslora": LoraConfig(rank=RANK, alpha=6.0, dora=True, init="pissa", rslora=True),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_new_change_changes_nothing(config, x):
    host = make_linear()
    change = make_change(host, config, random=False)
    y = host(x)
    torch.testing.assert_close(change(x, y, host), y, atol=2e-6, rtol=0)
    assert change.change(host.weight).abs().max() < 1e-6


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_forward_and_merged_are_the_papers_equation_in_fp64(config, x):
    host = make_linear()
    change = make_change(host, config)
    expected = changed_matrix(host, change)
    assert (expected - host.weight.double()).abs().max() > 0.01
    merged = host.weight + change.change(host.weight)
    torch.testing.assert_close(merged.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(change(x, host(x), host).double(), x.double() @ expected.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_bf16_matrix_has_a_change_in_fp32_and_gives_bf16(config, x):
    host = make_linear().to(torch.bfloat16)
    change = make_change(host, config)
    y = change(x.bfloat16(), host(x.bfloat16()), host)
    expected = x.bfloat16().double() @ changed_matrix(host, change).T
    assert y.dtype == torch.bfloat16
    assert (y.double() - expected).abs().max() <= 2**-7 * expected.abs().max()  # twice bf16's rounding
    assert change.change(host.weight).dtype == torch.float32


def test_doras_length_is_a_constant_of_the_derivative(x):
    """DoRA, section 4.3 and equation 11: the gradient of the direction is m / ‖V‖ times that of W'."""
    host = make_linear().requires_grad_(False)
    change = make_change(host, CONFIGS["dora"])
    change(x, host(x), host).square().sum().backward()

    weight, scale = host.weight.double(), change.scale
    a, b, m = (p.detach().double().requires_grad_() for p in (change.a, change.b, change.magnitude))
    length = (weight + scale * b @ a).norm(dim=1).detach()
    (x.double() @ ((m / length)[:, None] * (weight + scale * b @ a)).T).square().sum().backward()
    for ours, theirs in ((change.a, a), (change.b, b), (change.magnitude, m)):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-3)


def test_a_row_of_zeros_stays_one_with_dora(x):
    host = make_linear()
    host.weight.data[3] = 0.0
    change = make_change(host, CONFIGS["dora"], random=False)
    assert change(x, host(x), host)[..., 3].eq(0).all()
    assert change.change(host.weight)[3].eq(0).all()


def test_pissa_begins_with_the_largest_singular_vectors_and_keeps_w(x):
    host = make_linear()
    before = host.weight.detach().clone()
    change = make_change(host, CONFIGS["pissa"], random=False)
    u, s, v = torch.linalg.svd(host.weight.double())
    largest = (u[:, :RANK] * s[:RANK]) @ v[:RANK]
    torch.testing.assert_close((change.scale * change.b @ change.a).double(), largest, atol=1e-5, rtol=0)
    assert host.weight.equal(before)
    a, b = change.factors()
    assert a.shape == (2 * RANK, INPUTS)
    assert b.shape == (OUTPUTS, 2 * RANK)


def test_the_beginnings_are_those_of_the_papers_and_follow_the_seed():
    host = Linear(512, 512, bias=False)
    kaiming = make_change(host, LoraConfig(rank=64), random=False)
    assert kaiming.b.eq(0).all()
    assert kaiming.a.abs().max() <= 1 / math.sqrt(512)
    assert kaiming.a.std().item() == pytest.approx(1 / math.sqrt(3 * 512), rel=0.02)
    gaussian = make_change(host, LoraConfig(rank=64, init="gaussian"), random=False)
    assert gaussian.b.eq(0).all()
    assert gaussian.a.std().item() == pytest.approx(1 / 64, rel=0.02)
    assert make_change(host, LoraConfig(rank=64), random=False).a.equal(kaiming.a)
    assert not make_change(host, LoraConfig(rank=64), random=False, seed=1).a.equal(kaiming.a)


def test_dropout_is_of_a_s_inputs_and_in_training_only(x):
    host = make_linear()
    change = make_change(host, LoraConfig(rank=RANK, dropout=0.5))
    y = host(x)
    change.eval()
    assert change(x, y, host).equal(change(x, y, host))
    torch.testing.assert_close(
        change(x, y, host).double(), x.double() @ changed_matrix(host, change).T, atol=1e-5, rtol=0
    )
    change.train()
    torch.manual_seed(0)
    dropped = change(x, y, host)
    torch.manual_seed(0)
    kept = nn.functional.dropout(x, 0.5)
    expected = y + change.scale * kept @ change.a.T @ change.b.T
    torch.testing.assert_close(dropped, expected, atol=1e-5, rtol=0)
    assert not dropped.equal(change(x, y, host))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embeddings_change_is_of_its_rows(dtype):
    host = nn.Embedding(30, 16).to(dtype)
    change = make_change(host, LoraConfig(rank=3, alpha=6.0), kind=LowRankEmbedding)
    assert change.a.shape == (3, 30)
    ids = torch.tensor([[0, 7, 29], [7, 7, 1]])
    expected = changed_matrix(host, change).T[ids]
    found = change(ids, host(ids), host)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=1e-6 if dtype == torch.float32 else 2e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_matrix_takes_the_place_of_w(x, dtype):
    linear, embedding = make_linear().to(dtype), nn.Embedding(30, 16).to(dtype)
    whole, whole_embedding = WholeLinear(torch.randn(OUTPUTS, INPUTS)), WholeEmbedding(torch.randn(30, 16))
    y = whole(x.to(dtype), linear(x.to(dtype)), linear)
    assert y.dtype == dtype
    torch.testing.assert_close(y, (x.to(dtype).float() @ whole.weight.T).to(dtype), atol=1e-5, rtol=1e-2)
    ids = torch.tensor([[3, 4]])
    assert whole_embedding(ids, embedding(ids), embedding).equal(whole_embedding.weight[ids].to(dtype))
    torch.testing.assert_close(
        linear.weight + whole.change(linear.weight), whole.weight, atol=1e-6, rtol=0, check_dtype=False
    )
    table = weight_of(embedding)
    torch.testing.assert_close(table + whole_embedding.change(table), whole_embedding.weight.T, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_truncated_to_a_rank_the_product_is_the_nearest_one(rank):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(8, INPUTS, generator=generator), torch.randn(OUTPUTS, 8, generator=generator)
    thin_a, thin_b = truncate(a, b, rank)
    assert thin_a.shape == (rank, INPUTS)
    assert thin_b.shape == (OUTPUTS, rank)
    u, s, v = torch.linalg.svd((b @ a).double(), full_matrices=False)
    nearest = (u[:, :rank] * s[:rank]) @ v[:rank]
    torch.testing.assert_close((thin_b @ thin_a).double(), nearest, atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_blank_copy_takes_all_values_of_the_original(config, x):
    host = make_linear()
    change = make_change(host, config)
    copy = change.blank()
    copy.load_state_dict(change.state_dict())
    assert copy(x, host(x), host).equal(change(x, host(x), host))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank: expected a rank of 1 or more, got 0"),
        ({"rank_pattern": {"wq": -1}}, "wq: expected a rank of 1 or more, got -1"),
        ({"alpha": 0.0}, "alpha: expected a number above 0"),
        ({"alpha": math.nan}, "alpha: expected a number above 0, got nan"),
        ({"alpha_pattern": {"wq": math.inf}}, "wq: expected a number above 0, got inf"),
        ({"dropout": 1.0}, "dropout: expected a share from 0 up to 1, got 1.0"),
        ({"targets": ("w(q",)}, r"'w\(q': expected a module's name or a regular expression"),
        ({"rank_pattern": {"*": 1}}, r"'\*': expected a module's name or a regular expression"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ArrieroError, match=message):
        LoraConfig(**settings)
