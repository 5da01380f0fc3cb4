"""What a model in training says to some prompts, at each validation."""

from collections.abc import Callable, Sequence

from arriero.common.errors import ArrieroError
from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.transformer import Llama
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.parallel import Layout


def speaker(
    model: Llama, tokenizer: Tokenizer, prompts: Sequence[tuple[str, list[int]]], layout: Layout, *, max_tokens: int
) -> Callable[[], list[tuple[str, str]]]:
    """What the model makes of the prompts now, greedy: on the main rank, and nothing on the others.

    Args:
        prompts: as they are shown, and as tokens.
        max_tokens: of each answer.

    Raises:
        ArrieroError: a prompt is empty, or leaves no room for an answer.
    """
    requests = []
    for prompt, ids in prompts:
        room = model.config.max_seq_len - len(ids)
        if not ids or room < 1:
            expected = f"a prompt of 1 to {model.config.max_seq_len - 1} tokens"
            raise ArrieroError(f"samples: expected {expected}, got {len(ids)} in {prompt!r}")
        sampling = SamplingConfig(temperature=0.0, max_tokens=min(max_tokens, room))
        requests.append(Request(prompt_ids=ids, sampling=sampling))

    def speak() -> list[tuple[str, str]]:
        whole = model if layout.plain else layout.whole(model)
        if whole is None:
            return []
        training = whole.training
        answers = Engine(whole.eval(), tokenizer).generate(requests)
        whole.train(training)
        return [(prompt, answer.text) for (prompt, _), answer in zip(prompts, answers, strict=True)]

    return speak
