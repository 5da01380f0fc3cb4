"""What one micro-batch of training is. B rows, T tokens a row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from arriero.kernels.documents import Documents


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Rows of tokens, and what the model is to say after each."""

    tokens: Tensor
    """(B, T) int64."""
    targets: Tensor
    """(B, T) int64; `IGNORED` where there is no loss."""
    documents: Documents | None
    """Where the documents lie that attend to themselves only, or None: every row attends to all of itself."""
    sources: Tensor
    """(B, T) int64: the number of the source that each token is from."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        documents = None if self.documents is None else self.documents.to(device)
        tokens, targets, sources = (part.to(device) for part in (self.tokens, self.targets, self.sources))
        return Batch(tokens=tokens, targets=targets, documents=documents, sources=sources)
