"""arriero: raise a LLaMA on your own text and keep it honest about your own documents.

>>> from arriero import Model
>>> Model.load("smollm2-135m-instruct").chat("What is the capital of France?")
'The capital of France is Paris.'

`docs/python.md` is a tour. A name is imported from its home when it is first asked for, so that `import arriero` is
light; `arriero.training` has what trains.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arriero.api.documents import Documents
    from arriero.api.model import Model
    from arriero.api.reply import Reply, Stream
    from arriero.common.errors import ArrieroError
    from arriero.generate.sampling_config import SamplingConfig
    from arriero.model.source import get
    from arriero.rag.answer import Answer
    from arriero.rag.answer_config import AnswerConfig
    from arriero.rag.chunk import ChunkConfig

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "AnswerConfig",
    "ArrieroError",
    "ChunkConfig",
    "Documents",
    "Model",
    "Reply",
    "SamplingConfig",
    "Stream",
    "get",
]

_HOMES = {
    "Answer": "rag.answer",
    "AnswerConfig": "rag.answer_config",
    "ArrieroError": "common.errors",
    "ChunkConfig": "rag.chunk",
    "Documents": "api.documents",
    "Model": "api.model",
    "Reply": "api.reply",
    "SamplingConfig": "generate.sampling_config",
    "Stream": "api.reply",
    "get": "model.source",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'arriero' has no attribute '{name}'")
    value = getattr(import_module(f"arriero.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
