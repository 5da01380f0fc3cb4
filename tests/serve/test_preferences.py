"""Llama 2's protocol over HTTP: pairs, their order, judgements, several annotators, and what is refused."""

import threading

import pytest
from fastapi.testclient import TestClient

from arriero.align.preferences import Preferences
from arriero.serve.app import create_app
from arriero.serve.service import Service
from arriero.serve.settings import ServeSettings

HERE = "http://127.0.0.1:8080"
PROMPT = [{"role": "user", "content": "What do llamas carry?"}]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "preferences.sqlite"


@pytest.fixture
def client(file) -> TestClient:
    return TestClient(create_app(Service(ServeSettings(preferences=file), {})), base_url=HERE)


def add(client: TestClient, number: int = 0, kind: str = "helpfulness", models: tuple[str, str] = ("a", "b")) -> dict:
    responses = [{"text": f"Wool. {number}", "model": models[0]}, {"text": f"<b>Rain</b> {number}", "model": models[1]}]
    answer = client.post("/api/preferences/pairs", json={"messages": PROMPT, "responses": responses, "kind": kind})
    assert answer.status_code == 201, answer.text
    return answer.json()


def ask(client: TestClient, annotator: str = "ada", **params) -> dict:
    return client.get("/api/preferences/next", params={"annotator": annotator} | params).json()


def judge(client: TestClient, pair: dict, choice: int = 1, annotator: str = "ada", **more):
    told = {"pair": pair["id"], "order": pair["order"], "choice": choice, "degree": "better", "annotator": annotator}
    return client.post("/api/preferences/judgements", json=told | more)


def test_a_pair_is_shown_judged_and_not_shown_again(client, file):
    made = add(client)
    shown = ask(client)
    assert shown["pair"]["id"] == made["id"]
    assert shown["pair"]["responses"] == ["Wool. 0", "<b>Rain</b> 0"]
    assert shown["pair"]["messages"] == PROMPT
    assert "model" not in str(shown)
    assert shown["progress"] == {"judged": 0, "total": 1}
    answer = judge(client, shown["pair"], safety="both safe")
    assert answer.status_code == 201
    assert answer.json()["progress"] == {"judged": 1, "total": 1}
    assert answer.json()["models"] == ["a", "b"]
    assert ask(client) == {"pair": None, "progress": {"judged": 1, "total": 1}}
    with Preferences(file) as preferences:
        (comparison,) = preferences.comparisons()
    assert (comparison.judgement.degree, comparison.judgement.safety) == ("better", "both safe")
    assert comparison.judgement.judge == "human"
    assert comparison.judgement.batch.count("-W") == 1


@pytest.mark.parametrize("order", [[1, 2], [2, 1]])
@pytest.mark.parametrize("choice", [1, 2])
def test_a_choice_is_what_was_shown_there(client, file, order, choice):
    pair = add(client)
    assert judge(client, pair | {"order": order}, choice).json()["choice"] == order[choice - 1]
    with Preferences(file) as preferences:
        (comparison,) = preferences.comparisons()
    assert comparison.chosen.text == pair["responses"][order[choice - 1] - 1]


def test_the_order_is_drawn_for_each_annotator_and_pair_and_stays(client):
    for number in range(30):
        add(client, number)
    orders = []
    while (pair := ask(client)["pair"]) is not None:
        assert ask(client)["pair"] == pair
        orders.append(pair["order"])
        judge(client, pair)
    assert 5 <= sum(order == [2, 1] for order in orders) <= 25
    other = [ask(client, f"annotator {n}")["pair"]["order"] for n in range(30)]
    assert 5 <= sum(order == [2, 1] for order in other) <= 25


def test_several_annotators_go_on_where_each_stopped(client):
    pairs = [add(client, number) for number in range(3)]
    for pair, choices in zip(pairs, ((1, 1), (1, 2), (2, 2)), strict=True):
        for annotator, choice in zip(("ada", "bo"), choices, strict=True):
            judge(client, pair | {"order": [1, 2]}, choice, annotator)
    add(client, 3)
    assert ask(client, "ada")["progress"] == {"judged": 3, "total": 4}
    assert ask(client, "carl")["progress"] == {"judged": 0, "total": 4}
    stats = client.get("/api/preferences/stats").json()
    assert (stats["pairs"], stats["judgements"]) == (4, 6)
    assert stats["annotators"] == {"ada": 3, "bo": 3}
    assert stats["agreement"] == pytest.approx(2 / 3)


def test_a_judgement_can_be_changed(client):
    pair = add(client)
    judge(client, pair)
    judge(client, pair, 2)
    assert client.get("/api/preferences/stats").json()["judgements"] == 1


def test_wins_and_ties_are_counted_by_model(client):
    for number, (choice, degree) in enumerate(
        [(1, "better"), (1, "slightly better"), (2, "better"), (1, "negligibly better")]
    ):
        judge(client, add(client, number, models=("zebra", "ant")) | {"order": [1, 2]}, choice, degree=degree)
    judge(client, add(client, 9, models=("ant", "zebra")) | {"order": [1, 2]}, 1)
    assert client.get("/api/preferences/stats").json()["tally"] == [
        {"model_a": "ant", "model_b": "zebra", "wins_a": 2, "wins_b": 2, "ties": 1}
    ]


def test_pairs_of_safety_ask_for_it(client):
    pair = add(client, kind="safety")
    assert ask(client, kind="helpfulness")["pair"] is None
    assert judge(client, pair).json()["error"]["param"] == "safety"
    assert judge(client, pair, safety="chosen unsafe").status_code == 201


def test_an_equal_pair_is_given_back(client):
    assert add(client)["id"] == add(client)["id"]


def test_many_annotators_at_once_lose_nothing(client):
    pairs = [add(client, number) for number in range(5)]
    people = [f"annotator {n}" for n in range(6)]

    def work(annotator: str) -> None:
        for pair in pairs:
            assert judge(client, pair, annotator=annotator).status_code == 201

    threads = [threading.Thread(target=work, args=(name,)) for name in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get("/api/preferences/stats").json()["annotators"] == dict.fromkeys(people, 5)


GOOD = {"pair": 1, "order": [1, 2], "choice": 1, "degree": "better", "annotator": "ada"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"order": [1, 1]}, "order"),
        ({"order": [2]}, "order"),
        ({"order": [0, 3]}, "order[0]"),
        ({"order": None}, "order"),
        ({"choice": 0}, "choice"),
        ({"choice": "1"}, "choice"),
        ({"degree": "much better"}, "degree"),
        ({"safety": "safe"}, "safety"),
        ({"annotator": ""}, "annotator"),
        ({"annotator": " \n"}, "annotator"),
        ({"annotator": "a\u202eb"}, "annotator"),
        ({"annotator": "x" * 101}, "annotator"),
        ({"annotator": 5}, "annotator"),
        ({"pair": -1}, "pair"),
        ({"pair": 2**64}, "pair"),
        ({"pair": 1.5}, "pair"),
        ({"batch": "x"}, "batch"),
    ],
)
def test_a_wrong_field_is_named(client, change, param):
    add(client)
    answer = client.post("/api/preferences/judgements", json=GOOD | change)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert client.get("/api/preferences/stats").json()["judgements"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": " "}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": PROMPT, "responses": [{"text": "one"}]},
        {"messages": PROMPT, "responses": [{"text": "same"}, {"text": "same"}]},
        {"messages": PROMPT, "responses": [{"text": "one"}, {"text": " "}]},
        {"messages": PROMPT, "responses": [{"text": "one"}, {"text": "two"}], "models": ["a", "b"]},
        {"messages": PROMPT, "models": ["a"]},
        {"messages": PROMPT, "responses": [{"text": "one"}, {"text": "two"}], "kind": "beauty"},
    ],
)
def test_a_pair_that_is_none_is_refused(client, body):
    assert client.post("/api/preferences/pairs", json=body).status_code == 400


def test_half_a_character_is_refused(client):
    add(client)
    body = '{"pair": 1, "order": [1, 2], "choice": 1, "annotator": "a\\ud800"}'
    answer = client.post("/api/preferences/judgements", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400


def test_what_is_not_there_is_told(client):
    assert judge(client, {"id": 7, "order": [1, 2]}).status_code == 404
    assert client.get("/api/preferences/next").status_code == 400
    assert client.get("/api/preferences/next", params={"annotator": "\0"}).json()["error"]["param"] == "annotator"


def test_without_a_file_it_is_off():
    off = TestClient(create_app(Service(ServeSettings(), {})), base_url=HERE)
    for answer in (off.get("/api/preferences/stats"), off.get("/api/preferences/next?annotator=a")):
        assert answer.status_code == 404
        assert "--preferences" in answer.json()["error"]["message"]


class TestSampling:
    @pytest.fixture
    def served(self, service, file) -> TestClient:
        own = Service(ServeSettings(preferences=file, max_batch=8), service.models)
        return TestClient(create_app(own), base_url=HERE)

    def test_the_models_answer_where_no_one_else_did(self, served, service, file):
        answer = served.post("/api/preferences/pairs", json={"messages": PROMPT})
        assert answer.status_code == 201, answer.text
        one, two = answer.json()["responses"]
        assert one
        assert two
        assert one != two
        with Preferences(file) as preferences:
            (pair,) = preferences.pairs()
        assert pair.first.model == pair.second.model == service.default_model
        assert {response.sampling["temperature"] for response in (pair.first, pair.second)} == {0.7, 1.2}
        again = served.post("/api/preferences/pairs", json={"messages": PROMPT}).json()
        assert again["id"] != answer.json()["id"]

    def test_an_unknown_model_is_named(self, served):
        answer = served.post("/api/preferences/pairs", json={"messages": PROMPT, "models": ["gpt-9", "gpt-9"]})
        assert answer.status_code == 404
        assert answer.json()["error"]["param"] == "models"

    def test_a_prompt_that_leaves_no_room_is_refused(self, served):
        messages = [{"role": "user", "content": "llamas " * 5000}]
        answer = served.post("/api/preferences/pairs", json={"messages": messages})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "messages"
