"""A run in numbers."""

import math

import pytest

from arriero.report.run import Run
from arriero.report.summary import facts, measure_energy, mixture, samples, source_losses, summarise
from tests.report.diary import energy, event, sample, start, step, validation, whole_run
from tests.report.diary import mixture as mixture_line


def run_of(*lines) -> Run:
    run = Run(name="run", path=None)
    for line in lines:
        run.add(line)
    return run


def test_a_finished_run():
    summary = summarise(run_of(*whole_run()))
    assert (summary.state, summary.steps, summary.total_steps) == ("finished", 600, 600)
    assert summary.loss == pytest.approx(2.5, abs=0.05)
    assert summary.tokens == 600 * 4096
    assert summary.best_loss == pytest.approx(2.9, abs=0.01)


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        ([start()], "not begun"),
        ([step(1)], "in progress"),
        ([step(1), event(1, "interrupted")], "interrupted"),
        ([step(1), event(1, "out of time")], "out of time"),
        ([step(1), event(1, "interrupted"), event(1, "resumed")], "in progress"),
        ([step(1), event(1, "interrupted"), event(1, "resumed"), step(2)], "in progress"),
        ([step(1), event(1, "interrupted"), event(1, "resumed"), step(2), event(2, "finished")], "finished"),
    ],
)
def test_the_state_follows_the_last_end_and_what_came_after(lines, state):
    assert summarise(run_of(*lines)).state == state


def test_nothing_is_known_of_an_empty_run():
    summary = summarise(run_of())
    assert summary.steps == 0
    assert math.isnan(summary.loss)
    assert math.isnan(summary.memory_bytes)
    assert summary.energy is None


def test_energy_of_sessions_that_each_count_from_zero_is_added_up():
    measured = measure_energy(run_of(step(9), *(energy(n, joules) for n, joules in enumerate([5, 10, 2, 4, 1]))))
    assert measured.joules == 10 + 4 + 1
    assert measured.source == "measured by the CPU's counters (RAPL)"
    assert measured.mwh == pytest.approx(15 * 1.1 / 3.6e9)
    assert measured.tonnes == pytest.approx(measured.mwh * 0.385)


def test_a_session_counts_though_the_next_began_with_more():
    lines = [start(), energy(1, 50.0), start(), energy(2, 55.0), energy(3, 60.0)]
    assert measure_energy(run_of(*lines)).joules == 50 + 60


def test_sessions_measured_in_different_ways_name_both():
    source = measure_energy(run_of(energy(1, 5.0), energy(2, 1.0, "estimated"))).source
    assert source == "measured by the CPU's counters (RAPL); estimated: watts × time"


def test_without_a_meter_energy_is_estimated_from_the_card_and_labelled_so():
    estimated = measure_energy(run_of(start(), step(10, seconds=3600)))
    assert estimated.source == "estimated: watts × time, 400 W a device"
    assert estimated.joules == 2 * 400 * 3600
    assert measure_energy(run_of(start(device_name="abacus"), step(10))) is None
    assert measure_energy(run_of(start(device_name="abacus", watts=5), step(10, seconds=1))).joules == 2 * 5


def test_the_mixture_has_planned_and_actual_epochs():
    plays = mixture(run_of(mixture_line(), step(300)))[0]
    assert (plays.planned_tokens, plays.tokens) == (1_720_320, 860_160)
    assert plays.epochs == pytest.approx(plays.planned_epochs / 2)


def test_losses_by_source_come_with_bits_a_byte():
    losses = source_losses(run_of(validation(100), validation(200)))
    assert [loss.source for loss in losses][:2] == ["plays", "letters"]
    assert losses[0].bits_per_byte == pytest.approx(losses[0].loss / math.log(2) / 4)
    assert losses[0].best_loss == losses[0].loss


def test_samples_are_sorted_by_prompt_the_latest_first():
    by_prompt = samples(run_of(sample(1, "a"), sample(1, "b", prompt="Then"), sample(2, "c")))
    assert [line["text"] for line in by_prompt["Once upon a time, "]] == ["c", "a"]


def test_facts_tell_the_layout():
    assert facts(run_of(start()))["layout"] == "tensor 2"
    assert facts(run_of(start(layout={"tensor": 1, "sequence": True})))["layout"] == "one process"
    assert facts(run_of()) == {}
