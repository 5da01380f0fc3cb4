"""A client that leaves ends its request, streamed or not; a server that stops lets what runs finish, or says so."""

import asyncio
import threading
import time

import httpx
import openai
import pytest

from arriero.common.errors import BusyError
from arriero.generate.engine import Engine
from arriero.generate.live import Live
from arriero.generate.request import Request
from arriero.generate.sampling_config import SamplingConfig
from arriero.serve.server import Server, listen, url_of
from arriero.serve.service import Service
from arriero.serve.settings import ServeSettings
from tests.serve.conftest import until

HELLO = [{"role": "user", "content": "hello"}]
LONG = {"messages": HELLO, "extra_body": {"ignore_eos": True}, "max_tokens": 200}


def idle(live: Live) -> bool:
    stats = live.stats()
    return stats.running == stats.waiting == 0


def count_ended(http: httpx.Client) -> float:
    """How many chats have ended, one way or another."""
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith("arriero_http_requests_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'route="/v1/chat/completions"' in line)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_request(url, service, live, stalled, stream):
    until(lambda: idle(live))
    before = live.stats().generated_tokens

    async def ask_and_leave() -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            asking = asyncio.create_task(
                client.chat.completions.create(model=service.default_model, stream=stream, **LONG)
            )
            if stream:
                chunks = await asking
                await anext(aiter(chunks))  # the role comes before any token
                await chunks.close()
            else:
                while live.stats().waiting == 0:
                    await asyncio.sleep(0.01)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)

    with stalled(), httpx.Client(base_url=url) as http:
        ended = count_ended(http)
        asyncio.run(ask_and_leave())
        until(lambda: count_ended(http) > ended)
    until(lambda: idle(live))
    assert live.stats().generated_tokens - before <= 1


def test_a_question_to_documents_is_given_up_when_its_client_leaves(url, live, stalled):
    until(lambda: idle(live))
    asked = {
        "model": "arriero:notes",
        "messages": HELLO,
        "arriero": {"threshold": -1},
        "max_tokens": 24,
        "stream": True,
    }
    with stalled(), httpx.Client(base_url=url) as http:
        ended = count_ended(http)
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/chat/completions", json=asked, timeout=0.5)
        until(lambda: count_ended(http) > ended)
    until(lambda: idle(live))


def test_many_clients_at_once_get_their_own_answers(url, service, live):
    until(lambda: idle(live))

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

            async def ask(number: int) -> str:
                stream = await client.completions.create(
                    model=service.default_model, prompt=f"{number}:", max_tokens=12, temperature=0, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*map(ask, range(24)))

    together = asyncio.run(ask_all())
    with httpx.Client(base_url=url) as http:
        for number in (0, 11, 23):
            body = {"prompt": f"{number}:", "max_tokens": 12, "temperature": 0}
            assert http.post("/v1/completions", json=body).json()["choices"][0]["text"] == together[number]


@pytest.fixture
def stopping(request, tiny_model):
    """A server of its own of so much patience, and how to stop it: (address, engine, stop)."""
    settings = ServeSettings(port=0, patience_s=request.param, device="cpu")
    service = Service(settings, {"tiny": Live(Engine.load(str(tiny_model)))})
    ready = threading.Event()
    with listen(service.settings) as listener:
        server = Server(service, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert ready.wait(30)

        def stop() -> None:
            server.should_exit = True

        yield url_of(listener), service.models["tiny"], stop
        stop()
        thread.join()
    service.close()


@pytest.mark.parametrize("stopping", [60.0], indirect=True)
def test_a_server_that_stops_lets_an_answer_finish(stopping):
    url, _, stop = stopping
    body = {"prompt": "x", "max_tokens": 50, "ignore_eos": True, "stream": True, "temperature": 0}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        first = next(lines)
        stop()
        rest = [line for line in lines if line]
    assert first.startswith("data: {")
    assert '"finish_reason":"length"' in rest[-2]
    assert rest[-1] == "data: [DONE]"


def refuses(live: Live) -> bool:
    """Whether an engine takes no more requests."""
    try:
        live.submit(Request(prompt_ids=[1], sampling=SamplingConfig(max_tokens=1)), lambda delta: None)
    except BusyError:
        return True
    return False


@pytest.mark.parametrize("stopping", [0.2], indirect=True)
def test_what_does_not_finish_in_time_is_told_so(stopping):
    url, live, stop = stopping
    body = {"prompt": "x", "max_tokens": 200, "ignore_eos": True, "stream": True, "echo": True}
    go_on = threading.Event()
    blocking = threading.Thread(target=live.between, args=(lambda: go_on.wait(60),))
    blocking.start()
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)  # the echo
        stop()
        until(lambda: refuses(live))
        time.sleep(1.0)  # longer than the server's patience
        go_on.set()
        rest = [line for line in lines if line]
    blocking.join()
    assert '"code": "stopping"' in rest[-1]
