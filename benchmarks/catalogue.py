"""All benchmarks that `run.py` runs: area, arguments, peer, data, and why a target is missed or not measured.

In arguments `{data}` is the folder of data, and `{keep}` one in which a benchmark that was stopped goes on.
A quick run has fewer repeats and cases; where so little would say nothing, there is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

AREAS = {
    "attention": "Attention",
    "pretraining": "Pretraining",
    "tokenizer": "Tokenizer",
    "corpus": "Corpus",
    "fine-tuning": "Fine-tuning",
    "adapters": "Adapters and packed weights",
    "serving": "Decoding and serving",
    "alignment": "Alignment",
    "retrieval": "Retrieval and RAG",
}
XQUAD, CHINESE, PLAYS = "xquad.en.json", "xquad.zh.json", "tinyshakespeare.txt"
CHATS, HELPFUL, HARMLESS = "demonstrations.jsonl.gz", "helpful_pairs_dev.jsonl.gz", "hh_harmless_dev.jsonl.gz"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A script, and how it is run."""

    name: str
    """Of the script, without its ending."""
    area: str
    section: str
    """How the heading of its section in RESULTS.md begins."""
    full: str
    """Arguments; `--json` and `--threads` are added."""
    quick: str | None
    minutes: tuple[float, float]
    """About as long it takes, full and quick, on one processor."""
    peer: str = ""
    """Its environment in `peers.py`; empty where the peers are in arriero's own, or there is none."""
    peer_option: str = ""
    """What names that environment's Python; without it the script measures arriero alone."""
    alone: bool = True
    """Whether it measures something without that environment."""
    data: tuple[str, ...] = ()
    """Files of the folder of data that it needs."""
    threads: bool = True
    """Whether it takes `--threads`."""
    versions: tuple[str, ...] = ()
    """Packages of arriero's own environment whose versions matter."""
    explained: Mapping[str, str] = field(default_factory=dict)
    """Why a target is missed, by how the figure's name begins."""
    unmeasured: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Figures with a target that no kept result has: what is wanted, and why they are not there."""


BENCHMARKS = (
    Benchmark(
        name="attention",
        area="attention",
        section="Attention on a CPU",
        full="",
        quick="--lengths 512 1024 2048 --growth-to 8192 --repeats 3",
        minutes=(6, 1),
    ),
    Benchmark(
        name="pretraining",
        area="pretraining",
        section="Pretraining",
        full="--repeats 4",
        quick="--repeats 1 --beside",
        minutes=(14, 4),
        versions=("transformers",),
        explained={
            "tokens/s": "on Zen 4, where oneDNN is no faster than MKL; on Zen 5 twice as fast",
            "peak memory": "`--recompute full` meets it, at 1.59 times transformers' speed",
            "model FLOPs ÷ matrix products' by oneDNN": "a quarter of a step is attention, with 5% of the FLOPs",
        },
    ),
    Benchmark(
        name="tinyshakespeare",
        area="pretraining",
        section="A small model beside n-grams",
        full="--data {data}",
        quick=None,
        minutes=(22, 0),
        data=(PLAYS,),
        threads=False,
        explained={"from text to model": "by the clock of a shared machine; 10.6 minutes of two processors"},
    ),
    Benchmark(
        name="tokenizer_training",
        area="tokenizer",
        section="Training a tokenizer",
        full="--data {data}",
        quick="--data {data} --repeats 1",
        minutes=(3, 1.5),
        data=(PLAYS, CHINESE),
        threads=False,
        versions=("tokenizers", "sentencepiece"),
    ),
    Benchmark(
        name="corpus",
        area="corpus",
        section="Corpus",
        full="",
        quick="--megabytes 2 --repeats 1",
        minutes=(5, 2),
        peer="hashes",
        data=("corpus",),
        threads=False,
        versions=("datatrove", "rensa"),
    ),
    Benchmark(
        name="sft",
        area="fine-tuning",
        section="Fine-tuning",
        full="--data {data}/demonstrations.jsonl.gz --steps 4",
        quick="--data {data}/demonstrations.jsonl.gz --steps 2 --rounds 1",
        minutes=(20, 6),
        peer="TRL",
        peer_option="--peer-python",
        alone=False,
        data=(CHATS,),
        explained={"peak memory": "measured before micro-batches became smaller; a quick run since then had 0.55"},
        unmeasured={"held-out loss − TRL's": ("≤ 0.005", "an epoch of TRL takes hours here (`--epoch`)")},
    ),
    Benchmark(
        name="behaviour",
        area="fine-tuning",
        section="Behaviour after fine-tuning",
        full="--data {data}/demonstrations.jsonl.gz",
        quick=None,
        minutes=(40, 0),
        data=(CHATS,),
    ),
    Benchmark(
        name="adapters",
        area="adapters",
        section="Decoding with adapters",
        full="--tokens 32 --repeats 7",
        quick="--tokens 16 --repeats 2",
        minutes=(8, 2),
        explained={"one merged": "the same products, so no faster in truth; how a copy lies in memory is a guess"},
    ),
    Benchmark(
        name="quantised",
        area="adapters",
        section="Quantised base",
        full="--windows 16",
        quick="--windows 8 --repeats 1",
        minutes=(6, 2),
    ),
    Benchmark(
        name="packed",
        area="adapters",
        section="Packed weights",
        full="--data {data} --windows 32",
        quick="--data {data} --windows 8 --steps 60",
        minutes=(12, 4),
        peer="llama.cpp",
        peer_option="--peer-python",
        data=(PLAYS, XQUAD),
    ),
    Benchmark(
        name="decode",
        area="serving",
        section="Decoding: ",
        full="--repeats 7",
        quick="--tokens 32 --repeats 2",
        minutes=(6, 1.5),
        versions=("transformers",),
        explained={"decode": "on Zen 4, where oneDNN is no faster than MKL; on Zen 5 twice as fast"},
    ),
    Benchmark(
        name="serve",
        area="serving",
        section="Serving: ",
        full="--rounds 2",
        quick="--rounds 1 --cases decode,prefill",
        minutes=(25, 3),
        peer="llama.cpp",
        peer_option="--llama-python",
        versions=("transformers",),
        explained={
            "decode, 1 stream: full": "float32 reads 538 MB a token, as transformers does; the file has 98",
            "prefill of 1,024 tokens: full ÷ transformers": "beside other work; alone, 512 tokens had 1.81 (decode.py)",
            "16 parallel requests: full ÷ llama.cpp": "float32 weights beside 4 bits",
        },
    ),
    Benchmark(
        name="serve_load",
        area="serving",
        section="Load: ",
        full="",
        quick="--seconds 30 --clients 16 --cases 16",
        minutes=(7, 2),
        threads=False,
    ),
    Benchmark(
        name="ppo",
        area="alignment",
        section="PPO beside TRL",
        full="--data {data}/demonstrations.jsonl.gz",
        quick="--data {data}/demonstrations.jsonl.gz --tasks fixed --steps 1 --rounds 1",
        minutes=(50, 5),
        peer="TRL with PPO",
        peer_option="--peer-python",
        alone=False,
        data=(CHATS,),
    ),
    Benchmark(
        name="ppo_task",
        area="alignment",
        section="PPO on a task with a true answer",
        full="--prompts {data}/demonstrations.jsonl.gz --watch rule:readable --keep {keep}",
        quick=None,
        minutes=(60, 0),
        data=(CHATS,),
        threads=False,
    ),
    Benchmark(
        name="reward",
        area="alignment",
        section="Reward models",
        full="--helpful {data}/helpful_pairs_dev.jsonl.gz --harmless {data}/hh_harmless_dev.jsonl.gz --keep {keep}",
        quick=None,
        minutes=(45, 0),
        data=(HELPFUL, HARMLESS),
        threads=False,
        explained={"reward model, helpfulness": "the judge goes by length: 1,471 comparisons hardly beat the rule"},
    ),
    Benchmark(
        name="rejection",
        area="alignment",
        section="The best of K answers",
        full="--data {data}/helpful_pairs_dev.jsonl.gz --rewards rule:concise rule:readable",
        quick="--data {data}/helpful_pairs_dev.jsonl.gz --rewards rule:concise rule:readable --prompts 4 --samples 8 "
        "--max-tokens 64 --temperatures 1.0",
        minutes=(25, 2),
        data=(HELPFUL,),
        threads=False,
    ),
    Benchmark(
        name="ghost",
        area="alignment",
        section="Ghost Attention",
        full="--keep {keep}",
        quick=None,
        minutes=(40, 0),
    ),
    Benchmark(
        name="retrieval",
        area="retrieval",
        section="Retrieval: ",
        full="--data {data}",
        quick="--data {data} --repeats 1",
        minutes=(2, 1),
        data=(XQUAD, CHINESE),
        versions=("sentence-transformers", "faiss-cpu", "rank-bm25"),
    ),
    Benchmark(
        name="grounding",
        area="retrieval",
        section="Grounding: ",
        full="--data {data}",
        quick="--data {data} --questions 15",
        minutes=(3, 2),
        data=(XQUAD,),
        threads=False,
    ),
    Benchmark(
        name="index",
        area="retrieval",
        section="Index: ",
        full="--sizes 20000 100000 200000",
        quick="--sizes 20000",
        minutes=(8, 1),
        threads=False,
        versions=("faiss-cpu",),
        unmeasured={
            "1,000,000 vectors, text: HNSW's recall@10": ("≥ 0.98", "it needs what `vectors.py` writes"),
            "1,000,000 vectors, text: HNSW's time": ("≤ 2", "it needs what `vectors.py` writes"),
        },
    ),
    Benchmark(
        name="rag",
        area="retrieval",
        section="RAG end to end",
        full="--data {data} --keep {keep} --limit 168",
        quick="--data {data} --keep {keep} --stage measure",
        minutes=(90, 1),
        data=(XQUAD,),
        threads=False,
    ),
    Benchmark(
        name="rag_ingest",
        area="retrieval",
        section="Ingest: ",
        full="--passages 200 --rounds 1",
        quick="--passages 50 --rounds 1",
        minutes=(4, 2),
        threads=False,
    ),
    Benchmark(
        name="rag_decoding",
        area="retrieval",
        section="RAG decoding",
        full="--data {data} --questions 4 --rounds 3",
        quick="--data {data} --questions 2 --tokens 8 --rounds 1",
        minutes=(30, 6),
        data=(XQUAD,),
        versions=("transformers",),
        explained={"RAG-Token": "encoding the documents, the same arithmetic on both sides, is half of our time"},
    ),
)
BY_NAME = {one.name: one for one in BENCHMARKS}
