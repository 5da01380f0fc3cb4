"""The pages before the real server, with a tiny model: what it sends is what they read."""

import pytest

from tests.serve.browsing import launched, tab

expect = pytest.importorskip("playwright.sync_api").expect


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


def limit(page):
    """A short answer: the tiny model's context is small, and it never ends by itself."""
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Most tokens").fill("8")
    page.keyboard.press("Enter")


def test_a_model_answers(browser, url):
    with tab(browser, url) as page:
        page.goto("/")
        limit(page)
        page.fill("#prompt", "wool")
        page.keyboard.press("Enter")
        expect(page.locator(".turn.assistant .acts")).to_contain_text("tokens")
        assert page.locator(".fault").count() == 0


def test_documents_answer_with_their_passages(browser, url):
    with tab(browser, url) as page:
        page.goto("/#/documents")
        page.get_by_role("button", name="New collection").click()
        page.get_by_label("Name").fill("pages")
        page.keyboard.press("Enter")
        expect(page.locator(".pill[aria-pressed=true]")).to_contain_text("pages")
        page.locator("input[type=file]").set_input_files(
            [
                {
                    "name": "a <b>herd.md",
                    "mimeType": "text/plain",
                    "buffer": b"the llamas carry wool",
                },
                {"name": "empty.pdf", "mimeType": "application/pdf", "buffer": b"\x00\x01"},
            ]
        )
        expect(page.locator(".uploads .added")).to_have_count(1)
        expect(page.locator(".uploads .failed .fault")).to_have_count(1)
        page.get_by_role("button", name="Ask these documents").click()
        limit(page)
        page.fill("#prompt", "what do the llamas carry?")
        page.keyboard.press("Enter")
        passage = page.locator(".posterior button").first
        expect(passage).to_contain_text("100%")
        passage.click()
        expect(page.locator(".panel mark")).to_contain_text("the llamas carry wool")
        page.goto("/#/documents")
        page.get_by_role("button", name="Delete pages").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.locator(".pill", has_text="pages")).to_have_count(0)


def test_without_preferences_and_runs_the_pages_say_what_to_do(browser, url):
    with tab(browser, url) as page:
        page.goto("/#/annotate")
        expect(page.locator(".empty")).to_contain_text("arriero serve --preferences")
        page.goto("/#/runs")
        expect(page.locator(".empty")).to_contain_text("No runs yet")
        page.goto("/#/compare")
        page.get_by_label("Model 2").wait_for()
