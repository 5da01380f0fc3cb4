"""Figures of benchmarks: what they say of their targets, and how each script makes them of what it measured."""

import dataclasses
import importlib
from types import SimpleNamespace

import pytest
from figures import Figure, as_json, beside, exit_if_missed, number, read_figure


def test_a_target_is_met_from_its_bound_on():
    assert Figure(what="speed", value=2.0, least=2.0).met
    assert not Figure(what="memory", value=0.61, most=0.6).met
    assert not Figure(what="merged", value=1.04, least=0.97, most=1.03).met
    assert Figure(what="nothing is wanted", value=1.0).met is None


def test_a_ratio_is_ours_over_theirs_unless_it_is_given():
    assert beside("speed", 6.0, 3.0, "peer", "tokens/s").value == 2
    assert beside("time", 3.0, 6.0, "peer", "s", value=1.9).value == 1.9


def test_a_figure_is_read_as_it_was_told():
    figures = [beside("speed", 6.0, 3.0, "peer", "tokens/s", least=1.5), Figure(what="KL", value=0.0, most=10.0)]
    assert [read_figure({**told, "more": 1}) for told in as_json(figures)] == figures


def test_a_missed_target_ends_with_status_1():
    exit_if_missed([Figure(what="speed", value=2.0)])
    with pytest.raises(SystemExit, match="1"):
        exit_if_missed([Figure(what="speed", value=1.0, least=2.0)])


def test_numbers_have_the_digits_that_mean_something():
    assert [number(x) for x in (0, 1234.5, 123.4, 12.34, 1.234, 0.0466, 1e-6)] == [
        "0", "1,234", "123", "12.3", "1.23", "0.0466", "1e-06",
    ]  # fmt: skip


def row(**given):
    return SimpleNamespace(**given)


def attention():
    points = [("dense", "tiled", 2.0), ("dense", "sdpa", 3.0), ("packed", "tiled", 1.0), ("packed", "sdpa", 2.0)]
    points.append(("packed", "sdpa, dense mask", 9.0))
    rows = [
        row(case=case, passes="forward+backward", tokens=tokens, implementation=name, milliseconds=ms)
        for tokens in (512, 1024)
        for case, name, ms in points
    ]
    return [rows, [1.4, 2.2]]


def pretraining():
    rates = {"selective": 30.0, "transformers": 10.0}
    documents = {"arriero, recompute selective, packed": 40.0}
    documents |= {f"transformers eager, padded to the {what}": 10.0 for what in ("row", "longest")}
    return [
        {
            "tokens_per_second": rates,
            "speed_ratio": {"selective": 2.9},
            "range": {"selective": [20.0, 30.0]},
            "peak_bytes": {"selective": 5e9, "transformers": 1e10},
            "matmul_flops": {"onednn": 1e11, "torch": 5e10},
            "model_flops_per_token": 2e9,
            "documents": documents,
        }
    ]


def sft():
    return [
        {
            "tokens_per_second": {"arriero sft": 200.0, "defaults": 100.0},
            "speed_ratio": {"defaults": 2.1},
            "peak_bytes": {"arriero sft": 5e9, "defaults": 1e10},
            "adapter_bytes": {"arriero sft": 1.8e6},
            "held_out_loss": {"arriero sft": 1.50, "defaults": 1.51},
        }
    ]


def ppo():
    ours = {"seconds": 10.0, "peak_bytes": 5e9}
    peer = {"seconds": 21.0, "peak_bytes": 1e10, "speed_ratio": 2.1, "memory_ratio": 0.5}
    return [{"tasks": {"fixed": {"arriero align ppo": ours, "defaults": peer}}}]


def serve():
    from serve import FULL, INT4, LLAMA, TRANSFORMERS, compare

    decode = compare({INT4: [9.0], FULL: [2.0], LLAMA: [6.0], TRANSFORMERS: [2.0]})
    prefix = {INT4: {"cold_s": 2.0, "cached_s": 0.1, "share": 0.05}}
    return [{"decode": decode, "prefix": prefix, "perplexity": {INT4: 10.0, LLAMA: 10.0}}]


def rag_decoding():
    ratios = {"transformers": {"median": 2.0}, "its beam search alone": {"median": 1.5}}
    rates = {"arriero": 2.0, "transformers": 1.0, "its beam search alone": 1.3}
    return [
        {"Sequence, Fast, beam 4": {"questions_per_s": rates, "ratios": ratios}},
        {"BART: Token, greedy": {"per_document": 0.9}},
    ]


def retrieval():
    table = {name: {"mrr": 0.9} for name in ("dense", "bm25", "rank-bm25")}
    speed = {"passages_per_s": {"arriero": 60.0, "sentence-transformers": 30.0}}
    return [{"en": {"table": table}, "zh": {"table": {}}, "speed": speed}]


def index():
    made = {"kind": "text", "size": 10**6, "recall": {"questions": 0.97}, "flat_cpu_ms": 60.0, "hnsw_cpu_ms": 1.5}
    return [[made, {**made, "size": 1000}]]


def reward():
    share = dict.fromkeys(("accuracy", "longer", "shorter"), row(share=0.7, count=200))
    return [row(kind="safety", **share)]


def packed():
    def one(weights, *perplexities):
        return {"model": "m", "weights": weights, "perplexity": list(perplexities)}

    return [[one("int4, compiled", 20.0, 21.0), one("int4, PyTorch", 20.0, 21.0), one("llama.cpp, Q4_1", 21.0)]]


def ghost():
    adherence = [
        {"model": model, "where": "first", "turns": [{"kept": kept, "answers": 6}] * 6}
        for model, kept in (("before", 2), ("after", 5))
    ]
    return [{"adherence": adherence}]


def corpus():
    hashes = {"arriero": 30.0, "rensa": 20.0}
    return [{"web_rules": {"arriero": 9.0, "datatrove": 3.0}, "minhash": hashes}]


def serve_load():
    counts = {"wrong answers": 0, "lost answers": 1}
    return [{"counts": counts, "left_running": 0, "resident_mb": {"quarter": 100.0, "end": 101.0}}]


def tokenizer_training():
    memory = {"peak MB beyond the text": 100, "bytes/token code": 3.0}
    return [
        [{"trainer": "tokenizers", "seconds": 4.0, **memory}, {"trainer": "sentencepiece", "seconds": 6.0, **memory}]
    ]


def ppo_task():
    return [[row(gain=1.2, after={"kl": 5.0}, minutes=14.0), row(gain=0.9, after={"kl": 11.0}, minutes=15.0)]]


def adapters():
    rates = {"tokens_per_second": 9.0, "base_tokens_per_second": 10.0, "ratio": 0.91}
    return [[{"case": "eight adapters, one a row", "bounds": (0.7, None), **rates}]]


def quantised():
    return [{"none": {"layers_mb": 4.0, "perplexity": 10.0}, "nf4": {"layers_mb": 1.0, "perplexity": 11.0},
             "int8": {"layers_mb": 2.0, "perplexity": 10.0}}]  # fmt: skip


def grounding():
    return [
        {
            "right (holds the gold answer)": "25/58 (43%)",
            "sentences supported by another question's passages": "0/0",
        }
    ]


def decode():
    rates = {"arriero": 30.0, "transformers": 20.0}
    return [[{"name": "decode, 1 stream", "tokens_per_second": rates, "ratio": 1.5, "target": 1.1}]]


def behaviour():
    tests = {"words": {"p": 0.01}, "ended": {"p": 0.2}, "brief": {"p": 0.0}}
    return [{"sides": [{}, {"tests": tests}]}]


def tinyshakespeare():
    return [{"model": 1.4, "ngrams": {"5-gram of tokens": 1.5}, "minutes": 16.0}]


EXPECTED = {
    adapters: {"eight adapters, one a row ÷ base": (0.91, True)},
    attention: {
        "dense, 1,024 tokens: PyTorch's time ÷ ours": (1.5, None),
        "packed documents, 1,024 tokens: PyTorch's time with a dense mask ÷ ours": (9.0, None),
        "packed documents, 1,024 tokens: PyTorch's time by document ÷ ours": (2.0, None),
        "memory at twice the length, the greatest factor": (2.2, False),
    },
    behaviour: {
        "200 examples change words of an answer, p": (0.01, True),
        "200 examples change answers that end, p": (0.2, False),
        "200 examples change answers of 40 words at most, p": (0.0, True),
    },
    corpus: {"web rules ÷ datatrove's": (3.0, True), "MinHash ÷ rensa's": (1.5, None)},
    decode: {"decode, 1 stream ÷ transformers": (1.5, True)},
    ghost: {"instruction kept at the last turn, after − before": (0.5, True)},
    grounding: {
        "grounding: right (holds the gold answer)": (2500 / 58, None),
        "grounding: sentences supported by another question's passages": (0.0, None),
    },
    index: {
        "1,000,000 vectors, text: exact search's time ÷ HNSW's": (40.0, None),
        "1,000,000 vectors, text: HNSW's recall@10": (0.97, False),
        "1,000,000 vectors, text: HNSW's time": (1.5, True),
        "1,000 vectors, text: exact search's time ÷ HNSW's": (40.0, None),
        "1,000 vectors, text: HNSW's recall@10": (0.97, None),
    },
    packed: {
        "m, int4: perplexity ÷ full precision": (21 / 20, None),
        "m, int4: perplexity ÷ llama.cpp's Q4_1": (1, None),
    },
    ppo: {
        "PPO, fixed answers: TRL's time ÷ ours": (2.1, True),
        "PPO, fixed answers: peak memory ÷ TRL's": (0.5, True),
    },
    ppo_task: {"PPO, held-out reward": (1.05, True), "PPO, KL": (11.0, False), "PPO, the longest run": (15.0, True)},
    pretraining: {
        "tokens/s ÷ transformers'": (2.9, True),
        "peak memory ÷ transformers'": (0.5, True),
        "model FLOPs ÷ matrix products' by oneDNN": (0.6, False),
        "model FLOPs ÷ matrix products' by PyTorch": (1.2, True),
        "packed ÷ transformers padded to the row": (4.0, True),
        "packed ÷ transformers padded to the longest": (4.0, None),
    },
    quantised: {
        "nf4: layers ÷ fp32": (0.25, None),
        "nf4: perplexity ÷ fp32": (1.1, None),
        "int8: layers ÷ fp32": (0.5, None),
        "int8: perplexity ÷ fp32": (1.0, None),
    },
    rag_decoding: {
        "RAG-Sequence, Fast, beam 4: transformers' time ÷ ours": (2.0, False),
        "RAG-Sequence, Fast, beam 4: transformers' beam search alone ÷ ours": (1.5, None),
        "RAG by BART: Token, greedy: a document of 10 ÷ one of 5": (0.9, True),
    },
    retrieval: {"English, bm25: MRR ÷ rank-bm25": (1.0, None), "encoding ÷ sentence-transformers": (2.0, None)},
    reward: {
        "reward model, safety: held-out accuracy": (70.0, True),
        "reward model, safety: held-out accuracy less two standard errors ÷ the shorter wins": (0.9074, False),
    },
    serve: {
        "decode, 1 stream: int4 ÷ llama.cpp": (1.5, True),
        "decode, 1 stream: int4 ÷ transformers": (4.5, True),
        "decode, 1 stream: full ÷ llama.cpp": (1 / 3, None),
        "decode, 1 stream: full ÷ transformers": (1.0, None),
        "time to first token: cached 1,024 tokens ÷ cold": (0.05, True),
        "perplexity: int4 ÷ llama.cpp": (1.0, True),
    },
    serve_load: {
        "under load: answers wrong, lost or left running": (1, False),
        "under load: memory at the end ÷ after a quarter": (1.01, True),
    },
    sft: {
        "tokens/s ÷ TRL's": (2.1, True),
        "peak memory ÷ TRL's": (0.5, True),
        "adapter": (1.8, True),
        "held-out loss − TRL's": (-0.01, True),
    },
    tinyshakespeare: {
        "nats a character ÷ 5-gram of tokens": (1.4 / 1.5, True),
        "from text to model": (16.0, False),
    },
    tokenizer_training: {
        "a vocabulary trained: sentencepiece's time ÷ ours": (1.5, None),
        "memory beyond the text ÷ sentencepiece's": (1.0, None),
        "bytes/token code ÷ sentencepiece's": (1.0, None),
    },
}


@pytest.mark.parametrize("measured", EXPECTED, ids=lambda made: made.__name__)
def test_a_script_makes_its_figures_of_what_it_measured(measured):
    figures = importlib.import_module(measured.__name__).judge(*measured())
    assert {figure.what: (pytest.approx(figure.value, abs=1e-4), figure.met) for figure in figures} == EXPECTED[
        measured
    ]


def test_the_other_scripts_make_theirs():
    rag, ingest, rejection = (importlib.import_module(name) for name in ("rag", "rag_ingest", "rejection"))
    ranks = {"hybrid": [1, 2, None], "dense": [2, 2, 1], "end-to-end dense": [1, 2, 1]}
    assert [(round(one.value), one.met) for one in rag.judge(ranks)] == [(67, False), (33, True)]
    assert ingest.judge([{"kind": "md", "passages": 30, "seconds": 2.0}])[0].value == 15
    curve = rejection.reward_curve([[1.0, 2.0, 3.0, 4.0]])
    assert dataclasses.is_dataclass(curve)
    assert [one.met for one in rejection.judge({"rule:x": curve})] == [True]
