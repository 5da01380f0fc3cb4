"""A page on rejection sampling: what more samples bring, at which temperature, and whence the best are."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from arriero.common.errors import FormatError, NotFoundError
from arriero.report.drawing import LINES, picture
from arriero.report.figures import Figure, render_figures

_TOLD = (1, 2, 4, 8, 16, 32, 64, 100, 128, 256, 512, 1024)
"""Numbers of samples that the table has a line for, beside the last."""


def render_rejection(run: Path) -> str:
    """The page of a run of `arriero align reject`.

    Raises:
        NotFoundError: no iteration has come to its end there.
        FormatError: a result is damaged.
    """
    results = [_read(file) for file in sorted(run.glob("result-*.json"))]
    if not results:
        raise NotFoundError(f"{run}: no finished iteration of `arriero align reject` in it")
    last = results[-1]
    curve = last["curve"]
    tiles = [
        ("prompts", f"{last['prompts']:,}", f"{last['samples']} answers each"),
        ("temperature", f"{last['temperature']:g}", "the best of several" if last["sweep"] else "as given"),
        ("reward of one answer", f"{curve['maximum'][0]:.3f}", "mean over prompts"),
        ("of the best of all", f"{curve['maximum'][-1]:.3f}", f"expected of {curve['samples'][-1]}"),
    ]
    figures = [_curve_figure(last), *([_sweep_figure(last)] if last["sweep"] else []), _versions_figure(results)]
    lead = f"Answers by {last['model']}, rewarded by {last['reward']}; iteration {last['iteration']}."
    return render_figures("Rejection sampling", lead, tiles, figures)


def curve_rows(curve: Mapping[str, Any]) -> list[tuple[int, float, float]]:
    """K, expected maximum and expected median, for the numbers of samples that a table tells of."""
    samples: list[int] = curve["samples"]
    rows = zip(samples, curve["maximum"], curve["median"], strict=True)
    return [row for row in rows if row[0] in _TOLD or row[0] == samples[-1]]


def _read(file: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise FormatError(
            f"{file}: damaged ({error}): run `arriero align reject` again, which writes it anew"
        ) from error
    return result


def _curve_figure(result: Mapping[str, Any]) -> Figure:
    curve = result["curve"]

    def draw() -> Markup:
        def paint(axes: Any) -> None:
            for number, name in enumerate(("maximum", "median")):
                colour, means = LINES[number], curve[name]
                axes.plot(curve["samples"], means, color=colour, linewidth=1.6, marker="o", markersize=2.5, label=name)
                if (errors := curve[f"{name}_error"]) is not None:
                    low = [mean - error for mean, error in zip(means, errors, strict=True)]
                    high = [mean + error for mean, error in zip(means, errors, strict=True)]
                    axes.fill_between(curve["samples"], low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.minorticks_off()

        ends = (curve["maximum"][0], curve["maximum"][-1], curve["samples"][-1])
        said = "expected best reward from {:.3f} with one sample to {:.3f} with {}".format(*ends)
        return picture(
            paint, name="reward by samples", description=said, x="samples a prompt", y="reward", size=(9.6, 3.6)
        )

    return Figure(
        title="Reward by samples",
        text=(
            "Upper line: the expected best reward of K samples; lower line: their expected median; with 95% intervals "
            f"over {curve['prompts']:,} prompts. What lies between them is what choosing can gain."
        ),
        draw=draw,
        head=("samples", "maximum", "median", "gained"),
        rows=[
            (str(k), f"{best:.3f}", f"{middle:.3f}", f"{best - middle:.3f}") for k, best, middle in curve_rows(curve)
        ],
    )


def _sweep_figure(result: Mapping[str, Any]) -> Figure:
    taken = f"{result['temperature']:g}"
    return Figure(
        title="Temperature",
        text=f"Mean reward of the best of {result['samples']} answers to a few of the prompts; {taken} was taken.",
        head=("temperature", "reward of the best"),
        rows=[(name, f"{mean:.3f}") for name, mean in result["sweep"].items()],
    )


def _versions_figure(results: Sequence[Mapping[str, Any]]) -> Figure:
    return Figure(
        title="Iterations",
        text="Each iteration's choice is among its own answers and those of all iterations before it.",
        head=("iteration", "model", "temperature", "reward of one answer", "of the chosen", "chosen from"),
        rows=[
            (
                str(result["iteration"]),
                str(result["model"]),
                f"{result['temperature']:g}",
                f"{result['curve']['maximum'][0]:.3f}",
                "none" if result["best_reward"] is None else f"{result['best_reward']:.3f}",
                ", ".join(f"{number}: {count:,}" for number, count in result["best_from"].items()),
            )
            for result in results
        ],
    )
