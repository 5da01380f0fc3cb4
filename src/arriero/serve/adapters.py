"""Adapters in and out while the server runs (LoRA: Hu et al., arXiv 2106.09685), over models that go on answering."""

from pathlib import Path

from arriero.common.errors import ArrieroError
from arriero.generate.live import Live
from arriero.model.adapters import Adapters
from arriero.model.formats.peft import fits, load_peft, read_base, read_quantised
from arriero.model.source import is_adapter, tokenizer_of
from arriero.serve.answerer import ServedAdapter
from arriero.serve.errors import ApiError
from arriero.serve.service import Service, model_name


def load_adapter(service: Service, name: str, path: str) -> ServedAdapter:
    """Load an adapter from below the folder that the server takes adapters from. It blocks.

    Raises:
        ApiError: there is no such folder, or the name is taken.
        ArrieroError: the adapter is damaged, or for another model.
    """
    root = service.settings.adapters_folder
    if root is None:
        message = "this server loads no adapters: start it with --adapters-folder"
        raise ApiError(403, message, "lora_path", "not_enabled")
    folder = _below(root, path)
    if folder is None or not is_adapter(folder):
        message = f"lora_path: there is no adapter '{path}' in the server's folder of adapters"
        raise ApiError(404, message, "lora_path", "not_found")
    if name in service.models:
        raise ApiError(409, f"lora_name: a model is called '{name}': choose another name", "lora_name", "name_taken")
    return add_adapter(service, name, folder)


def add_adapter(service: Service, name: str, folder: Path) -> ServedAdapter:
    """Load an adapter from a folder of the server's owner.

    Raises:
        ApiError: the name is taken.
        ArrieroError: the folder holds no adapter, or one that is damaged or for another model.
    """
    if not is_adapter(folder):
        raise ArrieroError(
            f"{folder} is no adapter: expected one with adapter_config.json, such as RUN/adapter of `arriero sft RUN`"
        )
    if (kind := read_quantised(folder)) != "none":
        raise ArrieroError(
            f"{folder} was trained over a base in {kind}, and over this one it is another model: merge it with "
            "`arriero adapter merge`, and serve the result as a model"
        )
    with service.changing:
        if name in service.adapters:
            raise ApiError(409, f"lora_name: an adapter is called '{name}' already: unload it first", "lora_name")
        model = _base(service, folder)
        live = service.models[model]
        live.between(lambda: load_peft(live.model, folder, name, base=model))
        adapter = ServedAdapter(name=name, model=model, folder=folder, tokenizer=tokenizer_of(folder))
        service.adapters[name] = adapter
    return adapter


def unload_adapter(service: Service, name: str) -> None:
    """Forget an adapter. It blocks until the token in progress is there.

    Raises:
        ApiError: there is none of that name.
    """
    with service.changing:
        adapter = service.adapters.pop(name, None)
        if adapter is None:
            raise ApiError(404, f"lora_name: there is no adapter '{name}'", "lora_name", "not_found")
        live: Live = service.models[adapter.model]
        live.between(lambda: Adapters.of(live.model).remove(name))


def _base(service: Service, folder: Path) -> str:
    """The model that an adapter is for: whose weights it was made over, else the one that it names, else the first."""
    if len(service.models) > 1:
        for name, live in service.models.items():
            if fits(live.model, folder):
                return name
        base = read_base(folder)
        if base is not None and model_name(base) in service.models:
            return model_name(base)
    return service.default_model


def _below(root: Path, path: str) -> Path | None:
    """A folder below another, by its path from there or as a whole; None where it leads elsewhere."""
    if "\0" in path:
        return None
    whole = (root / path).resolve()
    return whole if whole.is_relative_to(root.resolve()) and whole.is_dir() else None
