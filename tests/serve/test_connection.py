"""Clients that neither ask nor read lose their connection; others keep theirs."""

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from arriero.serve import connection

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def connected(url: str, buffer: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as client:
        if buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.settimeout(20)
        client.connect((urlsplit(url).hostname, urlsplit(url).port))
        yield client


def read(client: socket.socket, last: bytes = b'{"status":"ok"}') -> bytes:
    answer = b""
    while not answer.endswith(last):
        answer += client.recv(4096)
    return answer


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("begin", [b"", b"GET /health HTTP/1.1\r\nHost: loc"])
def test_a_client_that_does_not_ask_is_let_go(url, monkeypatch, begin):
    monkeypatch.setattr(connection, "ASKING_SECONDS", 0.2)
    with connected(url) as client:
        client.sendall(begin)
        assert is_closed(client)


def test_headers_have_one_time_however_they_come(url, monkeypatch):
    monkeypatch.setattr(connection, "ASKING_SECONDS", 0.3)
    with connected(url) as client:
        client.sendall(HEALTH)
        read(client)
        client.setblocking(False)
        begun = time.monotonic()
        with pytest.raises(OSError, match=r"reset|Broken"):
            while time.monotonic() < begun + 20:
                client.sendall(b"G")
                time.sleep(0.02)


def test_a_quiet_client_is_kept_between_two_requests(url, monkeypatch):
    monkeypatch.setattr(connection, "ASKING_SECONDS", 0.2)
    with connected(url) as client:
        for _ in range(2):
            client.sendall(HEALTH)
            assert read(client).startswith(b"HTTP/1.1 200")
            time.sleep(0.4)


def test_a_client_that_does_not_read_is_let_go_and_its_answers_end(url, live, monkeypatch):
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 0.3)
    asked = {"prompt": ["x"] * 8, "max_tokens": 200, "stream": True, "ignore_eos": True, "logprobs": 20, "n": 16}
    body = json.dumps(asked).encode()
    with connected(url, buffer=2048) as client:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        end = time.monotonic() + 30
        while live.stats().generated_tokens == 0 or live.stats().running:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_nobody_fills_the_log(url, caplog, capfd):
    with caplog.at_level(logging.DEBUG), connected(url) as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400")
    with connected(url) as client:
        client.sendall(HEALTH[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert capfd.readouterr().err == ""
