"""The reward of a response: a helpfulness scorer's, or with a safety scorer beside it Llama 2's combined one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from arriero.align.combine import check_finite, combine
from arriero.align.prompts import Prompt
from arriero.align.scoring import Scorer, identity_of, load_scorer
from arriero.align.variants import Variant
from arriero.common.errors import ArrieroError


@dataclass(frozen=True)
class Reward:
    """One scorer, or two."""

    helpfulness: Scorer
    safety: Scorer | None = None

    @classmethod
    def load(
        cls, helpfulness: str, safety: str | None = None, *, device: str = "auto", beside: Variant | None = None
    ) -> "Reward":
        """By what `load_scorer` takes.

        Args:
            beside: a variant, whose base is shared by reward models that are adapters for it.

        Raises:
            NotFoundError, FormatError, ArrieroError: as `load_scorer`.
        """

        def scorer(spec: str, name: str) -> Scorer:
            over = None if beside is None else beside.base_of(spec)
            return load_scorer(spec, device=device, over=over, name=name)

        return cls(scorer(helpfulness, "helpfulness"), None if safety is None else scorer(safety, "safety"))

    @cached_property
    def name(self) -> str:
        """The same for the same reward; another one when a reward model was trained anew."""
        scorers = (self.helpfulness,) if self.safety is None else (self.helpfulness, self.safety)
        return " + ".join(map(identity_of, scorers))

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        """Raw scores: logit(R_c) of `combine.py`, not whitened, since that changes no order.

        Raises:
            ArrieroError: a scorer fails, or gives other than one finite number a response.
        """
        helpful = _ask(self.helpfulness, prompts, responses)
        if self.safety is None:
            return helpful
        return combine(helpful, _ask(self.safety, prompts, responses), [prompt.safety for prompt in prompts])


def _ask(scorer: Scorer, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    scores = scorer.score([prompt.messages for prompt in prompts], responses)
    if len(scores) != len(responses):
        raise ArrieroError(f"{scorer.name}: expected {len(responses)} scores, got {len(scores)}")
    check_finite(scores, scorer.name)
    return scores
