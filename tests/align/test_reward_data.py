"""Comparisons as a reward model learns from them: each is there, or counted with its reason."""

import json

import pytest

from arriero.align.preference_files import import_preferences
from arriero.align.preferences import Preferences
from arriero.align.reward_config import ComparisonsConfig
from arriero.align.reward_data import read_reward_data
from arriero.model.source import load_model
from tests.train.tuning import write_base

ROWS = [
    {"prompt": "a", "chosen": "x", "rejected": "o", "safety": "chosen safe"},
    {"prompt": "b", "chosen": "x", "rejected": "o", "safety": "chosen unsafe"},
    {"prompt": "c", "chosen": "x", "rejected": "o", "safety": "both unsafe"},
    {"prompt": "d", "chosen": "x", "rejected": "o"},
    {"prompt": "d", "chosen": "x", "rejected": "o"},
]


@pytest.mark.parametrize("collected", [False, True])
def test_a_choice_for_the_unsafe_response_is_left_out_and_counted_as_that(tmp_path, collected):
    """Llama 2 left them out of its data (section 3.2.1)."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row | {"kind": "safety"}) for row in ROWS))
    if collected:
        with Preferences(tmp_path / "pairs.sqlite", create=True) as preferences:
            import_preferences([file], preferences, kind="safety", batch="one")
        file = tmp_path / "pairs.sqlite"
    tokenizer = load_model(str(write_base(tmp_path / "base")), device="cpu").tokenizer
    config = ComparisonsConfig(preferences=(file,), kind="safety", eval_share=0.0)
    data = read_reward_data(config, tokenizer, 64, seed=0)
    assert [pair.safe for pair in data.training] == [(1, 0), (0, 0), (-1, -1)]
    census = data.census
    assert (census.read, census.training, census.unsafe) == (4 if collected else 5, 3, 1)
    assert census.repeated == (0 if collected else 1), "a file of preferences has each pair once"
