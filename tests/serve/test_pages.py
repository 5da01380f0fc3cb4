"""The pages as they are sent: types, caching, and a policy under which no text becomes script."""

import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from arriero.serve import pages


@pytest.fixture(scope="module")
def client():
    app = FastAPI()
    app.include_router(pages.router)
    return TestClient(app)


def names():
    return sorted(pages._pages())


def test_the_front_page_is_html_under_a_strict_policy(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert not re.search(r"<script>|\son\w+=|\sstyle=|https?://", page.text)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".js", "text/javascript"), (".css", "text/css"), (".svg", "image/svg+xml")]
)
def test_files_have_their_types(client, suffix, kind):
    name = next(name for name in names() if name.endswith(suffix))
    page = client.get(f"/static/{name}")
    assert page.headers["content-type"].startswith(kind)
    assert page.headers["x-content-type-options"] == "nosniff"


def test_a_file_that_the_browser_has_is_not_sent_again(client):
    first = client.get("/static/app.js")
    again = client.get("/static/app.js", headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get("/static/app.js", headers={"If-None-Match": '"older"'}).status_code == 200


@pytest.mark.parametrize("path", ["../pages.py", "..%2fpages.py", "/etc/passwd", "style", "", "nothing.js"])
def test_nothing_but_the_pages_has_a_name(client, path):
    assert client.get(f"/static/{path}").status_code == 404


def test_all_that_the_files_name_is_there():
    held = {name: pages._pages()[name].content.decode() for name in names()}
    for name, text in held.items():
        assert "innerHTML" not in text.replace("no innerHTML", ""), name
        for wanted in re.findall(r'(?:href|src)="static/([^"]+)"|from "\./([^"]+)"', text):
            assert "".join(wanted) in held, (name, wanted)


def test_every_string_that_is_used_is_in_the_table():
    texts = {name: page.content.decode() for name, page in pages._pages().items() if name.endswith(".js")}
    table = set(re.findall(r'^  "?([\w.-]+)"?: \[', texts.pop("strings.js"), re.MULTILINE))
    used = {key for text in texts.values() for key in re.findall(r'\bt\("([\w.-]+)"', text)}
    assert used - table == set()


def test_a_report_gets_a_frame_of_its_own_without_network(client):
    policy = client.get("/static/report-frame.html").headers["content-security-policy"]
    assert "sandbox allow-scripts;" in policy
    assert "default-src 'none'" in policy
    assert "allow-same-origin" not in policy
    assert "script-src 'sha256-" in policy


def test_every_file_fits_one_sitting():
    for name, page in pages._pages().items():
        assert page.content.count(b"\n") <= 400, name
