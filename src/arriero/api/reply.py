"""What a model said: text, with how it came about beside it."""

from collections.abc import Generator, Iterator

from arriero.common.errors import ArrieroError
from arriero.generate.request import Completion, Delta, FinishReason


class Reply(str):
    """An answer: a string like any other, which also knows how it came about."""

    completion: Completion
    """Tokens, counts, seed, and log-probabilities if they were asked for."""

    def __new__(cls, completion: Completion) -> "Reply":
        """The text of a completion."""
        reply = super().__new__(cls, completion.text)
        reply.completion = completion
        return reply

    def __getnewargs__(self) -> tuple[Completion]:  # type: ignore[override]
        """What a copy is made of."""
        return (self.completion,)

    @property
    def finish_reason(self) -> FinishReason:
        """stop: the model ended it; length: it was cut off at `max_tokens`."""
        return self.completion.finish_reason


class Stream(Iterator[str]):
    """An answer that is being written: its pieces of text, and the whole `reply` after the last of them."""

    def __init__(self, deltas: Generator[Delta, None, None]) -> None:
        self._deltas = deltas
        self._reply: Reply | None = None

    def __next__(self) -> str:
        """The next piece of text, never empty."""
        for delta in self._deltas:
            if delta.completion is not None:
                self._reply = Reply(delta.completion)
            if delta.text:
                return delta.text
        raise StopIteration

    def close(self) -> None:
        """Write no more."""
        self._deltas.close()

    @property
    def reply(self) -> Reply:
        """The whole answer.

        Raises:
            ArrieroError: it is not written to its end.
        """
        if self._reply is None:
            raise ArrieroError("the answer is not written to its end: take all pieces of the stream first")
        return self._reply
