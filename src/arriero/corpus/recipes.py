"""LLaMA's recipes (section 2.1), one a kind of source: which reader, and which steps in which order."""

from arriero.corpus.source import Kind, SourceConfig
from arriero.corpus.stages import Recipe

WHOLE_FOLDERS: frozenset[Kind] = frozenset({"github", "arxiv"})
"""Kinds whose folders are read as one: a repository, a paper."""


def build_recipe(source: SourceConfig) -> Recipe:
    raise NotImplementedError
