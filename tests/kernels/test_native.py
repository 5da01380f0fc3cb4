"""The compiled kernels against what they compute written out, on other instruction sets too; and machines without."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from arriero.kernels.attention import attention
from arriero.kernels.native import build
from arriero.kernels.native.library import Matrix, attend, multiply
from arriero.model.packed import PackedLinear

SOURCE = Path(build.__file__).parent / "llama.cpp"


@pytest.fixture
def compiled() -> None:
    if (reason := build.why_not_native()) is not None:
        pytest.skip(reason)


def rounded(x: Tensor) -> Tensor:
    """Inputs in groups of 32 with 15 bits each: x ≈ scale · code."""
    groups = x.double().unflatten(-1, (-1, 32))
    scales = groups.abs().amax(-1, keepdim=True) / (127 * 128)
    return (torch.round(groups / scales.clamp(min=1e-30)) * scales).flatten(-2)


def packed(outputs: int, inputs: int, bits: int) -> tuple[PackedLinear, Matrix]:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(1)) * 0.02
    layer = PackedLinear.from_weight(weight, bits)
    return layer, Matrix.of(layer.codes, layer.scales, layer.mins if bits == 4 else None, inputs, bits)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", [1, 3, 4, 8, 29])
@pytest.mark.parametrize("shape", [(16, 32), (40, 96), (576, 1536)])
def test_a_product_is_that_of_the_rounded_inputs(bits, tokens, shape):
    layer, matrix = packed(*shape, bits)
    x = torch.randn(tokens, shape[1], generator=torch.Generator().manual_seed(2))
    expected = rounded(x) @ layer.dequantise(torch.float64).T
    product = multiply(matrix, x)[:, : shape[0]].double()
    assert (product - expected).norm() <= 2e-5 * expected.norm()  # a code halfway may be rounded either way
    assert (product - x.double() @ layer.dequantise(torch.float64).T).norm() <= 1e-4 * expected.norm()
    assert torch.equal(multiply(matrix, x), multiply(matrix, x))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("bits", [4, 8])
def test_a_tokens_product_does_not_depend_on_the_others(bits):
    _, matrix = packed(64, 128, bits)
    x = torch.randn(13, 128, generator=torch.Generator().manual_seed(3))
    assert torch.equal(multiply(matrix, x), torch.cat([multiply(matrix, row[None]) for row in x]))


@pytest.mark.usefixtures("compiled")
def test_zeros_and_codes_at_the_ends_of_their_range():
    layer, matrix = packed(32, 64, 8)
    assert multiply(matrix, torch.zeros(2, 64)).count_nonzero() == 0
    extreme = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)[None]  # every code 127 · 128 or its negative
    expected = extreme.double() @ layer.dequantise(torch.float64).T
    assert torch.allclose(multiply(matrix, extreme).double(), expected, atol=1e-5)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (4, 4, 16), (8, 1, 48), (32, 2, 128)])
@pytest.mark.parametrize("tokens", [1, 5, 40])
def test_attention_over_pages_is_the_reference(heads, kv_heads, dim, tokens):
    generator = torch.Generator().manual_seed(4)
    starts = [0, 7, 16, 100]
    pages = -(-(max(starts) + tokens) // 16)
    order = torch.randperm(pages * len(starts), generator=generator, dtype=torch.int32).view(len(starts), pages)
    k_pages, v_pages = (torch.randn(order.numel(), kv_heads, 16, dim, generator=generator) for _ in "kv")
    q = torch.randn(len(starts), tokens, heads, dim, generator=generator)
    out = attend(q, k_pages, v_pages, list(order), starts, 0.3)
    for row, start in enumerate(starts):
        keys, values = (
            pool[order[row].long()].transpose(1, 2).flatten(0, 1)[None, : start + tokens] for pool in (k_pages, v_pages)
        )
        expected = attention(
            q[row : row + 1].double(), keys.double(), values.double(), scale=0.3, implementation="reference"
        )
        assert (out[row].double() - expected[0]).abs().max() < 2e-5


@pytest.mark.usefixtures("compiled")
def test_large_scores_do_not_overflow():
    q, k = torch.full((1, 1, 1, 16), 40.0), torch.zeros(1, 1, 16, 16)
    k[0, 0, 2] = 40.0
    v = torch.arange(16.0).view(1, 1, 16, 1).expand(1, 1, 16, 16).contiguous()
    out = attend(q, k, v, [torch.zeros(1, dtype=torch.int32)], [4], 1.0)
    assert torch.equal(out, torch.full_like(out, 2.0))


def load(monkeypatch) -> str | None:
    """Why a fresh process would find no kernels."""
    build._load.cache_clear()
    try:
        return build.why_not_native()
    finally:
        build._load.cache_clear()


def test_without_a_compiler_a_reason_is_given(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install g++ or clang++" in str(load(monkeypatch))


def test_the_switch_is_heeded(monkeypatch):
    monkeypatch.setenv("ARRIERO_NATIVE", "0")
    assert "ARRIERO_NATIVE=0" in str(load(monkeypatch))


def test_a_compiler_that_fails_is_told_and_leaves_nothing(monkeypatch, tmp_path):
    broken = tmp_path / "bin" / "c++"
    broken.parent.mkdir()
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "fatal error: no disk" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:/usr/bin:/bin")
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path / "cache"))
    assert "fatal error: no disk" in str(load(monkeypatch))
    assert list((tmp_path / "cache" / "native").iterdir()) == []


@pytest.mark.usefixtures("compiled")
def test_it_is_known_whether_the_first_use_compiles(monkeypatch, tmp_path):
    assert not build.will_compile()
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path))
    assert build.will_compile()
    monkeypatch.setenv("ARRIERO_NATIVE", "0")
    assert not build.will_compile()


@pytest.mark.usefixtures("compiled")
def test_a_library_that_others_may_write_is_not_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "_compile", lambda compiler, target: _plant(target))
    assert "delete it" in str(load(monkeypatch))


def _plant(target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(b"")
    target.chmod(0o777)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.skipif(sys.platform != "linux", reason="the options are those of g++ on Linux")
@pytest.mark.parametrize("cpu", ["x86-64", "haswell", "skylake-avx512", "native"])
def test_other_instruction_sets_give_the_same(cpu, tmp_path):
    library = tmp_path / "kernels.so"
    subprocess.run(["c++", *build._OPTIONS, f"-march={cpu}", str(SOURCE), "-o", str(library)], check=True)
    script = tmp_path / "check.py"
    script.write_text(
        "import ctypes, sys\n"
        "from arriero.kernels.native import library\n"
        "library.native_library = lambda: ctypes.CDLL(sys.argv[1])\n"
        "import pytest\n"
        "chosen = 'product or reference or codes'\n"
        "sys.exit(pytest.main(['-q', '-n0', '-p', 'no:cacheprovider', sys.argv[2], '-k', chosen]))\n"
    )
    done = subprocess.run([sys.executable, str(script), str(library), __file__], capture_output=True, text=True)
    if done.returncode == -4:
        pytest.skip(f"this processor has no {cpu}")
    assert done.returncode == 0, done.stdout


def test_the_structures_are_those_of_c():
    assert ctypes.sizeof(Matrix) == 48


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("damage", [lambda code: code[: len(code) // 2], lambda code: code[:-1] + b"x", lambda _: b""])
def test_a_library_that_the_disk_has_damaged_is_compiled_again(damage, monkeypatch, tmp_path):
    compiler = build._compiler()
    assert compiler is not None
    whole = build._target(compiler)
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path))
    kept = build._target(compiler)
    kept.parent.mkdir()
    for file in (whole, build._digest_file(whole)):
        shutil.copy(file, kept.parent)
    assert not build.will_compile()
    kept.write_bytes(damage(whole.read_bytes()))
    assert build.will_compile()
    monkeypatch.setattr(build, "_compile", lambda _, target: shutil.copy(whole, target))
    assert load(monkeypatch) is None


def test_no_umask_lets_others_write_the_library(monkeypatch, tmp_path):
    compiler = tmp_path / "bin" / "c++"
    compiler.parent.mkdir()
    compiler.write_text('#!/bin/sh\nfor last; do :; done\n[ "$1" = --version ] || echo "no library" > "$last"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{compiler.parent}:/usr/bin:/bin")
    monkeypatch.setenv("ARRIERO_CACHE", str(tmp_path))
    before = os.umask(0)
    try:
        assert "delete it" not in str(load(monkeypatch))
    finally:
        os.umask(before)
    (library,) = (tmp_path / "native").glob("*.so")
    assert library.stat().st_mode & 0o022 == 0


def test_a_user_without_a_home_is_told(monkeypatch):
    for name in ("ARRIERO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert "set ARRIERO_CACHE" in str(load(monkeypatch)) or build._compiler() is None
    assert not build.will_compile()


@pytest.mark.usefixtures("compiled")
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_too_little_memory_is_an_error_and_too_few_threads_are_none():
    script = (
        "import resource, torch\n"
        "from arriero.kernels.native.library import Matrix, library, multiply\n"
        "from arriero.model.packed import PackedLinear\n"
        "torch.set_num_threads(2)\n"
        "layer = PackedLinear.from_weight(torch.ones(16, 32768), 4)\n"
        "matrix = Matrix.of(layer.codes, layer.scales, layer.mins, 32768, 4)\n"
        "small, large = torch.ones(1, 32768), torch.ones(1, 1).expand(3000, 32768).contiguous()\n"
        "library()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 2**20,) * 2)\n"  # a thread's stack takes 8
        "print(multiply(matrix, small)[0, 0].item())\n"
        "try: multiply(matrix, large)\n"
        "except MemoryError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "32768.0\ntoo little memory for a step of compiled code\n", done.stderr
