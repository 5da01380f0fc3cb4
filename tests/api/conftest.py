"""The tiny model and encoder of the commands' tests."""

from tests.cli.conftest import run, tiny_encoder, tiny_model

__all__ = ["run", "tiny_encoder", "tiny_model"]
