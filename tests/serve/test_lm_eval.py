"""lm-eval scores a model over HTTP (`local-completions`) as our own class in it scores the same weights."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")
pytest.importorskip("aiohttp")
pytest.importorskip("tenacity")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # lm-eval and what it brings warn of each other
    pytest.mark.timeout(600),
]
ROWS = [
    {"question": "Which animal carries wool?", "choices": [" the llama", " a lamp"], "answer": 0, "text": "Short."},
    {
        "question": "What falls from a cloud?",
        "choices": [" rain", " salt", " é"],
        "answer": 0,
        "text": "Llamas go. " * 20,
    },
]
TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "generating": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 12, do_sample: false, temperature: 0.0}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    for name, body in TASKS.items():
        head = (
            f"task: served_{name}\ndataset_path: json\ntest_split: test\n"
            f"dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {folder / 'cache'}}}"
        )
        (folder / f"{name}.yaml").write_text(head + body, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = logging.getLogger("lm_eval").level
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    yield
    logging.getLogger("lm_eval").setLevel(before)


def evaluate(model, tasks: Path) -> dict[str, list]:
    """Each task's answers to its requests."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    names = [f"served_{name}" for name in TASKS]
    found = simple_evaluate(model=model, tasks=names, task_manager=manager, log_samples=True, bootstrap_iters=0)
    assert found is not None
    return {name: [leaf for sample in found["samples"][name] for leaf in flat(sample["resps"])] for name in names}


def flat(answers) -> list:
    if isinstance(answers, list | tuple):
        return [leaf for answer in answers for leaf in flat(answer)]
    return [ord(character) for character in answers] if isinstance(answers, str) else [float(answers)]


def test_scores_over_http_are_those_of_the_model(url, service, tiny_model, tasks):
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from arriero.train.harness import ArrieroLM

    served = LocalCompletionsAPI(
        model=service.default_model,
        base_url=f"{url}/v1/completions",
        tokenizer=str(tiny_model),
        tokenizer_backend="huggingface",
        max_length=256,
        batch_size=2,
    )
    got, expected = evaluate(served, tasks), evaluate(ArrieroLM(str(tiny_model), device="cpu"), tasks)
    for name, answers in expected.items():
        assert got[name] == pytest.approx(answers, abs=2e-3), name
