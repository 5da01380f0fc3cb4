"""Log-probabilities are the plain log-softmax of the model, or of what the sampler saw, at every generated token."""

import torch

from arriero.generate.engine import Request, SamplingConfig


def log_softmax(model, prompt: list[int], answer: tuple[int, ...]) -> torch.Tensor:
    logits = model(torch.tensor([[*prompt, *answer]]))[0, len(prompt) - 1 : -1]  # (T, V)
    return logits.double().log_softmax(-1).detach()


def generate(engine, prompt, **settings):
    sampling = SamplingConfig(max_tokens=10, stop_ids=(), seed=1, **settings)
    return engine.generate([Request(prompt_ids=prompt, sampling=sampling)])[0]


def test_chosen_and_likeliest_tokens_have_the_models_log_probabilities(engine):
    prompt = [5, 6, 7]
    done = generate(engine, prompt, temperature=2.0, top_k=100, logprobs=4)
    expected = log_softmax(engine.model, prompt, done.ids)
    assert [report.id for report in done.logprobs] == list(done.ids)
    for place, report in enumerate(done.logprobs):
        assert abs(report.logprob - expected[place, report.id]) < 1e-4
        likeliest = expected[place].topk(4)
        assert [token for token, _ in report.top] == likeliest.indices.tolist()
        assert all(abs(value - expected[place, token]) < 1e-4 for token, value in report.top)


def test_the_samplers_log_probabilities_divide_by_the_temperature(engine):
    """What a rollout needs: full softmax at temperature T (Llama 2's PPO)."""
    prompt = [5, 6, 7]
    done = generate(engine, prompt, temperature=1.7, logprobs=0, logprobs_of="sampler")
    logits = engine.model(torch.tensor([[*prompt, *done.ids]]))[0, len(prompt) - 1 : -1]
    expected = (logits.double() / 1.7).log_softmax(-1)
    for place, report in enumerate(done.logprobs):
        assert abs(report.logprob - expected[place, report.id]) < 1e-4
        assert report.top == ()


def test_filtered_tokens_have_no_weight_in_the_samplers_log_probabilities(engine):
    done = generate(engine, [5], temperature=1.0, top_k=2, logprobs=2, logprobs_of="sampler")
    for report in done.logprobs:
        assert abs(sum(torch.tensor([value for _, value in report.top]).exp()) - 1) < 1e-5


def test_none_are_given_unless_asked_for_and_a_mixed_batch_gives_each_its_own(engine):
    def ask(logprobs):
        return Request(prompt_ids=[5], sampling=SamplingConfig(max_tokens=4, stop_ids=(), logprobs=logprobs))

    none, chosen, three = engine.generate([ask(None), ask(0), ask(3)])
    assert none.logprobs is None
    assert [len(report.top) for report in chosen.logprobs] == [0] * 4
    assert [len(report.top) for report in three.logprobs] == [3] * 4
    assert [report.logprob for report in chosen.logprobs] == [report.logprob for report in three.logprobs]
