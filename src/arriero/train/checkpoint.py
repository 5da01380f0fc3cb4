"""A run's checkpoints: each rank writes its own part, in the background, and what is there under its name is whole.

`torch.distributed.checkpoint` (DCP) divides the work and, on loading, the parts anew: what 4 ranks wrote, 1 or 2 read,
or 4 in another layout. Its own storage keeps an index as a pickle, which runs code when it is read; so the tensors go
into safetensors files, DCP's other storage, whose headers say where in the whole tensor a part belongs. All else is
JSON, with each file's size and SHA-256, which are checked before anything is loaded.

    checkpoints/step-00000500/checkpoint.json                                  steps, progress, list of files
                              shard-00001-model-00001-of-00001.safetensors     what rank 0 wrote: weights, AdamW's state
    checkpoints/step-00001000.part/                                            being written, or left behind by a kill
"""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from arriero.common.errors import ArrieroError, FormatError
from arriero.common.files import atomic_file, sha256
from arriero.train.parallel import hold_parts

MANIFEST = "checkpoint.json"
PART = ".part"
GUESTS = re.compile(r".*\.adapters\.|heads\.|indexed\.")
"""How names of parameters begin that are kept though frozen: of adapters, of heads, of what an index was made with."""
FILE_BYTES = 2**30
"""About the size of a file: what is in one is in memory twice while it is written."""
_FORMAT = {"format": "arriero-checkpoint", "version": 1}
_FOLDER = re.compile(r"step-(\d{8})")
_T = TypeVar("_T")


class Checkpoints:
    """The checkpoints of one run; every rank has one, and calls its methods together with the others."""

    def __init__(self, folder: Path, keep: int = 2, keep_every: int = 0, asynchronous: bool = True) -> None:
        """Look after a folder, which all ranks see.

        Args:
            folder: holds a folder for each checkpoint.
            keep: how many of the last ones stay.
            keep_every: those of every so many steps stay for ever; 0 for none.
            asynchronous: go on training while a copy is written; at most one is on its way.
        """
        if keep < 1 or keep_every < 0:
            raise ArrieroError(f"expected keep of 1 or more and keep_every of 0 or more, got {keep} and {keep_every}")
        self.folder, self.keep, self.keep_every, self.asynchronous = folder, keep, keep_every, asynchronous
        self._joined = dist.is_initialized()
        self._rank, self._world = (dist.get_rank(), dist.get_world_size()) if self._joined else (0, 1)
        # of its own: its messages must not mix with those of the training going on
        self._group = dist.new_group(backend="gloo") if self._joined else None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._pinned: int | None = None

    def pin(self, step: int) -> None:
        """Have the checkpoint of this step stay until another one is pinned."""
        self.wait()  # what is on its way must not sweep the old one off before the new one is there
        self._pinned = step

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
        """Keep a copy of model and optimizer, and `progress` of rank 0, which must fit into JSON.

        Raises:
            ArrieroError: this one or, when it is written in the background, the one before could not be written; the
                checkpoints before that are whole.
        """
        self.wait()
        target = self.folder / f"step-{step:08d}"
        part = target.with_name(target.name + PART)

        def prepare() -> bool:
            if target.exists():
                return False
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            return True

        if not self._by_main(prepare, f"{target}: the checkpoint cannot be written"):
            return  # a run that ends where it was resumed
        state = dict(BlockingAsyncStager().stage(gather_state(model, optimizer)))
        text = json.dumps({**_FORMAT, "step": step, "world": self._world, "progress": progress})
        self._pending = self._writer.submit(self._write, state, part, target, text)
        if not self.asynchronous:
            self.wait()

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Fill model and optimizer from the last whole checkpoint; its progress, or None if there is none.

        Raises:
            FormatError: a file of it is missing or damaged.
            ArrieroError: it is one of a model of another shape.
        """
        self.wait()
        folder = self._by_main(lambda: latest_checkpoint(self.folder), f"{self.folder} cannot be read")
        if folder is None:
            return None
        problem: str | None = None
        try:
            manifest = read_manifest(folder)
            verify(folder, manifest, sorted(manifest["files"])[self._rank :: self._world])
        except FormatError as error:
            problem = str(error)
        self._agree(problem, FormatError)
        load_state(folder, gather_state(model, optimizer), group=self._group)
        progress: dict[str, Any] = manifest["progress"]
        return progress

    def wait(self) -> None:
        """Until what is being written is whole.

        Raises:
            ArrieroError: it could not be written.
        """
        if self._pending is None:
            return
        problem = None
        try:
            self._pending.result()
        except ArrieroError as error:
            problem = str(error)
        self._pending = None
        self._agree(problem, ArrieroError)

    def _write(self, state: dict[str, Tensor], part: Path, target: Path, text: str) -> None:
        """In the background: all ranks' parts, then, by rank 0, the list of them and the name."""
        try:
            writer = HuggingFaceStorageWriter(str(part), _file_numbers(state, self._world), save_distributed=True)
            _hush()
            dcp_save(state, storage_writer=writer, process_group=self._group, no_dist=not self._joined)
            own = {file.name: _facts(file) for file in part.glob(f"shard-{self._rank + 1:05d}-*")}
            files = self._gather(own)
            if self._rank == 0:
                manifest = {**json.loads(text), "files": {name: fact for some in files for name, fact in some.items()}}
                with atomic_file(part / MANIFEST) as aside:
                    aside.write_text(json.dumps(manifest), encoding="utf-8")
                part.replace(target)
                self._sweep()
        except (CheckpointException, OSError) as error:
            if self._rank == 0:
                shutil.rmtree(part, ignore_errors=True)
            raise ArrieroError(
                f"{target}: the checkpoint could not be written ({_cause(error)}); the ones before it are whole"
            ) from error

    def _sweep(self) -> None:
        """Remove what the policy does not keep."""
        for folder in list_checkpoints(self.folder)[: -self.keep]:
            step = int(folder.name.removeprefix("step-"))
            if step != self._pinned and (not self.keep_every or step % self.keep_every):
                doomed = folder.with_name(folder.name + PART)  # a kill from here on leaves no half checkpoint
                folder.replace(doomed)
                shutil.rmtree(doomed)

    def _by_main(self, act: Callable[[], _T], failed: str) -> _T:
        """What rank 0 gets from `act`, on all ranks; or its error on all of them."""
        result, problem = [None], None
        if self._rank == 0:
            try:
                result = [act()]  # type: ignore[list-item]
            except OSError as error:
                problem = f"{failed} ({_cause(error)})"
        self._agree(problem, ArrieroError)
        if self._joined:
            dist.broadcast_object_list(result, src=0, group=self._group)
        return result[0]  # type: ignore[return-value]

    def _agree(self, problem: str | None, kind: type[ArrieroError]) -> None:
        """Raise on all ranks what happened on one."""
        problems = [text for text in self._gather(problem) if text is not None]
        if problems:
            raise kind(problems[0])

    def _gather(self, own: _T) -> list[_T]:
        every = [own] * self._world
        if self._joined:
            dist.all_gather_object(every, own, group=self._group)
        return every


def gather_state(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, not copied: parameters and, by parameter, AdamW's state.

    Of what is frozen, `GUESTS` alone. A parameter that has had no step yet gets the state that it would begin with.
    """
    hold_parts(model)
    state: dict[str, Tensor] = {}
    trained = set() if optimizer is None else {x for group in optimizer.param_groups for x in group["params"]}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and not GUESTS.match(name):
            continue
        state[f"model.{name}"] = parameter.detach()
        if optimizer is None or parameter not in trained:
            continue
        own = optimizer.state[parameter]
        if not own:
            own["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            own["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            own["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state[f"step.{name}"] = own["step"].view(1)
        state |= {f"{key}.{name}": own[key].detach() for key in ("exp_avg", "exp_avg_sq")}
    return state


def load_state(folder: Path, state: dict[str, Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Fill the tensors of `state`, in place, from a checkpoint, however its ranks had divided them.

    Raises:
        FormatError: a file is damaged.
        ArrieroError: the checkpoint has a tensor of another shape, or lacks it.
    """
    reader = HuggingFaceStorageReader(str(folder))
    try:
        saved = {name: tuple(entry.size) for name, entry in reader.read_metadata().state_dict_metadata.items()}  # type: ignore[union-attr]
        for name, tensor in state.items():
            if saved.get(name) != tuple(tensor.shape):
                raise ArrieroError(
                    f"{folder}: expected '{name}' of shape {tuple(tensor.shape)}, as the model has it, got "
                    f"{saved.get(name, 'none')}: is the checkpoint one of another model?"
                )
        _hush()
        dcp_load(state, storage_reader=reader, process_group=group, no_dist=group is None)
    except (CheckpointException, OSError, ValueError, KeyError) as error:
        if isinstance(error, ArrieroError):
            raise
        raise FormatError(f"{folder}: the checkpoint cannot be read ({_cause(error)})") from error


def load_weights(folder: Path, model: nn.Module) -> None:
    """Fill a whole model, of one process, from a checkpoint that is compared with its manifest first.

    Raises:
        FormatError, ArrieroError: as `verify` and `load_state`.
    """
    verify(folder, read_manifest(folder))
    load_state(folder, gather_state(model, None))


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a folder, by step."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _FOLDER.fullmatch(path.name) and path.is_dir())


def latest_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint."""
    return next(reversed(list_checkpoints(folder)), None)


def best_checkpoint(folder: Path, best: tuple[int, float] | None) -> Path | None:
    """The checkpoint of a loop's best step, if it has one; else the last one."""
    kept = None if best is None else folder / f"step-{best[0]:08d}"
    return kept if kept is not None and kept.is_dir() else latest_checkpoint(folder)


def is_newer(file: Path, checkpoint: Path) -> bool:
    """Whether a file is there that was written after a checkpoint."""
    return file.is_file() and file.stat().st_mtime >= (checkpoint / MANIFEST).stat().st_mtime


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `checkpoint.json` says: step, world, progress, files.

    Raises:
        FormatError: it is missing, or not what it should be.
    """
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if any(manifest[key] != value for key, value in _FORMAT.items()):
            raise FormatError(f"{file}: expected {_FORMAT}")
        names = [str(name) for name in manifest["files"]]
        if not names or not isinstance(manifest["progress"], dict) or any(Path(name).name != name for name in names):
            raise FormatError(f"{file}: the list of files or the progress is damaged")
        found: dict[str, Any] = manifest
        return found
    except FormatError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        mend = f"remove {folder.name} to go on from the checkpoint before it"
        raise FormatError(f"{file}: missing or damaged ({_cause(error)}): {mend}") from error


def verify(folder: Path, manifest: dict[str, Any], names: list[str] | None = None) -> None:
    """Compare files with what the manifest says of them, by default all.

    Raises:
        FormatError: naming the first that is missing, cut off or changed.
    """
    mend = f"remove {folder.name} to go on from the checkpoint before it"
    for name in manifest["files"] if names is None else names:
        file, expected = folder / name, manifest["files"][name]
        if not file.is_file():
            raise FormatError(f"{file}: missing: {mend}")
        if (size := file.stat().st_size) != expected["bytes"]:
            raise FormatError(f"{file}: expected {expected['bytes']} bytes, got {size}: {mend}")
        if sha256(file) != expected["sha256"]:
            raise FormatError(f"{file}: damaged, its SHA-256 is not the one it was written with: {mend}")


def _file_numbers(state: dict[str, Tensor], world: int) -> dict[str, int]:
    """For each tensor, in which of its rank's files a rank's part goes, from 1 on."""
    numbers, used = {}, 0
    for name, tensor in state.items():
        numbers[name] = 1 + used // FILE_BYTES
        used += tensor.numel() * tensor.element_size() // world
    return numbers


def _hush() -> None:
    """Let DCP not warn that one process is alone; for the whole process, as filters can't be a thread's own."""
    warnings.filterwarnings("ignore", message="torch.distributed is .* in a single process", category=UserWarning)


def _facts(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def _cause(error: BaseException) -> str:
    """One line that says what went wrong, out of DCP's collection of tracebacks if need be."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return str(error).splitlines()[0] if str(error) else type(error).__name__
