"""Errors: optional imports and nearest names."""

import sys

import pytest

from arriero.common.errors import ArrieroError, MissingExtraError, did_you_mean, require


def test_require_returns_the_module():
    assert require("json", extra="rag", purpose="parsing") is sys.modules["json"]


def test_require_names_the_extra_of_an_absent_package():
    with pytest.raises(
        MissingExtraError, match=r"parsing needs the package 'absent_package': pip install 'arriero\[rag\]'"
    ):
        require("absent_package", extra="rag", purpose="parsing")


def test_require_names_the_extra_when_the_parent_of_a_submodule_is_absent():
    with pytest.raises(MissingExtraError):
        require("absent_package.part", extra="rag", purpose="parsing")


def test_require_does_not_hide_a_dependency_that_is_itself_broken(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import another_absent_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="another_absent_package"):
        require("broken_package", extra="rag", purpose="parsing")


def test_did_you_mean_offers_only_near_names():
    assert did_you_mean("serach", ["search", "add"]) == " (did you mean search?)"
    assert did_you_mean("xyz", ["search", "add"]) == ""


def test_errors_are_value_errors_so_that_library_users_need_not_know_ours():
    assert issubclass(ArrieroError, ValueError)
