"""Pretraining, whole: from shards to a model, continued, killed, grown, and refused."""

import dataclasses
import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from arriero.common.errors import ArrieroError, FormatError
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.formats.hf import load_hf, save_hf
from arriero.model.source import load_model
from arriero.model.transformer import Llama
from arriero.train import pretrain as module
from arriero.train import run_folder
from arriero.train.checkpoint import list_checkpoints
from arriero.train.pretrain import pretrain
from arriero.train.run_folder import RunFolder
from arriero.train.run_log import RunLog
from tests.train.pretraining import SHAPE, STEPS, byte_shards, config_for, diary, write_source
from tests.train.shard_folders import byte_tokenizer, write_shards

pytestmark = pytest.mark.usefixtures("two_layers")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch's threads cost more than they bring to a model this small; and no time goes to measuring the CPU."""
    threads, measure = torch.get_num_threads(), module.peak_flops
    torch.set_num_threads(1)
    module.peak_flops = lambda device, world: 1e9
    yield
    module.peak_flops = measure
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("shards")
    return write_source(folder / "plays", "llama"), write_source(folder / "law", "wool", seed=1)


@pytest.fixture(scope="module")
def whole(sources: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert pretrain(run, config_for(*sources)) == "finished"
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of random weights."""
    folder = tmp_path_factory.mktemp("trained")
    save_hf(Llama(SHAPE).init_weights(5), folder, bos_id=None, eos_id=257)
    byte_tokenizer().save(folder)
    return folder


def losses(run: Path) -> dict[int, float]:
    found = [(line["step"], line["loss"]) for line in diary(run, "step")]
    assert len(found) == len(dict(found)), "a step was written twice"
    return dict(found)


def weights(model: Llama) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def run_child(run: Path, sources: tuple[Path, Path], *kill: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-m", "tests.train.pretraining", str(run), ",".join(map(str, sources))]
    return subprocess.run(
        [*command, *kill], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100, check=False
    )


def test_a_run_ends_with_a_model_that_loads_and_generates(whole: Path) -> None:
    assert list(losses(whole)) == list(range(1, STEPS + 1))
    assert losses(whole)[STEPS] < 0.8 * losses(whole)[1]
    loaded = load_model(str(whole / "model"), device="cpu")
    request = Request(prompt_ids=loaded.tokenizer.encode("llama"), sampling=SamplingConfig(max_tokens=4, stop_ids=()))
    (answer,) = Engine(loaded.model, loaded.tokenizer).generate([request])
    assert len(answer.ids) == 4


def test_the_diary_tells_of_mixture_validation_and_samples(whole: Path) -> None:
    (start,), (mixture,) = diary(whole, "start"), diary(whole, "mixture")
    assert (start["batch_tokens"], start["total_steps"]) == (64, STEPS)
    assert start["n_params"] - start["n_params_without_embeddings"] == 2 * 258 * 32
    assert sum(row["planned_tokens"] for row in mixture["rows"]) == pytest.approx(64 * STEPS, abs=1)
    assert [line["step"] for line in diary(whole, "validation")] == [6, 12]
    assert diary(whole, "validation")[-1]["by_source"].keys() == {"plays", "law"}
    assert [line["prompt"] for line in diary(whole, "sample")] == ["llama", "llama"]
    assert sum(diary(whole, "step")[-1]["source_tokens"].values()) == 64 * STEPS
    assert diary(whole, "event")[-1]["event"] == "finished"


def test_the_last_step_is_validated_whatever_its_number(sources: tuple[Path, Path], tmp_path: Path) -> None:
    pretrain(tmp_path / "run", config_for(*sources, steps=3, validate_every=2))
    assert [line["step"] for line in diary(tmp_path / "run", "validation")] == [2, 3]


def test_a_finished_run_stays_as_it_is(whole: Path, sources: tuple[Path, Path]) -> None:
    before, model = losses(whole), (whole / "model/model.safetensors").stat().st_mtime_ns
    assert pretrain(whole, config_for(*sources)) == "finished"
    assert losses(whole) == before
    assert (whole / "model/model.safetensors").stat().st_mtime_ns == model


@pytest.mark.parametrize(
    "step", [pytest.param("2", id="before any checkpoint", marks=pytest.mark.slow), pytest.param("7", id="after one")]
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    whole: Path, sources: tuple[Path, Path], tmp_path: Path, step: str
) -> None:
    run = tmp_path / "run"
    killed = run_child(run, sources, step)
    assert killed.returncode == -9, killed.stderr
    assert run_child(run, sources).stdout == "finished\n"
    assert losses(run) == losses(whole)
    assert len(diary(run, "validation")) == 2
    assert torch.equal(weights(load_hf(run / "model")), weights(load_hf(whole / "model")))


def test_time_that_is_up_is_no_end(whole: Path, sources: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert pretrain(run, config_for(*sources, max_minutes=1e-9)) == "out of time"
    assert not (run / "model").exists()
    assert pretrain(run, config_for(*sources)) == "finished"
    assert losses(run) == losses(whole)


def test_other_settings_are_listed_and_may_be_allowed(sources: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(run, config_for(*sources, steps=2))
    before = (run / "config.toml").read_bytes()
    with pytest.raises(ArrieroError, match=r"loop\.steps was 2, is 4; optim\.lr was 0\.01, is 0\.1"):
        pretrain(run, config_for(*sources, steps=4, lr=0.1))
    assert (run / "config.toml").read_bytes() == before
    first = weights(load_hf(run / "model"))
    assert pretrain(run, config_for(*sources, steps=4), allow=["loop.steps"]) == "finished"
    assert list(losses(run)) == [1, 2, 3, 4]
    assert diary(run, "start")[-1]["total_steps"] == 4
    assert not torch.equal(weights(load_hf(run / "model")), first), "the model is of the run's first end"


def test_what_cannot_be_resumed_leaves_the_folder_as_it_was(sources: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain(run, config_for(*sources, steps=1))
    before = (run / "config.toml").read_bytes()
    with pytest.raises(ArrieroError, match="expected the data seed 0, got 1"):
        pretrain(run, config_for(*sources, steps=1, seed=1), allow=["seed"])
    assert (run / "config.toml").read_bytes() == before


def test_a_trained_model_goes_on_with_a_larger_context(
    sources: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    config = config_for(*sources, steps=2, model=str(trained), context=128, rope_theta=5e4, tokens=96)
    assert pretrain(run, config) == "finished"
    grown = load_hf(run / "model")
    assert (grown.config.max_seq_len, grown.config.rope_theta) == (128, 5e4)
    start = weights(load_hf(trained))
    assert 0 < (weights(grown) - start).abs().max() < 0.1


def test_rows_longer_than_the_context_are_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ArrieroError, match=r"within the model's context of 64, got 65; --context 65 grows it"):
        pretrain(tmp_path / "run", config_for(*sources, tokens=65))
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_vocabulary_is_refused(trained: Path, tmp_path: Path) -> None:
    more = byte_shards(tmp_path / "more", ["text"], byte_tokenizer(words=2000)).folder
    with pytest.raises(ArrieroError, match=r"vocabulary mismatch: .* have 2,258 tokens and the model 258"):
        pretrain(tmp_path / "run", config_for(more, model=str(trained)))


def test_as_many_tokens_that_are_others_are_refused(trained: Path, tmp_path: Path) -> None:
    swapped = byte_tokenizer()
    folder = byte_shards(tmp_path / "other", ["text"]).folder
    text = (folder / "tokenizer.json").read_text().replace('"a": ', '"\\u0100\\u0100": ')
    swapped = write_shards(folder, [[1, 2, 3]], vocab_size=258, tokenizer=text)
    with pytest.raises(ArrieroError, match=r"vocabulary mismatch: .* 1 tokens differ, such as 'ĀĀ'"):
        pretrain(tmp_path / "run", config_for(swapped.folder, model=str(trained)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"plays": 0.5, "law": 0.4}, r"weights sum to 0\.9, expected 1 \(plays=0\.5, law=0\.4\)"),
        ({"plays": 1.0}, "expected a weight for each source .* got only one for law"),
        ({"plays": 1.5, "law": -0.5}, r"source 'law': expected a positive weight, got -0\.5"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    sources: tuple[Path, Path], tmp_path: Path, given: dict[str, float], message: str
) -> None:
    with pytest.raises(ArrieroError, match=message):
        pretrain(tmp_path / "run", config_for(*sources, weights=given))


def test_an_empty_source_is_named(sources: tuple[Path, Path], tmp_path: Path) -> None:
    empty = byte_shards(tmp_path / "empty", []).folder
    with pytest.raises(ArrieroError, match="source 'empty' is empty"):
        pretrain(tmp_path / "run", config_for(sources[0], empty))


def test_a_corrupt_shard_is_named_before_anything_is_written(tmp_path: Path) -> None:
    shards = write_source(tmp_path / "plays", "llama")
    file = shards / "tokens-00000.bin"
    damaged = bytearray(file.read_bytes())
    damaged[100] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(FormatError, match=r"tokens-00000\.bin is missing or corrupt"):
        pretrain(tmp_path / "run", config_for(shards))
    assert not (tmp_path / "run").exists()
    assert pretrain(tmp_path / "run", config_for(shards, steps=1, data=config_of(shards, verify=False))) == "finished"


def config_of(shards: Path, **changes: bool) -> module.DataConfig:
    return dataclasses.replace(config_for(shards).data, **changes)


def test_shards_of_one_name_are_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ArrieroError, match="two folders are of the source 'plays'"):
        pretrain(tmp_path / "run", config_for(sources[0], sources[0]))


def test_a_folder_in_which_another_process_trains_is_refused(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "_WAIT_S", 0.0)
    run, config = tmp_path / "run", config_for(*sources, steps=1)
    with RunFolder(run).hold(config), pytest.raises(ArrieroError, match=r"another process .* is writing to the run in"):
        pretrain(run, config)
    assert [file.name for file in run.iterdir()] == ["run.lock"]
    assert pretrain(run, config) == "finished"


def test_a_folder_that_is_no_run_is_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ArrieroError, match="is not empty and holds no run"):
        pretrain(tmp_path, config_for(*sources))
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("prompt", ["", "x" * 64])
def test_a_prompt_that_leaves_no_room_is_refused_before_the_first_step(
    sources: tuple[Path, Path], tmp_path: Path, prompt: str
) -> None:
    with pytest.raises(ArrieroError, match="samples: expected a prompt of 1 to 63 tokens"):
        pretrain(tmp_path / "run", config_for(*sources, samples=(prompt,)))


def test_a_loss_that_is_no_number_skips_the_step(
    sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, calls = module.next_token_loss, iter(range(100))

    def broken(model, batch):
        loss = sound(model, batch)
        return dataclasses.replace(loss, total=loss.total * (float("nan") if next(calls) == 1 else 1.0))

    monkeypatch.setattr(module, "next_token_loss", broken)
    pretrain(tmp_path / "run", config_for(*sources, steps=3, validate_every=0))
    assert [line["loss"] is None for line in diary(tmp_path / "run", "step")] == [False, True, False]
    assert diary(tmp_path / "run", "step")[-1]["skipped"] == 1


def test_a_full_disk_leaves_the_run_to_be_continued(
    whole: Path, sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RunLog.write

    def full(self, kind, step, **values):
        if kind == "step" and step == 6:
            with self.path.open("a") as file:
                file.write('{"kind": ')
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, kind, step, **values)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write", full)
        with pytest.raises(OSError, match="No space left"):
            pretrain(run, config_for(*sources, asynchronous=False))
    assert [folder.name for folder in list_checkpoints(run / "checkpoints")] == ["step-00000004"]
    assert pretrain(run, config_for(*sources)) == "finished"
    assert losses(run) == losses(whole)
