"""Pages of figures: drawings where they can be made, tables in any case, and every text as text."""

import pytest

from arriero.report import figures
from arriero.report.drawing import LINES, picture
from arriero.report.figures import Figure, render_figures

BAD = "<script>alert('llama')</script>"


def bars():
    return picture(
        lambda axes: axes.bar([0, 1], [3, 5], color=LINES[0]), name="bars", description="two bars", x="x", y="y"
    )


def test_a_page_has_tiles_drawings_and_tables():
    pytest.importorskip("matplotlib")
    figure = Figure(
        title="Bars", text="Two of them.", draw=bars, legend=["wool"], head=["bar", "height"], rows=[["one", "3"]]
    )
    page = render_figures("Llamas", "How high.", [("Llamas", "2", "of 3")], [figure])
    assert "<svg" in page
    assert 'aria-label="two bars"' in page
    assert "var(--c0)" in page, "drawn in the page's colours"
    assert '<i class="c0"></i>wool' in page
    assert "<td>3</td>" in page
    assert "of 3" in page


def test_without_matplotlib_the_tables_stand_and_the_page_says_what_to_install(monkeypatch):
    monkeypatch.setattr(figures, "missing_extra", lambda: "pip install 'arriero[plots]'")
    page = render_figures("Llamas", "", [], [Figure(title="Bars", draw=bars, head=["bar"], rows=[["one"]])])
    assert "<svg" not in page
    assert "arriero[plots]" in page
    assert "one" in page


def test_texts_are_text():
    page = render_figures(BAD, BAD, [(BAD, BAD, BAD)], [Figure(title=BAD, text=BAD, head=[BAD], rows=[[BAD, BAD]])])
    assert "<script>" not in page
