"""Training a reward model: what it learns, from which pairs, and that nothing on the way is lost."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from arriero.align.reward_batches import PairBatches
from arriero.align.reward_config import ComparisonsConfig, RewardLossConfig, RewardModelConfig, RewardOptimizerConfig
from arriero.align.reward_data import read_reward_data
from arriero.align.reward_loss import MARGINS
from arriero.align.reward_measure import measure_pairs
from arriero.align.reward_model import load_reward_model, scores_at
from arriero.align.reward_train import EVALUATION, REWARD, pair_loss, prepare_reward, train_reward
from arriero.cli.align_reward import reward
from arriero.cli.parser import parse, shipped_configs
from arriero.common.errors import ArrieroError
from arriero.model.heads import SCORE, add_head
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_model
from arriero.train.sft_config import EpochsConfig
from tests.train.tuning import write_base

DEGREES = ("significantly better", "better", "slightly better", "negligibly better")


def write_pairs(file: Path, count: int = 24, *, kind: str = "helpfulness", degrees: bool = True, **more) -> Path:
    """Pairs whose better response has an x; prompts repeat by twos."""
    rows = [
        {
            "prompt": f"{kind[0]}{n // 2}?",
            "chosen": f"x{n} x",
            "rejected": f"o{n} o",
            "kind": kind,
            **({"degree": DEGREES[n % 4]} if degrees else {}),
            **more,
        }
        for n in range(count)
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("reward") / "base")


def config(base, *files, kind="helpfulness", loss=None, method="lora", **comparisons):
    settings = {"eval_share": 0.25, "other_share": None} | comparisons
    return RewardModelConfig(
        model=str(base),
        method=method,
        comparisons=ComparisonsConfig(preferences=tuple(files), kind=kind, **settings),
        loss=loss or RewardLossConfig(),
        training=EpochsConfig(epochs=6.0, patience=0, batch=6),
        lora=LoraConfig(rank=4),
        optim=RewardOptimizerConfig(lr=1e-2 if method == "lora" else 1e-3),
        device="cpu",
    )


@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_learns_what_the_better_responses_have_and_transformers_scores_the_same(base, tmp_path, method):
    run = tmp_path / "run"
    assert train_reward(run, config(base, write_pairs(tmp_path / "p.jsonl"), method=method)) == "finished"
    found = json.loads((run / EVALUATION).read_text())
    assert found["accuracy"]["share"] > 0.8, "a loss stuck at 0.693 would be half right"
    reward = load_reward_model(str(run / REWARD), device="cpu")
    prompt = [{"role": "user", "content": "h3?"}]
    own = reward.score([prompt, prompt], ["x1 x", "o1 o"])
    assert own[0] > own[1]
    if method == "full":
        oracle = transformers.AutoModelForSequenceClassification.from_pretrained(run / REWARD).eval()
        ids = reward.tokenizer.encode_answers([*prompt, {"role": "assistant", "content": "x1 x"}])[0]
        with torch.no_grad():
            assert oracle(torch.tensor([ids])).logits.item() == pytest.approx(own[0], abs=1e-4)


def test_a_prompt_is_never_on_both_sides(base, tmp_path):
    data = prepare_reward(config(base, write_pairs(tmp_path / "p.jsonl"))).data
    prompts = [{bytes(pair.chosen[:5]) for pair in side} for side in (data.training, data.held_out)]
    assert data.held_out
    assert not prompts[0] & prompts[1]


@pytest.mark.parametrize(("kind", "share"), [("helpfulness", 0.5), ("safety", 0.1)])
def test_the_mixes_are_the_paper_s(base, tmp_path, kind, share):
    other = "safety" if kind == "helpfulness" else "helpfulness"
    files = [write_pairs(tmp_path / "own.jsonl", 36, kind=kind), write_pairs(tmp_path / "b.jsonl", 80, kind=other)]
    tokenizer = load_model(str(base), device="cpu").tokenizer
    settings = ComparisonsConfig(preferences=tuple(files), kind=kind, eval_share=0.0)
    census = read_reward_data(settings, tokenizer, 64, seed=0).census
    assert census.by_kind[other] / census.training == pytest.approx(share, abs=0.02)
    assert census.unmixed == 80 - census.by_kind[other]


def test_what_is_left_out_is_counted(base, tmp_path):
    file = tmp_path / "p.jsonl"
    odd = [
        {"prompt": "a", "chosen": "x", "rejected": "x"},
        {"prompt": "a", "chosen": "x", "rejected": " "},
        {"prompt": "a", "chosen": "x" * 90, "rejected": "o"},
        {"prompt": "a", "chosen": "x", "rejected": "o"},
        {"prompt": "b", "chosen": "x", "rejected": "o"},
    ]
    file.write_text("\n".join(map(json.dumps, odd)))
    tokenizer = load_model(str(base), device="cpu").tokenizer
    census = read_reward_data(ComparisonsConfig(preferences=(file,), eval_share=0.0), tokenizer, 64, seed=0).census
    assert (census.equal, census.empty, census.too_long, census.training) == (1, 1, 1, 2)
    file.write_text(json.dumps(odd[2]))
    with pytest.raises(ArrieroError, match="no comparison of helpfulness is left"):
        read_reward_data(ComparisonsConfig(preferences=(file,), eval_share=0.0), tokenizer, 64, seed=0)


def test_margins_that_apply_to_nothing_are_an_error_and_not_ignored(base, tmp_path):
    untold = write_pairs(tmp_path / "p.jsonl", degrees=False)
    with pytest.raises(ArrieroError, match="margins: large"):
        prepare_reward(config(base, untold, loss=RewardLossConfig(margins="large")))
    assert prepare_reward(config(base, untold)).margins == "none"
    told = write_pairs(tmp_path / "t.jsonl")
    assert prepare_reward(config(base, told)).margins == "small"


def test_a_safety_loss_that_applies_to_nothing_is_an_error(base, tmp_path):
    unlabelled = write_pairs(tmp_path / "p.jsonl", kind="safety")
    with pytest.raises(ArrieroError, match="safety_weight"):
        prepare_reward(config(base, unlabelled, kind="safety", loss=RewardLossConfig(safety_weight=1.0)))
    labelled = write_pairs(tmp_path / "l.jsonl", kind="safety", safety="chosen safe")
    assert prepare_reward(config(base, labelled, kind="safety")).safety_weight == 1.0


def test_eight_micro_batches_of_one_pair_are_one_of_eight(base, tmp_path):
    prepared = prepare_reward(config(base, write_pairs(tmp_path / "p.jsonl"), eval_share=0.0))
    pairs, gradients = prepared.data.training[:8], []
    for rows in (8, 1):
        model = load_model(str(base), device="cpu").model
        add_head(model, SCORE, seed=1)
        batches = PairBatches(pairs, "small", rows=rows, accumulation=8 // rows)
        for _ in range(8 // rows):
            pair_loss(0.0)(model, next(batches)).total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("margins", ["none", "small", "large"])
@pytest.mark.parametrize("safety_weight", [0.0, 0.5])
def test_the_loss_is_the_paper_s_with_each_pair_s_own_margin(base, tmp_path, margins, safety_weight):
    pairs = write_pairs(tmp_path / "p.jsonl", safety="chosen safe")
    data = prepare_reward(config(base, pairs, eval_share=0.0)).data
    model = load_model(str(base), device="cpu").model
    add_head(model, SCORE, seed=1).weight.data.mul_(20)
    batch = next(PairBatches(data.training, margins, rows=24))
    with torch.no_grad():
        found = pair_loss(safety_weight)(model, batch)
        scores = model.compute(scores_at, SCORE, batch.tokens, batch.documents, batch.ends).double().view(-1, 2)
    of_degree = {tuple(pair.chosen.tolist()): MARGINS[margins].get(pair.degree, 0.0) for pair in data.training}
    chosen = [batch.tokens[0, start:end].tolist() for _, start, end in batch.documents.spans][::2]
    asked = torch.tensor([of_degree[tuple(ids)] for ids in chosen]).double()
    expected = -(scores[:, 0] - scores[:, 1] - asked).sigmoid().log().sum()
    expected -= safety_weight * (scores[:, 0].sigmoid().log() + (1 - scores[:, 1].sigmoid()).log()).sum() / 2
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert asked.unique().numel() == (1 if margins == "none" else 4)


def test_the_preset_is_llama_2s():
    file = next(file for file in shipped_configs() if file.stem == "llama2-reward")
    found = parse("arriero align reward", reward, ["--config", str(file), "--preferences", "p.jsonl"])
    optim = found.optim.resolve("full")
    assert (optim.lr, optim.beta1, optim.beta2) == (1e-5, 0.9, 0.95)
    assert (optim.eps, optim.weight_decay, optim.clip) == (1e-5, 0.1, 1.0)
    assert (found.method, found.training.batch, found.training.epochs, found.loss.margins) == ("full", 512, 1, "small")
    for steps, warmup in ((2000, 60), (40, 5)):
        schedule = found.schedule.resolve(steps)
        assert (schedule.schedule, schedule.warmup_steps) == ("cosine", warmup)
        assert schedule.factor(warmup - 1, steps) == 1.0
        assert schedule.factor(steps - 1, steps) == pytest.approx(0.1)


def test_both_responses_of_a_pair_are_in_one_micro_batch_read_at_their_last_tokens(base, tmp_path):
    prepared = prepare_reward(config(base, write_pairs(tmp_path / "p.jsonl"), eval_share=0.0))
    batch = next(PairBatches(prepared.data.training, "large", rows=3))
    assert len(batch.ends) == 2 * len(batch.margins) == 6
    stops = prepared.loaded.tokenizer.stop_ids
    assert all(token in stops for token in batch.tokens[0, batch.ends].tolist())
    assert len(batch.documents.spans) == 6


def test_ties_are_no_right_answers(base, tmp_path):
    pairs = prepare_reward(config(base, write_pairs(tmp_path / "p.jsonl"))).data.training
    found = measure_pairs("m", "helpfulness", pairs, torch.zeros(len(pairs), 2).double().numpy())
    assert (found.accuracy.right, found.accuracy.ties) == (0, len(pairs))


KILLED = """
import os, signal, sys
from arriero.train.watch import RunWatcher
step = RunWatcher.on_step
def die(self, result):
    step(self, result)
    if result.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
RunWatcher.on_step = die
from tests.align.test_reward_train import config
from arriero.align.reward_train import train_reward
from dataclasses import replace
from pathlib import Path
own = config(*map(Path, sys.argv[2:4]))
train_reward(Path(sys.argv[1]), replace(own, training=replace(own.training, checkpoint_every=5)))
"""


def test_after_kill_9_the_run_goes_on_bit_for_bit(base, tmp_path):
    pairs = write_pairs(tmp_path / "p.jsonl")
    arguments = [str(tmp_path / "killed"), str(base), str(pairs)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    own = config(base, pairs)
    own = replace(own, training=replace(own.training, checkpoint_every=5))
    for name in ("killed", "whole"):
        assert train_reward(tmp_path / name, own) == "finished"
    files = [tmp_path / name / REWARD / "adapter_model.safetensors" for name in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
