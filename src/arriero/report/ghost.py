"""How long instructions hold, as a page: adherence by turn, and where the answers look, before and after."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from arriero.align.attention_map import AttentionMap
from arriero.align.ghost_measure import Adherence
from arriero.report.drawing import COLOURS, INK, LINES, picture
from arriero.report.figures import Figure, render_figures

WHERE = {
    "first": "instruction in the first message",
    "every": "instruction in every message",
    "never": "no instruction",
}
_STYLES = {"first": "-", "every": (0, (4, 2)), "never": (0, (1, 2))}
_BINS = 240
"""Points of a drawn map: the greatest weight of each bin of tokens."""


def render_ghost(adherence: Sequence[Adherence], maps: Sequence[AttentionMap], instruction: str) -> str:
    """The page.

    Args:
        adherence: of each model and each place of the instruction.
        maps: of one dialogue, by each model.
        instruction: of that dialogue.
    """
    figures = [_adherence_figure(adherence)]
    if maps:
        figures.append(_map_figure(maps, instruction))
    lasting = [one for one in adherence if one.where == "first"]
    tiles = [(one.model, f"{one.survived:.1f}", "turns before the first broken answer, on average") for one in lasting]
    lead = "An instruction is given in the first message; programs decide whether each answer keeps to it."
    return render_figures("How long instructions hold", lead, tiles, figures)


def share(kept: float | None) -> str:
    """'67%'; a dash where there is nothing to count."""
    return "–" if kept is None else f"{kept:.0%}"


def _adherence_figure(adherence: Sequence[Adherence]) -> Figure:
    turns = [kept.turn for kept in adherence[0].turns]
    return Figure(
        title="Answers that keep to the instruction, by turn",
        text="Whole lines: the instruction stands in the first message alone; bands are 95% intervals (Wilson). "
        "Dashed: in every message. Dotted: nowhere.",
        legend=list(dict.fromkeys(one.model for one in adherence)),
        draw=lambda: _draw_adherence(adherence),
        head=["model", "instruction", *map(str, turns)],
        rows=[[one.model, WHERE[one.where], *(share(kept.share) for kept in one.turns)] for one in adherence],
    )


def _draw_adherence(adherence: Sequence[Adherence]) -> Markup:
    models = list(dict.fromkeys(one.model for one in adherence))

    def paint(axes: Any) -> None:
        for one in adherence:
            reached = [kept for kept in one.turns if kept.share is not None]
            turns, colour = [kept.turn for kept in reached], LINES[models.index(one.model) % COLOURS]
            axes.plot(
                turns, [kept.share for kept in reached], color=colour, linestyle=_STYLES[one.where], marker="o",
                markersize=3, linewidth=1.5,
            )  # fmt: skip
            if one.where == "first":
                axes.fill_between(
                    turns, [kept.low for kept in reached], [kept.high for kept in reached], color=colour, alpha=0.12
                )
        axes.set_ylim(-0.03, 1.03)
        axes.xaxis.get_major_locator().set_params(integer=True)

    described = "; ".join(
        f"{one.model}, {WHERE[one.where]}: " + ", ".join(share(kept.share) for kept in one.turns) for one in adherence
    )
    description = f"share of answers that keep to the instruction, by turn: {described}"
    return picture(paint, name="adherence", description=description, x="turn", y="share kept", size=(9.6, 3.6))


def _map_figure(maps: Sequence[AttentionMap], instruction: str) -> Figure:
    turns = max(len(one.answers) for one in maps)
    return Figure(
        title="Attention to the instruction",
        text=f"One dialogue that begins with “{instruction}”, read by each model: of each token the greatest weight, "
        "over all heads of all layers, to a token of the instruction; the table has the mean over each answer. "
        "Vertical lines are where answers begin.",
        draw=lambda: _draw_maps(maps),
        legend=[one.model for one in maps],
        head=["model", *(f"answer {turn + 1}" for turn in range(turns))],
        rows=[[one.model, *(f"{weight:.3f}" for weight in one.by_turn)] for one in maps],
    )


def _draw_maps(maps: Sequence[AttentionMap]) -> Markup:
    def paint(axes: Any) -> None:
        for number, one in enumerate(maps):
            width = max(1, -(-len(one.weights) // _BINS))
            places = range(0, len(one.weights), width)
            strongest = [max(one.weights[place : place + width]) for place in places]
            axes.plot(list(places), strongest, color=LINES[number % COLOURS], linewidth=1.0)
        for start, _ in maps[0].answers:
            axes.axvline(start, color=INK, linewidth=0.6, linestyle=(0, (2, 2)), alpha=0.6)
        axes.set_ylim(0, 1)

    described = "; ".join(f"{one.model} {', '.join(f'{weight:.2f}' for weight in one.by_turn)}" for one in maps)
    description = f"greatest attention to the instruction, by token; means over the answers: {described}"
    return picture(paint, name="attention", description=description, x="token", y="weight", size=(9.6, 3.0))
