"""Fine-tuning, whole: from chats to an adapter or a model; killed, resumed, stopped, quantised, and refused."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from arriero.cli.main import main
from arriero.common.errors import ArrieroError
from arriero.model.adapter_export import open_adapter
from arriero.model.adapters import Adapters
from arriero.model.formats.hf import load_hf
from arriero.model.formats.peft import load_peft, read_quantised
from arriero.model.quantised import quantise_model
from arriero.model.source import load_model
from arriero.model.transformer import Llama
from arriero.train import run_folder
from arriero.train import sft as module
from arriero.train.checkpoint import GUESTS, gather_state, list_checkpoints, load_state
from arriero.train.run_folder import RunFolder
from arriero.train.sft import build_model, prepare, sft
from arriero.train.watch import RunWatcher
from tests.train.tuning import STEPS, config_for, diary, launch, losses, write_base, write_chats

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dropout": {"lora": {"dropout": 0.3}},
    "pissa": {"lora": {"init": "pissa"}},
    "dora": {"lora": {"dora": True, "dropout": 0.2}},
    "nf4": {"quantise": "nf4"},
    "packed": {"pack": True, "tokens": 64},
    "full": {"method": "full"},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch's threads cost more than they bring to a model this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chats(tmp_path_factory.mktemp("data") / "chats.jsonl")


@pytest.fixture(scope="module")
def wholes(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind that nothing disturbed."""
    folder = tmp_path_factory.mktemp("wholes")
    for kind, changes in KINDS.items():
        assert sft(folder / kind, config_for(base, data, **changes)) == "finished"
    return {kind: folder / kind for kind in KINDS}


def made(run: Path) -> bytes:
    (file,) = [*run.glob("adapter/*.safetensors"), *run.glob("model/*.safetensors")]
    return file.read_bytes()


def saved(checkpoint: Path) -> dict[str, Tensor]:
    (file,) = checkpoint.glob("*.safetensors")
    return load_file(file)


def strike(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    """Do something once a step has been written down."""
    whole = RunWatcher.on_step

    def on_step(self: RunWatcher, result: Any) -> None:
        whole(self, result)
        if result.step == step:
            act()

    monkeypatch.setattr(RunWatcher, "on_step", on_step)


def script(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Have the evaluations come to these losses, the first before any step."""
    following = iter(values)
    monkeypatch.setattr(module, "validate", lambda *_: {"loss": next(following), "perplexity": 1.0, "by_source": {}})


@torch.no_grad()
def logits(model: Llama) -> Tensor:
    return model.eval()(torch.arange(40)[None])  # (1, 40, V)


def test_a_run_learns_and_its_diary_has_the_numbers(wholes: dict[str, Path], base: Path, data: Path) -> None:
    run = wholes["lora"]
    assert list(losses(run)) == list(range(1, STEPS + 1))
    assert losses(run)[STEPS] < losses(run)[1] - 0.2
    (start,), (examples,) = diary(run, "start"), diary(run, "examples")
    config = config_for(base, data)
    trained = sum(x.numel() for x in build_model(config, load_model(str(base))).parameters() if x.requires_grad)
    assert (start["n_params_trained"], start["total_steps"], start["batch_tokens"]) == (trained, STEPS, None)
    assert start["n_params"] == load_model(str(base)).model.n_params
    assert (start["method"], start["base"], examples["format"]) == ("lora", str(base), "messages")
    assert (examples["examples"], examples["kept"], examples["held_out"]) == (19, 19, 5)
    lines, rows = diary(run, "step"), prepare(config).rows
    once = sum(int(row.learnt.sum()) for row in rows)
    assert lines[4]["tokens"] == examples["supervised"] == once, "an epoch has five steps"
    assert [line["lr"] for line in lines] == sorted((line["lr"] for line in lines), reverse=True)
    assert [line["step"] for line in diary(run, "validation")] == [0, 3, 6]
    assert [line["prompt"] for line in diary(run, "sample")] == ["why?"] * 3


@pytest.mark.parametrize(
    ("changes", "steps"),
    [({"epochs": 1.0}, 5), ({"epochs": 2.0}, 10), ({"epochs": 0.3}, 2), ({"epochs": 1e-9}, 1), ({"batch": 19}, 2)],
)
def test_epochs_become_steps(base: Path, data: Path, changes: dict[str, Any], steps: int) -> None:
    config = config_for(base, data, **{"steps": None, "epochs": 2.0, **changes})
    assert prepare(config).loop.steps == steps


def test_checkpoints_hold_the_adapter_alone(wholes: dict[str, Path]) -> None:
    trained = diary(wholes["lora"], "start")[0]["n_params_trained"]
    for checkpoint in list_checkpoints(wholes["lora"] / "checkpoints"):
        tensors = saved(checkpoint)
        assert all(GUESTS.match(name.removeprefix("model.")) for name in tensors)
        assert sum(x.numel() for name, x in tensors.items() if name.startswith("model.")) == trained
        size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
        assert 12 * trained < size < 12 * trained + 100_000  # weights and AdamW's two moments, and the header


@pytest.mark.parametrize("kind", ["dropout", "nf4"])
def test_the_same_command_gives_the_same_bytes(
    wholes: dict[str, Path], base: Path, data: Path, tmp_path: Path, kind: str
) -> None:
    torch.manual_seed(99)  # whatever the process did before
    sft(tmp_path / "run", config_for(base, data, **KINDS[kind]))
    assert made(tmp_path / "run") == made(wholes[kind])


def test_another_seed_gives_another_adapter(wholes: dict[str, Path], base: Path, data: Path, tmp_path: Path) -> None:
    sft(tmp_path / "run", config_for(base, data, seed=1))
    assert made(tmp_path / "run") != made(wholes["lora"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_an_uninterrupted_one_bit_for_bit(
    wholes: dict[str, Path], base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run, config = tmp_path / "run", config_for(base, data, **KINDS[kind])

    def fail() -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        strike(patch, 5, fail)
        with pytest.raises(OSError, match="the disk is gone"):
            sft(run, config)
    torch.manual_seed(99)
    assert sft(run, config) == "finished"
    assert (4, "resumed") in [(line["step"], line["event"]) for line in diary(run, "event")]
    assert losses(run) == losses(wholes[kind])
    assert made(run) == made(wholes[kind])


@pytest.mark.parametrize(("kind", "step"), [("lora", 1), ("dora", 3)])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    wholes: dict[str, Path], base: Path, data: Path, tmp_path: Path, kind: str, step: int
) -> None:
    run = tmp_path / "run"
    (killed,) = launch([{"run": run, "base": base, "data": data, "changes": KINDS[kind], "kill": step}])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sft(run, config_for(base, data, **KINDS[kind])) == "finished"
    assert losses(run) == losses(wholes[kind])
    assert len(diary(run, "validation")) == 3
    assert made(run) == made(wholes[kind])


def test_a_finished_run_stays_as_it_is(wholes: dict[str, Path], base: Path, data: Path) -> None:
    run = wholes["lora"]
    file = run / "adapter/adapter_model.safetensors"
    before, time = losses(run), file.stat().st_mtime_ns
    assert sft(run, config_for(base, data)) == "finished"
    assert (losses(run), file.stat().st_mtime_ns) == (before, time)


def test_ctrl_c_ends_after_the_step_with_a_checkpoint(
    wholes: dict[str, Path], base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = tmp_path / "run", config_for(base, data)
    with monkeypatch.context() as patch:
        strike(patch, 5, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert sft(run, config) == "interrupted"
    assert list_checkpoints(run / "checkpoints")[-1].name == "step-00000005"
    assert not (run / "adapter").exists()
    assert sft(run, config) == "finished"
    assert made(run) == made(wholes["lora"])


def test_time_that_is_up_is_no_end(wholes: dict[str, Path], base: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert sft(run, config_for(base, data, max_minutes=1e-9)) == "out of time"
    assert (list(losses(run)), (run / "adapter").exists()) == ([1], False)
    assert sft(run, config_for(base, data)) == "finished"
    assert made(run) == made(wholes["lora"])


def test_the_best_checkpoint_is_what_is_exported(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    script(monkeypatch, 9.0, 5.0, 3.0, 4.0, 4.0, 4.0, 4.0)
    config = config_for(base, data, validate_every=1, checkpoint_every=1, keep=1)
    assert sft(run, config) == "finished"
    names = [checkpoint.name for checkpoint in list_checkpoints(run / "checkpoints")]
    assert names == ["step-00000002", "step-00000006"]
    tensors = saved(run / "checkpoints" / names[0])
    loaded, _ = open_adapter(run / "adapter")
    changes = Adapters.of(loaded.model).changes("adapter")
    assert len(changes) == 14
    for name, change in changes.items():
        assert torch.equal(change.a, tensors[f"model.{name}.adapters.adapter.a"])
        assert torch.equal(change.b, tensors[f"model.{name}.adapters.adapter.b"])


def test_a_run_that_gets_no_better_stops_and_stays_stopped(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = tmp_path / "run", config_for(base, data, validate_every=1, patience=2)
    script(monkeypatch, 9.0, 3.0, 4.0, 4.0)
    assert sft(run, config) == "stopped early"
    written = made(run)
    assert sft(run, config) == "stopped early"
    assert list(losses(run)) == [1, 2, 3]
    assert made(run) == written
    assert diary(run, "event")[-1]["detail"] == "after 3 of 6 steps"


def test_without_held_out_examples_the_last_step_is_exported(base: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert sft(run, config_for(base, data, eval_share=0.0, patience=1)) == "finished"
    assert diary(run, "validation") == []
    assert diary(run, "examples")[0]["held_out"] == 0
    loaded, _ = open_adapter(run / "adapter")
    change = Adapters.of(loaded.model).changes("adapter")["layers.0.attention.wq"]
    last = saved(run / "checkpoints" / "step-00000006")
    assert torch.equal(change.b, last["model.layers.0.attention.wq.adapters.adapter.b"])


def test_a_model_trained_whole_is_its_checkpoint(wholes: dict[str, Path]) -> None:
    run = wholes["full"]
    model, other = load_hf(run / "model"), load_hf(run / "model")
    best = min(diary(run, "validation")[1:], key=lambda line: line["loss"])["step"]
    load_state(run / "checkpoints" / f"step-{best:08d}", gather_state(other, None))
    assert torch.equal(logits(model), logits(other))


def test_other_settings_are_listed_and_may_be_allowed(base: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sft(run, config_for(base, data, steps=2))
    first, before = made(run), (run / "config.toml").read_bytes()
    with pytest.raises(ArrieroError, match=r"lora\.rank was 8, is 4; training\.steps was 2, is 4"):
        sft(run, config_for(base, data, steps=4, lora={"rank": 4}))
    assert (run / "config.toml").read_bytes() == before
    assert sft(run, config_for(base, data, steps=4), allow=["training.steps"]) == "finished"
    assert list(losses(run)) == [1, 2, 3, 4]
    assert made(run) != first, "the adapter is of the run's first end"


@pytest.mark.parametrize(
    ("changes", "allow", "message"),
    [
        ({"word": "wool"}, (), "the examples changed since the run began"),
        ({"batch": 2}, ("training.batch",), "the number of examples a step changed"),
        ({"lora": {"rank": 4}}, ("lora.rank",), r"expected '.*adapters\.adapter\.a' of shape \(4, 64\)"),
    ],
)
def test_what_cannot_be_resumed_leaves_the_folder_as_it_was(
    base: Path, tmp_path: Path, changes: dict[str, Any], allow: tuple[str, ...], message: str
) -> None:
    run, data = tmp_path / "run", write_chats(tmp_path / "chats.jsonl")
    sft(run, config_for(base, data, steps=2))
    before = (run / "config.toml").read_bytes()
    if word := changes.pop("word", None):
        write_chats(data, word=word)
    with pytest.raises(ArrieroError, match=message):
        sft(run, config_for(base, data, **{"steps": 2, **changes}), allow=allow)
    assert (run / "config.toml").read_bytes() == before
    assert losses(run).keys() == {1, 2}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_live_model_saved_adapter_and_merged_model_agree(base: Path, data: Path, tmp_path: Path, kind: str) -> None:
    run, config = tmp_path / "run", config_for(base, data, quantise=kind)
    sft(run, config)
    assert read_quantised(run / "adapter") == kind
    live = build_model(config, load_model(str(base), dtype="float32"))
    best = min(diary(run, "validation")[1:], key=lambda line: line["loss"])["step"]
    load_state(run / "checkpoints" / f"step-{best:08d}", gather_state(live, None))
    again = quantise_model(load_model(str(base), dtype="float32").model, kind)
    load_peft(again, run / "adapter", "other")
    Adapters.of(again).activate("other")
    assert torch.equal(logits(again), logits(live))
    merged, plain = tmp_path / "merged", tmp_path / "plain"
    assert main(["adapter", "merge", str(merged), str(run / "adapter"), "--store", "f32"]) == 0
    assert main(["adapter", "merge", str(plain), str(run / "adapter"), "--store", "f32", "--full-precision"]) == 0
    distance = (logits(load_hf(merged)) - logits(live)).abs().max()
    assert distance < 1e-4 * logits(live).std()
    assert (logits(load_hf(plain)) - logits(live)).abs().max() > 10 * distance, "the base before quantisation"


def test_a_folder_in_which_another_process_trains_is_refused(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "_WAIT_S", 0.0)
    run, config = tmp_path / "run", config_for(base, data, steps=1)
    with RunFolder(run).hold(config), pytest.raises(ArrieroError, match=rf"another process \(id {os.getpid()}\)"):
        sft(run, config)
    assert [file.name for file in run.iterdir()] == ["run.lock"]
    assert sft(run, config) == "finished"


def test_what_is_damaged_is_not_exported(base: Path, data: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", config_for(base, data, validate_every=3)
    sft(run, config)
    best = min(diary(run, "validation")[1:], key=lambda line: line["loss"])["step"]
    (file,) = (run / "checkpoints" / f"step-{best:08d}").glob("*.safetensors")
    contents = bytearray(file.read_bytes())
    contents[-1] ^= 1
    file.write_bytes(contents)
    (run / "adapter/tokenizer_config.json").unlink()
    with pytest.raises(ArrieroError, match="damaged, its SHA-256"):
        sft(run, config)
