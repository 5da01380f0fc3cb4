"""Meta's folders: shards joined, rotary pairs reordered, pickles that would run code refused."""

import json
import pickle

import pytest
import torch

from arriero.common.errors import FormatError
from arriero.model.config import LlamaConfig
from arriero.model.formats.meta import load_meta, read_meta_params
from arriero.model.formats.weights import halves_from_pairs, pairs_from_halves

PARAMS = {"dim": 48, "n_layers": 2, "n_heads": 4, "multiple_of": 16, "norm_eps": 1e-5, "vocab_size": -1}
COLUMNS = ("wo.weight", "w2.weight")


def write_meta(folder, model, *, shards: int = 1, params=PARAMS, embedding_dim: int = 1) -> None:
    """Write a model as Meta does, by the split of its tensor-parallel layers."""
    config = model.config
    (folder / "params.json").write_text(json.dumps(params | {"n_kv_heads": config.n_kv_heads}))
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    for name, weight in model.named_parameters():
        whole = weight.detach()
        if name.endswith(("wq.weight", "wk.weight")):
            whole = pairs_from_halves(whole, config.n_heads if "wq" in name else config.n_kv_heads)
        if "norm" in name:
            pieces = [whole] * shards
        else:
            dim = embedding_dim if name.startswith("tok_embeddings") else 1 if name.endswith(COLUMNS) else 0
            pieces = whole.chunk(shards, dim)
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece.clone()
    for number, part in enumerate(parts):
        part["rope.freqs"] = torch.ones(6)
        torch.save(part, folder / f"consolidated.{number:02d}.pth")


@pytest.fixture
def model(make_model):
    """A tiny model whose feed-forward width is the one that PARAMS gives."""
    return make_model(
        LlamaConfig.of(vocab_size=104, dim=48, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=128, max_seq_len=4096)
    )


@pytest.mark.parametrize(("shards", "embedding_dim"), [(1, 1), (2, 1), (2, 0)])
def test_shards_are_joined(tmp_path, model, shards, embedding_dim):
    write_meta(tmp_path, model, shards=shards, embedding_dim=embedding_dim)
    loaded = load_meta(tmp_path)
    assert loaded.config == model.config
    for (name, weight), again in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(weight, again), name


def rotate_adjacent_pairs(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Meta's rotary formula: dims (2i, 2i + 1) are a complex number, multiplied by exp(i · position · θ)."""
    angle = torch.arange(x.shape[0])[:, None] * theta  # (T, D/2)
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(turned).flatten(-2)


def test_reordered_heads_give_the_scores_of_adjacent_pairs():
    from arriero.model.rope import frequencies, rotate, rotation

    config = LlamaConfig.of(vocab_size=1, dim=8, n_layers=1, n_heads=1)
    wq, wk, x = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    theta = frequencies(config, torch.device("cpu"))
    expected = rotate_adjacent_pairs(x @ wq.T, theta) @ rotate_adjacent_pairs(x @ wk.T, theta).T
    turn = rotation(config, torch.arange(8)[None])
    q, k = ((x @ halves_from_pairs(w, 1).T)[None, :, None] for w in (wq, wk))
    torch.testing.assert_close(rotate(q, turn)[0, :, 0] @ rotate(k, turn)[0, :, 0].T, expected, atol=1e-5, rtol=1e-5)


def test_the_two_orders_are_inverse():
    weight = torch.arange(24.0)[:, None].expand(24, 3)
    assert halves_from_pairs(weight, 2)[:, 0].tolist()[:12] == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    assert torch.equal(pairs_from_halves(halves_from_pairs(weight, 2), 2), weight)


class Bomb:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path, model, writer):
    write_meta(tmp_path, model)
    file = tmp_path / "consolidated.00.pth"
    bomb = {"tok_embeddings.weight": Bomb(tmp_path / "exploded")}
    if writer == "torch":
        torch.save(bomb, file)
    else:
        file.write_bytes(pickle.dumps(bomb))
    message = refusal(tmp_path)
    assert "consolidated.00.pth" in message
    assert not (tmp_path / "exploded").exists()


def refusal(folder) -> str:
    """The one-line message with which a folder is refused."""
    with pytest.raises(FormatError) as caught:
        load_meta(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_truncated_file(tmp_path, model, keep):
    write_meta(tmp_path, model)
    file = tmp_path / "consolidated.00.pth"
    file.write_bytes(file.read_bytes()[:keep])
    assert "consolidated.00.pth: not a whole PyTorch file" in refusal(tmp_path)


def test_missing_shards(tmp_path, model):
    write_meta(tmp_path, model, shards=4)
    (tmp_path / "consolidated.01.pth").unlink()
    assert "consolidated.01.pth: shard is missing" in refusal(tmp_path)
    for file in tmp_path.glob("consolidated.*"):
        file.unlink()
    assert "consolidated.00.pth: shard is missing" in refusal(tmp_path)


def test_a_lost_last_shard_shows_in_the_shapes(tmp_path, model):
    write_meta(tmp_path, model, shards=2)
    (tmp_path / "consolidated.01.pth").unlink()
    assert "has shape" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.weight"), "tensor 'norm.weight' is missing (1 of 21 are)"),
        (lambda t: t.pop("output.weight"), "tensor 'output.weight' is missing"),
        (lambda t: t.update({"x": torch.ones(1)}), "consolidated.00.pth: unexpected or repeated tensor 'x'"),
        (
            lambda t: t.update({"layers.0.attention.wv.weight": torch.ones(9, 48)}),
            "consolidated.00.pth: tensor 'layers.0.attention.wv.weight' has shape (9, 48), expected (24, 48)",
        ),
        (
            lambda t: t.update({"layers.0.attention.wq.weight": torch.ones(9, 48)}),
            "consolidated.00.pth: tensor 'layers.0.attention.wq.weight': shards of shapes (9, 48) do not fit",
        ),
        (lambda t: t.update({"x": [1]}), "consolidated.00.pth: expected a dictionary of tensors"),
    ],
)
def test_damaged_tensors_are_named(tmp_path, model, change, message):
    write_meta(tmp_path, model)
    file = tmp_path / "consolidated.00.pth"
    tensors = torch.load(file, weights_only=True)
    change(tensors)
    torch.save(tensors, file)
    assert message in refusal(tmp_path)


def test_shards_with_different_tensors(tmp_path, model):
    write_meta(tmp_path, model, shards=2)
    file = tmp_path / "consolidated.01.pth"
    tensors = torch.load(file, weights_only=True)
    del tensors["norm.weight"]
    torch.save(tensors, file)
    assert "consolidated.01.pth: tensor 'norm.weight' is in only one" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moe": {}}, "key 'moe' is not supported"),
        ({"dim": None}, "params.json: "),
        ({"n_heads": 0}, "n_heads: expected at least 1, got 0"),
        ({"n_heads": "four"}, "params.json: "),
    ],
)
def test_bad_params_are_named(tmp_path, model, change, message):
    write_meta(tmp_path, model, params=PARAMS | change)
    found = refusal(tmp_path)
    assert "params.json" in found
    assert message in found


def test_missing_key(tmp_path, model):
    write_meta(tmp_path, model)
    (tmp_path / "params.json").write_text('{"dim": 48}')
    assert "params.json: key 'n_heads' is missing" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("params", "context", "width"),
    [
        ({"norm_eps": 1e-6, "dim": 4096, "multiple_of": 256, "n_heads": 32}, 2048, 11008),
        (
            {"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8},
            4096,
            28672,
        ),
        (
            {
                "dim": 4096,
                "multiple_of": 1024,
                "ffn_dim_multiplier": 1.3,
                "n_heads": 32,
                "n_kv_heads": 8,
                "rope_theta": 500000.0,
                "use_scaled_rope": True,
            },
            131072,
            14336,
        ),
    ],
    ids=["llama", "llama2-70b", "llama3.1-8b"],
)
def test_published_params(tmp_path, params, context, width):
    values = {"n_layers": 2, "norm_eps": 1e-5, "vocab_size": -1} | params
    config = read_meta_params(values, file=tmp_path / "params.json", vocab_size=32000)
    assert (config.max_seq_len, config.hidden_dim) == (context, width)
    assert (config.rope_scaling is not None) == ("use_scaled_rope" in params)
