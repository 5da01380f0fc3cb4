"""Extras, as the package's metadata has them."""

from email import message_from_string
from importlib import metadata

import pytest

from arriero.common.extras import read_extras

REQUIRES = [
    "torch<3,>=2.8",
    "colorama; platform_system == 'Nowhere'",
    "faiss-cpu<2,>=1.9; extra == 'rag'",
    "pypdfium2; extra == 'rag' and platform_system == 'Nowhere'",
    "Fast.API>=0.115; extra == 'serve'",
    "arriero[rag,serve]; extra == 'dev'",
    "pytest>=8; extra == 'dev'",
]
INSTALLED = {"torch": "2.13.0+cpu", "faiss-cpu": "1.8.0", "pytest": "9.0"}


@pytest.fixture
def installed(monkeypatch):
    message = message_from_string("Provides-Extra: rag\nProvides-Extra: serve\nProvides-Extra: dev\n")

    def version(name):
        if name not in INSTALLED:
            raise metadata.PackageNotFoundError(name)
        return INSTALLED[name]

    monkeypatch.setattr(metadata, "metadata", lambda name: message)
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(metadata, "version", version)


def test_what_extras_bring_and_what_is_missing(installed):
    extras = {extra.name: extra for extra in read_extras()}
    assert list(extras) == ["", "dev", "rag", "serve"]
    assert extras[""].brings == ("torch",)
    assert extras[""].missing == ()
    assert extras["rag"].brings == ("faiss-cpu",)
    assert extras["rag"].missing == ("faiss-cpu<2,>=1.9 (1.8.0 is installed)",)
    assert extras["serve"].missing == ("Fast.API>=0.115",)
    assert extras["dev"].brings == ("faiss-cpu", "fast-api", "pytest")
    assert extras["rag"].install == "pip install 'arriero[rag]'"


def test_a_tree_that_was_never_installed_has_none(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", absent)
    assert read_extras() == []
