"""Continuous batching: rows join and leave between steps, and each step serves all that run (Orca, Yu et al. 2022).

A step takes one token further every row that decodes, and reads, within a budget of tokens, from the prompts of those
that have just joined, oldest first: a long prompt is read in chunks and holds nobody up (Sarathi, Agrawal et al. 2023,
arXiv 2308.16369). Rows hold pages for the tokens they have and not for those they may write; where pages run out, the
youngest row gives up its own and is read again later, with the same tokens and the same random stream.

A row's tokens do not depend on the others, up to the rounding by which matrix products differ between batch sizes.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arriero.generate.blocks import Blocks, Chain
from arriero.generate.logprobs import report_logprobs
from arriero.generate.lookup import Lookup
from arriero.generate.row import Row
from arriero.generate.sampler import Sampler
from arriero.generate.seat import Seat
from arriero.generate.step import Span, cache_dtype, step
from arriero.model.paged_cache import PAGE, PagedCache
from arriero.model.transformer import Llama

_LOGITS = 256  # of prompts' tokens in one step, for their log-probabilities: 50 MB where the vocabulary is 49,152


@dataclass(frozen=True)
class LiveStats:
    """What an engine is doing, and has done since it began."""

    running: int
    """Rows that decode or whose prompts are being read."""
    waiting: int
    """Rows that wait for room."""
    cache_tokens: int
    """Tokens of cache that these rows hold, in whole pages."""
    cache_room: int
    """Tokens of cache there are."""
    cache_bytes: int
    """Bytes that they take when all of it has been written."""
    prompt_tokens: int
    """Tokens of the prompts read."""
    cached_prompt_tokens: int
    """How many of them were in the cache already."""
    generated_tokens: int
    steps: int
    """Forward passes."""
    preempted: int
    """How often a row lost its place to an older one, to be read again later."""


@dataclass(frozen=True)
class _Turn:
    """What a seat does in a step."""

    seat: Seat
    span: Span
    guess: Sequence[int] = ()

    @property
    def end(self) -> int:
        """Tokens of the seat that are read afterwards, without the guess."""
        return self.span.start + len(self.span.tokens) - len(self.guess)


class Scheduler:
    """The rows that wait and those that run, over one cache. For one thread."""

    def __init__(self, model: Llama, *, pages: int, max_rows: int, step_tokens: int, speculate: int = 0) -> None:
        """Nothing runs yet.

        Args:
            model: in eval mode.
            pages: of the cache; enough for any one row.
            max_rows: most rows that run.
            step_tokens: tokens of one pass, beyond which no more of the prompts is read in it.
            speculate: most tokens of an answer to guess ahead in each pass.
        """
        device = model.tok_embeddings.weight.device
        self.model, self.max_rows, self.step_tokens, self.speculate = model, max_rows, step_tokens, speculate
        self.cache = PagedCache(model.config, pages, dtype=cache_dtype(model), device=device)
        self._blocks, self._sampler = Blocks(self.cache), Sampler()
        self._waiting: deque[Seat] = deque()
        self._running: list[Seat] = []  # the oldest first
        self._steps = self._preempted = self._prompt_tokens = self._cached = self._generated = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._waiting or self._running)

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows wait for their turn; of those with equal prompts, one reads it for all."""
        seats: dict[object, Seat] = {}
        for row in rows:
            seat = Seat(row, self._beginning(row), Lookup(self.speculate) if self.speculate else None)
            first = seats.setdefault((row.key, row.request.prompt_logprobs), seat)
            if first is not seat:
                first.siblings.append(seat)
        self._waiting.extend(seats.values())

    def step(self) -> list[Row]:
        """One pass; returns the rows that got tokens or ended."""
        moved = self._sweep()
        self._admit()
        turns = self._plan()
        while not turns and self._running:  # prompts have taken all pages, and none can be read to its end
            self._preempt(self._running[-1])
            turns = self._plan()
        assert turns or not self._waiting or moved, "a row needs more pages than the cache has"
        if turns:
            moved += self._advance(turns)
        return moved

    def forget(self) -> None:
        """Keep nothing of the prompts read so far: the model has changed."""
        self._blocks.forget()

    def clear(self) -> None:
        """Drop all rows."""
        for seat in self._running:
            seat.leave(self._blocks)
        self._running, self._waiting = [], deque()

    def stats(self, arrived: int = 0) -> LiveStats:
        """Figures of this moment; `arrived` rows wait beside those that wait here."""
        return LiveStats(
            running=_rows_of(self._running),
            waiting=_rows_of(list(self._waiting)) + arrived,
            cache_tokens=self._blocks.held * PAGE,
            cache_room=self._blocks.count * PAGE,
            cache_bytes=self.cache.k.nbytes + self.cache.v.nbytes,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached,
            generated_tokens=self._generated,
            steps=self._steps,
            preempted=self._preempted,
        )

    def _beginning(self, row: Row) -> Chain:
        """What equal tokens must share to be read alike: the adapter, and the length by which dynamic RoPE turns."""
        scaling = self.model.config.rope_scaling
        dynamic = scaling is not None and scaling.kind == "dynamic"
        stretched = dynamic and len(row.prompt) > (scaling.original_max_seq_len if scaling else 0)
        return row.request.adapter or "", len(row.prompt) if stretched else 0

    def _sweep(self) -> list[Row]:
        """Let cancelled rows leave; returns them."""
        ended: list[Row] = []
        for seats in (self._running, self._waiting):
            for place, seat in enumerate(seats):
                for one in (seat, *seat.siblings):
                    one.row.check_cancelled()
                    if one.row.finish_reason is not None:
                        ended.append(one.row)
                seat.siblings = [one for one in seat.siblings if one.row.finish_reason is None]
                if seat.row.finish_reason is not None and (heir := seat.pass_on()):
                    seats[place] = heir
        if ended:
            for seat in self._running:
                if seat.row.finish_reason is not None:
                    seat.leave(self._blocks)
            self._running = [seat for seat in self._running if seat.row.finish_reason is None]
            self._waiting = deque(seat for seat in self._waiting if seat.row.finish_reason is None)
        return ended

    def _admit(self) -> None:
        """Let those that wait run, in their order, while there is room."""
        space = self.max_rows - _rows_of(self._running)
        while self._waiting and space > 0:
            seat = self._waiting[0]
            seat.find_pages(self._blocks)
            others = seat.split(space - 1) if len(seat.siblings) >= space else None
            promised = sum(one.pages_needed for one in self._running)
            if self._running and promised + seat.pages_needed > self._blocks.room:
                seat.leave(self._blocks)
                if others:
                    seat.siblings += [others, *others.siblings]
                    others.siblings = []
                return
            self._waiting.popleft()
            if others:
                self._waiting.appendleft(others)
            self._running.append(seat)
            space -= _rows_of([seat])

    def _plan(self) -> list[_Turn]:
        """The next token of every row that decodes, and as much of the prompts as the budget has left."""
        turns = []
        for seat in [seat for seat in self._running if seat.pending == 1]:
            guess = self._guess(seat)
            if self._make_room(seat, len(guess)):
                turns.append(self._turn(seat, len(seat.tokens), guess))
        budget, logits = max(self.step_tokens - sum(len(turn.span.tokens) for turn in turns), PAGE), _LOGITS
        for seat in [seat for seat in self._running if seat.pending > 1]:
            if budget < 1:
                break
            seat.find_pages(self._blocks)
            if end := self._chunk(seat, min(budget, logits) if seat.wants_prompt else budget):
                turns.append(self._turn(seat, end))
                budget -= end - seat.read
                logits -= turns[-1].span.wanted
        return turns

    def _turn(self, seat: Seat, end: int, guess: Sequence[int] = ()) -> _Turn:
        """A seat reads its tokens up to `end`, and a guess behind them."""
        count = end - seat.read + len(guess)
        wanted = 1 + len(guess) if end == len(seat.tokens) else 0
        tokens = [*seat.tokens[seat.read : end], *guess]
        request = seat.row.request
        span = Span(
            tokens,
            seat.read,
            seat.pages,
            wanted=count if seat.wants_prompt else wanted,
            adapter=request.adapter,
            prompt=len(request.prompt_ids),
        )
        return _Turn(seat, span, guess)

    def _guess(self, seat: Seat) -> list[int]:
        """Tokens that may follow, as many as there is room for without hardship."""
        room = seat.row.room - len(seat.tokens)
        if seat.lookup is None or seat.siblings or room < 1:
            return []
        free = (len(seat.pages) + self._blocks.room - len(self._running)) * PAGE - len(seat.tokens)
        return seat.lookup.guess(seat.tokens, max(min(room, free), 0))

    def _make_room(self, seat: Seat, guessed: int) -> bool:
        """Pages for a seat's next token, if need be those of the youngest; False if that is itself, or was before."""
        while seat in self._running:
            if seat.reach(len(seat.tokens) + guessed, self._blocks):
                return True
            self._preempt(self._running[-1])
        return False

    def _chunk(self, seat: Seat, budget: int) -> int:
        """How far to read a prompt in this step, its pages taken; 0: not at all. Chunks end where pages end."""
        end = min(len(seat.tokens), seat.read + budget, (len(seat.pages) + self._blocks.room) * PAGE)
        if end < len(seat.tokens):
            end -= end % PAGE
        return end if end > seat.read and seat.reach(end, self._blocks) else 0

    def _preempt(self, seat: Seat) -> None:
        seat.leave(self._blocks)
        self._running.remove(seat)
        self._waiting.appendleft(seat)
        self._preempted += 1

    def _advance(self, turns: Sequence[_Turn]) -> list[Row]:
        """Do what was planned; returns the rows that moved."""
        logits = step(self.model, self.cache, [turn.span for turn in turns])  # (R, V)
        self._steps += 1
        drawing: list[tuple[Seat, int, Sequence[int]]] = []
        place = 0
        for turn in turns:
            seat, wanted = turn.seat, turn.span.wanted
            if seat.wants_prompt:
                _note_prompt(seat, logits[place : place + wanted], turn.span.start)
            place += wanted
            seat.read = turn.end
            seat.name_pages(self._blocks)
            if seat.pending == 0:
                drawing.append((seat, place - 1 - len(turn.guess), turn.guess))
                drawing += [(sibling, place - 1, ()) for sibling in self._begin(seat)]
        self._draw(drawing, logits)
        return self._settle(drawing)

    def _begin(self, seat: Seat) -> list[Seat]:
        """A prompt may have been read: its siblings join."""
        if not seat.row.ids:
            self._prompt_tokens += len(seat.row.prompt)
            self._cached += seat.row.cached_tokens
        siblings = seat.fork(self._blocks)
        if siblings:
            behind = self._running.index(seat) + 1
            self._running[behind:behind] = siblings
        return siblings

    @torch.inference_mode()
    def _draw(self, drawing: list[tuple[Seat, int, Sequence[int]]], logits: Tensor) -> None:
        """Tokens for seats, each with the place of its logits and its guess, whose logits lie behind.

        As long as a row draws what was guessed, it draws on: so every token is the one that it would have drawn from
        the same logits and the same random numbers without any guess.
        """
        depth = 0
        while drawing:
            places = [place + depth for _, place, _ in drawing]
            chosen = logits if places == list(range(len(logits))) else logits[torch.tensor(places).to(logits.device)]
            tokens = self._sampler.draw([seat.row for seat, _, _ in drawing], chosen)
            self._generated += len(tokens)
            going = []
            for one, token in zip(drawing, tokens, strict=True):
                seat, _, guess = one
                seat.push(token)
                if seat.row.finish_reason is None and depth < len(guess) and guess[depth] == token:
                    going.append(one)
            drawing, depth = going, depth + 1

    def _settle(self, drawn: Sequence[tuple[Seat, int, Sequence[int]]]) -> list[Row]:
        """Count what of the guesses was right, and let those leave that have ended."""
        for seat, _, guess in drawn:
            right = len(seat.tokens) - 1 - seat.read
            seat.read += right
            if seat.lookup is not None:
                seat.lookup.learn(len(guess), right)
            seat.name_pages(self._blocks)
            seat.row.check_cancelled()
            if seat.row.finish_reason is not None:
                seat.leave(self._blocks)
                self._running.remove(seat)
        return [seat.row for seat, _, _ in drawn]


def _rows_of(seats: Sequence[Seat]) -> int:
    return sum(1 + len(seat.siblings) for seat in seats)


def _note_prompt(seat: Seat, logits: Tensor, start: int) -> None:
    """Take the log-probabilities of the prompt's tokens from the logits (N, V) after those from `start` on."""
    row, top = seat.row, seat.row.request.prompt_logprobs
    assert top is not None
    if start == 0:
        row.prompt_logprobs = [None]
    told = row.prompt[start + 1 : start + 1 + len(logits)]
    if told:
        row.prompt_logprobs += report_logprobs(logits[: len(told)], torch.tensor(told, device=logits.device), top)
