"""How a model is held where nobody says: as its file holds it, if that is as fast as it is exact."""

import pytest

from arriero.kernels.native.build import why_not_native
from arriero.model.own_weights import own_weights


@pytest.mark.weights
def test_a_gguf_file_of_4_bits_stays_at_4_bits(smollm2_gguf, monkeypatch):
    if (reason := why_not_native()) is not None:
        pytest.skip(reason)
    assert own_weights(str(smollm2_gguf)) == "int4"
    assert own_weights(str(smollm2_gguf), smollm2_gguf.parent) == "full"  # an adapter is merged in full precision
    assert own_weights(str(smollm2_gguf), dtype="bfloat16") == "full"
    monkeypatch.setattr("arriero.model.own_weights.why_not_native", lambda: "no compiler")
    assert own_weights(str(smollm2_gguf)) == "full"


def test_a_folder_and_a_preset_are_full(tmp_path):
    assert own_weights(str(tmp_path)) == own_weights("tiny-15m") == "full"
