"""LLaMA's recipes (Touvron et al. 2023a, section 2.1), one a kind of source: the reader, and the steps in their order.

    commoncrawl    text of the page · 300 characters · repeated paragraphs · language · perplexity · classifier
    c4             text of the page · C4's rules · language · repeated lines or spans
    github         licences and names · exact duplicates · header off, rules for code
    wikipedia      languages · markup off
    books          Gutenberg's parts off · near duplicates by containment
    arxiv          comments off, macros written out, cut to the body
    stackexchange  answers by score, HTML off
    files          the user's own, by the parsers of every format · exact duplicates · private data marked

The options of a source add steps to any of them, always in this order: languages, C4's and Gopher's rules, perplexity,
classifier, near duplicates, evaluation sets, private data.
"""

from functools import partial

from arriero.corpus.arxiv import read_arxiv
from arriero.corpus.books import clean_book, read_book
from arriero.corpus.c4 import c4_rules, read_words
from arriero.corpus.classifier import ByClassifier
from arriero.corpus.code import clean_code
from arriero.corpus.decontaminate import Decontaminate
from arriero.corpus.dedup import CorpusStep
from arriero.corpus.document import Document, Each, Step
from arriero.corpus.exact import ExactDuplicates
from arriero.corpus.files import FileReader
from arriero.corpus.github import CodeReader
from arriero.corpus.gopher import gopher_rules
from arriero.corpus.jsonl import read_pages
from arriero.corpus.language import THRESHOLD, Language
from arriero.corpus.latex import clean_latex
from arriero.corpus.near_duplicates import CONTAINMENT, NearDuplicates
from arriero.corpus.paragraphs import RepeatedParagraphs, shortest
from arriero.corpus.perplexity import ByPerplexity
from arriero.corpus.private import private_data
from arriero.corpus.source import Kind, SourceConfig
from arriero.corpus.stackexchange import clean_posts, read_stackexchange
from arriero.corpus.stages import Reader, Recipe
from arriero.corpus.warc import read_warc
from arriero.corpus.web_text import web_text
from arriero.corpus.wikipedia import read_wikipedia
from arriero.corpus.wikitext import clean_wikitext

WHOLE_FOLDERS: frozenset[Kind] = frozenset({"github", "arxiv"})
"""Kinds whose folders are read as one: a repository, a paper."""
C4_THRESHOLD = 0.99
"""C4's least probability of English."""

Steps = list[Step | CorpusStep]


def build_recipe(source: SourceConfig) -> Recipe:
    """The recipe of a source; models and lists are opened here, so that what is wrong with one is told at once.

    Raises:
        ArrieroError: a model, a list or a package is missing; the message says how to get it.
    """
    read, steps = _BUILDERS[source.kind](source)
    steps = [*steps, *_options(source)]
    if source.licence:
        steps.insert(0, _licence(source.licence))
    return Recipe(source.kind, read, steps)


def _options(source: SourceConfig) -> Steps:
    """The steps that options add to any kind; commoncrawl and c4 have the first ones already, at their own places."""
    web = source.kind in ("commoncrawl", "c4")
    steps: Steps = []
    if source.languages and not web:
        steps.append(_language(source))
    if source.c4 not in (None, "none") and source.kind != "c4":
        steps.append(_c4(source))
    if source.gopher:
        steps.append(gopher_rules())
    if source.kind != "commoncrawl":
        steps += _models(source)
    if source.near_duplicates is not None:
        steps.append(NearDuplicates(source.near_duplicates))
    if source.evaluations:
        steps.append(Decontaminate(source.evaluations))
    private = source.private or ("replace" if source.kind == "files" else "keep")
    if private != "keep":
        steps.append(private_data(private))
    return steps


def _commoncrawl(source: SourceConfig) -> tuple[Reader, Steps]:
    steps: Steps = [web_text(source.extractor), shortest(), RepeatedParagraphs("ccnet"), _language(source)]
    return read_warc, [*steps, *_models(source)]


def _c4_pages(source: SourceConfig) -> tuple[Reader, Steps]:
    steps: Steps = [web_text(source.extractor)]
    if source.c4 != "none":
        steps.append(_c4(source))
    steps.append(_language(source))
    steps.append(RepeatedParagraphs("c4-paper" if source.c4 == "paper" else "c4-code"))
    return partial(read_pages, field=source.field), steps


def _github(source: SourceConfig) -> tuple[Reader, Steps]:
    return CodeReader(source.licences, source.field), [ExactDuplicates(), clean_code()]


def _wikipedia(source: SourceConfig) -> tuple[Reader, Steps]:
    return read_wikipedia, [clean_wikitext()]


def _books(source: SourceConfig) -> tuple[Reader, Steps]:
    steps: Steps = [clean_book()]
    if source.near_duplicates is None:
        steps.append(NearDuplicates(0.8, CONTAINMENT))
    return read_book, steps


def _arxiv(source: SourceConfig) -> tuple[Reader, Steps]:
    return read_arxiv, [clean_latex()]


def _stackexchange(source: SourceConfig) -> tuple[Reader, Steps]:
    return read_stackexchange, [clean_posts()]


def _files(source: SourceConfig) -> tuple[Reader, Steps]:
    return FileReader(), [ExactDuplicates()]


_BUILDERS = {
    "commoncrawl": _commoncrawl,
    "c4": _c4_pages,
    "github": _github,
    "wikipedia": _wikipedia,
    "books": _books,
    "arxiv": _arxiv,
    "stackexchange": _stackexchange,
    "files": _files,
}


def _language(source: SourceConfig) -> Step:
    """What the source itself says counts for Wikipedia; for all others the text is looked at."""
    if source.kind == "wikipedia":
        wanted = frozenset(source.languages)
        return Each("language", lambda d: d if d.metadata.get("language") in wanted else d.drop("language: not wanted"))
    if source.kind == "c4":
        return Language(source.languages or ("en",), source.threshold or C4_THRESHOLD)
    return Language(source.languages, source.threshold or THRESHOLD)


def _c4(source: SourceConfig) -> Step:
    bad_words = read_words(source.bad_words) if source.bad_words else ()
    return c4_rules("paper" if source.c4 == "paper" else "code", bad_words)


def _models(source: SourceConfig) -> Steps:
    steps: Steps = []
    if source.perplexity:
        steps.append(ByPerplexity(source.perplexity, source.keep))
    if source.classifier:
        steps.append(ByClassifier(source.classifier, source.classifier_threshold))
    return steps


def _licence(licence: str) -> Step:
    """What the user says of documents that do not say it themselves."""

    def note(document: Document) -> Document:
        return document if document.licence else document.with_licence(licence)

    return Each("licence", note)
