"""llama.cpp as a side of `serve.py`: a process that decodes and scores what it is sent, by the low-level API.

`serve.py` starts it with an interpreter that has llama-cpp-python and NumPy; nothing of arriero is imported. Each line
of standard input is one work as JSON, each line of output its result. Every prompt is a sequence of its own, all
prompts are read by one call (in `n_ubatch` pieces), and each further call decodes one token of every sequence. The
likeliest token is found by NumPy, over all rows at once; what that takes is told as `pick`.

    python benchmarks/serve_llama.py MODEL.gguf --threads 2
"""

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import llama_cpp
import numpy as np

SEQUENCES = 16
CONTEXT = 512
"""Tokens of each sequence where there are several."""
LONGEST = 2048
"""Tokens of a sequence alone, and of one call."""


class LlamaSide:
    """One model with a context for a sequence alone, and one for many."""

    def __init__(self, path: str, threads: int) -> None:
        self.threads = threads
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), settings)
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.one, self.many = self._open(1, LONGEST), self._open(SEQUENCES, SEQUENCES * CONTEXT)
        self.batch = llama_cpp.llama_batch_init(LONGEST, 0, 1)

    def _open(self, sequences: int, tokens: int) -> Any:
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max, settings.n_batch = tokens, sequences, LONGEST
        settings.n_threads = settings.n_threads_batch = self.threads
        return llama_cpp.llama_init_from_model(self.model, settings)

    def decode(self, prompts: Sequence[Sequence[int]], tokens: int) -> dict[str, Any]:
        """Continue all prompts together, greedily, each by as many tokens; nothing ends an answer early."""
        context = self.one if len(prompts) == 1 else self.many
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        begun, begun_cpu, pick = time.perf_counter(), time.process_time(), 0.0
        rows = [(row, list(prompt), 0) for row, prompt in enumerate(prompts)]
        answers: list[list[int]] = [[] for _ in prompts]
        for step in range(tokens):
            logits = self._run(context, rows, whole=False)  # (rows, V)
            picking = time.perf_counter()
            ids = logits.argmax(axis=1)
            pick += time.perf_counter() - picking
            for answer, each in zip(answers, ids, strict=True):
                answer.append(int(each))
            if step == 0:
                first, first_cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
            rows = [(row, [answers[row][-1]], len(prompt) + step) for row, prompt in enumerate(prompts)]
        whole, whole_cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
        times = {"first": first, "first_cpu": first_cpu, "whole": whole, "whole_cpu": whole_cpu, "pick": pick}
        return {"ids": answers, **times}

    def score(self, windows: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The negative log-likelihood, in nats, of each window's tokens but the first."""
        total = 0.0
        for window in windows:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.one), True)
            logits = self._run(self.one, [(0, list(window), 0)], whole=True)[:-1]  # (T − 1, V)
            top = logits.max(axis=1)
            norms = top + np.log(np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64))  # (T − 1,)
            total += float((norms - logits[np.arange(len(norms)), list(window[1:])]).sum())
        return {"nll": total}

    def _run(self, context: Any, rows: Sequence[tuple[int, list[int], int]], *, whole: bool) -> np.ndarray:
        """Logits of each row's last token, or of every token, after tokens that start at a position."""
        batch, at = self.batch, 0
        for row, tokens, start in rows:
            for offset, token in enumerate(tokens):
                batch.token[at], batch.pos[at] = token, start + offset
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
                batch.logits[at] = whole or offset == len(tokens) - 1
                at += 1
        batch.n_tokens = at
        if status := llama_cpp.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode gave {status}")
        count = at if whole else len(rows)
        pointer = ctypes.cast(llama_cpp.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, shape=(count, self.vocab))

    def tell(self) -> dict[str, Any]:
        """Versions, and what the library was built for."""
        built = llama_cpp.llama_print_system_info().decode()
        return {"version": f"llama-cpp-python {llama_cpp.__version__}", "built": built}


def serve(works: dict[str, Callable[..., dict[str, Any]]], out: TextIO) -> None:
    """Do what each line of standard input asks for."""
    for line in sys.stdin:
        asked = json.loads(line)
        out.write(json.dumps(works[asked.pop("work")](**asked)) + "\n")
        out.flush()


def main() -> None:
    """Load the model and serve until standard input ends; what the library prints goes to the error stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    side = LlamaSide(options.model, options.threads)
    serve({"decode": side.decode, "score": side.score, "tell": side.tell}, out)


if __name__ == "__main__":
    main()
