"""Log-probabilities as `/v1/completions` tells them: four lists, and where each token begins in the text."""

from collections.abc import Sequence

from arriero.generate.request import TokenLogprob
from arriero.serve.completion_schema import CompletionLogprobs
from arriero.tokenizer.tokenizer import Tokenizer


class LogprobWriter:
    """Writes the tokens of one text, in order."""

    def __init__(self, tokenizer: Tokenizer, offset: int = 0) -> None:
        """`offset` is where the first token begins."""
        self._tokenizer, self._decoder, self._offset = tokenizer, tokenizer.stream(), offset

    def write(self, ids: Sequence[int], items: Sequence[TokenLogprob | None]) -> CompletionLogprobs:
        """The next tokens with their log-probabilities; None where a token has none, as the first of a prompt."""
        offsets = []
        for token in ids:
            offsets.append(self._offset)
            self._offset += len(self._decoder.push(token))
        return CompletionLogprobs(
            tokens=[self._name(token) for token in ids],
            token_logprobs=[None if item is None else item.logprob for item in items],
            top_logprobs=[None if item is None else self._top(item) for item in items],
            text_offset=offsets,
        )

    def _top(self, item: TokenLogprob) -> dict[str, float]:
        named: dict[str, float] = {}
        for token, logprob in (*item.top, (item.id, item.logprob)):
            named.setdefault(self._name(token), logprob)  # the likeliest of two tokens that read alike
        return named

    def _name(self, token: int) -> str:
        raw = self._tokenizer.token_bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
