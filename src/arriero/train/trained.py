"""A model in training as a model source: a run's folder, or one checkpoint in it."""

from pathlib import Path
from typing import Any

import torch

from arriero.common.device import DTypeName, pick_device, pick_dtype
from arriero.common.errors import FormatError, NotFoundError
from arriero.common.settings import read_settings
from arriero.model.config import LlamaConfig, RopeScaling
from arriero.model.packed import Weights, pack_model
from arriero.model.source import LoadedModel, load_model
from arriero.model.transformer import Llama
from arriero.tokenizer.load import load_tokenizer
from arriero.train.checkpoint import MANIFEST, latest_checkpoint, load_weights
from arriero.train.run_folder import RunFolder
from arriero.train.run_log import RunLog


def load_trained(
    source: str, *, device: str = "auto", dtype: DTypeName = "auto", weights: Weights = "full"
) -> LoadedModel:
    """Load any source that `load_model` takes, the folder of a run (its last checkpoint), or a checkpoint's folder.

    Raises:
        NotFoundError: it is not here, or the run has no checkpoint yet.
        FormatError: its files are damaged.
    """
    path = Path(source).expanduser()
    if (path / MANIFEST).is_file():
        return _packed(_load(RunFolder(path.resolve().parents[1]), path, device, dtype), weights)
    folder = RunFolder(path)
    if folder.config_path.is_file() and not (path / "config.json").is_file():
        if read_settings(folder.config_path).get("method") is not None:
            return _load_tuned(folder, device, dtype, weights)
        checkpoint = latest_checkpoint(folder.checkpoints)
        if checkpoint is None:
            raise NotFoundError(f"{path} is a run without a checkpoint yet: train on, or name another model")
        return _packed(_load(folder, checkpoint, device, dtype), weights)
    return load_model(source, device=device, dtype=dtype, weights=weights)


def _packed(loaded: LoadedModel, weights: Weights) -> LoadedModel:
    pack_model(loaded.model, weights)
    return loaded


def _load_tuned(folder: RunFolder, device: str, dtype: DTypeName, weights: Weights) -> LoadedModel:
    """What a finished run of fine-tuning made: its best adapter, or its best model."""
    for made in (folder.path / "adapter", folder.model):
        if made.is_dir():
            return load_model(str(made), device=device, dtype=dtype, weights=weights)
    raise NotFoundError(
        f"{folder.path} is a fine-tuning run that is not finished: go on with it, or name another model"
    )


@torch.no_grad()
def _load(folder: RunFolder, checkpoint: Path, device: str, dtype: DTypeName) -> LoadedModel:
    to_device = pick_device(device)
    model = Llama(_shape(folder))
    load_weights(checkpoint, model)
    shards = read_settings(folder.config_path).get("data.shards") if folder.config_path.is_file() else None
    tokenizer = load_tokenizer(Path(shards[0])) if shards else None
    model = model.to(to_device, pick_dtype(dtype, to_device))
    name = f"{folder.path.resolve().name}/{checkpoint.resolve().name}"
    return LoadedModel(name=name, model=model, path=checkpoint, loaded_tokenizer=tokenizer)


def _shape(folder: RunFolder) -> LlamaConfig:
    """The shape of the run's model, as its diary has it."""
    try:
        start = RunLog(folder.path).last("start")
        if start is None:
            raise NotFoundError(f"{folder.path} does not say what model it trains: its diary has no 'start'")
        facts: dict[str, Any] = dict(start["model"])
        if facts.get("rope_scaling") is not None:
            facts["rope_scaling"] = RopeScaling(**facts["rope_scaling"])
        return LlamaConfig(**facts)
    except NotFoundError:
        raise
    except (ValueError, LookupError, TypeError) as error:
        raise FormatError(f"{folder.path}: its diary is damaged: {' '.join(str(error).split())}") from error
