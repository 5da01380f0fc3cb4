"""A collection finds its encoder again, wherever both were moved, and takes no other."""

import shutil
from pathlib import Path

import pytest

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.rag.collection import Collection

pytest.importorskip("transformers")


@pytest.fixture
def tiny_encoder(tmp_path: Path) -> Path:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(0)
    folder = tmp_path / "home" / "tiny"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "llamas", "carry", "wool", "bread"]
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def test_the_encoder_is_found_again_after_a_move_of_both(tmp_path: Path, tiny_encoder: Path, docs: Path) -> None:
    home = tmp_path / "home"
    with Collection.open(home / "collection", tiny_encoder) as collection:
        collection.add(docs)
    with Collection.open(home / "collection") as again:
        assert again.encoder.name == "tiny"
        assert again.search("llamas carry wool", k=1)
    shutil.move(home, tmp_path / "moved")
    with Collection.open(tmp_path / "moved" / "collection") as moved:
        assert moved.search("llamas carry wool", k=1)
    with Collection.open(tmp_path / "moved" / "collection", tmp_path / "moved" / "tiny") as given:
        assert given.search("llamas carry wool", k=1)


def test_a_collection_that_lost_its_encoder_says_which(tmp_path: Path, tiny_encoder: Path, docs: Path) -> None:
    with Collection.open(tmp_path / "collection", tiny_encoder) as collection:
        collection.add(docs)
    shutil.move(tiny_encoder, tmp_path / "elsewhere")
    with Collection.open(tmp_path / "collection") as lost:
        assert len(lost.list()) == 3  # which needs none
        with pytest.raises(NotFoundError, match="its encoder 'tiny'"):
            lost.search("llamas")
    with Collection.open(tmp_path / "collection", tmp_path / "elsewhere") as found:
        assert found.search("llamas")


def test_another_folder_of_the_same_name_is_refused(tmp_path: Path, tiny_encoder: Path, docs: Path, encoder) -> None:
    with Collection.open(tmp_path / "collection", encoder) as collection:
        collection.add(docs)
    with (
        Collection.open(tmp_path / "collection", tiny_encoder) as other,
        pytest.raises(ArrieroError, match=r"'words'.*'tiny'"),
    ):
        other.search("llamas")
    with Collection.open(tmp_path / "collection") as unnamed, pytest.raises(NotFoundError, match="'words'"):
        unnamed.search("llamas")  # it was given as an object, and nobody knows where to find it
