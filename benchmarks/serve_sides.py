"""arriero and transformers as sides of `serve.py`: a process that decodes and scores what it is sent.

Each line of standard input is one work as JSON, each line of output its result, as in `serve_llama.py`.

    python benchmarks/serve_sides.py arriero|transformers MODEL --threads 2 [--weights int4]
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

Work = Callable[..., dict[str, Any]]


class Watch:
    """Seconds since it was made, by the clock and of this process's processors; `first` is marked once."""

    def __init__(self) -> None:
        self.began, self.began_cpu = time.perf_counter(), time.process_time()
        self.first: dict[str, float] = {}

    def mark_first(self) -> None:
        """All rows have their first token now."""
        if not self.first:
            wall, cpu = time.perf_counter() - self.began, time.process_time() - self.began_cpu
            self.first = {"first": wall, "first_cpu": cpu}

    def stop(self) -> dict[str, float]:
        """Everything is there now."""
        wall, cpu = time.perf_counter() - self.began, time.process_time() - self.began_cpu
        return {**self.first, "whole": wall, "whole_cpu": cpu}


class ArrieroSide:
    """An engine, and a `Live` over it, with which the server decodes; one for each count of speculated tokens."""

    def __init__(self, model: str, weights: str) -> None:
        from arriero.generate.engine import Engine
        from arriero.generate.live import Live

        self.engine = Engine.load(model, device="cpu", dtype="float32", weights=weights)
        self.lives = {0: Live(self.engine)}

    def decode(
        self, prompts: Sequence[list[int]], tokens: int, *, way: str = "live", lookup: int = 0
    ) -> dict[str, Any]:
        """Continue all prompts together, greedily.

        Args:
            prompts: token ids.
            tokens: as many for each; nothing ends an answer early.
            way: "live", or "engine", whose first tokens are not timed.
            lookup: tokens speculated a step by prompt lookup; 0: none.
        """
        from arriero.generate.engine import Completion, Delta, Request, SamplingConfig

        live, sampling = self._live(lookup), SamplingConfig(max_tokens=tokens, stop_ids=())
        requests = [Request(prompt_ids=prompt, sampling=sampling) for prompt in prompts]
        watch = Watch()
        if way == "engine":
            completions = self.engine.generate(requests)
            return {"ids": [each.ids for each in completions], **watch.stop()}
        left, begun, done = len(requests), set(), threading.Event()
        answers: dict[int, Completion] = {}
        failures: list[BaseException] = []

        def listen(row: int, delta: Delta | BaseException) -> None:
            nonlocal left
            if isinstance(delta, BaseException):
                failures.append(delta)
                done.set()
                return
            begun.add(row)
            if len(begun) == len(requests):
                watch.mark_first()
            if delta.completion is not None:
                answers[row] = delta.completion
                left -= 1
                if not left:
                    done.set()

        for row, request in enumerate(requests):
            live.submit(request, lambda delta, row=row: listen(row, delta))
        done.wait()
        if failures:
            raise failures[0]
        return {"ids": [answers[row].ids for row in range(len(requests))], **watch.stop()}

    def _live(self, lookup: int) -> Any:
        """The one that speculates so many tokens; all have one model, and one of them works at a time."""
        from arriero.generate.engine import Engine
        from arriero.generate.live import Live

        if lookup not in self.lives:
            engine = self.engine
            speculating = Engine(engine.model, engine.tokenizer, context=engine.context, speculate=lookup)
            self.lives[lookup] = Live(speculating)
        return self.lives[lookup]

    def score(self, windows: Sequence[list[int]]) -> dict[str, Any]:
        """The negative log-likelihood, in nats, of each window's tokens but the first, as requests are told it."""
        from arriero.generate.engine import Request, SamplingConfig

        total = 0.0
        for window in windows:
            request = Request(prompt_ids=window, sampling=SamplingConfig(max_tokens=1), prompt_logprobs=0)
            (completion,) = self._live(0).generate([request])
            total -= sum(each.logprob for each in completion.prompt_logprobs[1:])
        return {"nll": total}


class TransformersSide:
    """The same weights in transformers, in float32, stop tokens off."""

    def __init__(self, model: str) -> None:
        import transformers

        from arriero.model.formats.hf import save_hf
        from arriero.model.source import load_model

        transformers.utils.logging.set_verbosity_error()
        with tempfile.TemporaryDirectory() as folder:
            save_hf(load_model(model, device="cpu", dtype="float32").model, Path(folder))
            self.model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def decode(self, prompts: Sequence[list[int]], tokens: int) -> dict[str, Any]:
        """Continue all prompts, of one length, in one batch, greedily."""
        batch = torch.tensor(prompts)  # (B, T)
        watch = Watch()

        def look(ids: torch.Tensor, _scores: object) -> torch.Tensor:
            watch.mark_first()
            return torch.zeros(len(ids), dtype=torch.bool)

        out = self.model.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            do_sample=False,
            max_new_tokens=tokens,
            stopping_criteria=[look],
        )
        return {"ids": out[:, batch.shape[1] :].tolist(), **watch.stop()}

    @torch.inference_mode()
    def score(self, windows: Sequence[list[int]]) -> dict[str, Any]:
        """The negative log-likelihood, in nats, of each window's tokens but the first."""
        total = 0.0
        for window in windows:
            ids = torch.tensor([window])  # (1, T)
            total += float(self.model(ids, labels=ids).loss) * (len(window) - 1)
        return {"nll": total}


def tell() -> dict[str, Any]:
    """The machine and the versions, in one line."""
    import transformers

    from arriero.common.machine import machine_line

    return {"version": f"{machine_line(torch.device('cpu'))}, transformers {transformers.__version__}"}


def serve(works: dict[str, Work], out: TextIO) -> None:
    """Do what each line of standard input asks for."""
    for line in sys.stdin:
        asked = json.loads(line)
        out.write(json.dumps(works[asked.pop("work")](**asked)) + "\n")
        out.flush()


def main() -> None:
    """Load the model and serve until standard input ends; what libraries print goes to the error stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["arriero", "transformers"])
    parser.add_argument("model", help="model source")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--weights", default="full", help="of arriero: full, int8 or int4 (default: %(default)s)")
    options = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(options.threads)
    transformers_side = options.side == "transformers"
    side = TransformersSide(options.model) if transformers_side else ArrieroSide(options.model, options.weights)
    serve({"decode": side.decode, "score": side.score, "tell": tell}, out)


if __name__ == "__main__":
    main()
