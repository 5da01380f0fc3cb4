"""The Triton kernels compile for GPUs, fit them, and multiply as they should: all without one, by `compiling.py`."""

import ast
from pathlib import Path

import pytest

pytest.importorskip("triton")

import arriero.kernels
from tests.kernels.compiling import LAUNCHES, SHARED_MEMORY, compile_all, variants

TRAINING = [name for name in LAUNCHES if name != "flash_decode"]
SPILL = 64
"""Bytes of registers spilled, a thread, that cost next to nothing."""


def check(kernel: str, target: str, cases: list[str], wide: bool = True) -> None:
    reports = compile_all(target, [f"{kernel}-{case}" for case in cases])
    for case in cases:
        tried = [report for report in reports if report["name"] == f"{kernel}-{case}"]
        for name in {report["kernel"] for report in tried}:
            fit = [x for x in tried if x["kernel"] == name and x["shared"] <= SHARED_MEMORY[target]]
            assert any(x["stack"] <= SPILL for x in fit), (case, tried)
        products = " ".join(product for report in tried for product in report["products"])
        assert "tf32" not in products, (case, products)
        if not case.startswith("fp32"):
            expected = "wgmma" if wide and target == "sm_90" and "-16" not in case else "mma"
            assert expected in products, (case, products)


@pytest.mark.parametrize("target", [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90"])
@pytest.mark.parametrize("kernel", TRAINING)
def test_kernels_compile(kernel, target):
    check(kernel, target, ["bf16-64-causal"])


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARED_MEMORY)
@pytest.mark.parametrize("kernel", TRAINING)
def test_kernels_compile_for_documents_and_dropout(kernel, target):
    check(kernel, target, ["fp16-128-documents", "fp32-64-dropout"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", SHARED_MEMORY)
@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("kernel", TRAINING)
def test_kernels_compile_for_every_option(kernel, dim, target):
    check(kernel, target, [f"bf16-{dim}-{name}" for name in variants()])
    check(kernel, target, [f"fp16-{dim}-causal", f"fp32-{dim}-causal", f"fp32-{dim}-blocks-16"])


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARED_MEMORY)
@pytest.mark.parametrize("kernel", TRAINING)
def test_kernels_compile_for_odd_head_dims(kernel, target):
    check(kernel, target, ["bf16-16-causal", "bf16-80-causal", "fp16-160-full", "fp32-24-causal"])


def test_every_product_of_the_kernels_is_asked_to_be_exact():
    """The rule; what a compiler makes of it in fp32 the slow tests see."""
    folder = Path(arriero.kernels.__file__).parent
    calls = [node for path in folder.glob("*.py") for node in ast.walk(ast.parse(path.read_text())) if is_dot(node)]
    assert len(calls) > 10
    for call in calls:
        assert any(word.arg == "input_precision" and word.value.value == "ieee" for word in call.keywords)


def is_dot(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "tl.dot"


def test_decoding_compiles():
    check("flash_decode", "sm_90", ["bf16-64-causal"], wide=False)  # its queries are fewer than wgmma's 64


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARED_MEMORY)
def test_decoding_compiles_for_every_option(target):
    cases = ["bf16-64-causal", "bf16-128-window", "fp16-80-softcap", "fp32-128-causal"]
    check("flash_decode", target, cases, wide=False)
