"""Many clients at a running server, some of whom leave in the middle: is every answer the right one, and how fast?

Cases of many kinds are made first: chats and completions, short and long prompts, several with one beginning, stop
texts, one to three samples, greedy and sampled with a seed. The engine answers each alone, in this process. Then
`arriero serve` is started, and clients ask it for minutes, streamed or whole, and compare.

A greedy answer must be the engine's, letter for letter: cases in which the likeliest token is nearly level with the
next are left out, as rounding differs between batch sizes. A sampled answer may turn at a token where rounding decides;
how many do is told, and more than 2% are a failure. What a client has read before it leaves must be the beginning of
the right answer. The server has room for fewer than all clients, so that some are refused with 503 and ask again.

    python benchmarks/serve_load.py [--seconds 300] [--clients 64] [--json]
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import httpx
from figures import Figure, as_json

if TYPE_CHECKING:
    from arriero.generate.engine import Engine

LEVEL = 0.005
"""Nats between the two likeliest tokens below which rounding might choose."""
STREAMED, LEAVES = 0.6, 0.15
"""Shares of the requests."""
TURNED = 0.02
"""Most sampled answers that may differ."""
GROWTH = 0.05
"""Most that resident memory may grow from the first quarter of the time to its end."""
SYSTEM = "You are a patient teacher of the Python language. Explain what is asked in few plain words."


@dataclass(frozen=True)
class Case:
    """A request and what the engine answers to it alone."""

    path: str
    body: dict[str, Any]
    texts: list[str]
    """Of each sample."""

    @property
    def is_sampled(self) -> bool:
        """Whether chance has a part in it."""
        return bool(self.body["temperature"])


@dataclass
class Seen:
    """What the clients saw."""

    counts: Counter[str] = field(default_factory=Counter)
    first_s: list[float] = field(default_factory=list)
    """Seconds to the first text of answers that were streamed."""
    whole_s: list[float] = field(default_factory=list)
    tokens: int = 0
    sampled: int = 0
    """Answers that chance had a part in."""
    faults: list[str] = field(default_factory=list)

    def judge(self, case: Case, texts: Sequence[str], *, whole: bool) -> None:
        """Compare what was read with what is right."""
        self.sampled += case.is_sampled
        equal = list(texts) == case.texts if whole else all(map(str.startswith, case.texts, texts))
        if equal:
            return
        kind = "sampled answers that turned" if case.is_sampled else "wrong answers"
        self.counts[kind] += 1
        if not case.is_sampled and len(self.faults) < 10:
            self.faults.append(f"{json.dumps(case.body)[:200]}: {texts!r}, not {case.texts!r}")


def main() -> None:
    """Load, print a table or JSON; exit 1 if something was wrong, lost or growing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="model source (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=300, help="of load (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=64, help="at once (default: %(default)s)")
    parser.add_argument("--cases", type=int, default=48, help="different requests (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    print(f"the engine answers {options.cases} cases, each alone", file=sys.stderr)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the server has it; read when torch is imported
    from arriero.generate.engine import Engine

    cases = make_cases(Engine.load(options.model, device="cpu"), options.cases, random.Random(options.seed))
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder, serving(options, Path(folder)) as (url, process):
        resident = asyncio.run(load(url, process.pid, cases, seen, options))
        idle = asyncio.run(wait_until_idle(url))
        resident.append(resident_mb(process.pid))
        process.send_signal(signal.SIGTERM)
        ended = process.wait(timeout=60)
    result = summarise(seen, resident, options) | {"left_running": idle, "exit_status": ended, "machine": machine()}
    if options.json:
        print(json.dumps({**result, "targets": as_json(judge(result))}, indent=2))
    else:
        print(table(result, options))
    print("\n".join(seen.faults), file=sys.stderr)
    if result["failures"]:
        raise SystemExit(1)


def make_cases(engine: "Engine", count: int, chance: random.Random) -> list[Case]:
    """As many cases; greedy ones in which rounding can't choose."""
    text = list(topics.values())
    cases: list[Case] = []
    while len(cases) < count:
        prompt = chance.choice(text)[: chance.choice((40, 200, 800, 2400))]
        chat = chance.random() < 0.5
        body = {"temperature": 0.0} if chance.random() < 0.7 else {"temperature": 0.8, "top_p": 0.9}
        body |= {"max_tokens": chance.choice((4, 16, 48)), "n": chance.choice((1, 1, 1, 2, 3))}
        body |= {"seed": chance.randrange(2**31)}
        body |= {"stop": ["."]} if chance.random() < 0.2 else {}
        if chat:
            system = [{"role": "system", "content": SYSTEM}] if chance.random() < 0.5 else []
            body["messages"] = [*system, {"role": "user", "content": prompt}]
        else:
            body["prompt"] = engine.tokenizer.encode(prompt)
        if case := answer_alone(engine, body):
            cases.append(case)
            print(f"{len(cases)} of {count}", end="\r", file=sys.stderr)
    return cases


def answer_alone(engine: "Engine", body: dict[str, Any]) -> Case | None:
    """The case with the engine's own answers; None where two tokens are nearly level."""
    from arriero.generate.engine import Request, SamplingConfig

    prompt = body.get("prompt") or engine.tokenizer.encode_chat(body["messages"])
    sampling = SamplingConfig(
        max_tokens=body["max_tokens"],
        temperature=body["temperature"],
        top_p=body.get("top_p", 1.0),
        n=body["n"],
        seed=body["seed"],
        stop=tuple(body.get("stop", ())),
        logprobs=2,
    )
    samples = engine.generate([Request(prompt_ids=prompt, sampling=sampling)])
    if not body["temperature"] and any(is_level(each.top) for sample in samples for each in sample.logprobs or ()):
        return None
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    return Case(path, body, [sample.text for sample in samples])


def is_level(top: Sequence[tuple[int, float]]) -> bool:
    """Whether the two likeliest tokens are so near that rounding might choose."""
    return top[0][1] - top[1][1] < LEVEL


@contextlib.contextmanager
def serving(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server of its own on a free port: its address and its process."""
    room = max(1, options.clients * 5 // 8)  # beside 16 that are answered
    words = ["serve", "--model", options.model, "--port", "0", "--no-open", "--max-waiting", str(room)]
    command = [sys.executable, "-m", "arriero", *words]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit(f"the server ended with {process.wait()}")
        yield url, process
    finally:
        process.kill()
        process.wait()


async def load(url: str, pid: int, cases: Sequence[Case], seen: Seen, options: argparse.Namespace) -> list[float]:
    """Let all clients ask until the time is over; returns resident megabytes at each hundredth of it."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=options.clients)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        end = time.monotonic() + options.seconds
        clients = [
            asyncio.create_task(be_client(http, cases, seen, end, random.Random(options.seed + number)))
            for number in range(options.clients)
        ]
        resident = []
        while time.monotonic() < end:
            await asyncio.sleep(options.seconds / 100)
            resident.append(resident_mb(pid))
        await asyncio.gather(*clients)
    return resident


async def be_client(
    http: httpx.AsyncClient, cases: Sequence[Case], seen: Seen, end: float, chance: random.Random
) -> None:
    """Ask one thing after another."""
    while time.monotonic() < end:
        case, streamed, leaves = chance.choice(cases), chance.random() < STREAMED, chance.random() < LEAVES
        try:
            if streamed:
                status = await ask_streamed(http, case, seen, chance.randrange(1, 20) if leaves else None)
            else:
                status = await ask_whole(http, case, seen, chance.uniform(0.05, 5) if leaves else None)
        except (httpx.HTTPError, KeyError, ValueError) as error:
            status = "lost answers"
            seen.faults.append(f"{type(error).__name__}: {error}")
        seen.counts[status] += 1
        if status == "refused with 503":
            await asyncio.sleep(chance.uniform(0.5, 1.5))


async def ask_whole(http: httpx.AsyncClient, case: Case, seen: Seen, leave_after_s: float | None) -> str:
    """Ask for a whole answer; what became of it. A client that leaves does so after some seconds."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(leave_after_s):
            response = await http.post(case.path, json=case.body)
    except TimeoutError:
        return "clients that left"
    if response.status_code == 503:
        return "refused with 503"
    answer = response.raise_for_status().json()
    seen.whole_s.append(time.monotonic() - began)
    seen.tokens += answer["usage"]["completion_tokens"]
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    texts = [choice["message"]["content"] if "message" in choice else choice["text"] for choice in choices]
    seen.judge(case, texts, whole=True)
    return "whole answers"


async def ask_streamed(http: httpx.AsyncClient, case: Case, seen: Seen, leave_after: int | None) -> str:
    """Ask for a stream; what became of it. A client that leaves does so after some pieces."""
    body = case.body | {"stream": True, "stream_options": {"include_usage": True}}
    began, pieces, texts = time.monotonic(), 0, [""] * case.body["n"]
    async with http.stream("POST", case.path, json=body) as response:
        if response.status_code == 503:
            return "refused with 503"
        response.raise_for_status()
        async for chunk in events(response):
            for choice in chunk["choices"]:
                piece = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
                texts[choice["index"]] += piece
                if piece and not pieces:
                    seen.first_s.append(time.monotonic() - began)
                pieces += bool(piece)
            if chunk.get("usage"):
                seen.tokens += chunk["usage"]["completion_tokens"]
            if leave_after is not None and pieces >= leave_after:
                seen.judge(case, texts, whole=False)
                return "clients that left"
    seen.whole_s.append(time.monotonic() - began)
    seen.judge(case, texts, whole=True)
    return "streamed answers"


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream of server-sent events.

    Raises:
        ValueError: it ended before it was done, or told an error.
    """
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            return
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            raise ValueError(chunk["error"]["message"])
        yield chunk
    raise ValueError("the stream ended without [DONE]")


async def wait_until_idle(url: str, seconds: float = 30) -> float:
    """Sequences that the engine still runs or keeps waiting when nobody asks any more."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        for _ in range(math.ceil(seconds)):
            lines = (await http.get("/metrics")).text.splitlines()
            gauges = [line for line in lines if line.startswith(("arriero_requests_running{", "arriero_requests_wait"))]
            left = sum(float(line.rpartition(" ")[2]) for line in gauges)
            if not left:
                break
            await asyncio.sleep(1)
    return left


def resident_mb(pid: int) -> float:
    """A process's resident memory, in megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS:"))


def machine() -> str:
    """Processor, threads and versions, in one line."""
    import torch

    from arriero.common.machine import machine_line

    return machine_line(torch.device("cpu"))


def summarise(seen: Seen, resident: Sequence[float], options: argparse.Namespace) -> dict[str, Any]:
    """Counts, percentiles, memory, and what failed."""
    quarter, end = resident[len(resident) // 4], resident[-1]
    turned = seen.counts["sampled answers that turned"] / max(1, seen.sampled)
    failures = [name for name in ("wrong answers", "lost answers") if seen.counts[name]]
    failures += ["sampled answers that turned"] if turned > TURNED else []
    failures += ["memory"] if end > quarter * (1 + GROWTH) else []
    return {
        "clients": options.clients,
        "seconds": options.seconds,
        "counts": {"wrong answers": 0, "lost answers": 0} | dict(sorted(seen.counts.items())),
        "sampled": seen.sampled,
        "tokens_per_s": seen.tokens / options.seconds,
        "first_s": percentiles(seen.first_s),
        "whole_s": percentiles(seen.whole_s),
        "resident_mb": {"quarter": quarter, "end": end, "most": max(resident)},
        "failures": failures,
    }


def judge(result: dict[str, Any]) -> list[Figure]:
    """Nothing may be wrong or lost, and memory may not grow."""
    memory = result["resident_mb"]
    faults = sum(result["counts"][name] for name in ("wrong answers", "lost answers")) + result["left_running"]
    return [
        Figure(what="under load: answers wrong, lost or left running", value=faults, most=0),
        Figure(
            what="under load: memory at the end ÷ after a quarter",
            value=memory["end"] / memory["quarter"],
            most=1 + GROWTH,
        ),
    ]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The 50th, 95th and 99th, by the nearest rank."""
    ordered = sorted(values)
    ranks = {f"p{part}": math.ceil(len(ordered) * part / 100) - 1 for part in (50, 95, 99)}
    return {name: ordered[rank] for name, rank in ranks.items()} if ordered else {}


def table(result: dict[str, Any], options: argparse.Namespace) -> str:
    """The summary as Markdown."""
    rows = [(name, f"{count:,}") for name, count in result["counts"].items()]
    for name, what in (("first_s", "to the first text"), ("whole_s", "to the whole answer")):
        told = ", ".join(f"{key} {value:.2f} s" for key, value in result[name].items())
        rows.append((f"time {what}", told or "–"))
    rows.append(("sampled answers compared", f"{result['sampled']:,}"))
    memory = result["resident_mb"]
    rows += [
        ("tokens a second", f"{result['tokens_per_s']:.0f}"),
        (
            "resident memory",
            f"{memory['quarter']:.0f} MB after a quarter of the time, {memory['end']:.0f} MB at the end",
        ),
        ("left running afterwards", f"{result['left_running']:.0f}"),
        ("exit status", str(result["exit_status"])),
        ("failures", ", ".join(result["failures"]) or "none"),
    ]
    head = f"{options.model}, {result['clients']} clients for {result['seconds']:.0f} s; {result['machine']}"
    return "\n".join([head, "", "| | |", "|---|---|", *(f"| {name} | {told} |" for name, told in rows)])


if __name__ == "__main__":
    main()
