"""`/api/preferences`: human preferences in Llama 2's protocol (arXiv 2307.09288, section 3.2.1).

A pair is shown in an order that is drawn for each annotator, and stays when the page is loaded again; the client sends
the order back with the choice, so that the choice is mapped to the responses here. Each judgement is in the file at
once: an annotator goes on where they stopped. Pairs come with responses, or the server's models give two.
"""

import secrets
import threading
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, BaseModel, FailFast, Field
from pydantic_core import PydanticCustomError

from arriero.align.preference_stats import Tally, measure_agreement, tally
from arriero.align.preferences import Degree, Judgement, Kind, Pair, Preferences, Response, Safety, this_week
from arriero.align.prompts import Prompt
from arriero.align.sample import Voice, answer_twice
from arriero.align.variants import Variant
from arriero.common.errors import BusyError
from arriero.common.seeds import seed_of
from arriero.generate.request import Completion
from arriero.generate.request import Request as Generation
from arriero.rag.sources import printable
from arriero.serve.answerer import Answerer, find_answerer
from arriero.serve.errors import ERRORS, ApiError
from arriero.serve.fields import MOST_MESSAGES, Asked, NonEmpty, Text
from arriero.serve.service import Service
from arriero.tokenizer.chat import Message

router = APIRouter(prefix="/api/preferences", tags=["preferences"], responses=ERRORS)

_TEMPERATURES = (0.7, 1.2)
"""Of the two answers, as `arriero align sample` has them: for the sake of diversity."""
_FEWEST_TOKENS, _MOST_TOKENS = 16, 256
"""That an answer has room for."""
_SAMPLINGS = 4
"""Pairs of answers that may be waited for at once."""
_sampling = threading.BoundedSemaphore(_SAMPLINGS)


def _check_plain(name: str) -> str:
    if not name.strip() or printable(name) != name:
        raise PydanticCustomError("no_name", "expected a name of visible characters")
    return name.strip()


Name = Annotated[Text, AfterValidator(_check_plain), Field(max_length=100)]
Order = Annotated[list[Literal[1, 2]], Field(min_length=2, max_length=2)]


class PairFacts(BaseModel):
    """Two responses to compare."""

    id: int
    kind: Kind
    messages: list[dict[str, str]]
    responses: list[str]
    """The first and the second; they are to be shown in `order`."""
    order: list[Literal[1, 2]]
    """Which response is shown at each place."""


class Progress(BaseModel):
    """How far an annotator is."""

    judged: int
    total: int


class NextPair(BaseModel):
    """What to judge next."""

    pair: PairFacts | None
    progress: Progress


class Turn(Asked):
    """A message of the chat up to the response."""

    role: Literal["system", "user", "assistant"]
    content: Text


class GivenResponse(Asked):
    """An answer that the client brings."""

    text: NonEmpty
    model: Name = "unknown"


class NewPair(Asked):
    """A prompt, with two responses or with who is to give them."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MOST_MESSAGES), FailFast()]
    models: Annotated[list[Name], Field(min_length=2, max_length=2)] | None = None
    """Models or adapters that answer; without them the default model answers twice."""
    responses: Annotated[list[GivenResponse], Field(min_length=2, max_length=2)] | None = None
    kind: Kind = "helpfulness"
    source: Name = "pages"


class NewJudgement(Asked):
    """What an annotator says of a pair."""

    pair: Annotated[int, Field(ge=1, lt=2**63)]
    order: Order
    """As the pair was shown."""
    choice: Literal[1, 2]
    """The better one's place, as shown."""
    degree: Degree | None = None
    safety: Safety | None = None
    annotator: Name


class JudgementFacts(BaseModel):
    """What was noted."""

    pair: int
    choice: Literal[1, 2]
    """The better response: the pair's first or second."""
    models: list[str]
    """Which variants gave the first and the second, now that it is decided."""
    progress: Progress


class Stats(BaseModel):
    """What was collected so far."""

    pairs: int
    judgements: int
    annotators: dict[str, int]
    agreement: float | None
    """Share of pairs of judgements of one pair that agree; null where none was judged twice."""
    kappa: float | None
    """Agreement beyond chance."""
    tally: list[Tally]


@router.get("/next")
def next_pair(
    request: Request,
    annotator: Annotated[str, Query(max_length=100)],
    kind: Annotated[Kind | None, Query()] = None,
) -> NextPair:
    """The next pair that an annotator has not judged; null when there is none."""
    name = _name(annotator)
    with _open(request) as preferences:
        pair = next(preferences.pending(name, kind, most=1), None)
        judged, total = preferences.progress(name, kind)
    shown = None if pair is None else _show(pair, seed_of("order", pair.id, name))
    return NextPair(pair=shown, progress=Progress(judged=judged, total=total))


@router.post("/pairs", status_code=201)
def add_pair(new: NewPair, request: Request) -> PairFacts:
    """Add a pair; an equal one that is there already is given back."""
    messages: list[Message] = [{"role": turn.role, "content": turn.content} for turn in new.messages]
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise ApiError(400, "messages: expected a chat that ends with a message of the user", "messages")
    if new.responses is not None and new.models is not None:
        raise ApiError(400, "responses: give them or models, not both", "responses")
    with _open(request) as preferences:
        if new.responses is not None:
            first, second = (Response(text=given.text, model=given.model) for given in new.responses)
        else:
            first, second = _sample(request.app.state.service, Prompt(tuple(messages)), new.models)
        number = preferences.add_pair(messages, first, second, kind=new.kind, source=new.source)
        return _show(preferences.pair(number), secrets.randbelow(2))


@router.post("/judgements", status_code=201)
def add_judgement(new: NewJudgement, request: Request) -> JudgementFacts:
    """Note what an annotator says; what the same one said of the pair before is replaced."""
    if sorted(new.order) != [1, 2]:
        raise ApiError(400, "order: expected [1, 2] or [2, 1], as the pair was shown", "order", "invalid_value")
    choice = new.order[new.choice - 1]
    with _open(request) as preferences:
        pair = preferences.pair(new.pair)
        if pair.kind == "safety" and new.safety is None:
            raise ApiError(400, "safety: expected which responses are safe, as the pair is one of safety", "safety")
        judgement = Judgement(
            choice=choice, degree=new.degree, safety=new.safety, annotator=new.annotator, batch=this_week()
        )
        preferences.judge(pair.id, judgement)
        judged, total = preferences.progress(new.annotator)
    models = [pair.first.model, pair.second.model]
    return JudgementFacts(pair=pair.id, choice=choice, models=models, progress=Progress(judged=judged, total=total))


@router.get("/stats")
def show_stats(request: Request) -> Stats:
    """Counts, agreement of the annotators, and who was preferred to whom."""
    with _open(request) as preferences:
        counts, votes = preferences.count(), list(preferences.votes())
    agreement = measure_agreement((vote.pair, vote.choice) for vote in votes)
    annotators: dict[str, int] = {}
    for vote in votes:
        annotators[vote.annotator] = annotators.get(vote.annotator, 0) + 1
    return Stats(
        pairs=counts["pairs"],
        judgements=counts["judgements"],
        annotators=annotators,
        agreement=agreement.share,
        kappa=agreement.kappa,
        tally=tally(votes),
    )


def _open(request: Request) -> Preferences:
    """The file of preferences, made if it is not there.

    Raises:
        ApiError: the server was started without one.
    """
    service: Service = request.app.state.service
    if service.preferences is None:
        raise ApiError(404, "annotation is off: start the server with --preferences FILE", code="not_enabled")
    return Preferences(service.preferences, create=True)


def _name(given: str) -> str:
    try:
        return _check_plain(given)
    except PydanticCustomError as error:
        raise ApiError(400, f"annotator: {error.message()}", "annotator", "invalid_value") from error


def _show(pair: Pair, drawn: int) -> PairFacts:
    return PairFacts(
        id=pair.id,
        kind=pair.kind,
        messages=[{"role": turn["role"], "content": turn["content"]} for turn in pair.prompt],
        responses=[pair.first.text, pair.second.text],
        order=[2, 1] if drawn % 2 else [1, 2],
    )


class _Engine:
    """An engine with a tokenizer of an adapter's."""

    def __init__(self, answerer: Answerer) -> None:
        self.live, self.tokenizer, self.context = answerer.live, answerer.tokenizer, answerer.context

    def generate(self, requests: Sequence[Generation]) -> list[Completion]:
        """As an engine's."""
        return self.live.generate(requests)


def _sample(service: Service, prompt: Prompt, models: Sequence[str] | None) -> tuple[Response, Response]:
    """Two different answers of the server's models, at two temperatures.

    Raises:
        ApiError: a model is unknown, the prompt too long, or the answers were equal time and again.
        BusyError: others wait for theirs.
    """
    named = list(models or [service.default_model] * 2)
    found = [find_answerer(name, service.models, service.adapters, "models") for name in named]
    engines = {(id(each.live), id(each.tokenizer)): _Engine(each) for each in found}
    variants = [
        Variant(
            each.name,
            engines[id(each.live), id(each.tokenizer)],
            None if each.adapter is None else each.adapter.name,
        )
        for each in found
    ]
    room = min(variant.engine.context - len(variant.encode(prompt)) for variant in variants)
    if room < _FEWEST_TOKENS:
        told = (
            f"messages: they leave no room for an answer of {_FEWEST_TOKENS} tokens in a model's context: shorten them"
        )
        raise ApiError(400, told, "messages", "context_length_exceeded")
    one, two = (Voice(v, t, min(room, _MOST_TOKENS)) for v, t in zip(variants, _TEMPERATURES, strict=True))
    if not _sampling.acquire(blocking=False):
        raise BusyError(f"{_SAMPLINGS} pairs are being answered already: try again in a moment")
    try:
        pairs = answer_twice([prompt], (one, two), secrets.randbelow(2**31))
    finally:
        _sampling.release()
    if not pairs:
        raise ApiError(422, "the models gave equal or empty answers, time and again: choose others", "models")
    return pairs[0]
