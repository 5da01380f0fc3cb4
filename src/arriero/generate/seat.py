"""A row's place among those that decode: its tokens, its pages, and how far it has been read."""

from arriero.generate.blocks import Blocks, Chain
from arriero.generate.lookup import Lookup
from arriero.generate.row import Row
from arriero.model.paged_cache import PAGE


class Seat:
    """One row, and those that wait for it to read the prompt that they share."""

    def __init__(self, row: Row, beginning: Chain, lookup: Lookup | None) -> None:
        """A row that has not begun; `beginning` tells apart rows whose equal tokens would be read differently."""
        self.row, self.lookup = row, lookup
        self.tokens = list(row.prompt)
        """Prompt and answer so far."""
        self.siblings: list[Seat] = []
        """Rows with the same prompt, which begin when it has been read."""
        self.pages: list[int] = []
        self.read = 0
        """How many of the tokens are in the cache."""
        self._beginning = self._chain = beginning
        self._named = 0  # pages that can be found by others

    @property
    def pending(self) -> int:
        """Tokens to be read before the next can be chosen."""
        return len(self.tokens) - self.read

    @property
    def wants_prompt(self) -> bool:
        """Whether the log-probabilities of the prompt are still to be told, so that all of it must be read."""
        row = self.row
        return row.request.prompt_logprobs is not None and len(row.prompt_logprobs) < len(row.prompt)

    @property
    def pages_needed(self) -> int:
        """Pages that the row still needs for its tokens and a page more, and its siblings for theirs."""
        soon = min(len(self.tokens) + PAGE, self.row.room)
        return max(pages_of(soon) - len(self.pages), 0) + 2 * len(self.siblings)

    def push(self, token: int) -> None:
        """Take the next token."""
        self.tokens.append(token)
        self.row.push(token)

    def find_pages(self, blocks: Blocks) -> None:
        """Take what others have read of these tokens; the last token is read in any case, for its logits."""
        if self.wants_prompt:
            return
        while self.read == len(self.pages) * PAGE and self.read + PAGE < len(self.tokens):
            found = blocks.find(self._chain, self.tokens[self.read : self.read + PAGE])
            if found is None:
                return
            page, self._chain = found
            self.pages.append(page)
            self.read += PAGE
            self._named += 1
            if not self.row.ids:
                self.row.cached_tokens += PAGE

    def reach(self, end: int, blocks: Blocks) -> bool:
        """Get the pages for the tokens up to `end`, and the first of them to itself; False if there is no room."""
        missing = max(pages_of(end) - len(self.pages), 0)
        place = self.read // PAGE
        shared = place < len(self.pages) and blocks.is_shared(self.pages[place])
        if missing + shared > blocks.room:
            return False
        if shared:
            (own,) = blocks.take(1)
            blocks.cache.copy(self.pages[place], own)
            blocks.release([self.pages[place]])
            self.pages[place] = own
        self.pages += blocks.take(missing)
        return True

    def name_pages(self, blocks: Blocks) -> None:
        """Let others find the pages that have become full."""
        while (self._named + 1) * PAGE <= self.read:
            start = self._named * PAGE
            self._chain = blocks.name(self.pages[self._named], self._chain, self.tokens[start : start + PAGE])
            self._named += 1

    def fork(self, blocks: Blocks) -> "list[Seat]":
        """The siblings, now that the prompt has been read: they share its pages until they write into the last."""
        siblings, self.siblings = self.siblings, []
        for sibling in siblings:
            sibling._inherit(self, blocks.share(self.pages))
            sibling.row.prompt_logprobs = list(self.row.prompt_logprobs)
        return siblings

    def pass_on(self) -> "Seat | None":
        """Leave before the prompt has been read: one of the siblings goes on with it, if there is any."""
        if not self.siblings:
            return None
        heir, *heir_siblings = self.siblings
        heir._inherit(self, self.pages)
        heir.siblings, self.siblings, self.pages = heir_siblings, [], []
        heir.row.prompt_logprobs = self.row.prompt_logprobs
        return heir

    def split(self, count: int) -> "Seat":
        """All siblings but the first `count`, as a seat of their own."""
        first, *others = self.siblings[count:]
        self.siblings, first.siblings = self.siblings[:count], others
        return first

    def leave(self, blocks: Blocks) -> None:
        """Give the pages back; the row may be read again later."""
        blocks.release(self.pages)
        self.pages, self.read = [], 0
        self._chain, self._named = self._beginning, 0
        if not self.row.ids:
            self.row.cached_tokens = 0
        if self.wants_prompt:
            self.row.prompt_logprobs = []

    def _inherit(self, other: "Seat", pages: list[int]) -> None:
        self.pages, self.read, self._chain, self._named = pages, other.read, other._chain, other._named
        self.row.cached_tokens = other.row.cached_tokens


def pages_of(tokens: int) -> int:
    """Pages that so many tokens take."""
    return -(-tokens // PAGE)
