"""How a model says that it wants to be sampled."""

import json

import pytest

from arriero.common.errors import FormatError
from arriero.generate.defaults import FILE, read_defaults


def test_what_the_file_names_is_read_and_nothing_else(tmp_path):
    assert read_defaults(None) == read_defaults(tmp_path) == read_defaults(tmp_path / "model.gguf") == {}
    told = {"temperature": 0.6, "top_p": 0.9, "top_k": -1, "max_new_tokens": 99, "min_p": None}
    others = {"do_sample": True, "max_length": 4096, "eos_token_id": [1, 2]}
    (tmp_path / FILE).write_text(json.dumps(told | others))
    assert read_defaults(tmp_path) == {"temperature": 0.6, "top_p": 0.9, "top_k": 0, "max_tokens": 99}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"temperature": "hot"}, "temperature: expected a number, got 'hot'"),
        ({"top_k": 1.5}, "top_k: expected a whole number, got 1.5"),
        ({"top_p": True}, "top_p: expected a number, got True"),
        ({"top_p": 7}, "top_p must be above 0 and at most 1"),
        ({"max_new_tokens": 0}, "max_tokens must be at least 1"),
        ([1], "expected a JSON object"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_file(tmp_path, said, message):
    (tmp_path / FILE).write_text(json.dumps(said))
    with pytest.raises(FormatError, match=r"generation_config\.json") as caught:
        read_defaults(tmp_path)
    assert message in str(caught.value)
