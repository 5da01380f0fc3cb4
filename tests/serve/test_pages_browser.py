"""Each page's main flow in Chromium, against the API's JSON; hostile text stays text everywhere."""

import re

import pytest

from tests.serve.browsing import PHONE, launched, served, tab
from tests.serve.fake_api import DOCUMENT, HOSTILE, make_app

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def app():
    return make_app()


@pytest.fixture
def address(app):
    with served(app) as address:
        yield address


@pytest.fixture
def page(browser, address):
    with tab(browser, address) as page:
        yield page


def ask(page, prompt):
    page.fill("#prompt", prompt)
    with page.expect_response("**/v1/chat/completions"):
        page.keyboard.press("Enter")
    expect(page.locator("[data-does=send]")).to_be_visible()


def test_chat_streams_edits_and_remembers(page, app):
    page.goto("/")
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    expect(page.get_by_label("Model", exact=True)).to_have_value("llama-small")
    page.get_by_label("Model", exact=True).select_option("poet")
    ask(page, "first")
    ask(page, "second")
    answers = page.locator(".turn.assistant .prose")
    expect(answers).to_have_text(["Answer of poet to first.", "Answer of poet to second."])
    assert [turn["content"] for turn in app.state.asked[-1]["messages"]][::2] == ["first", "second"]
    page.get_by_role("button", name="Edit").first.click()
    page.locator(".editor textarea").fill("another")
    page.keyboard.press("Enter")
    expect(answers).to_have_text(["Answer of poet to another."])
    page.get_by_role("button", name="Answer again").click()
    expect(answers).to_have_text(["Answer of poet to another."])
    page.reload()
    expect(answers).to_have_text(["Answer of poet to another."])
    page.locator(".log").press("n")
    expect(page.locator(".turn")).to_have_count(0)
    page.locator(".conversations .name").hover()
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".conversations li")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".conversations li")).to_have_text(["first"])


def test_chat_stops(page):
    page.goto("/")
    page.fill("#prompt", "endless")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant .prose")).to_contain_text("again again")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    page.get_by_role("button", name="Answer again").click()
    expect(page.locator(".turn.assistant .prose")).to_contain_text("again again")
    page.locator("#prompt").press("Escape")
    expect(page.get_by_text("Stopped.")).to_be_visible()
    expect(page.locator("[data-does=send]")).to_be_visible()


def test_markdown_is_elements_and_html_is_text(page):
    page.goto("/")
    ask(page, "markdown")
    prose = page.locator(".turn.assistant .prose")
    expect(prose.locator("h2")).to_have_text("Llamas")
    expect(prose.locator("strong")).to_have_text("larger")
    expect(prose.locator("li li code")).to_have_text("30 kg")
    expect(prose.locator("td")).to_have_text(["llama", "130 kg"])
    expect(prose.locator("pre")).to_have_text('print("<b>wool</b>")')
    expect(prose).to_contain_text(HOSTILE)
    assert prose.locator("a").all_inner_texts() == ["the Andes"]
    assert prose.locator("img, script, b").count() == 0


def test_markdown_stays_fast_whatever_a_model_repeats(page):
    page.goto("/")
    pieces = [
        "`",
        "*",
        "**a ",
        "_a ",
        "[",
        "[a](",
        "~~a",
        "> ",
        "- ",
        "1. a\n ",
        "| a |\n|--|\n",
        "#",
        "```\n",
        "  - a\n",
    ]
    took = page.evaluate(
        """async (pieces) => {
            const { render } = await import("/static/markdown.js");
            return Object.fromEntries(pieces.map((piece) => {
                const began = performance.now();
                render(piece.repeat(20000 / piece.length));
                return [piece, performance.now() - began];
            }));
        }""",
        pieces,
    )
    assert max(took.values()) < 2000, took


def test_settings_and_system_prompt_are_sent(page, app):
    page.goto("/")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Done").click()
    ask(page, "hello")
    asked = app.state.asked[-1]
    assert (asked["temperature"], asked["seed"], asked["messages"][0]["role"]) == (0, 7, "system")
    assert (asked["top_p"], asked["repetition_penalty"]) == (0.9, 1.1)  # as `arriero chat`, where nothing is set


def test_a_model_that_says_how_it_is_sampled_is_asked_so(page, app):
    page.goto("/")
    page.get_by_label("Model", exact=True).select_option("poet")
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_have_attribute("placeholder", "0.9")
    page.get_by_label("Top p").fill("0.5")
    page.get_by_role("button", name="Done").click()
    ask(page, "hello")
    asked = app.state.asked[-1]
    assert (asked["model"], asked["temperature"], asked["top_p"]) == ("poet", 0.9, 0.5)
    assert asked.keys().isdisjoint({"max_tokens", "repetition_penalty"})


def test_sources_open_beside_the_answer(page, app):
    page.goto("/")
    page.get_by_label("Documents to answer from").select_option("andes")
    ask(page, "When do they rest?")
    asked = app.state.asked[-1]
    assert (asked["model"], asked["arriero"]) == ("arriero:andes", {"model": "llama-small"})
    assert "temperature" not in asked  # documents are answered from as the server has it
    shares = page.locator(".posterior .share")
    expect(shares).to_have_text(["72%", "19%", "6%", "3%"])
    expect(page.locator(".posterior .place").nth(1)).to_contain_text("pages 4–5")
    widths = page.locator(".posterior .bar").evaluate_all("bars => bars.map(bar => bar.offsetWidth)")
    assert widths == sorted(widths, reverse=True)
    expect(page.locator(".prose")).to_contain_text("[9]")  # no such source: no button
    page.locator(".marker").click()
    panel = page.get_by_role("complementary")
    expect(panel.locator("h2")).to_have_text(DOCUMENT)
    expect(panel.locator("mark")).to_have_text(f"Llamas carry wool {HOSTILE} over the pass. They rest at noon.")
    expect(panel.locator("mark strong")).to_have_text("They rest at noon.")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(page.locator(".marker")).to_be_focused()
    ask(page, "refuse")
    expect(page.locator(".refusal")).to_contain_text("The documents do not answer this.")


def test_an_error_is_told_where_it_arose_and_tried_again(browser, address, app):
    with tab(browser, address, expected=("503",)) as page:
        page.goto("/")
        ask(page, "busy")
        fault = page.locator(".turn.assistant .fault")
        expect(fault).to_contain_text("the queue is full")
        with page.expect_response("**/v1/chat/completions"):
            fault.get_by_role("button", name="Try again").click()
        expect(fault).to_be_visible()
        assert len(app.state.asked) == 2


def test_the_token_is_asked_for_once(browser, address, app):
    app.state.token = "secret"
    with tab(browser, address, expected=("401",)) as page:
        page.goto("/")
        page.get_by_label("The server's token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text("That token was not accepted")).to_be_visible()
        page.get_by_label("The server's token").fill("secret")
        page.keyboard.press("Enter")
        ask(page, "hello")
        expect(page.locator(".turn.assistant .prose")).to_have_text("Answer of llama-small to hello.")
        page.reload()
        expect(page.get_by_label("Model", exact=True)).to_have_value("llama-small")
    with tab(browser, address) as page:
        page.goto("/#token=secret")
        expect(page.get_by_label("Model", exact=True)).to_have_value("llama-small")
        assert "secret" not in page.url


def test_documents_are_made_filled_and_emptied(browser, address, app):
    app.state.collections.clear()
    with tab(browser, address) as page:
        page.goto("/#/documents")
        page.get_by_role("button", name="Make the first collection").click()
        page.get_by_label("Name").fill("herd")
        page.keyboard.press("Enter")
        expect(page.locator(".pill[aria-pressed=true]")).to_have_text("herd0 documents")
        names = ("wool.md", "<img src=x onerror=window.hit=1>.txt", "broken.bad")
        files = [{"name": name, "mimeType": "text/plain", "buffer": b"wool"} for name in names]
        page.locator("input[type=file]").set_input_files(files)
        expect(page.locator(".uploads .failed")).to_contain_text("no known format")
        expect(page.locator(".uploads .added")).to_have_count(2)
        expect(page.locator(".documents strong")).to_have_text(sorted(names[:2]))
        page.get_by_role("button", name="Delete wool.md").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.locator(".documents strong")).to_have_text([names[1]])
        page.get_by_role("button", name="Ask these documents").click()
        expect(page.get_by_label("Documents to answer from")).to_have_value("herd")


def test_files_are_dropped(page, app):
    page.goto("/#/documents")
    page.locator(".drop").wait_for()
    page.evaluate("""() => {
        const transfer = new DataTransfer();
        transfer.items.add(new File(["wool"], "dropped.txt"));
        document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
    }""")
    expect(page.locator(".uploads .added")).to_contain_text("dropped.txt")
    assert "dropped.txt" in app.state.collections["andes"]


def test_pairs_are_judged_by_keys(page, app):
    page.goto("/#/annotate")
    page.get_by_label("Your name").fill("Ana")
    page.keyboard.press("Enter")
    answers = page.locator(".answer .prose")
    expect(answers).to_have_text(["bad", f"good {HOSTILE}"])  # the order is the pair's
    expect(page.locator("[data-choice] kbd")).to_have_text([str(key) for key in range(1, 9)])
    page.keyboard.press("Enter")
    assert app.state.judged == []  # not before both are chosen
    page.keyboard.press("7")
    page.keyboard.press("w")
    page.keyboard.press("Enter")
    expect(page.locator(".facts")).to_contain_text("1 of 2")
    expect(page.locator(".facts")).to_contain_text("63% agreement")
    expected = {"pair": 1, "order": [2, 1], "choice": 2, "degree": "better", "safety": "both safe", "annotator": "Ana"}
    assert app.state.judged == [expected]
    page.get_by_text("Write a prompt of your own").click()
    page.get_by_label("Write a prompt of your own").fill("Where do llamas live?")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_contain_text("Where do llamas live?")
    expect(answers).to_have_text(["made two", "made one"])


def test_models_are_compared_blind(page, app):
    page.goto("/#/compare")
    page.get_by_label("A prompt for both").fill("Why?")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Left is better")).to_be_enabled()
    expect(page.locator(".answer h2")).to_have_text(["Left", "Right"])
    assert page.locator(".duel, .answer .acts").count() == 0  # no pace tells who is who
    with page.expect_response("**/api/preferences/judgements"):
        page.locator("main").press("2")
    right = app.state.pairs[-1]["responses"][1]
    winner = re.search(r"llama-\w+", right).group()
    expect(page.locator(".answer h2").nth(1)).to_contain_text(f"{winner}preferred")
    expect(page.locator(".tally")).to_contain_text(f"{winner} · 1" if winner == "llama-large" else f"1 · {winner}")
    expect(page.get_by_text("You preferred the right one.")).to_be_visible()
    assert (app.state.judged[-1]["choice"], app.state.judged[-1]["degree"]) == (2, "better")


def test_runs_are_drawn_as_they_grow(browser, address, app):
    with tab(browser, address, expected=("inline script",)) as page:  # the report's, which must not run
        follow_run(page, app)


def follow_run(page, app):
    page.goto("/#/runs")
    expect(page.locator(".runs strong")).to_have_text("tiny <b>run")
    expect(page.locator(".curve")).to_have_count(3)
    place = page.locator(".chart")
    place.press("End")
    expect(page.locator(".readout")).to_contain_text("step · 40")
    place.press("ArrowLeft")
    expect(page.locator(".readout")).to_contain_text("each step 2.2051")
    before = page.locator(".curve.main").get_attribute("d")
    page.get_by_label("Logarithmic scale").check()
    assert page.locator(".curve.main").get_attribute("d") != before
    app.state.runs["tiny <b>run"] += [{"kind": "step", "step": 41, "loss": 1.5}]
    expect(page.locator(".legend")).to_contain_text("each step 1.5")
    page.get_by_role("button", name="Report").click()
    heading = page.frame_locator("iframe").locator("h1")
    expect(heading).to_have_css("color", "rgb(1, 2, 3)")
    frame = page.frame_locator("iframe").locator(":root")
    assert frame.evaluate("() => [origin, document.title]") == ["null", ""]


def test_chinese_on_a_dark_phone(browser, address):
    with tab(browser, address, viewport=PHONE, locale="zh-CN", color_scheme="dark") as page:
        page.goto("/")
        expect(page.locator("html")).to_have_attribute("lang", "zh")
        expect(page.get_by_role("heading", name="您想了解什么？")).to_be_visible()
        page.get_by_role("button", name="对话列表").click()
        expect(page.locator(".beside")).to_be_visible()
        for name in ("chat", "documents", "annotate", "compare", "runs"):
            page.goto(f"/#/{name}")
            page.locator(f"main.on-{name} > *").first.wait_for()
            assert page.evaluate(WIDEST) <= PHONE["width"], name
        page.get_by_role("button", name="English").click()
        expect(page.get_by_role("heading", name="Runs")).to_be_visible()
        page.reload()
        expect(page.locator("html")).to_have_attribute("lang", "en")


WIDEST = """() => Math.max(...[...document.querySelectorAll("main *, .side *")]
    .filter(node => !node.closest(".scroll, pre, .unseen")).map(node => node.getBoundingClientRect().right))"""


def test_keys_help_and_theme(page):
    page.goto("/#/runs")
    page.locator(".curve").first.wait_for()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Logarithmic scale")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("g")
    page.keyboard.press("d")
    expect(page).to_have_url(re.compile("#/documents$"))
    page.get_by_role("button", name="Light or dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.locator("body").press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
