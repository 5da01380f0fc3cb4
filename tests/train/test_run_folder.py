"""A run's folder: begun once, continued with the same settings or with those that may differ."""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError, FormatError
from arriero.common.settings import flatten
from arriero.train.run_folder import RunFolder


@dataclass(frozen=True)
class Inner:
    steps: int = 10
    max_minutes: float | None = None


@dataclass(frozen=True)
class Config:
    loop: Inner = field(default_factory=Inner)
    lr: float = 3e-4
    weights: dict[str, float] = field(default_factory=dict)
    samples: tuple[str, ...] = ()
    shards: tuple[Path, ...] = (Path("shards/plays"),)
    device: str = "auto"


def begin(path: Path, config: Config, allow: tuple[str, ...] = ()) -> None:
    folder = RunFolder(path)
    folder.check(config, allow)
    folder.begin(config)


def test_the_settings_are_written_as_toml(tmp_path: Path) -> None:
    begin(tmp_path / "run", Config(weights={"wiki.en": 0.5, "wiki": 0.5}, samples=('"\\x41"\n☃',)))
    written = tomllib.loads((tmp_path / "run/config.toml").read_text())
    assert written == {
        "lr": 3e-4,
        "loop": {"steps": 10},
        "weights": {"wiki.en": 0.5, "wiki": 0.5},
        "samples": ['"\\x41"\n☃'],
        "shards": ["shards/plays"],
        "device": "auto",
    }


def test_checking_writes_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").check(Config())
    assert not (tmp_path / "run").exists()


def test_the_same_settings_continue_a_run(tmp_path: Path) -> None:
    config = Config(weights={"wiki.en": 0.5}, samples=('"\\x41"\n☃', "C:\\new"))
    begin(tmp_path / "run", config)
    RunFolder(tmp_path / "run").check(config)


def test_other_settings_are_all_listed_and_nothing_is_overwritten(tmp_path: Path) -> None:
    begin(tmp_path / "run", Config())
    before = (tmp_path / "run/config.toml").read_bytes()
    other = Config(loop=Inner(steps=20), lr=1e-3, weights={"plays": 1.0})
    with pytest.raises(ArrieroError) as caught:
        begin(tmp_path / "run", other)
    message = str(caught.value)
    for part in ("loop.steps was 10, is 20", "lr was 0.0003, is 0.001", "weights.plays was not set, is 1.0"):
        assert part in message
    assert "--allow" in message
    assert (tmp_path / "run/config.toml").read_bytes() == before


def test_allowed_fields_may_differ_and_are_kept(tmp_path: Path) -> None:
    begin(tmp_path / "run", Config())
    with pytest.raises(ArrieroError, match=r"settings: lr was 0\.0003, is 0\.001\. "):
        begin(tmp_path / "run", Config(loop=Inner(steps=20), lr=1e-3), ("loop.steps",))
    longer = Config(loop=Inner(steps=20))
    begin(tmp_path / "run", longer, ("loop.steps",))
    RunFolder(tmp_path / "run").check(longer)


def test_a_command_without_allow_does_not_speak_of_it(tmp_path: Path) -> None:
    begin(tmp_path / "run", Config())
    folder = RunFolder(tmp_path / "run")
    folder.check(Config(), None)
    with pytest.raises(ArrieroError, match=r"lr was 0\.0003, is 0\.1\. Give those again, remove it, or") as caught:
        folder.check(Config(lr=0.1), None)
    assert "--allow" not in str(caught.value)


def test_a_run_that_is_held_was_checked_and_is_nobody_elses(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("arriero.train.run_folder._WAIT_S", 0.1)
    begin(tmp_path / "run", Config())
    folder = RunFolder(tmp_path / "run")
    with (
        folder.hold(Config(), None),
        pytest.raises(ArrieroError, match="the run"),
        RunFolder(folder.path).hold(Config()),
    ):
        pass
    with pytest.raises(ArrieroError, match="holds a run with other settings"), folder.hold(Config(lr=0.1), None):
        pass
    with folder.hold(Config()):  # a refusal keeps nobody out
        pass


def test_a_table_may_be_allowed_whole(tmp_path: Path) -> None:
    begin(tmp_path / "run", Config(weights={"plays": 1.0}))
    begin(tmp_path / "run", Config(weights={"plays": 0.5, "law": 0.5}), ("weights",))


def test_fields_that_change_no_result_may_always_differ(tmp_path: Path) -> None:
    begin(tmp_path / "run", Config())
    begin(tmp_path / "run", Config(loop=Inner(max_minutes=1.0), device="cpu"))


def test_a_field_that_is_none_is_asked_back(tmp_path: Path) -> None:
    with pytest.raises(ArrieroError, match=r"there is no field 'loop\.step' \(did you mean loop\.steps"):
        RunFolder(tmp_path / "run").check(Config(), ("loop.step",))


def test_a_field_may_be_allowed_that_only_the_old_run_sets(tmp_path: Path) -> None:
    begin(tmp_path / "run", Config(weights={"plays": 1.0}))
    begin(tmp_path / "run", Config(), ("weights.plays",))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ArrieroError, match="is not empty and holds no run"):
        RunFolder(tmp_path).check(Config())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("dear")
    with pytest.raises(ArrieroError, match="is a file"):
        RunFolder(tmp_path / "run").check(Config())


@pytest.mark.parametrize("content", [b"lr = [", b"\xff\xfe"])
def test_a_damaged_config_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(FormatError, match=r"config\.toml is damaged"):
        RunFolder(tmp_path).check(Config())


def test_flattening_leaves_out_what_is_not_set() -> None:
    assert "loop.max_minutes" not in flatten(Config())
    assert flatten(dataclasses.replace(Config(), samples=("a",)))["samples"] == ["a"]
