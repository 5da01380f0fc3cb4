"""The benchmark: which rows it gives, what it counts, and that it compares the same thing. Never how long it took."""

from dataclasses import replace

import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.kernels import bench
from arriero.kernels.bench import SDPA_MASKED, Settings, bench_kernels, operations, packed_documents
from arriero.kernels.bench_plot import plot_bench

TINY = Settings(lengths=(64, 72), heads=2, kv_heads=1, head_dim=8, repeats=1, device=torch.device("cpu"))


def test_a_row_for_each_implementation_case_length_and_pass():
    told = []
    rows = list(bench_kernels(TINY, told.append))
    assert told == [1] * len(TINY.points) == [1] * 12
    for case, passes, tokens in TINY.points:
        own = [row for row in rows if (row.case, row.passes, row.tokens) == (case, passes, tokens)]
        masked = [SDPA_MASKED] if case == "packed" else []
        assert [row.implementation for row in own] == ["reference", "tiled", "sdpa", *masked]
        peer = next(row for row in own if row.implementation == row.peer)
        assert (peer.speed, peer.memory) == (1, 1)
        assert {row.peer for row in own} == {masked[0] if masked else "sdpa"}
        for row in own:
            assert row.milliseconds > 0
            assert row.speed == pytest.approx(peer.milliseconds / row.milliseconds)
            assert row.memory == row.peak_bytes / peer.peak_bytes
            assert (row.head_dim, row.dtype) == (8, "float32")


def test_flops_are_what_the_time_and_the_formula_say():
    (row,) = (
        row
        for row in bench_kernels(replace(TINY, lengths=(64,), cases=("gqa",), batch=3))
        if row.implementation == "tiled" and row.passes == "forward"
    )
    assert row.tflops * row.milliseconds * 1e9 == pytest.approx(3 * 4 * 64**2 * 8 * 2 / 2)


def test_operations_are_counted_per_document_and_three_and_a_half_times_with_the_backward_pass():
    assert operations([10], heads=2, head_dim=8, passes="forward") == 4 * 100 * 8 * 2 / 2
    assert operations([10, 20], 2, 8, "forward") == 4 * (100 + 400) * 8 * 2 / 2
    assert operations([10], 2, 8, "forward+backward") == 3.5 * operations([10], 2, 8, "forward")


@pytest.mark.parametrize("tokens", [64, 100, 4096])
def test_packed_rows_have_eight_documents_of_unequal_length_in_another_order_each(tokens):
    documents = packed_documents(2, tokens, torch.device("cpu"))
    rows = [[end - start for row, start, end in documents.spans if row == i] for i in range(2)]
    assert [len(lengths) for lengths in rows] == [8, 8]
    assert rows[0] != rows[1]
    if tokens == 4096:
        assert len(set(rows[0])) == 8


@pytest.mark.parametrize("case", ["dense", "gqa", "packed"])
def test_all_that_are_compared_compute_the_same(case):
    kv_heads = 1 if case == "gqa" else 2
    q, k, v, _ = bench._tensors(TINY, 72, kv_heads)
    documents = packed_documents(1, 72, TINY.device) if case == "packed" else None
    outs = [attend(q, k, v) for attend in bench._attends(q, k, documents).values()]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], atol=1e-5, rtol=1e-4)


def test_the_dense_mask_counts_as_memory():
    rows = {row.implementation: row for row in bench_kernels(replace(TINY, lengths=(256,), cases=("packed",)))}
    assert rows[SDPA_MASKED].peak_bytes - rows["sdpa"].peak_bytes > 256**2 / 2


def test_the_reference_is_left_out_where_its_scores_would_be_too_many(monkeypatch):
    monkeypatch.setattr(bench, "LARGEST_SCORES", 2 * 64**2)
    rows = bench_kernels(replace(TINY, cases=("dense",)))
    assert {row.tokens for row in rows if row.implementation == "reference"} == {64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": ()}, "lengths and cases: expected one or more"),
        ({"lengths": (63,)}, "lengths: expected 64 or more for packed documents, got 63"),
        ({"lengths": (0,), "cases": ("dense",)}, "lengths: expected 1 or more, got 0"),
        ({"repeats": 0}, "repeats: expected 1 or more, got 0"),
        ({"lengths": (10**13,)}, "lengths: expected tensors that fit the memory of .* got 10,000,000,000,000 tokens"),
        ({"head_dim": 10**30}, "give fewer tokens, heads or rows"),
        ({"heads": 3, "kv_heads": 2}, "heads: expected a multiple of the 2 KV heads, got 3"),
        ({"device": torch.device("meta")}, "device: expected cpu or cuda"),
    ],
)
def test_bad_settings_are_told(change, message):
    with pytest.raises(ArrieroError, match=message):
        replace(TINY, **change)


def test_the_figure_is_a_whole_png(tmp_path):
    pytest.importorskip("matplotlib")
    rows = list(bench_kernels(replace(TINY, lengths=(64, 128))))
    plot_bench(rows, tmp_path / "bench.png", "a caption")
    data = (tmp_path / "bench.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert b"IEND" in data[-12:]
    assert [path.name for path in tmp_path.iterdir()] == ["bench.png"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_triton_is_compared_with_pytorchs_flash_attention():
    settings = replace(TINY, lengths=(256,), head_dim=64, dtype=torch.bfloat16, device=torch.device("cuda"))
    rows = list(bench_kernels(settings))
    assert {"triton", "sdpa-flash"} <= {row.implementation for row in rows}
    assert {row.peer for row in rows if row.case != "packed"} == {"sdpa-flash"}
