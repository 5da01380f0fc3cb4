"""Vectors over HTTP are the encoder's own, however they are written."""

import base64

import numpy as np
import pytest

TEXTS = ["the llamas carry wool", "ships", "rain falls"]


def test_the_client_gets_the_encoders_vectors(client, service):
    answer = client.embeddings.create(model=str(service.settings.encoder), input=TEXTS)  # in base64, unseen
    expected = service.encoder.encode_passages(TEXTS)
    np.testing.assert_allclose([item.embedding for item in answer.data], expected, atol=1e-6)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert (answer.object, answer.model) == ("list", service.settings.encoder)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 6 + 3 + 4


def test_numbers_and_base64_are_one_vector(http):
    numbers = http.post("/v1/embeddings", json={"input": TEXTS[0]}).json()["data"][0]["embedding"]
    packed = http.post("/v1/embeddings", json={"input": TEXTS[0], "encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype="<f4")
    assert decoded.tolist() == pytest.approx(numbers)


def test_questions_may_be_encoded_as_such(http, service):
    answer = http.post("/v1/embeddings", json={"input": TEXTS[0], "input_type": "query", "dimensions": 16}).json()
    assert answer["data"][0]["embedding"] == pytest.approx(service.encoder.encode_queries([TEXTS[0]])[0].tolist())
