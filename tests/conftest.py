"""Fixtures that every test may use: real data and real weights, skipped with a reason where they are absent."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# Tests that run beside each other have one thread each, as have the programs they start. It must be said before
# anything imports torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

# The Triton kernels run in Triton's interpreter, unless there is a GPU to compile them for. It must be said before
# anything imports triton.
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

# A shell's background job ignores Ctrl-C, as would the programs that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Benchmarks import their neighbours by name, as they do when one of them is run.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

LONG = ("test_readme.py",)
"""Files that take longest, in order: a file is one worker's, and the last ones should not leave the others idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin first."""
    order = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.relative_to(Path(__file__).parent).as_posix(), len(LONG)))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def triton_device(request) -> str:
    """Where Triton kernels run: interpreted on the CPU, or compiled on a GPU (`pytest -m gpu`)."""
    pytest.importorskip("triton")
    interpreted = os.environ["TRITON_INTERPRET"] == "1"
    if request.param == "cuda" and (interpreted or not torch.cuda.is_available()):
        pytest.skip("no GPU, or TRITON_INTERPRET=1")
    if request.param == "cpu" and not interpreted:
        pytest.skip("the kernels are compiled for the GPU here: pytest -m gpu, or TRITON_INTERPRET=1 for the CPU")
    return str(request.param)


@pytest.fixture(scope="module")
def two_layers() -> Iterator[None]:
    """A preset of two layers, as long as a module's tests last."""
    from arriero.model.presets import PRESETS
    from tests.train.pretraining import SHAPE

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "two-layers", SHAPE)
        yield


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data: `$ARRIERO_DATA`, else `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("ARRIERO_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"real data absent: {folder} (set ARRIERO_DATA)")
    return folder


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct's GGUF file, as `arriero model get smollm2-135m-instruct` brings it."""
    return _fetched("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2's folder, as `arriero model get all-minilm-l6-v2` brings it."""
    return _fetched("all-minilm-l6-v2")


@pytest.fixture(scope="session")
def lid176() -> Path:
    """fastText's language model, as `arriero model get lid.176` brings it."""
    pytest.importorskip("fasttext")
    return _fetched("lid.176")


def _fetched(name: str) -> Path:
    from arriero.common.errors import NotFoundError
    from arriero.model.source import resolve

    try:
        return resolve(name)
    except NotFoundError as error:
        pytest.skip(str(error))
