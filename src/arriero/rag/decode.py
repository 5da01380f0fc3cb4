"""Answers by RAG's two models (Lewis et al., arXiv 2005.11401, section 2.5), with the documents that they rest on.

RAG-Token is one distribution over the next token, p'(y_i | x, y_<i) = Σ_z p(z|x) p(y_i | x, z, y_<i), and is decoded as
any generator: by beam search, greedily, or by sampling; each beam holds a row for each document. RAG-Sequence has no
such distribution: each document is searched by itself, and the answers found, Y, are scored by all documents,

    p(y|x) = Σ_z p(z|x) p(y|x, z)

where *Thorough* Decoding runs the generator once more for each document in whose beam y did not come up, and *Fast*
Decoding counts those as 0. Scores are sums of log-probabilities in fp32 and wider, at no length penalty. An answer that
is cut off at `max_tokens` counts as it stands.

Q questions, k documents, B running beams of one search, V vocabulary, T tokens of an answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from arriero.common.errors import ArrieroError
from arriero.generate.beam import Beam, BeamSearch, likeliest_tokens
from arriero.generate.sampling import Rules, choose, shape_logits
from arriero.rag.decoding_config import DecodingConfig
from arriero.rag.generator import DecoderState, Generator, RagDocument, RagPrompt, Reading
from arriero.rag.marginal import document_prior


@dataclass(frozen=True, kw_only=True)
class RagHypothesis:
    """An answer, and what it rests on."""

    ids: tuple[int, ...]
    """Its tokens, the one that ends it included."""
    text: str
    logprob: float
    """log p(y|x), in nats."""
    posterior: tuple[float, ...]
    """p(z|x, y) of each document (RAG-Token: the mean over the tokens): what citations are weighted by."""
    token_posterior: tuple[tuple[float, ...], ...]
    """Of each token, one a document: RAG-Token's p(z|x, y_<=i), in which the token alone is weighed as in the paper's
    figure 2; RAG-Sequence's p(z|x, y_1 … y_i), which gathers as the answer goes on and ends as `posterior`."""


@dataclass(frozen=True, kw_only=True)
class RagAnswer:
    """What a question came to."""

    question: str
    documents: tuple[RagDocument, ...]
    prior: tuple[float, ...]
    """p(z|x) of each document."""
    hypotheses: tuple[RagHypothesis, ...]
    """Best first; samples in the order of their seeds."""
    cut: int
    """Documents that lost their end to the generator's context."""

    @property
    def best(self) -> RagHypothesis:
        """The best of the hypotheses."""
        return self.hypotheses[0]


def decode(
    generator: Generator, questions: Sequence[str], documents: Sequence[Sequence[RagDocument]], config: DecodingConfig
) -> list[RagAnswer]:
    """Answer questions from the documents that were found for each, as many together as `config.rows` allows.

    Raises:
        ArrieroError: a question has no document, or does not fit the generator's context.
    """
    if len(questions) != len(documents):
        raise ArrieroError(f"expected documents for each of {len(questions)} questions, got {len(documents)} lists")
    if empty := [question for question, own in zip(questions, documents, strict=True) if not own]:
        raise ArrieroError(f"no document for the question '{empty[0]}': RAG sums over one or more")
    answers: dict[int, RagAnswer] = {}
    for wave in _waves([len(own) for own in documents], config):
        asked = [_ask(generator, questions[i], documents[i], config) for i in wave]
        answers.update(zip(wave, _answer(generator, asked, config), strict=True))
    return [answers[i] for i in range(len(questions))]


def decode_closed_book(generator: Generator, questions: Sequence[str], config: DecodingConfig) -> list[RagAnswer]:
    """Answer from what the generator knows by itself: the questions alone, no document, and no sum.

    Raises:
        ArrieroError: a question does not fit the generator's context.
    """
    certain = torch.zeros(1)  # log 1
    asked = [
        _Asked(question, (), (generator.prompt(question, None, reserve=config.max_tokens),), certain)
        for question in questions
    ]
    waves = _waves([1] * len(asked), config)
    return [answer for wave in waves for answer in _answer(generator, [asked[i] for i in wave], config)]


def _waves(counts: Sequence[int], config: DecodingConfig) -> Iterator[list[int]]:
    """Numbers of questions that decode together: with as many documents each, and few enough rows."""
    order = sorted(range(len(counts)), key=lambda i: counts[i])
    for count, same in groupby(order, key=lambda i: counts[i]):
        own, at_once = list(same), max(1, config.rows // (count * config.breadth))
        yield from (own[start : start + at_once] for start in range(0, len(own), at_once))


@dataclass(frozen=True)
class _Asked:
    """A question before its answer."""

    question: str
    documents: tuple[RagDocument, ...]
    prompts: tuple[RagPrompt, ...]
    prior: Tensor
    """log p(z|x), (k,) fp32."""

    def answer(self, hypotheses: Sequence[RagHypothesis]) -> RagAnswer:
        return RagAnswer(
            question=self.question,
            documents=self.documents,
            prior=tuple(self.prior.exp().tolist()),
            hypotheses=tuple(hypotheses),
            cut=sum(prompt.cut for prompt in self.prompts),
        )


def _ask(generator: Generator, question: str, documents: Sequence[RagDocument], config: DecodingConfig) -> _Asked:
    scores = torch.tensor([[document.score for document in documents]])  # (1, k)
    prompts = tuple(generator.prompt(question, document, reserve=config.max_tokens) for document in documents)
    return _Asked(question, tuple(documents), prompts, document_prior(scores)[0])


@torch.inference_mode()
def _answer(generator: Generator, asked: Sequence[_Asked], config: DecodingConfig) -> list[RagAnswer]:
    """Answers to questions with as many documents each."""
    reading = generator.read([prompt for each in asked for prompt in each.prompts])
    k = len(asked[0].prompts)
    rows = [list(range(first, first + k)) for first in range(0, k * len(asked), k)]  # of each question
    if config.kind == "sequence":
        return _answer_by_sequence(generator, reading, asked, rows, config)
    priors = [each.prior for each in asked]
    if config.way == "sample":
        found = _sample(generator, reading, priors, rows, config)
    else:
        searches = [_Search(own, prior, generator, config) for own, prior in zip(rows, priors, strict=True)]
        _search(reading, searches)
        found = [[(beam, search.parts(beam)) for beam in search.beams.finished] for search in searches]
    return [
        each.answer([_by_token(generator, *hypothesis) for hypothesis in own[: config.num_return]])
        for each, own in zip(asked, found, strict=True)
    ]


def _by_token(generator: Generator, beam: Beam, joint: Tensor) -> RagHypothesis:
    """RAG-Token's answer of log p(z|x) + log p(y_i | x, z, y_<i), (T, k)."""
    shares = joint.softmax(-1)  # (T, k)
    return RagHypothesis(
        ids=beam.ids,
        text=generator.text(beam.ids),
        logprob=beam.logprob,
        posterior=tuple(shares.mean(0).tolist()),
        token_posterior=tuple(map(tuple, shares.tolist())),
    )


def _answer_by_sequence(
    generator: Generator,
    reading: Reading,
    asked: Sequence[_Asked],
    rows: Sequence[Sequence[int]],
    config: DecodingConfig,
) -> list[RagAnswer]:
    """A search for each document, then the sum over documents for each answer found."""
    alone = torch.zeros(1)  # log 1: within a search there is one document
    searches = [[_Search([row], alone, generator, config) for row in own] for own in rows]
    _search(reading, [search for own in searches for search in own])
    found = [_tabulate(own) for own in searches]
    if config.way != "fast":
        _fill(found, reading, rows)
    return [
        each.answer(_best_sequences(generator, table, each.prior, config))
        for each, table in zip(asked, found, strict=True)
    ]


_Table = dict[tuple[int, ...], list[Tensor | None]]
"""Answer → of each document, log p(y_i | x, z, y_<i) (T,), or None where its beam did not come to the answer."""


def _tabulate(searches: Sequence["_Search"]) -> _Table:
    """Y: the answers that any document's search found, each once."""
    table: _Table = {}
    for z, search in enumerate(searches):
        for beam in search.beams.finished:
            table.setdefault(beam.ids, [None] * len(searches))[z] = search.parts(beam)[:, 0]
    return table


def _fill(tables: Sequence[_Table], reading: Reading, rows: Sequence[Sequence[int]]) -> None:
    """Thorough Decoding's additional passes: log p(y_i | x, z, y_<i) where a document's beam did not come to y."""
    gaps = [
        (table[y], z, prompts[z], y)
        for table, prompts in zip(tables, rows, strict=True)
        for y in table
        for z, found in enumerate(table[y])
        if found is None
    ]
    if gaps:
        scored = reading.logprobs([row for *_, row, _ in gaps], [y for *_, y in gaps])  # (gaps, T)
        for (own, z, _, y), logprobs in zip(gaps, scored.cpu(), strict=True):
            own[z] = logprobs[: len(y)]


def _best_sequences(generator: Generator, table: _Table, prior: Tensor, config: DecodingConfig) -> list[RagHypothesis]:
    """The likeliest answers of a table."""
    hypotheses = []
    for y, own in table.items():
        nothing = prior.new_full((len(y),), -torch.inf)
        logprobs = torch.stack([nothing if each is None else each for each in own]).double()  # (k, T)
        gathered = prior.double()[:, None] + logprobs.cumsum(-1)  # (k, T): log p(z|x) + log p(y_1 … y_i | x, z)
        shares = gathered.softmax(0).T  # (T, k)
        hypotheses.append(
            RagHypothesis(
                ids=y,
                text=generator.text(y),
                logprob=float(gathered[:, -1].logsumexp(0)),
                posterior=tuple(shares[-1].tolist()),
                token_posterior=tuple(map(tuple, shares.tolist())),
            )
        )
    return sorted(hypotheses, key=lambda hypothesis: (-hypothesis.logprob, hypothesis.ids))[: config.num_return]


class _Search:
    """A beam search whose beams each hold one row a document: k of them for RAG-Token, one for RAG-Sequence's."""

    def __init__(self, prompts: Sequence[int], prior: Tensor, generator: Generator, config: DecodingConfig) -> None:
        self.prompts, self.prior = prompts, prior
        self.beams = BeamSearch(
            beams=config.breadth, max_tokens=config.max_tokens, length_penalty=0.0, stop_ids=generator.stop_ids
        )
        self._joint: dict[tuple[int, ...], Tensor] = {}

    def advance(self, logprobs: list[list[float]], tokens: list[list[int]], joint: Tensor) -> list[tuple[int, Beam]]:
        """`BeamSearch.advance`, noting what each new token's probability is made of: `joint` (B, k, V)."""
        ended, going = self.beams.advance(logprobs, tokens)
        grown = [*ended, *going]
        parents, last = [parent for parent, _ in grown], [beam.ids[-1] for _, beam in grown]
        for (_, beam), part in zip(grown, joint[parents, :, last].cpu(), strict=True):
            self._joint[beam.ids] = part  # (k,)
        return going

    def parts(self, beam: Beam) -> Tensor:
        """log p(z|x) + log p(y_i | x, z, y_<i) of a beam's tokens, (T, k)."""
        return torch.stack([self._joint[beam.ids[: i + 1]] for i in range(len(beam.ids))])


def _search(reading: Reading, searches: Sequence[_Search]) -> None:
    """Run searches over as many documents each to their ends, all rows in one batch."""
    live = list(searches)
    k, max_tokens = len(live[0].prompts), live[0].beams.max_tokens
    state = reading.start([row for search in live for row in search.prompts], max_tokens)
    while True:
        beams = [len(search.beams.running) for search in live]
        prior = torch.cat([search.prior.expand(count, k) for search, count in zip(live, beams, strict=True)])  # (N, k)
        joint = _joint(state.logits, prior)  # (N, k, V)
        logprobs, tokens = likeliest_tokens(_mixture(joint), live[0].beams.width)
        kept: list[int] = []
        going: list[_Search] = []
        first = 0
        for search, count in zip(live, beams, strict=True):
            own = slice(first, first + count)
            if on := search.advance(logprobs[own], tokens[own], joint[own]):
                kept += [first + parent for parent, _ in on]
                going.append(search)
            first += count
        if not going:
            return
        live = going
        last = torch.tensor([beam.ids[-1] for search in live for beam in search.beams.running])
        _go_on(state, kept, last, k)


def _sample(
    generator: Generator,
    reading: Reading,
    priors: Sequence[Tensor],
    rows: Sequence[Sequence[int]],
    config: DecodingConfig,
) -> list[list[tuple[Beam, Tensor]]]:
    """RAG-Token's samples of each question, with their parts (T, k); each has a random stream of its own."""
    k, count = len(rows[0]), config.num_return
    rules = [config.sampling(sample) for sample in range(count)] * len(rows)
    streams = [torch.Generator().manual_seed(each.seed or 0) for each in rules]
    answers: list[tuple[list[int], list[Tensor], float]] = [([], [], 0.0) for _ in rules]
    live = list(range(len(rules)))
    state = reading.start([row for own in rows for _ in range(count) for row in own], config.max_tokens)
    for length in range(1, config.max_tokens + 1):
        joint = _joint(state.logits, torch.stack([priors[i // count] for i in live]))  # (N, k, V)
        mixture = _mixture(joint)  # (N, V)
        shaped = Rules.of([rules[i] for i in live], mixture.device)
        tokens = choose(shape_logits(mixture, shaped), shaped, [streams[i] for i in live])  # (N,)
        for place, (i, token) in enumerate(zip(live, tokens.tolist(), strict=True)):
            ids, parts, logprob = answers[i]
            answers[i] = [*ids, token], [*parts, joint[place, :, token].cpu()], logprob + float(mixture[place, token])
        kept = [place for place, token in enumerate(tokens.tolist()) if token not in generator.stop_ids]
        live = [live[place] for place in kept]
        if not live or length == config.max_tokens:
            break
        _go_on(state, kept, tokens.cpu()[kept], k)
    found = [(Beam(tuple(ids), logprob, logprob), torch.stack(parts)) for ids, parts, logprob in answers]
    return [found[first : first + count] for first in range(0, len(found), count)]


def _joint(logits: Tensor, prior: Tensor) -> Tensor:
    """log p(z|x) + log p(y_i | x, z, y_<i) of every token, (N, k, V), of logits (N·k, V) and log p(z|x) (N, k)."""
    logprobs = logits.log_softmax(-1).view(*prior.shape, -1)  # (N, k, V)
    return logprobs + prior.to(logits.device)[..., None]


def _mixture(joint: Tensor) -> Tensor:
    """log Σ_z p(z|x) p(y_i | x, z, y_<i), (N, V)."""
    return joint[:, 0] if joint.shape[1] == 1 else joint.logsumexp(1)


def _go_on(state: DecoderState, beams: Sequence[int], tokens: Tensor, k: int) -> None:
    """Keep these beams, each with its k rows, and append a token (N,) to each."""
    state.select([k * beam + z for beam in beams for z in range(k)])
    state.step(tokens.repeat_interleave(k))
