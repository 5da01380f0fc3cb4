"""A checkpoint of training as a Hugging Face folder, which transformers, vLLM and `arriero` load."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_folder
from arriero.model.config import LlamaConfig
from arriero.model.export import compare_tokenizers, outputs, save_with_tokenizer
from arriero.model.formats.hf import load_hf
from arriero.model.heads import SCORE, add_head
from arriero.model.transformer import Llama
from arriero.tokenizer.load import load_tokenizer
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.checkpoint import load_weights

_PROBE_TOKENS = 64


def export_hugging_face(
    checkpoint: Path,
    config: LlamaConfig,
    tokenizer: Path | Tokenizer,
    out: Path,
    *,
    dtype: torch.dtype = torch.float32,
    heads: Sequence[str] = (),
) -> None:
    """Write the model of one checkpoint, however many ranks wrote it, and the tokenizer beside it.

    The folder is read back before it gets its name: its logits are those of the checkpoint, bit for bit, and
    it renders a chat as the same tokens.

    Args:
        checkpoint: a step's folder.
        config: of the model that was trained.
        tokenizer: its tokenizer, or the folder or file of it.
        out: a folder that does not exist yet.
        dtype: what the weights are stored in.
        heads: the model's scalar heads.

    Raises:
        FormatError: a file of the checkpoint is missing or damaged.
        ArrieroError: `out` is there already, the checkpoint is one of another model, or what was written differs.
    """
    if out.exists():
        raise ArrieroError(f"{out} exists already: choose another folder")
    # a reward model's output layer has no part in it, and is not in its checkpoint
    model = Llama(replace(config, tied_embeddings=True) if SCORE in heads else config)
    for head in heads:
        add_head(model, head)
    load_weights(checkpoint, model)
    model.to(dtype).eval()
    words = load_tokenizer(tokenizer) if isinstance(tokenizer, Path) else tokenizer
    with atomic_folder(out) as folder:
        save_with_tokenizer(model, words, folder, dtype=dtype)
        _compare(model, load_hf(folder, dtype=dtype).eval(), out)
        compare_tokenizers(words, load_tokenizer(folder), out)


@torch.no_grad()
def _compare(model: Llama, written: Llama, out: Path) -> None:
    length = min(_PROBE_TOKENS, model.config.max_seq_len)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (1, length), generator=generator)  # (1, T)
    expected, got = outputs(model, tokens), outputs(written, tokens)
    if not torch.equal(expected, got):
        worst = (expected - got).abs().max().item()
        raise ArrieroError(
            f"{out}: not written: read back, its logits differ by up to {worst:.3g} from the checkpoint's"
        )
