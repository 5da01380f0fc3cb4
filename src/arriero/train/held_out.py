"""The mean of a loss over held-out examples, of which every rank takes its share."""

from collections.abc import Iterable, Iterator

import torch

from arriero.generate.engine import evaluating
from arriero.train.loop import B, LossFunction, M
from arriero.train.parallel import Layout


def own_portions(count: int, *, rows: int, rank: int = 0, world: int = 1) -> Iterator[range]:
    """The numbers of this rank's examples, `rows` at a time: as many portions on every rank, the last may be empty."""
    for first in range(0, count, rows * world):
        start = min(first + rank * rows, count)
        yield range(start, min(start + rows, count))


@torch.no_grad()
def mean_loss(
    model: M, loss_function: LossFunction[M, B], batches: Iterable[B], layout: Layout, *metrics: str
) -> tuple[dict[str, float], int]:
    """Loss and the metrics of these names, over the batches of all ranks; and how many losses were counted."""
    sums = torch.zeros(2 + len(metrics), dtype=torch.float64)
    with evaluating(model):
        for batch in batches:
            loss = loss_function(model, batch)
            found = [loss.total, loss.count, *(loss.metrics[name] for name in metrics)]
            sums += torch.tensor([float(value) for value in found], dtype=torch.float64)
    total, count, *others = layout.sum(sums.to(layout.device)).tolist()
    means = {"loss": total, **dict(zip(metrics, others, strict=True))}
    return {name: value / max(count, 1) for name, value in means.items()}, int(count)
