"""What commands on runs share: the settings of the run alone, and which of the processes tells."""

from dataclasses import dataclass

import pytest

from arriero.cli.runs import is_main, processes, settings_of


@dataclass(frozen=True)
class Settings:
    steps: int = 10
    name: str = "mine"


@dataclass(frozen=True)
class Command(Settings):
    json: bool = False


def test_the_settings_leave_out_what_is_the_commands_own() -> None:
    assert settings_of(Command(steps=3, json=True), Settings) == Settings(steps=3)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (1, True)),
        ({"WORLD_SIZE": "4", "RANK": "0"}, (4, True)),
        ({"WORLD_SIZE": "4", "RANK": "3"}, (4, False)),
    ],
)
def test_one_of_the_processes_tells(monkeypatch, environment: dict[str, str], expected: tuple[int, bool]) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (processes(), is_main()) == expected
