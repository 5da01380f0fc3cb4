"""The recipes in `deploy/`: their commands are ones that `arriero` takes, and they run it as a user without rights."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.documentation import parse_command

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
EXAMPLE = DEPLOY / "example.toml"


def parse_recipe(words: list[str]):
    """The settings of an `arriero …` command line; `--config` names the example's settings."""
    return parse_command([str(EXAMPLE) if word.endswith("/serve.toml") else word for word in words])


def unit() -> configparser.SectionProxy:
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(DEPLOY / "arriero.service")
    return parser["Service"]


def instructions() -> dict[str, str]:
    """The Containerfile's instructions; of several of a name the last."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split(maxsplit=1) for line in lines)


def test_settings_are_those_of_the_command():
    settings = parse_recipe(["serve", "--config", "/etc/arriero/serve.toml"])
    assert settings.host == "127.0.0.1"
    assert settings.token is None
    assert set(tomllib.loads(EXAMPLE.read_text())) < set(vars(settings))


def test_the_unit_runs_the_server_without_rights():
    service = unit()
    for key in ("ExecStartPre", "ExecStart"):
        program, *words = shlex.split(service[key])
        assert program == "/opt/arriero/bin/arriero"
        parse_recipe(words)
    assert service["User"] == "arriero"
    assert service["NoNewPrivileges"] == service["PrivateTmp"] == service["ProtectHome"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is absent")
def test_systemd_takes_the_unit(tmp_path):
    path = tmp_path / "arriero.service"
    text = (DEPLOY / "arriero.service").read_text()
    path.write_text(text.replace("/opt/arriero/bin/arriero", sys.executable))
    checked = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
    assert "arriero.service" not in checked.stderr
    assert checked.returncode == 0, checked.stderr


def test_the_container_runs_the_server_without_rights():
    given = instructions()
    assert json.loads(given["ENTRYPOINT"]) == ["arriero"]
    settings = parse_recipe(json.loads(given["CMD"]))
    assert settings.host == "0.0.0.0"
    assert not settings.open
    assert given["USER"] == "arriero"
    assert json.loads(given["VOLUME"]) == ["/data", "/cache"]


def test_compose_runs_the_same_on_this_machine_alone():
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    given = instructions()
    assert service["command"] == json.loads(given["CMD"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["user"].startswith("10001")
    assert service["healthcheck"]["test"] == ["CMD", *json.loads(given["HEALTHCHECK"].partition("CMD ")[2])]
