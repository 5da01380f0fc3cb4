"""The page of versions: its numbers are the reports', and names are text."""

import pytest

from arriero.align.versions import Mean, VersionReport
from arriero.report.versions import render_versions


def version(name, scores, *, violations=0.25, kl=0.0):
    return VersionReport(
        name=name,
        model=name,
        helpfulness=Mean(value=sum(scores) / len(scores), error=0.1),
        safety=None if violations is None else Mean(value=1.0, error=0.1),
        violations=violations,
        violations_low=violations,
        violations_high=violations,
        kl=Mean(value=kl, error=0.2),
        tokens=12.0,
        ended=0.75,
        scores=scores,
        lengths=[12] * len(scores),
    )


def test_the_page_tells_wins_safety_and_divergence_by_version():
    pytest.importorskip("matplotlib")
    page = render_versions(
        "Alignment", [version("v0", [0.0] * 4), version("v1<b>", [1.0, 1.0, 1.0, -1.0], violations=0.0, kl=3.0)]
    )
    assert "75.0%" in page
    assert "100.0%" in page, "safe answers of the second"
    assert "3.00 ± 0.20" in page
    assert "v1&lt;b&gt;" in page
    assert page.count("<svg") == 2


def test_without_a_judge_of_safety_there_is_a_dash():
    page = render_versions("Alignment", [version("v0", [0.0], violations=None), version("v1", [1.0], violations=None)])
    assert "Unsafe answers" not in page
    assert "–" in page
