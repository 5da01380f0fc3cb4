"""Our class in lm-eval gives what lm-eval's own class gives with the same weights, on task files of our own."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from arriero.common.errors import ArrieroError, NotFoundError
from arriero.generate.engine import Request, SamplingConfig
from arriero.model.config import LlamaConfig
from arriero.model.formats.hf import save_hf
from arriero.model.transformer import Llama
from arriero.train.trained import load_trained
from tests.train.shard_folders import byte_tokenizer

pytest.importorskip("lm_eval")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # lm-eval and what it brings warn of each other
    pytest.mark.timeout(600),
]
CONTEXT = 96
QUESTIONS = [
    {"question": "Which animal carries wool?", "choices": ["the llama", "a lamp", "the ship "], "answer": 0},
    {"question": "What falls from a cloud? ", "choices": ["rain", "salt and tin", "é"], "answer": 0},
    {"question": "Who drives the llamas over the pass, " * 4, "choices": ["an arriero", "nobody"], "answer": 0},
    {"question": "", "choices": ["Yes", "No"], "answer": 1},
]
TEXTS = [
    {"text": "Short."},
    {"text": "The arriero loads his llamas before dawn, and they go up to the pass. " * 5},
    {"text": "Exactly one context. ".ljust(CONTEXT, ".")},
]
TASKS = {
    "choices": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "generating": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["e", "\\n\\n"], max_gen_toks: 24, do_sample: false, temperature: 0.0}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module", params=[False, True], ids=["without BOS", "with BOS"])
def model_folder(request, tmp_path_factory) -> Path:
    """A model whose weights are large enough that its choices differ, in Hugging Face's format."""
    folder = tmp_path_factory.mktemp("model")
    shape = LlamaConfig.of(vocab_size=258, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, max_seq_len=CONTEXT)
    model = Llama(shape).init_weights(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0 if "output" not in name else 8.0)
    save_hf(model, folder, bos_id=256, eos_id=257)
    byte_tokenizer(add_bos=request.param).save(folder)
    return folder


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory) -> Path:
    """Task files, their data beside them, and the cache of `datasets` there too."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, rows in (("choices", QUESTIONS), ("rolling", TEXTS), ("generating", QUESTIONS[:3])):
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        head = (
            f"task: local_{name}\ndataset_path: json\ntest_split: test\nmetadata: {{version: 1}}\n"
            f"dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {folder / 'cache'}}}"
        )
        (folder / f"{name}.yaml").write_text(head + TASKS[name], encoding="utf-8")
    return folder


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    before = logging.getLogger("lm_eval").level
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    yield
    logging.getLogger("lm_eval").setLevel(before)


@pytest.fixture(scope="module")
def ours(model_folder: Path) -> Any:
    from arriero.train.harness import ArrieroLM

    return ArrieroLM(str(model_folder), device="cpu", batch_tokens=300)


@pytest.fixture(scope="module")
def theirs(model_folder: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(model_folder), device="cpu", dtype="float32", batch_size=3)


def harness_results(model: Any, task_folder: Path) -> dict[str, Any]:
    """All three tasks, with each request and what the model answered."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(task_folder), include_defaults=False)
    names = [f"local_{name}" for name in TASKS]
    found = simple_evaluate(model=model, tasks=names, task_manager=manager, log_samples=True, bootstrap_iters=0)
    assert found is not None
    return found


def test_every_answer_and_every_metric_is_that_of_the_harness_own_class(ours, theirs, task_folder: Path) -> None:
    got, expected = harness_results(ours, task_folder), harness_results(theirs, task_folder)
    assert set(got["results"]) == {f"local_{name}" for name in TASKS}
    for task, metrics in expected["results"].items():
        for name, value in metrics.items():
            if isinstance(value, float):
                assert got["results"][task][name] == pytest.approx(value, rel=1e-5, abs=1e-4), (task, name)
    for task, samples in expected["samples"].items():
        assert len(samples) == (4 if task == "local_choices" else 3)
        for theirs_one, ours_one in zip(samples, got["samples"][task], strict=True):
            assert _flat(ours_one["resps"]) == pytest.approx(_flat(theirs_one["resps"]), abs=1e-4, rel=0)


def _flat(answers: Any) -> list[Any]:
    """Nested answers as one list: numbers, booleans as numbers; texts as their characters' codes."""
    if isinstance(answers, list | tuple):
        return [leaf for answer in answers for leaf in _flat(answer)]
    return [ord(character) for character in answers] if isinstance(answers, str) else [float(answers)]


def _requests(*arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type="loglikelihood", doc={}, arguments=given, idx=i) for i, given in enumerate(arguments)]


@pytest.mark.parametrize(
    ("context", "continuation"),
    [
        ("a b  ", "c"),
        ("", "wool"),
        ("x" * 500, "yz"),
        ("llama", " " + "w" * (CONTEXT - 2)),
        ("<s>a", "b</s>"),
        ("é", "è"),
    ],
)
def test_the_harness_conventions_of_context_and_continuation(ours, theirs, context: str, continuation: str) -> None:
    requests = _requests((context, continuation))
    ((got, greedy),) = ours.loglikelihood(requests, disable_tqdm=True)
    ((expected, theirs_greedy),) = theirs.loglikelihood(requests, disable_tqdm=True)
    assert got == pytest.approx(expected, abs=1e-4, rel=0)
    assert greedy == theirs_greedy


def test_a_greedy_continuation_is_said_to_be_one(ours, theirs) -> None:
    prompt = ours.tok_encode("The llama")
    request = Request(prompt_ids=prompt, sampling=SamplingConfig(max_tokens=6, stop_ids=()))
    (answer,) = ours.engine.generate([request])
    other = [*answer.ids[:-1], (answer.ids[-1] + 1) % 256]
    requests = [(("", ""), prompt, list(answer.ids)), (("", ""), prompt, other)]
    for model in (ours, theirs):
        assert [greedy for _, greedy in model._loglikelihood_tokens(requests, disable_tqdm=True)] == [True, False]


def test_generation_is_that_of_the_harness_own_class_for_every_kind_of_request(ours, theirs) -> None:
    requests = _requests(
        ("The llama", {"until": ["q", "zz"], "max_gen_toks": 20}),
        ("w" * 300, {"until": "x", "max_gen_toks": 30}),
        ("<s>Rain", {"until": [], "max_gen_toks": 8, "do_sample": False}),
        ("Rain", {"max_gen_toks": 1}),
    )
    for request in requests:  # one at a time: their class decides on special tokens by a batch's first text
        assert ours.generate_until([request]) == theirs.generate_until([request], disable_tqdm=True)
    alone = [ours.generate_until([request])[0] for request in requests]
    assert ours.generate_until(requests) == alone


def test_what_the_model_cannot_do_is_one_line(ours) -> None:
    for requests, message in (
        (_requests(("a", {"max_gen_toks": CONTEXT})), "max_gen_toks: expected less than the context of 96"),
        (_requests(("a", {"num_beams": 2, "max_gen_toks": 2})), "'num_beams' is not known here"),
        (_requests(("a", {"top_n": 2, "max_gen_toks": 2})), "'top_n' is not known here"),
    ):
        with pytest.raises(ArrieroError, match=message):
            ours.generate_until(requests)
    with pytest.raises(ArrieroError, match="a continuation has 97 tokens: expected 1 to the context of 96"):
        ours.loglikelihood(_requests(("a", "w" * 97)))
    with pytest.raises(ArrieroError, match="carries no chat template"):
        ours.apply_chat_template([{"role": "user", "content": "a"}])


def test_the_harness_makes_the_class_by_its_name(model_folder: Path) -> None:
    from lm_eval.api.registry import get_model

    from arriero.train.harness import ArrieroLM

    model = get_model("arriero").create_from_arg_string(
        f"model={model_folder},device=cpu,context=50", {"batch_size": 2}
    )
    assert isinstance(model, ArrieroLM)
    assert (model.max_length, model.engine.max_batch) == (50, 2)
    for options, message in (
        ({"context": 97}, "expected 2 to the model's 96 tokens, got 97"),
        ({"batch_size": "auto"}, "batch_size: expected a number, got 'auto'"),
    ):
        with pytest.raises(ArrieroError, match=message):
            ArrieroLM(load_trained(str(model_folder), device="cpu"), **options)


def test_tasks_run_by_name_and_unknown_ones_are_told(ours, task_folder: Path) -> None:
    from arriero.train.harness import run_tasks

    found = run_tasks(ours, ["local_choices"], include=task_folder, limit=2)
    assert 0 <= found.results["local_choices"]["acc,none"] <= 1
    assert "|local_choices|" in found.table
    with pytest.raises(NotFoundError, match=r"lm-eval has no task 'local_choice' \(did you mean local_choices\?\)"):
        run_tasks(ours, ["local_choice"], include=task_folder)
    with pytest.raises(NotFoundError, match="no such folder of tasks"):
        run_tasks(ours, ["local_choices"], include=task_folder / "nowhere")


def test_data_that_is_not_here_is_told_and_nothing_is_fetched(ours, tmp_path: Path) -> None:
    from arriero.train.harness import run_tasks

    text = f"task: absent\ndataset_path: json\ntest_split: test\ndataset_kwargs: {{data_files: {tmp_path}/no.jsonl}}"
    (tmp_path / "absent.yaml").write_text(text + TASKS["choices"])
    with pytest.raises(NotFoundError, match="the data of absent is not here"):
        run_tasks(ours, ["absent"], include=tmp_path)
