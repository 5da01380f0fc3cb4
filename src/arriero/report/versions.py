"""The page of an alignment: its versions by helpfulness and harmlessness, as Llama 2's figure shows them, and what else
tells whether a reward was earned."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from arriero.align.versions import VersionReport, compare_versions
from arriero.report.drawing import GRID, INK, LINES, picture
from arriero.report.figures import Figure, render_figures


def render_versions(title: str, reports: Sequence[VersionReport]) -> str:
    """The page of some versions, the first one first, all measured on the same prompts."""
    first, last = reports[0], reports[-1]
    against = compare_versions(first, last)
    tiles = [
        (
            "Wins",
            f"{against.rate:.0%}",
            f"of {last.name} against {first.name}; 95%: {against.low:.0%}–{against.high:.0%}",
        ),
        ("At equal length", f"{against.equal_length:.0%}", "of the same wins, length taken out"),
        ("Divergence", f"{last.kl.value:.1f} nats", f"an answer, of {last.name} from {first.name}"),
    ]
    if last.violations is not None:
        tiles.append(
            ("Unsafe answers", f"{last.violations:.1%}", f"of {last.name}; {first.violations:.1%} of {first.name}")
        )
    figures = [
        Figure(
            title="Helpfulness and harmlessness",
            text="A version's wins over the first one, and the share of its answers that the judge of safety passes.",
            draw=lambda: _draw_plane(reports),
            head=["version", "wins over the first", "95%", "at equal length", "safe answers"],
            rows=[_plane_row(first, report) for report in reports],
        ),
        Figure(
            title="Version by version",
            text="A reward that rises while divergence or length run away is often of the reward model's errors.",
            draw=lambda: _draw_rewards(reports),
            head=["version", "reward", "safety", "divergence, nats", "tokens", "ended", "wins over the one before"],
            rows=[_row(report, before) for before, report in zip([None, *reports], reports, strict=False)],
        ),
    ]
    return render_figures(title, f"{len(reports)} versions, on {len(first.scores)} held-out prompts.", tiles, figures)


def _plane_row(first: VersionReport, report: VersionReport) -> list[str]:
    against = compare_versions(first, report)
    return [
        report.name,
        f"{against.rate:.1%}",
        f"{against.low:.1%}–{against.high:.1%}",
        f"{against.equal_length:.1%}",
        "–" if report.violations is None else f"{1 - report.violations:.1%}",
    ]


def _row(report: VersionReport, before: VersionReport | None) -> list[str]:
    return [
        report.name,
        f"{report.helpfulness.value:.3f} ± {report.helpfulness.error:.3f}",
        "–" if report.safety is None else f"{report.safety.value:.3f} ± {report.safety.error:.3f}",
        f"{report.kl.value:.2f} ± {report.kl.error:.2f}",
        f"{report.tokens:.0f}",
        f"{report.ended:.0%}",
        "–" if before is None else f"{compare_versions(before, report).rate:.1%}",
    ]


def _draw_plane(reports: Sequence[VersionReport]) -> Markup:
    wins = [compare_versions(reports[0], report) for report in reports]
    safe = [1.0 if report.violations is None else 1 - report.violations for report in reports]

    def paint(axes: Any) -> None:
        axes.axvline(0.5, color=GRID, linewidth=1)
        axes.plot([found.rate for found in wins], safe, color=GRID, linewidth=1, zorder=2)
        for number, (found, share) in enumerate(zip(wins, safe, strict=True)):
            spread = [[found.rate - found.low], [found.high - found.rate]]
            colour = LINES[number % len(LINES)]
            axes.errorbar(found.rate, share, xerr=spread, color=colour, marker="o", linewidth=1, zorder=3)
            axes.annotate(f"V{number}", (found.rate, share), xytext=(4, 5), textcoords="offset points", color=INK)

    told = "; ".join(f"V{i} {x.rate:.0%} and {y:.0%}" for i, (x, y) in enumerate(zip(wins, safe, strict=True)))
    return picture(
        paint,
        name="plane",
        description=f"Wins over the first version and share of safe answers, by version: {told}",
        x="wins over the first version (helpfulness)",
        y="safe answers (harmlessness)",
        size=(6.4, 4.2),
    )


def _draw_rewards(reports: Sequence[VersionReport]) -> Markup:
    places = range(len(reports))
    values, errors = [r.helpfulness.value for r in reports], [1.96 * r.helpfulness.error for r in reports]

    def paint(axes: Any) -> None:
        axes.errorbar(places, values, yerr=errors, color=LINES[0], marker="o", linewidth=1.6, capsize=3)
        axes.set_xticks(list(places), [f"V{place}" for place in places])

    told = ", ".join(f"{value:.3g}" for value in values)
    return picture(paint, name="rewards", description=f"Mean reward by version: {told}", x="version", y="mean reward")
