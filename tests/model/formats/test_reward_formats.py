"""Reward models in Hugging Face's and PEFT's formats: what is written here scores the same there, and comes back."""

import json
from dataclasses import replace

import peft
import pytest
import torch
import transformers

from arriero.common.errors import ArrieroError, FormatError
from arriero.model.adapters import Adapters
from arriero.model.formats.hf import load_hf, save_hf
from arriero.model.formats.peft import fits, load_peft, save_peft
from arriero.model.heads import SCORE, add_head, read_head
from arriero.model.lora_config import LoraConfig
from arriero.model.transformer import Llama

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # in peft

BOUND = {"rtol": 1e-5, "atol": 1e-5}
PAD = 7


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def model(request, tiny, make_model) -> Llama:
    made = make_model(replace(tiny, tied_embeddings=request.param))
    add_head(made, SCORE, seed=5)
    return made.eval()


@pytest.fixture
def rows():
    """Two dialogues of different lengths, without the pad token."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(8, 101, (length,), generator=generator) for length in (11, 6)]


def own_scores(model, rows):
    with torch.no_grad():
        return torch.stack([read_head(model, SCORE, model.hidden(row[None]))[0, -1] for row in rows])


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def test_transformers_loads_a_reward_model_to_equal_scores_padded_or_not(model, rows, tmp_path):
    save_hf(model, tmp_path / "reward", pad_id=PAD)
    oracle = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    assert oracle.config.num_labels == 1
    tokens = padded(rows)
    with torch.no_grad():
        theirs = oracle(input_ids=tokens, attention_mask=tokens != PAD).logits[:, 0]
    torch.testing.assert_close(own_scores(model, rows), theirs, **BOUND)


def test_a_reward_model_has_no_output_layer_and_comes_back_with_its_head(model, rows, tmp_path):
    save_hf(model, tmp_path / "reward", pad_id=PAD, max_shard_bytes=20_000)
    index = json.loads((tmp_path / "reward" / "model.safetensors.index.json").read_text())
    assert "score.weight" in index["weight_map"]
    assert "lm_head.weight" not in index["weight_map"]
    again = load_hf(tmp_path / "reward").eval()
    assert torch.equal(own_scores(again, rows), own_scores(model, rows))
    assert again.output.weight is again.tok_embeddings.weight


def test_a_classifier_of_several_labels_is_refused(model, tmp_path):
    save_hf(model, tmp_path / "reward")
    file = tmp_path / "reward" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(FormatError, match="several labels"):
        load_hf(tmp_path / "reward")


def adapted(model):
    adapters = Adapters.of(model)
    adapters.add("one", LoraConfig(rank=2))
    with torch.no_grad():
        for change in adapters.changes("one").values():
            change.b.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(2))
    return model


def test_the_head_is_saved_with_the_adapter_and_peft_scores_the_same(tiny, make_model, rows, tmp_path):
    model = adapted(make_model(tiny).eval())
    save_hf_base(model, tmp_path / "base")
    add_head(model, SCORE, seed=5)
    save_peft(model, "one", tmp_path / "adapter", base=str(tmp_path / "base"), head=SCORE)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (settings["task_type"], settings["modules_to_save"]) == ("SEQ_CLS", ["score"])
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=1, pad_token_id=PAD
    )
    oracle = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        theirs = oracle(input_ids=padded(rows), attention_mask=padded(rows) != PAD).logits[:, 0]
    torch.testing.assert_close(own_scores(model, rows), theirs, **BOUND)


def save_hf_base(model, folder):
    adapters = Adapters.of(model)
    adapters.activate(None)
    save_hf(model, folder)
    adapters.activate("one")


def test_two_reward_adapters_share_one_base_each_with_its_own_head(tiny, make_model, rows, tmp_path):
    model = adapted(make_model(tiny).eval())
    add_head(model, SCORE, seed=5)
    save_peft(model, "one", tmp_path / "adapter", base="base", head=SCORE)
    expected = own_scores(model, rows)
    host = make_model(tiny).eval()
    assert fits(host, tmp_path / "adapter")
    for name in ("helpful", "safe"):
        load_peft(host, tmp_path / "adapter", name, head=name)
    Adapters.of(host).activate("safe")
    with torch.no_grad():
        got = torch.stack([read_head(host, "safe", host.hidden(row[None]))[0, -1] for row in rows])
    assert torch.equal(got, expected)
    assert set(host.heads) == {"helpful", "safe"}


def test_the_head_outlives_merging(tiny, make_model, rows, tmp_path):
    model = adapted(make_model(tiny).eval())
    add_head(model, SCORE, seed=5)
    expected = own_scores(model, rows)
    Adapters.of(model).absorb("one")
    save_hf(model, tmp_path / "merged")
    torch.testing.assert_close(own_scores(load_hf(tmp_path / "merged").eval(), rows), expected, **BOUND)


def test_an_adapter_of_other_weights_does_not_fit(tiny, make_model, tmp_path):
    model = adapted(make_model(tiny))
    save_peft(model, "one", tmp_path / "adapter", base="base")
    assert not fits(make_model(tiny, seed=9), tmp_path / "adapter")


def test_a_head_of_another_width_is_refused(tiny, make_model, tmp_path):
    from safetensors.torch import load_file, save_file

    model = adapted(make_model(tiny))
    add_head(model, SCORE)
    save_peft(model, "one", tmp_path / "adapter", base="base", head=SCORE)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.score.weight"] = torch.zeros(2, tiny.dim)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ArrieroError, match="score"):
        load_peft(make_model(tiny), tmp_path / "adapter", "one")


def test_an_adapter_does_not_fit_weights_that_were_only_lightly_tuned(tiny, make_model, tmp_path):
    model = adapted(make_model(tiny))
    save_peft(model, "one", tmp_path / "adapter", base="base")
    tuned = make_model(tiny)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter += 1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    assert not fits(tuned, tmp_path / "adapter")
    load_peft(tuned, tmp_path / "adapter", "one")  # on demand it still goes on
