"""The page of a reward model: what it gets right and how sure it is, beside the two rules that know nothing but lengths
(Llama 2, arXiv 2307.09288, section 3.2.2, Table 8 and Figure 6)."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from arriero.align.reward_measure import Accuracy, Evaluation
from arriero.report.drawing import GRID, INK, LINES, picture
from arriero.report.figures import Figure, Tile, render_figures


def render_reward(evaluation: Evaluation) -> str:
    """The page of one evaluation."""
    figures = [_degrees_figure(evaluation), _sources_figure(evaluation), _calibration_figure(evaluation)]
    figures += [_scores_figure(evaluation), _lengths_figure(evaluation)]
    lead = f"{evaluation.model}, on {evaluation.accuracy.count:,} comparisons of {evaluation.kind}."
    return render_figures("Reward model", lead, _tiles(evaluation), figures)


def accuracy_rows(evaluation: Evaluation) -> list[tuple[str, str, str, str]]:
    """Name, accuracy, its 95% interval and counts: of the model, of the rules, by degree, and of telling safety."""
    named = {
        "all": evaluation.accuracy,
        "rule: the longer one": evaluation.longer,
        "rule: the shorter one": evaluation.shorter,
        **evaluation.degrees,
    }
    if evaluation.safety is not None:
        named["safe or unsafe"] = evaluation.safety
    return _rows(named)


def _rows(named: Mapping[str, Accuracy]) -> list[tuple[str, str, str, str]]:
    return [
        (
            name,
            f"{one.share:.1%}",
            f"{one.low:.1%}–{one.high:.1%}",
            f"{one.right:,} of {one.count:,}" + f", {one.ties:,} tie" * bool(one.ties),
        )
        for name, one in named.items()
    ]


def _tiles(evaluation: Evaluation) -> list[Tile]:
    one, correlation = evaluation.accuracy, evaluation.length_correlation
    tiles = [
        ("Accuracy", f"{one.share:.1%}", f"95%: {one.low:.1%}–{one.high:.1%}; {one.ties:,} ties, not among the right"),
        ("The longer one", f"{evaluation.longer.share:.1%}", f"is better; the shorter: {evaluation.shorter.share:.1%}"),
        ("Calibration error", f"{evaluation.calibration_error:.3f}", "how sure, against how often right"),
        ("With length", "–" if correlation is None else f"{correlation:+.2f}", "correlation of score and characters"),
    ]
    if evaluation.safety is not None:
        tiles.append(("Safety told", f"{evaluation.safety.share:.1%}", f"of {evaluation.safety.count:,} responses"))
    return tiles


def _degrees_figure(evaluation: Evaluation) -> Figure:
    bars = {"all": evaluation.accuracy, **evaluation.degrees}
    return Figure(
        title="By how much better",
        text=(
            "Share of pairs whose better response scores higher, with 95% intervals; the lines are the rules that the "
            "longer (dashed) and the shorter (dotted) response is better."
        ),
        draw=lambda: _draw_bars("accuracy by degree", bars, evaluation),
        head=("pairs", "accuracy", "95%", "right"),
        rows=accuracy_rows(evaluation),
    )


def _sources_figure(evaluation: Evaluation) -> Figure:
    kinds = {f"all of {kind}": one for kind, one in evaluation.kinds.items()}
    return Figure(
        title="By source",
        text="The same by what the pairs were judged by, and by where they come from.",
        head=("pairs", "accuracy", "95%", "right"),
        rows=_rows(kinds | evaluation.sources),
    )


def _draw_bars(name: str, bars: Mapping[str, Accuracy], evaluation: Evaluation) -> Markup:
    """Accuracies with their intervals; a degree is text of ours, so that it may stand in the drawing."""

    def paint(axes: Any) -> None:
        places, shares = list(range(len(bars))), [one.share for one in bars.values()]
        below, above = [one.share - one.low for one in bars.values()], [one.high - one.share for one in bars.values()]
        axes.barh(places, shares, xerr=[below, above], color=LINES[0], ecolor=INK, height=0.6)
        axes.axvline(evaluation.longer.share, color=LINES[1], linestyle="--", linewidth=1.2)
        axes.axvline(evaluation.shorter.share, color=LINES[2], linestyle=":", linewidth=1.4)
        axes.axvline(0.5, color=GRID, linewidth=1)
        axes.set_yticks(places, list(bars))
        axes.invert_yaxis()
        axes.set_xlim(0, 1)

    told = ", ".join(f"{label} {one.share:.0%}" for label, one in bars.items())
    rules = f"the longer one {evaluation.longer.share:.0%}, the shorter one {evaluation.shorter.share:.0%}"
    description = f"Accuracy: {told}; rules: {rules}"
    return picture(paint, name=name, description=description, x="share right", size=(6.4, 0.9 + 0.4 * len(bars)))


def _calibration_figure(evaluation: Evaluation) -> Figure:
    bins = evaluation.bins

    def draw() -> Markup:
        def paint(axes: Any) -> None:
            axes.plot([0.5, 1], [0.5, 1], color=GRID, linewidth=1.2)
            axes.plot([one.sure for one in bins], [one.right for one in bins], color=LINES[0], marker="o")
            axes.set_xlim(0.49, 1.01)
            axes.set_ylim(0, 1.03)

        told = ", ".join(f"{one.sure:.0%} sure and {one.right:.0%} right" for one in bins)
        description = f"How often the model is right by how sure it is: {told}"
        return picture(paint, name="calibration", description=description, x="how sure", y="how often right")

    return Figure(
        title="Calibration",
        text=(
            "σ of the difference of two scores is the chance that the model gives its own choice; on the grey line it "
            f"is right as often as that. Mean distance from the line: {evaluation.calibration_error:.3f}."
        ),
        draw=draw if bins else None,
        head=("sure", "right", "pairs"),
        rows=[(f"{one.sure:.1%}", f"{one.right:.1%}", f"{one.count:,}") for one in bins],
    )


def _scores_figure(evaluation: Evaluation) -> Figure:
    found = evaluation.histogram

    def draw() -> Markup:
        def paint(axes: Any) -> None:
            for number, counts in enumerate((found.chosen, found.rejected)):
                axes.stairs(counts, found.edges, color=LINES[number], fill=True, alpha=0.35)
                axes.stairs(counts, found.edges, color=LINES[number], linewidth=1.4)

        tops = [found.edges[max(range(len(own)), key=own.__getitem__)] for own in (found.chosen, found.rejected)]
        description = f"Scores: most of the chosen near {tops[0]:.2f}, most of the rejected near {tops[1]:.2f}"
        return picture(paint, name="scores", description=description, x="score", y="responses")

    return Figure(
        title="Scores",
        text="Of the better and of the other responses; what they share is where the model cannot tell.",
        draw=draw,
        legend=("chosen", "rejected"),
    )


def _lengths_figure(evaluation: Evaluation) -> Figure:
    groups = evaluation.length_groups

    def draw() -> Markup:
        def paint(axes: Any) -> None:
            places, scores = [one.characters for one in groups], [one.score for one in groups]
            axes.errorbar(places, scores, yerr=[1.96 * one.error for one in groups], color=LINES[0], marker="o")

        told = ", ".join(f"{one.score:.2f} at {one.characters:.0f} characters" for one in groups)
        description = f"Mean score by length: {told}"
        return picture(paint, name="lengths", description=description, x="characters", y="mean score")

    return Figure(
        title="Score by length",
        text="Mean score of the shortest to the longest responses, with 95% intervals: a steep line is a model that "
        "mostly measures length.",
        draw=draw,
        head=("characters", "mean score", "responses"),
        rows=[
            (f"{one.characters:.0f}", f"{one.score:.3f} ± {1.96 * one.error:.3f}", f"{one.count:,}") for one in groups
        ],
    )
