"""Which device and dtype a command runs on: asked for by name, never switched silently.

PyTorch is imported when one is picked, so that help, which names the dtypes, comes at once.
"""

from typing import TYPE_CHECKING, Literal

from arriero.common.errors import ArrieroError

if TYPE_CHECKING:
    import torch

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


def pick_device(name: str = "auto") -> "torch.device":
    """`auto` takes the first of CUDA, MPS, CPU; any other name is taken as it is.

    Raises:
        ArrieroError: the named device does not exist here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch says "not compiled with CUDA" by AssertionError
        why = str(error).splitlines()[0]
        raise ArrieroError(f"device '{name}' cannot be used here ({why}): expected auto, cpu, cuda or mps") from error
    return device


def pick_dtype(name: DTypeName, device: "torch.device") -> "torch.dtype":
    """`auto` is bfloat16 on CUDA and float32 elsewhere: on CPUs without AMX a bfloat16 product is the slower one.

    Raises:
        ArrieroError: no such dtype.
    """
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ArrieroError(f"dtype '{name}' is unknown: expected auto, float32, bfloat16 or float16")
    return dtype
