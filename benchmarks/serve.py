"""Serving beside its peers: llama.cpp (llama-cpp-python, the same GGUF file) and transformers (the same weights).

Each side is a process of its own (`serve_sides.py`, `serve_llama.py`) that waits while another works. They take turns
in rounds, every round with fresh text of the Python language reference, in an order that turns round; the first round
warms up and is not counted. A ratio is the median of the rounds' own ratios, so that a drifting speed of the machine
hits both sides. Decoding is greedy, and stop tokens are off. With `--threads 1` times are those of the processor, which
other processes hardly disturb.

    python benchmarks/serve.py --llama-python /path/to/python [--rounds 5] [--cases decode,prefill] [--json]

`--llama-python` is an interpreter that has llama-cpp-python, built on this machine:

    python3 -m venv llama && llama/bin/pip install --no-binary llama-cpp-python llama-cpp-python
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import Figure, as_json, beside, exit_if_missed, print_targets

INT4, FULL, ENGINE = "arriero int4", "arriero full", "arriero int4, Engine"
LLAMA, TRANSFORMERS = "llama.cpp", "transformers"
SIDES = (INT4, FULL, LLAMA, TRANSFORMERS)
LOOKUP = 8
PREFIX, SUFFIX = 1024, 16
WINDOW, WINDOWS = 512, 16
FREE = "Write a long story about a llama who crosses the mountains with chapter {number} of a book in its saddle bag."
QUOTING = "Repeat the following text word for word:\n\n{passage}"
Times = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Case:
    """One load, and the least ratios of int4's rate to the peers' that are wanted."""

    title: str
    rows: int
    prompt: int
    """Tokens of each prompt."""
    tokens: int
    """Tokens generated a row."""
    targets: dict[str, float]

    def rate(self, times: dict[str, Any], clock: str) -> float:
        """Tokens a second: of the prompt; of one answer, after its first token; of all answers, prompts read."""
        if self.tokens == 1:
            return self.rows * self.prompt / times["whole" + clock]
        if self.rows == 1:
            return (self.tokens - 1) / (times["whole" + clock] - times["first" + clock])
        return self.rows * self.tokens / times["whole" + clock]


CASES = {
    "decode": Case("decode, 1 stream", 1, 64, 128, {LLAMA: 1.0, TRANSFORMERS: 4.0}),
    "prefill": Case("prefill of 1,024 tokens", 1, 1024, 1, {LLAMA: 2.0}),
    "parallel": Case("16 parallel requests", 16, 64, 128, {LLAMA: 1.5, TRANSFORMERS: 2.5}),
    "short": Case("the same, prompts of 4 tokens", 16, 4, 128, {}),
}
OTHERS = ("prefix", "perplexity", "lookup")


class Side:
    """A process that works when it is told to."""

    def __init__(self, name: str, command: Sequence[str | Path], threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        if name in (INT4, FULL):
            environment.setdefault("GOMP_SPINCOUNT", "1000")  # as the `arriero` command sets it
        self.name = name
        self.process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def do(self, work: str, **given: Any) -> dict[str, Any]:
        """The result of one work."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"work": work, **given}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self.process.wait()} at its work '{work}'")
        result: dict[str, Any] = json.loads(line)
        return result

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


class Text:
    """Tokens that no round has seen before."""

    def __init__(self, model: str) -> None:
        from pydoc_data.topics import topics

        from arriero.model.source import load_model

        self.tokenizer = load_model(model, device="cpu").tokenizer
        self.ids = self.tokenizer.encode("\n\n".join(topics.values()))
        self.at = 0

    def take(self, rows: int, length: int) -> list[list[int]]:
        """The next stretches of the text."""
        if self.at + rows * length > len(self.ids):
            raise SystemExit(f"the text of {len(self.ids)} tokens is used up: fewer --rounds or --cases")
        starts = range(self.at, self.at + rows * length, length)
        self.at += rows * length
        return [self.ids[start : start + length] for start in starts]

    def chat(self, content: str) -> list[int]:
        """A chat's prompt."""
        return self.tokenizer.encode_chat([{"role": "user", "content": content}])


def main() -> None:
    """Measure, print tables or JSON; exit 1 if a target is missed."""
    options = parse(sys.argv[1:])
    text = Text(options.model)
    sides = open_sides(options)
    try:
        told = {name: side.do("tell") for name, side in sides.items()}
        found: dict[str, Any] = {}
        for name in options.cases:
            found[name] = measure(name, sides, text, options)
            print(f"{name}: {json.dumps(found[name].get('medians', found[name]))}", file=sys.stderr)
    finally:
        for side in sides.values():
            side.close()
    verdicts = judge(found)
    if options.json:
        print(json.dumps({"told": told, "results": found, "targets": as_json(verdicts)}, indent=2))
    else:
        print_tables(told, found, verdicts, options)
    exit_if_missed(verdicts)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a GGUF file's source (default: %(default)s)")
    parser.add_argument("--llama-python", default=os.environ.get("LLAMA_PYTHON"), help="default: $LLAMA_PYTHON")
    parser.add_argument("--rounds", type=int, default=5, help="counted turns of each side (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of each side (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--cases", default=",".join((*CASES, *OTHERS)), help="default: %(default)s")
    parser.add_argument("--sides", default=",".join(SIDES), help="default: %(default)s")
    options = parser.parse_args(argv)
    for name, known in (("cases", (*CASES, *OTHERS)), ("sides", SIDES)):
        asked = getattr(options, name).split(",")
        if unknown := set(asked) - set(known):
            parser.error(f"--{name}: expected some of {', '.join(known)}, not {', '.join(unknown)}")
        setattr(options, name, asked)
    return options


def open_sides(options: argparse.Namespace) -> dict[str, Side]:
    """The sides that are asked for and that this machine has."""
    from arriero.model.source import resolve

    here, threads = Path(__file__).parent, ["--threads", str(options.threads)]
    ours = [sys.executable, here / "serve_sides.py"]
    commands: dict[str, list[str | Path]] = {
        INT4: [*ours, "arriero", options.model, *threads, "--weights", "int4"],
        FULL: [*ours, "arriero", options.model, *threads],
        TRANSFORMERS: [*ours, "transformers", options.model, *threads],
    }
    if LLAMA in options.sides:
        path = resolve(options.model)
        if why := missing_llama(options.llama_python, path):
            print(f"llama.cpp is left out: {why}", file=sys.stderr)
        else:
            commands[LLAMA] = [options.llama_python, here / "serve_llama.py", path, *threads]
    return {name: Side(name, commands[name], options.threads) for name in options.sides if name in commands}


def missing_llama(python: str | None, path: Path) -> str | None:
    """Why llama.cpp can't take part, if so."""
    if python is None:
        return "no --llama-python was given"
    if path.suffix != ".gguf":
        return f"{path} is no GGUF file"
    tried = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True)
    return f"{python} has no llama_cpp" if tried.returncode else None


def measure(name: str, sides: dict[str, Side], text: Text, options: argparse.Namespace) -> dict[str, Any]:
    """One case's figures."""
    clock = "_cpu" if options.threads == 1 else ""
    if name == "prefix":
        return measure_prefix(sides, text, options.rounds, clock)
    if name == "perplexity":
        return measure_perplexity(sides, text)
    if name == "lookup":
        return measure_lookup(sides, text, options.rounds, clock)
    return measure_case(name, sides, text, options.rounds, clock)


def measure_case(name: str, sides: dict[str, Side], text: Text, rounds: int, clock: str) -> dict[str, Any]:
    """Rates of all sides, medians, ratios, and rows whose tokens are transformers'."""
    case, ways = CASES[name], {side: {} for side in sides}
    if case.rows > 1 and INT4 in sides:
        ways[ENGINE] = {"way": "engine"}
    times: Times = {side: [] for side in ways}
    equal = 0
    for number in range(rounds + 1):
        prompts, ids = text.take(case.rows, case.prompt), {}
        for side in list(ways)[:: 1 if number % 2 else -1]:
            given = {"prompts": prompts, "tokens": case.tokens, **ways[side]}
            done = sides[INT4 if side == ENGINE else side].do("decode", **given)
            ids[side] = done.pop("ids")
            if number:
                times[side].append(done)
        if number and FULL in ids and TRANSFORMERS in ids:
            equal += sum(a == b for a, b in zip(ids[FULL], ids[TRANSFORMERS], strict=True))
    rates = {side: [case.rate(each, clock) for each in own] for side, own in times.items()}
    found = compare(rates)
    if FULL in sides and TRANSFORMERS in sides:
        found["equal_rows"] = [equal, case.rows * rounds]
    if LLAMA in times:
        found["llama_pick_share"] = statistics.median(each["pick"] / each["whole"] for each in times[LLAMA])
    return found


def compare(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and the median and range of the rounds' ratios of each of our ways to each peer."""
    ratios: dict[str, dict[str, dict[str, float]]] = {}
    for own in (side for side in rates if side not in (LLAMA, TRANSFORMERS)):
        ratios[own] = {}
        for peer in (side for side in (LLAMA, TRANSFORMERS) if side in rates):
            each = [a / b for a, b in zip(rates[own], rates[peer], strict=True)]
            ratios[own][peer] = {"median": statistics.median(each), "least": min(each), "most": max(each)}
    return {"medians": {side: statistics.median(each) for side, each in rates.items()}, "ratios": ratios}


def measure_prefix(sides: dict[str, Side], text: Text, rounds: int, clock: str) -> dict[str, Any]:
    """Seconds to the first token after a prefix that is new, and after the same one with another end."""
    found: dict[str, Any] = {}
    for name in (name for name in (INT4, FULL) if name in sides):
        cold, cached = [], []
        for number in range(rounds + 1):
            ((*prefix,),) = text.take(1, PREFIX)
            for times in (cold, cached):
                done = sides[name].do("decode", prompts=[prefix + text.take(1, SUFFIX)[0]], tokens=1)
                if number:
                    times.append(done["first" + clock])
        share = statistics.median(b / a for a, b in zip(cold, cached, strict=True))
        found[name] = {"cold_s": statistics.median(cold), "cached_s": statistics.median(cached), "share": share}
    return found


def measure_perplexity(sides: dict[str, Side], text: Text) -> dict[str, Any]:
    """Of the same windows' tokens but the first."""
    windows = text.take(WINDOWS, WINDOW)
    count = WINDOWS * (WINDOW - 1)
    return {name: math.exp(side.do("score", windows=windows)["nll"] / count) for name, side in sides.items()}


def measure_lookup(sides: dict[str, Side], text: Text, rounds: int, clock: str) -> dict[str, Any]:
    """Tokens a second with and without prompt lookup, where the answer quotes the prompt and where it does not."""
    found: dict[str, Any] = {}
    case = CASES["decode"]
    for name in (name for name in (INT4, FULL) if name in sides):
        for task in ("quoting", "free"):
            rates: dict[int, list[float]] = {0: [], LOOKUP: []}
            same = 0
            for number in range(rounds + 1):
                passage = text.tokenizer.decode(text.take(1, 150)[0])
                asked = QUOTING.format(passage=passage) if task == "quoting" else FREE.format(number=number)
                done = {
                    lookup: sides[name].do("decode", prompts=[text.chat(asked)], tokens=case.tokens, lookup=lookup)
                    for lookup in rates
                }
                if number:
                    same += done[0]["ids"] == done[LOOKUP]["ids"]
                    for lookup, each in rates.items():
                        each.append(case.rate(done[lookup], clock))
            gain = statistics.median(b / a for a, b in zip(*rates.values(), strict=True))
            off, on = (statistics.median(each) for each in rates.values())
            found[f"{name}, {task}"] = {"off": off, "on": on, "gain": gain, "same": same, "of": rounds}
    return found


def judge(found: dict[str, Any]) -> list[Figure]:
    """Each target and what was measured, and full weights beside their peers; what was not measured is left out."""
    made = []
    for name in (name for name in CASES if name in found):
        rates = found[name]["medians"]
        for own, peer in ((own, peer) for own in (INT4, FULL) for peer in (LLAMA, TRANSFORMERS)):
            if ratio := found[name]["ratios"].get(own, {}).get(peer):
                what = f"{CASES[name].title}: {own.removeprefix('arriero ')} ÷ {peer}"
                least = CASES[name].targets.get(peer) if own == INT4 else None
                value = ratio["median"]
                made.append(beside(what, rates[own], rates[peer], peer, "tokens/s", value=value, least=least))
    if INT4 in (prefix := found.get("prefix", {})):
        what = "time to first token: cached 1,024 tokens ÷ cold"
        cached, cold, share = (prefix[INT4][key] for key in ("cached_s", "cold_s", "share"))
        made.append(beside(what, 1e3 * cached, 1e3 * cold, "arriero, cold", "ms", value=share, most=0.10))
    if {INT4, LLAMA} <= (perplexity := found.get("perplexity", {})).keys():
        what = "perplexity: int4 ÷ llama.cpp"
        made.append(beside(what, perplexity[INT4], perplexity[LLAMA], LLAMA, "", most=1.01))
    return made


def print_tables(
    told: dict[str, Any], found: dict[str, Any], verdicts: list[Figure], options: argparse.Namespace
) -> None:
    """The results as Markdown."""
    versions = sorted({each["version"] for each in told.values()})
    kind = "processor time" if options.threads == 1 else "wall time"
    print(f"{options.model}, {options.threads} threads a side, {options.rounds} rounds, {kind}; {'; '.join(versions)}")
    if LLAMA in told:
        print(f"llama.cpp: {told[LLAMA]['built'].strip()}")
    for name in (name for name in CASES if name in found):
        print_case(name, found[name])
    if "prefix" in found:
        print("\n| time to first token | cold | cached | share |\n|---|---|---|---|")
        for name, row in found["prefix"].items():
            print(f"| {name} | {1000 * row['cold_s']:.0f} ms | {1000 * row['cached_s']:.0f} ms | {row['share']:.3f} |")
    if "perplexity" in found:
        print(f"\n| perplexity, {WINDOWS} windows of {WINDOW} tokens | |\n|---|---|")
        for name, value in found["perplexity"].items():
            print(f"| {name} | {value:.4f} |")
    if "lookup" in found:
        print("\n| prompt lookup | off, tokens/s | on | gain | same answers |\n|---|---|---|---|---|")
        for name, row in found["lookup"].items():
            same = f"{row['same']} of {row['of']}"
            print(f"| {name} | {row['off']:.1f} | {row['on']:.1f} | {row['gain']:.2f} | {same} |")
    print_targets(verdicts)


def print_case(name: str, row: dict[str, Any]) -> None:
    """One case's rates and ratios."""
    print(f"\n| {CASES[name].title} | tokens/s | ÷ {LLAMA} (range) | ÷ {TRANSFORMERS} (range) |\n|---|---|---|---|")
    for side, median in row["medians"].items():
        ratios = row["ratios"].get(side, {})
        cells = [
            f"{each['median']:.2f} ({each['least']:.2f}–{each['most']:.2f})" if each else "–"
            for each in (ratios.get(LLAMA), ratios.get(TRANSFORMERS))
        ]
        print(f"| {side} | {median:.1f} | {' | '.join(cells)} |")
    if "equal_rows" in row:
        equal, rows = row["equal_rows"]
        print(f"\nRows whose tokens are transformers' with full weights: {equal} of {rows}.")
    if "llama_pick_share" in row:
        print(f"\nOf llama.cpp's time, {row['llama_pick_share']:.1%} is the choice of the likeliest token.")


if __name__ == "__main__":
    main()
