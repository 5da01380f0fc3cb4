"""`arriero adapter compare`: the same prompts to several adapters or models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from arriero.cli.options import positional
from arriero.cli.output import console, note, print_json, printable
from arriero.common.errors import ArrieroError

if TYPE_CHECKING:
    from arriero.model.source import LoadedModel
    from arriero.report.compare import Contender
    from arriero.train.examples import Example
    from arriero.train.supervised import Supervised

PROMPTS = (
    "Explain in two sentences why the sky is blue.",
    "Write a short, polite e-mail that declines an invitation.",
    "List three things to check before a long hike.",
    "What is the difference between a llama and an alpaca?",
)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Who answers what."""

    models: tuple[str, ...] = positional("MODEL", default=())
    """Folders with adapters, or any other models; two or more."""
    prompts: tuple[str, ...] = ()
    """A message to answer; repeat the option; default: the first prompts of --data, or four of ours."""
    data: tuple[Path, ...] = ()
    """Files of examples, in any format that `arriero sft` reads: the loss of their answers is compared too."""
    most_examples: int = 100
    """Examples of --data whose answers the loss is measured on."""
    max_tokens: int = 200
    """Most tokens of an answer."""
    temperature: float = 0.0
    """0: each model's likeliest answer; above: a sample."""
    seed: int = 0
    """Of samples."""
    out: Path | None = None
    """Also write the comparison as an HTML page here."""
    json: bool = False
    """Print JSON for scripts."""


def compare(config: CompareConfig) -> int:
    """Let adapters, or models, answer the same prompts, side by side in the terminal and as a page.

    Examples:
      arriero adapter compare smollm2-135m-instruct runs/law/adapter --prompts "What is a tort?"
      arriero adapter compare runs/law/adapter runs/tax/adapter --data held-out.jsonl --out compare.html
    """
    from arriero.report.compare import render_comparison
    from arriero.train.examples import read_examples

    if len(config.models) < 2:
        raise ArrieroError("expected two models or more, as in `arriero adapter compare MODEL runs/law/adapter`")
    if config.out is not None and config.out.is_dir():
        raise ArrieroError(f"--out {config.out}: expected a file, such as {config.out / 'compare.html'}, got a folder")
    examples = read_examples(config.data)[0][: config.most_examples] if config.data else []
    asked = [example.messages[0]["content"] for example in examples if example.messages][: len(PROMPTS)]
    prompts = list(config.prompts or asked or PROMPTS)
    contenders, supervised = [], 0
    for source in config.models:
        note(f"{source} answers")
        contender, supervised = _ask(source, prompts, examples, config)
        contenders.append(contender)
    if config.out is not None:
        from arriero.common.files import atomic_file

        page = render_comparison(prompts, contenders, supervised or None)
        with atomic_file(config.out) as aside:
            aside.write_text(page, encoding="utf-8")
        note(f"written: {config.out}")
    if config.json:
        print_json({"prompts": prompts, "supervised_tokens": supervised, "models": contenders})
    else:
        _show(prompts, contenders)
    return 0


def _ask(
    source: str, prompts: Sequence[str], examples: "Sequence[Example]", config: CompareConfig
) -> "tuple[Contender, int]":
    """One model's answers, and its loss on the examples' answers."""
    from arriero.generate.engine import Engine, Request, SamplingConfig
    from arriero.model.source import load_merged
    from arriero.report.compare import Contender
    from arriero.train.supervised import supervise

    loaded = load_merged(source)
    words = loaded.tokenizer
    sampling = SamplingConfig(max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed)
    ids = [words.encode_chat([{"role": "user", "content": prompt}]) for prompt in prompts]
    answers = Engine(loaded.model, words, context=loaded.context).generate(
        [Request(prompt_ids=each, sampling=sampling) for each in ids]
    )
    loss, supervised = None, 0
    if examples:
        rows, _, census = supervise(examples, words, max_tokens=loaded.context)
        loss, supervised = _loss(loaded, rows), census.supervised
    name = Path(source).parent.name if Path(source).name == "adapter" else source
    texts, tokens = [answer.text for answer in answers], [len(answer.ids) for answer in answers]
    return Contender(name=name, answers=texts, tokens=tokens, loss=loss), supervised


def _loss(loaded: "LoadedModel", rows: "list[Supervised]") -> float:
    from arriero.train.example_batches import EvaluationBatches
    from arriero.train.parallel import Layout
    from arriero.train.pretrain import validate

    device = loaded.model.tok_embeddings.weight.device
    return float(validate(loaded.model, {"examples": EvaluationBatches(rows, rows=4)}, Layout(device=device))["loss"])


def _show(prompts: Sequence[str], contenders: "Sequence[Contender]") -> None:
    """Columns in a terminal, one answer below the other elsewhere."""
    out = console()
    for number, prompt in enumerate(prompts):
        answers = {contender.name: printable(contender.answers[number]) for contender in contenders}
        if out.is_terminal:
            table = Table(title=escape(printable(prompt)), title_justify="left", expand=True)
            for name in answers:
                table.add_column(escape(name), ratio=1, overflow="fold")
            table.add_row(*map(escape, answers.values()))
            out.print(table)
        else:
            print(f"# {printable(prompt)}")
            for name, answer in answers.items():
                print(f"--- {name}\n{answer}")
    for contender in contenders:
        if contender.loss is not None:
            print(f"{contender.name}: loss of the examples' answers {contender.loss:.4f} nats a token")
