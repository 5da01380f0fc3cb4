"""The fences around the server, attacked."""

import asyncio
import logging

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from arriero.serve.errors import install_handlers
from arriero.serve.security import Gate, Rates, client_of, secure
from arriero.serve.settings import ServeSettings

HERE = "http://127.0.0.1:8080"
TOKEN = "correct-horse-battery"


def make_app(**settings) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    @app.get("/health")
    @app.get("/static/page.js")
    @app.get("/api/info")
    @app.post("/api/echo")
    @app.post("/api/collections/{name}/documents")
    async def echo(request: Request, name: str = "") -> dict:
        return {"bytes": len(await request.body())}

    @app.get("/api/defect")
    async def defect() -> dict:
        raise RuntimeError("my secret prompt")

    install_handlers(app)
    secure(app, ServeSettings(**settings))
    return app


def client(address: str = "127.0.0.1", base_url: str = HERE, **settings) -> TestClient:
    return TestClient(make_app(**settings), base_url=base_url, client=(address, 5000))


class TestToken:
    def ask(self, path="/api/info", header=None, method="GET") -> int:
        headers = {} if header is None else {"Authorization": header}
        return client(token=TOKEN).request(method, path, headers=headers).status_code

    def test_the_right_one_lets_in(self):
        assert self.ask(header=f"Bearer {TOKEN}") == 200
        assert self.ask(header=f"bearer  {TOKEN} ") == 200

    @pytest.mark.parametrize(
        "header", [None, "", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN]
    )
    def test_any_other_does_not(self, header):
        answer = client(token=TOKEN).get("/api/info", headers={"Authorization": header} if header is not None else {})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert TOKEN not in answer.text

    def test_bytes_that_are_no_text_do_not(self):
        headers = [("Authorization", b"Bearer \xff\xfe")]
        assert client(token=TOKEN).get("/api/info", headers=headers).status_code == 401

    def test_two_headers_do_not(self):
        headers = [("Authorization", "Bearer x"), ("Authorization", f"Bearer {TOKEN}")]
        assert client(token=TOKEN).get("/api/info", headers=headers).status_code == 401

    def test_pages_and_health_need_none(self):
        assert [self.ask(path) for path in ("/", "/static/page.js", "/health")] == [200] * 3

    @pytest.mark.parametrize(
        "path",
        ["/openapi.json", "/metrics", "/nothing", "/health/", "/healthy", "/staticx", "/%2fapi/info", "/API/info"],
    )
    def test_everything_else_does_even_what_is_not_there(self, path):
        assert self.ask(path) == 401

    def test_no_path_leads_out_of_the_pages(self):
        for path in ("/static/..%2fapi/info", "/static/%2e%2e/api/info", "/static//../../api/info"):
            assert client(token=TOKEN).get(path).status_code in (401, 404)

    def test_only_reading_pages_is_free(self):
        assert self.ask("/", method="POST") == self.ask("/health", method="DELETE") == 401

    def test_a_proxy_may_use_any_host(self):
        headers = {"Host": "models.example.org", "Origin": "https://models.example.org"}
        assert client(token=TOKEN).get("/", headers=headers).status_code == 200
        headers["Authorization"] = f"Bearer {TOKEN}"
        assert client(token=TOKEN).post("/api/echo", headers=headers).status_code == 200

    def test_guessing_is_slowed_down_for_the_guesser_alone(self):
        app = make_app(token=TOKEN, host="0.0.0.0")
        guesser, other = (TestClient(app, base_url=HERE, client=(ip, 1)) for ip in ("192.0.2.1", "192.0.2.2"))
        statuses = [guesser.get("/api/info", headers={"Authorization": f"Bearer {n}"}).status_code for n in range(40)]
        assert statuses == [401] * 30 + [429] * 10
        late = guesser.get("/api/info", headers={"Authorization": f"Bearer {TOKEN}"})
        assert late.status_code == 429
        assert 1 <= int(late.headers["retry-after"]) <= 60
        assert other.get("/api/info", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200

    def test_without_a_token_only_loopback_is_served(self):
        with pytest.raises(ValueError, match="token is required"):
            ServeSettings(host="0.0.0.0")


class TestHost:
    @pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:9", "[::1]:8080", "app.localhost:8080"])
    def test_names_of_this_machine_are_served(self, host):
        assert client().get("/api/info", headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.5",
         "127.0.0.1@evil.example", "[::1", "", "0.0.0.0", "2130706433", "[::ffff:1.2.3.4]"],
    )  # fmt: skip
    @pytest.mark.parametrize("path", ["/api/info", "/"])
    def test_others_are_not(self, host, path):
        answer = client().get(path, headers={"Host": host})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "forbidden_host"

    def test_two_are_not(self):
        headers = [("Host", "localhost"), ("Host", "evil.example")]
        assert client().get("/api/info", headers=headers).status_code == 403


class TestSite:
    @pytest.mark.parametrize(
        "origin",
        ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1", "http://127.0.0.1:8080.evil",
         "http://127.0.0.1:99999", "file://", "http://[", "http://user@evil.example:8080"],
    )  # fmt: skip
    def test_a_foreign_page_can_neither_send_nor_read(self, origin):
        assert client().post("/api/echo", headers={"Origin": origin}, content=b"{}").status_code == 403
        assert client().get("/api/info", headers={"Origin": origin}).status_code == 403

    def test_the_servers_own_pages_can(self):
        assert client().post("/api/echo", headers={"Origin": HERE, "Sec-Fetch-Site": "same-origin"}).status_code == 200

    def test_a_form_or_an_image_without_origin_is_known_by_where_it_was_fetched_from(self):
        for site in ("cross-site", "same-site"):
            assert client().post("/api/echo", headers={"Sec-Fetch-Site": site}).status_code == 403
            assert client().get("/api/info", headers={"Sec-Fetch-Site": site}).status_code == 403

    def test_a_link_to_a_page_works(self):
        assert client().get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200

    def test_no_one_is_told_that_they_may_read(self):
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        answer = client().options("/api/echo", headers=headers)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


class TestBody:
    def test_up_to_the_bound_it_comes_through(self):
        assert client(max_body_bytes=1000).post("/api/echo", content=b"x" * 1000).json() == {"bytes": 1000}

    @pytest.mark.parametrize("chunked", [False, True])
    def test_more_is_refused_whether_declared_or_not(self, chunked):
        content = (b"x" * 100 for _ in range(11)) if chunked else b"x" * 1001
        answer = client(max_body_bytes=1000).post("/api/echo", content=content)
        assert answer.status_code == 413
        assert "1,000 bytes" in answer.json()["error"]["message"]

    def test_no_more_is_read_than_the_bound(self):
        sent = 0

        def endless():
            nonlocal sent
            while True:
                sent += 1
                yield b"x" * 100

        async def ask() -> httpx.Response:
            async def receive_all():
                for piece in endless():
                    yield piece

            transport = httpx.ASGITransport(make_app(max_body_bytes=1000))
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as asking:
                return await asking.post("/api/echo", content=receive_all())

        assert asyncio.run(ask()).status_code == 413
        assert sent <= 12

    @pytest.mark.parametrize("length", ["-1", "9" * 5000, "1e3", "٣"])
    def test_a_length_that_is_none_is_refused(self, length):
        headers = {"Content-Length": length.encode()}
        assert client(max_body_bytes=1000).post("/api/echo", content=b"x", headers=headers).status_code == 413

    def test_uploads_have_their_own_bound(self):
        answer = client(max_body_bytes=1000).post("/api/collections/books/documents", content=b"x" * 5000)
        assert answer.json() == {"bytes": 5000}
        for path in ("/api/collections/a/b/documents", "/api/collections//documents"):
            assert client(max_body_bytes=1000).post(path, content=b"x" * 5000).status_code == 413


class TestLoad:
    def gate(self, **settings) -> tuple[Gate, asyncio.Event, list]:
        ended, statuses = asyncio.Event(), []

        async def slow(scope, receive, send):
            await ended.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        return Gate(slow, ServeSettings(**settings)), ended, statuses

    async def ask(self, gate, statuses, address="127.0.0.1", path="/api/info", token=None) -> None:
        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        headers = [(b"host", b"localhost")] + ([(b"authorization", f"Bearer {token}".encode())] if token else [])
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "client": (address, 1)}
        await gate(scope, None, send)

    def test_too_many_open_requests_are_refused_until_some_end(self):
        async def run() -> list:
            gate, ended, statuses = self.gate(max_waiting=1)
            asked = [asyncio.create_task(self.ask(gate, statuses)) for _ in range(70)]
            asked.append(asyncio.create_task(self.ask(gate, statuses, path="/health")))
            await asyncio.sleep(0)
            refused = list(statuses)
            ended.set()
            await asyncio.gather(*asked)
            await self.ask(gate, statuses)
            return [refused, statuses.count(200)]

        assert asyncio.run(run()) == [[503] * 5, 65 + 2]

    def test_one_client_of_many_gets_half(self):
        async def run() -> list:
            gate, ended, statuses = self.gate(max_waiting=6, host="0.0.0.0", token=TOKEN)
            greedy = [asyncio.create_task(self.ask(gate, statuses, "192.0.2.1", token=TOKEN)) for _ in range(40)]
            other = asyncio.create_task(self.ask(gate, statuses, "192.0.2.2", token=TOKEN))
            await asyncio.sleep(0)
            refused = list(statuses)
            ended.set()
            await asyncio.gather(*greedy, other)
            return [refused, statuses.count(200)]

        assert asyncio.run(run()) == [[429] * 5, 36]

    def test_rates_drain_with_time_and_forget_the_quiet(self):
        now = 0.0
        rates = Rates(60, clock=lambda: now)
        for _ in range(60):
            assert rates.wait("a") == 0
            rates.count("a")
        assert rates.wait("a") == 1
        now = 1.0
        assert rates.wait("a") == 0
        for number in range(5000):
            rates.count(str(number))
        assert len(rates._levels) <= 4096


class TestAnswers:
    def test_every_answer_tells_browsers_what_not_to_do(self):
        asking = client(max_body_bytes=10)
        for answer in (
            asking.get("/api/info"),
            asking.get("/nothing"),
            asking.get("/api/info", headers={"Host": "evil.example"}),
            asking.post("/api/echo", content=b"x" * 11),
            asking.get("/api/defect"),
        ):
            assert "default-src 'self'" in answer.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"

    def test_a_defect_is_answered_and_logged_without_what_it_says(self, caplog):
        with caplog.at_level(logging.DEBUG):
            answer = client().get("/api/defect", params={"q": "private"})
        assert answer.status_code == 500
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert "secret" not in answer.text + caplog.text
        assert "private" not in "".join(r.getMessage() for r in caplog.records if r.name.startswith("arriero"))
        assert "RuntimeError at test_security.py" in caplog.text

    def test_web_sockets_are_refused(self):
        with pytest.raises(WebSocketDisconnect) as refused, client().websocket_connect("/api/info"):
            pass
        assert refused.value.code == 1008

    def test_nothing_is_logged_of_a_token(self, caplog):
        with caplog.at_level(logging.DEBUG):
            client(token=TOKEN).get("/api/info", headers={"Authorization": f"Bearer {TOKEN}"})
            client(token=TOKEN).get("/api/info", headers={"Authorization": "Bearer nearly"})
        assert TOKEN not in caplog.text
        assert "nearly" not in caplog.text
        assert TOKEN not in repr(ServeSettings(token=TOKEN))


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_a_network_of_ipv6_is_one_client(address, counted_as):
    assert client_of({"client": (address, 5000)}) == counted_as
