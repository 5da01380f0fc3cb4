"""Questions a second of RAG's decoding: ours against transformers' `Rag{Token,Sequence}ForGeneration`.

The same random BART (BART-base's dimensions, vocabulary of 50,265), documents and scores given, in one process, in
turns; medians and ratios. No special token is ever written (its bias is −1e9 on both sides), so all answers have the
same number of tokens. transformers decodes RAG-Sequence in the Thorough way alone: ours is set against that in both
ways, and Fast also against the part of it that Fast would need, its beam search over the documents.

Then what documents cost, ten against five, here and by SmolLM2 with and without kept prefixes of documents.

    python benchmarks/rag_decoding.py [--questions 8] [--tokens 16] [--rounds 5] [--threads 1] [--json]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from figures import Figure, as_json, beside, exit_if_missed, print_targets
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch import Tensor

from arriero.common.machine import machine_line
from arriero.model.choices import DEFAULT_MODEL
from arriero.rag.decode import RagAnswer, decode
from arriero.rag.decoding_config import DecodingConfig
from arriero.rag.generator import Generator, RagDocument
from arriero.rag.llama_generator import LlamaGenerator
from arriero.rag.seq2seq_generator import Seq2SeqGenerator

BART = {"d_model": 768, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072, "vocab_size": 50265}
BART |= {"encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12, "decoder_attention_heads": 12}
SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
NEVER = -1e9
WORDS, BEAMS, SEED = 100, 4, 0
K, MORE = 5, 10
SPEED_TARGET, COST_TARGET = 3.0, 1.5
WAYS = {
    "Token, greedy": DecodingConfig(kind="token", decoding="greedy"),
    "Token, beam 4": DecodingConfig(kind="token", decoding="beam", beams=BEAMS),
    "Sequence, Fast, beam 4": DecodingConfig(kind="sequence", decoding="fast", beams=BEAMS),
    "Sequence, Thorough, beam 4": DecodingConfig(kind="sequence", decoding="thorough", beams=BEAMS),
}
Documents = list[list[RagDocument]]


@dataclass(frozen=True)
class Asked:
    """Questions with documents each."""

    questions: list[str]
    documents: Documents


def main() -> None:
    """Measure, print tables or JSON; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("ARRIERO_DATA") or Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="has xquad.en.json (default: %(default)s)")
    parser.add_argument("--questions", type=int, default=8, help="asked together (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=16, help="of each answer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        make_bart(Path(folder), options.data)
        ours = Seq2SeqGenerator.load(folder, device="cpu")
        peers = load_peers(Path(folder))
    speed = measure_speed(ours, peers, options)
    cost = measure_cost("BART", lambda: ours, options)
    for name, kept in (("SmolLM2, nothing kept", 0), ("SmolLM2, documents kept", 2**31)):
        cost |= measure_cost(name, lambda kept=kept: load_llama(kept), options)
    verdicts = judge(speed, cost)
    if options.json:
        print(json.dumps({"machine": machine(), "speed": speed, "cost": cost, "targets": as_json(verdicts)}, indent=2))
    else:
        print_tables(speed, cost, verdicts, options)
    exit_if_missed(verdicts)


def make_bart(folder: Path, data: Path) -> None:
    """Random weights, and a tokenizer of the text that is asked about, as BART marks its ends."""
    torch.manual_seed(SEED)
    config = transformers.BartConfig(**BART, forced_eos_token_id=None)
    model = transformers.BartForConditionalGeneration(config).eval()
    model.final_logits_bias[:, : len(SPECIAL)] = NEVER
    model.save_pretrained(folder)
    paragraphs = [each["context"] for each in read_paragraphs(data)]
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=20_000, special_tokens=list(SPECIAL.values()), show_progress=False)
    tokenizer.train_from_iterator(paragraphs, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(folder)


def load_peers(folder: Path) -> dict[str, Any]:
    """transformers' two models with that BART, and a question encoder that is never run."""
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 8}
    asker = transformers.DPRQuestionEncoder(transformers.DPRConfig(**tiny))
    bart = transformers.BartForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    kinds = {"token": transformers.RagTokenForGeneration, "sequence": transformers.RagSequenceForGeneration}
    return {name: kind(question_encoder=asker, generator=bart, n_docs=K).eval() for name, kind in kinds.items()}


def load_llama(kept: int) -> LlamaGenerator:
    """SmolLM2 whose answers do not end."""
    generator = LlamaGenerator.load(DEFAULT_MODEL, device="cpu", dtype="float32")
    generator.kept.most_bytes, generator.stop_ids = kept, frozenset()
    return generator


def read_paragraphs(data: Path) -> list[dict[str, Any]]:
    """XQuAD's paragraphs with their questions."""
    articles = json.loads((data / "xquad.en.json").read_text("utf-8"))["data"]
    return [paragraph for article in articles for paragraph in article["paragraphs"]]


def ask(data: Path, count: int, k: int, number: int) -> Asked:
    """Questions of one paragraph each: its first 100 words and those of others, with scores like a retriever's.

    Args:
        data: where XQuAD lies.
        count: questions.
        k: documents of each.
        number: which of each paragraph's questions; the documents stay the same.
    """
    paragraphs = read_paragraphs(data)
    texts = [" ".join(each["context"].split()[:WORDS]) for each in paragraphs]
    chance = torch.Generator().manual_seed(SEED)
    asked = Asked([], [])
    for own in range(count):
        others = [i for i in torch.randperm(len(texts), generator=chance).tolist() if i != own][: MORE - 1]
        scores = (8 + 2 * torch.randn(MORE, generator=chance)).sort(descending=True).values.tolist()
        found = [RagDocument(text=texts[i], score=score) for i, score in zip([own, *others], scores, strict=True)]
        qas = paragraphs[own]["qas"]
        asked.questions.append(qas[number % len(qas)]["question"])
        asked.documents.append(found[:k])
    return asked


def measure_speed(ours: Generator, peers: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Each way of decoding by each side, in turns after a first round that is compared and not counted."""
    asked = ask(options.data, options.questions, K, 0)
    given = given_to_peers(ours, asked, options.tokens)
    found = {}
    for name, way in WAYS.items():
        way = replace(way, max_tokens=options.tokens)
        sides: dict[str, Callable[[], Any]] = {
            "arriero": lambda way=way: decode(ours, asked.questions, asked.documents, way),
            "transformers": lambda way=way: answers_of_peer(peers[way.kind], given, way),
        }
        if way.way == "fast":
            sides["its beam search alone"] = lambda way=way: search_of_peer(peers["sequence"], given, way)
        compared = compare(sides["arriero"](), sides["transformers"](), peers[way.kind], given)
        times = take_turns(sides, options.rounds, name)
        found[name] = {**compared, **compare_times(times, options.questions)}
    return found


def given_to_peers(ours: Generator, asked: Asked, tokens: int) -> list[dict[str, Tensor]]:
    """What our side's prompts hold, as the peers take it: one batch a question, as long as its longest document."""
    given = []
    for question, documents in zip(asked.questions, asked.documents, strict=True):
        rows = [torch.tensor(ours.prompt(question, document, reserve=tokens).ids) for document in documents]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)  # (k, S)
        scores = torch.tensor([[document.score for document in documents]])  # (1, k)
        given.append({"context_input_ids": ids, "context_attention_mask": (ids != 1).long(), "doc_scores": scores})
    return given


def together(given: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several questions in one batch."""
    ids = [row for each in given for row in each["context_input_ids"]]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=1)  # (Q·k, S)
    scores = torch.cat([each["doc_scores"] for each in given])  # (Q, k)
    return {"context_input_ids": padded, "context_attention_mask": (padded != 1).long(), "doc_scores": scores}


def answers_of_peer(peer: Any, given: Sequence[dict[str, Tensor]], way: DecodingConfig) -> list[list[int]]:
    """Its best answers, without the token that they start from. RAG-Token knows no `max_new_tokens`."""
    length = {"max_length": way.max_tokens + 1} if way.kind == "token" else {"max_new_tokens": way.max_tokens}
    out = peer.generate(**together(given), **length, num_beams=way.breadth, do_sample=False, n_docs=K)
    answers: list[list[int]] = out[:, 1:].tolist()
    return answers


def search_of_peer(peer: Any, given: Sequence[dict[str, Tensor]], way: DecodingConfig) -> None:
    """The first half of its Thorough Decoding, a question at a time as there."""
    for each in given:
        peer.generator.generate(
            each["context_input_ids"],
            attention_mask=each["context_attention_mask"],
            max_new_tokens=way.max_tokens,
            num_beams=way.breadth,
            num_return_sequences=way.breadth,
            do_sample=False,
        )


def compare(ours: Sequence[RagAnswer], theirs: list[list[int]], peer: Any, given: Sequence[dict[str, Tensor]]) -> dict:
    """Questions with the same answer, and how far log p(y|x) of ours is from what the peer's loss says of them."""
    own = [list(answer.best.ids) for answer in ours]
    scores = [answer.best.logprob for answer in ours]
    same = [log_likelihood(peer, each, y) for each, y in zip(given, own, strict=True)]
    other = [log_likelihood(peer, each, y) for each, y in zip(given, theirs, strict=True)]
    return {
        "same": sum(a == b for a, b in zip(own, theirs, strict=True)),
        "questions": len(own),
        "lengths_equal": all(len(a) == len(b) for a, b in zip(own, theirs, strict=True)),
        "score_difference": max(abs(a - b) for a, b in zip(scores, same, strict=True)),
        "gain": [a - b for a, b in zip(scores, other, strict=True)],  # of our answer's log p(y|x) over theirs
    }


@torch.inference_mode()
def log_likelihood(peer: Any, given: dict[str, Tensor], y: Sequence[int]) -> float:
    """log p(y|x) by the peer's own loss, which wants the token that starts an answer before it."""
    labels = torch.tensor([[peer.config.generator.decoder_start_token_id, *y]])
    return -float(peer(**given, labels=labels, n_docs=K, reduce_loss=True).loss)


def measure_cost(name: str, load: Callable[[], Generator], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of ten documents over those of five: one question after another about the same documents."""
    generator = load()
    found = {}
    for way_name, way in WAYS.items():
        way = replace(way, max_tokens=options.tokens)
        times: dict[int, list[float]] = {K: [], MORE: []}
        for number in range(options.rounds + 1):  # the first round warms up, and fills what is kept
            for k, own in times.items():
                asked = ask(options.data, options.questions, k, number)
                took = seconds(lambda asked=asked, way=way: decode(generator, asked.questions, asked.documents, way))
                if number:
                    own.append(took)
        medians = {k: statistics.median(own) for k, own in times.items()}
        print(f"{name}, {way_name}: {medians}", file=sys.stderr)
        per_document = statistics.median(b / MORE / (a / K) for a, b in zip(*times.values(), strict=True))
        rates = {str(k): options.questions / median for k, median in medians.items()}
        found[f"{name}: {way_name}"] = {"questions_per_s": rates, "per_document": per_document}
    return found


def take_turns(sides: dict[str, Callable[[], Any]], rounds: int, name: str) -> dict[str, list[float]]:
    """Seconds of each side, in an order that turns round from one round to the next."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in list(sides)[:: 1 if number % 2 else -1]:
            times[side].append(seconds(sides[side]))
        print(f"{name}: " + ", ".join(f"{side} {own[-1]:.2f} s" for side, own in times.items()), file=sys.stderr)
    return times


def compare_times(times: dict[str, list[float]], questions: int) -> dict[str, Any]:
    """Questions a second of each side, and how many times longer than ours each took."""
    made: dict[str, Any] = {"questions_per_s": {}, "ratios": {}}
    for side, own in times.items():
        made["questions_per_s"][side] = questions / statistics.median(own)
        if side != "arriero":
            ratios = [a / b for a, b in zip(own, times["arriero"], strict=True)]
            made["ratios"][side] = {"median": statistics.median(ratios), "range": [min(ratios), max(ratios)]}
    return made


def seconds(work: Callable[[], object]) -> float:
    """Time of one call: the processor's with one thread, which other processes hardly disturb, else the clock's."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def judge(speed: dict[str, Any], cost: dict[str, Any]) -> list[Figure]:
    """Each target and what was measured."""
    made = []
    for name, row in speed.items():
        for side, ratio in row["ratios"].items():
            rates = (row["questions_per_s"]["arriero"], row["questions_per_s"][side])
            what = f"RAG-{name}: transformers' {'time' if side == 'transformers' else 'beam search alone'} ÷ ours"
            least = SPEED_TARGET if side == "transformers" and "Thorough" not in name else None
            made.append(beside(what, *rates, "transformers", "questions/s", value=ratio["median"], least=least))
    for name, row in cost.items():
        what = f"RAG by {name}: a document of {MORE} ÷ one of {K}"
        made.append(Figure(what=what, value=row["per_document"], most=COST_TARGET))
    return made


def machine() -> str:
    """Processor, threads and versions, in one line."""
    return f"{machine_line(torch.device('cpu'))}, transformers {transformers.__version__}, float32"


def print_tables(speed: dict[str, Any], cost: dict[str, Any], verdicts: list[Figure], options: Any) -> None:
    """The results as Markdown."""
    print(f"{machine()}; {options.questions} questions, {options.tokens} tokens an answer\n")
    heads = (f"k = {K}", "arriero, questions/s", "other side", "its questions/s", "ratio (range)", "same answers")
    print(f"| {' | '.join(heads)} | log p(y\\|x) differs by |\n{'|---' * 7}|")
    for name, row in speed.items():
        for side, ratio in row["ratios"].items():
            rates, (low, high) = row["questions_per_s"], ratio["range"]
            same = f"{row['same']} of {row['questions']}" if side == "transformers" else "–"
            print(
                f"| {name} | {rates['arriero']:.2f} | {side} | {rates[side]:.2f} | {ratio['median']:.2f} "
                f"({low:.2f}–{high:.2f}) | {same} | {row['score_difference']:.1e} |"
            )
    print(f"\n| | questions/s, k = {K} | k = {MORE} | time a document, {MORE} ÷ {K} |\n|---|---|---|---|")
    for name, row in cost.items():
        rates = row["questions_per_s"]
        print(f"| {name} | {rates[str(K)]:.2f} | {rates[str(MORE)]:.2f} | {row['per_document']:.2f} |")
    print_targets(verdicts)


if __name__ == "__main__":
    main()
