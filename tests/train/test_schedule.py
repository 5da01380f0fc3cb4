"""The learning rate's shapes, at their corners."""

import pytest

from arriero.common.errors import ArrieroError
from arriero.train.schedule import ScheduleConfig


def test_cosine_rises_to_the_peak_and_ends_at_a_tenth():
    schedule = ScheduleConfig(warmup_steps=10)
    factors = [schedule.factor(step, 110) for step in range(110)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == 1.0
    assert factors[59] == pytest.approx(0.55, abs=0.01)  # half-way down
    assert factors[109] == pytest.approx(0.1)
    assert factors[9:] == sorted(factors[9:], reverse=True)


def test_what_is_not_said_is_llamas():
    schedule = ScheduleConfig()
    assert (schedule.schedule, schedule.warmup_steps, schedule.final_ratio) == ("cosine", 2000, 0.1)


def test_wsd_stays_at_the_peak_and_falls_at_the_end():
    schedule = ScheduleConfig(schedule="wsd", warmup_steps=10, decay_share=0.2, final_ratio=0.0)
    factors = [schedule.factor(step, 100) for step in range(100)]
    assert factors[10:80] == [1.0] * 70
    assert factors[89] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.0)


def test_constant_is_the_peak_after_the_warm_up():
    schedule = ScheduleConfig(schedule="constant", warmup_steps=4)
    assert [schedule.factor(step, 8) for step in range(8)] == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_a_warm_up_longer_than_the_run_is_cut_to_it():
    assert ScheduleConfig(warmup_steps=2000).factor(9, 10) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps: expected 0 or more, got -1"),
        ({"final_ratio": 1.5}, "final_ratio: expected 0 to 1, got 1.5"),
        ({"decay_share": 0.0}, "decay_share: expected a share above 0"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ArrieroError, match=message):
        ScheduleConfig(**change)
