"""The pages before the real server, with a tiny model: what it sends is what they read."""

import json
import re

import pytest

from arriero.align.preferences import Preferences
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


def test_a_prompt_is_answered_twice_and_judged(browser, url, service, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "preferences", tmp_path / "preferences.db")
    with tab(browser, url) as page:
        page.goto("/#/annotate")
        page.get_by_label("Your name").fill("Ana")
        page.keyboard.press("Enter")
        page.get_by_role("textbox", name="Write a prompt of your own").fill("wool")
        page.get_by_role("button", name="Get two answers").click()
        expect(page.locator(".answer .prose")).to_have_count(2)
        page.locator("main").press("1")
        page.locator("main").press("q")
        page.locator("main").press("Enter")
        expect(page.locator(".facts")).to_contain_text("1 of 1")
        expect(page.get_by_text("No pair is waiting for you.")).to_be_visible()
    with Preferences(tmp_path / "preferences.db") as preferences:
        (comparison,) = preferences.comparisons()
    assert (comparison.judgement.degree, comparison.judgement.safety) == ("significantly better", "chosen safe")


def test_two_models_are_compared_and_the_vote_is_kept(browser, url, service, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "preferences", tmp_path / "preferences.db")
    with tab(browser, url) as page:
        page.goto("/#/compare")
        limit(page)
        page.get_by_label("A prompt for both").fill("what do the llamas carry?")
        page.keyboard.press("Enter")
        with page.expect_response("**/api/preferences/judgements"):
            page.get_by_role("button", name="A tie").click()
        expect(page.locator(".answer h2").first).to_contain_text(re.compile("tiny|notes"))
        expect(page.locator(".tally")).to_contain_text("Ties: 1")
        assert page.locator(".fault").count() == 0
    with Preferences(tmp_path / "preferences.db") as preferences:
        (comparison,) = preferences.comparisons()
    assert comparison.judgement.degree == "negligibly better"
    assert "arriero:notes" in (comparison.chosen.model, comparison.rejected.model)


def test_a_run_is_drawn_and_its_report_shown(browser, url, service, tmp_path, monkeypatch):
    monkeypatch.setattr(service, "runs", tmp_path)
    start = {"kind": "start", "step": 0, "time": 1.0, "total_steps": 9, "model": {"dim": 8}, "n_params": 10}
    steps = [{"kind": "step", "step": step, "time": 1.0, "loss": 2 + 8 / step} for step in range(1, 8)]
    diary = "".join(json.dumps(row) + "\n" for row in (start, *steps))
    with tab(browser, url) as page:
        page.goto("/#/runs")
        expect(page.locator(".empty")).to_contain_text("No runs yet")
        (tmp_path / "first <i>run").mkdir()  # it begins while the page is open
        (tmp_path / "first <i>run" / "config.toml").write_text('model = "tiny"\n')
        (tmp_path / "first <i>run" / "metrics.jsonl").write_text(diary)
        expect(page.locator(".runs")).to_contain_text("step 7 of 9")
        expect(page.locator(".curve")).to_have_count(1)
        page.get_by_role("button", name="Report").click()
        expect(page.frame_locator("iframe").locator("h1")).to_contain_text("first <i>run")


def test_without_preferences_and_runs_the_pages_say_what_to_do(browser, url):
    with tab(browser, url) as page:
        page.goto("/#/annotate")
        expect(page.locator(".empty")).to_contain_text("arriero serve --preferences")
        page.goto("/#/runs")
        expect(page.locator(".empty")).to_contain_text("No runs yet")
        page.goto("/#/compare")
        page.get_by_label("Model 2").wait_for()
