"""Devices and dtypes are what was asked for, or an error."""

import pytest
import torch

from arriero.common.device import pick_device, pick_dtype
from arriero.common.errors import ArrieroError


def test_auto_gives_a_device_that_works():
    assert torch.ones(1, device=pick_device()).item() == 1


def test_an_absent_device_is_an_error_and_not_a_switch():
    with pytest.raises(ArrieroError, match="device 'cuda:63' cannot be used here"):
        pick_device("cuda:63")
    with pytest.raises(ArrieroError, match="device 'gpu' cannot be used here"):
        pick_device("gpu")


def test_auto_dtype_is_float32_on_cpu_and_bfloat16_on_cuda():
    assert pick_dtype("auto", torch.device("cpu")) is torch.float32
    assert pick_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert pick_dtype("float16", torch.device("cpu")) is torch.float16
