"""What is chosen of a model by a word: which one, in how few bits it is kept, what its backward pass computes again.

This file needs no part of PyTorch, so that help and estimates come at once.
"""

from typing import Literal

DEFAULT_MODEL = "smollm2-135m-instruct"
"""Where no other is named."""
Quantisation = Literal["none", "nf4", "int8"]
"""How weights that do not learn are kept beside an adapter."""
Recompute = Literal["none", "selective", "full"]
"""What a block computes again in the backward pass: nothing; all but what linear layers and attention put out; all."""
