"""The page as a browser would take it."""

import math
from html.parser import HTMLParser

import pytest

from arriero.report.curves import charts, smooth_line
from arriero.report.page import chart_table, clock, duration, render
from arriero.report.run import Run, read_run
from tests.report.diary import event, mixture, sample, start, step, validation, whole_run, write

pytest.importorskip("matplotlib")
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text; balanced, or an assertion fails."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("runs") / "walk", whole_run())


@pytest.fixture(scope="module")
def html(folder):
    return render([read_run(folder)])


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def page_of(tmp_path, *lines, tail="") -> Page:
    return Page(render([read_run(write(tmp_path / "run", list(lines), tail))]))


def test_the_page_asks_nothing_of_any_server(html, page):
    assert "http:" not in html
    assert "https:" not in html
    assert html.count("url(") == html.count("url(#")
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe", "object")]
    for _, attributes in page.tags:
        for name in ("href", "xlink:href", "src"):
            assert attributes.get(name, "#").startswith("#")
    policy = next(meta for meta in page.all("meta") if "http-equiv" in meta)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_what_a_model_writes_stays_text(page):
    assert any("<script>alert(1)</script>" in text for text in page.text)
    assert any("validation: <i>news</i> & $x_2$" in text for text in page.text)
    assert any("# <b>bold</b>" in text for text in page.text)


def test_every_source_of_text_is_escaped(tmp_path):
    evil = "</style><script>alert(1)</script><svg onload=alert(1)>"
    lines = [
        start(device_name=evil, dtype=evil, versions={evil: evil}, layout={evil: 2}, model={"dim": evil}),
        {"kind": "mixture", "step": 0, "rows": [{"source": evil, "weight": 1}]},
        step(1),
        validation(1) | {"by_source": {evil: {"loss": 1.0}, "other": {"loss": 2.0}}},
        sample(1, evil, prompt=evil),
        event(1, "spike", evil),
        event(1, evil, evil),
        {"kind": "energy", "step": 1, "joules": 1, "source": evil},
    ]
    page = page_of(tmp_path, *lines)
    assert not page.all("script")
    assert not [attributes for _, attributes in page.tags if "onload" in attributes]


def test_each_drawing_has_words_and_a_table(page):
    drawings = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(drawings) == len(page.all("figure")) == 6
    assert all("by step: " in attributes["aria-label"] for attributes in drawings)
    assert len(page.all("table")) >= 6 + 4
    assert len(page.all("caption")) == len(page.all("table"))


def test_ids_of_the_drawings_do_not_collide(page):
    ids = [
        attributes["id"] for tag, attributes in page.tags if tag in ("path", "clippath", "use") and "id" in attributes
    ]
    assert len(ids) == len(set(ids))


def test_drawings_take_the_pages_colours(html):
    assert "#0a0b" not in html
    assert "#0a0c" not in html
    assert "stroke: var(--c0)" in html
    assert "prefers-color-scheme: dark" in html


def test_the_report_of_a_whole_run_has_every_part(page):
    text = " ".join(page.text)
    for part in (
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "(MFU)",
        "Peak memory",
        "1,720,320",
        "finished",
    ):
        assert part in text
    for part in ("loss 7.100 after a mean of 2.700", "measured by the GPUs' sensors (NVML)", "config.toml", "CO₂"):
        assert part in text


def test_the_same_diary_makes_the_same_drawings(folder, html):
    cut = html.index("<main"), html.index("<footer")
    assert render([read_run(folder)])[slice(*cut)] == html[slice(*cut)]


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [start()],
        [start(), mixture()],
        [step(1)],
        [start(), mixture(), step(1)],
        [step(1, loss=None, lr=None, grad_norm=None, mfu=None, tokens_per_second=None)],
        [{"kind": "mixture", "step": 0, "rows": 7}, {"kind": "start", "step": 0}, {"kind": "sample", "step": 1}],
        [{"kind": "validation", "step": 5, "by_source": {"x": 3}}, {"kind": "event", "step": 5}, step(6)],
    ],
)
def test_a_run_that_has_hardly_begun_or_lacks_things_has_a_page(tmp_path, lines):
    assert "arriero" in " ".join(page_of(tmp_path, *lines).text)


def test_a_line_cut_short_is_mentioned(tmp_path):
    assert "lines of the diary are damaged" in " ".join(page_of(tmp_path, step(1), tail='{"kind').text)


def test_runs_are_compared_in_one_drawing(folder, tmp_path):
    other = write(tmp_path / "trot", whole_run(100))
    page = Page(render([read_run(folder), read_run(other)]))
    text = " ".join(page.text)
    assert "2 runs compared" in text
    assert "trot: validation" in text
    assert len(page.all("figure")) == 6


def test_spikes_stay_visible_in_long_runs():
    run = Run(name="long", path=None)
    for number in range(1, 5001):
        run.add(step(number, loss=99.0 if number == 2345 else 2.0))
    faint = charts([run])[0].curves[0]
    assert faint.kind == "faint"
    assert len(faint.x) <= 800
    assert max(faint.y) == 99.0


def test_a_policys_page_tells_its_reward_and_no_perplexity(tmp_path):
    numbers = {"loss": -1.5, "reward": 1.25, "kl": 0.75}
    steps = [{**step(number), "reward": 0.1 * number} for number in range(1, 4)]
    held_out = [{"kind": "validation", "step": at, "time": 0.0, **numbers} for at in (0, 3)]
    folder = write(tmp_path / "ppo", [start(), held_out[0], *steps, held_out[1]])
    text = " ".join(Page(render([read_run(folder)])).text)
    assert "Held-out reward 1.250 divergence 0.750 nats an answer" in " ".join(text.split())
    assert "perplexity" not in text
    losses = charts([read_run(folder)])[0]
    assert [curve.label for curve in losses.curves] == ["training"]


def test_smoothing_neither_lags_nor_lengthens():
    line = [float(number) for number in range(1000)]
    assert smooth_line(line) == pytest.approx(line)
    assert smooth_line([1.0, math.nan, 3.0])[1] == 2.0


def test_a_long_curve_makes_a_short_table():
    run = Run(name="long", path=None)
    for number in range(1, 501):
        run.add(step(number))
    table = chart_table(charts([run])[1])
    assert len(table) == 26
    assert (table[1][0], table[-1][0]) == ("1", "500")


def test_times_are_told_as_people_say_them():
    assert [duration(seconds) for seconds in (5, 600, 11_100, 200_000, math.nan)] == [
        "5 s",
        "10 min",
        "3 h 05 min",
        "2 d 7 h",
        "–",
    ]
    assert clock(0) == "1970-01-01 00:00:00"
    assert [clock(moment) for moment in (None, "x", 1e300)] == ["–"] * 3
