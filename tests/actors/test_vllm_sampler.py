"""The vLLM sampler against transformers, with real engines.

vLLM changes its process for good (torch functions, process groups, the global seed), so the engines live in one child
process, in which the functions named ``child_*`` run. Every call into it has a deadline.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from policy_zoo import make_policy_of
from tiny_policies import (
    END,
    by_id,
    forward_logprobs,
    goodness_of_fit,
    greedy_tokens,
    perturbed,
    request,
    varied_requests,
)

from actors.samplers import make_sampler
from actors.sampling import SampleRequest
from actors.vllm_sampler import import_vllm, locate
from learner.learner import PreferenceLearner
from sea_agent.config import LearnerConfig, PolicyConfig, SamplerConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.pretrained import load_policy, load_tokenizer
from sea_agent.types import LabelSource, Preference, Prompt, Response, TokenRow
from sea_agent.weights import WeightUpdate, checksum

CONFIG = SamplerConfig(backend="vllm", kv_cache_gb=0.125)
DEADLINE_SECONDS = 240.0

pytestmark = pytest.mark.vllm

Policies = Callable[..., PolicyConfig]

_current: list[Any] = []
_started: list[PolicyConfig] = []


def child_start(
    policy: PolicyConfig, config: SamplerConfig = CONFIG, device: str = "cpu", longest: int | None = None
) -> int:
    _current.clear()
    _started.append(policy)
    _current.append(make_sampler(policy, config, device=device, threads=1, longest=longest))
    return int(_current[0].version)


def child_plain_logprobs(directory: str, rows: Sequence[TokenRow]) -> list[list[float]]:
    """What a plain vLLM that serves the directory says of the response tokens."""
    _current.clear()
    _started.append(PolicyConfig(path=directory))
    vllm = import_vllm("cpu", 1)
    memory = {"kv_cache_memory_bytes": 2**26, "max_model_len": 48}
    served = vllm.LLM(directory, dtype="float32", enforce_eager=True, distributed_executor_backend="uni", **memory)
    outputs = served.generate(
        [{"prompt_token_ids": [*prompt, *response]} for prompt, response in rows],
        vllm.SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False),
        use_tqdm=False,
    )
    given = zip(rows, (output.prompt_logprobs for output in outputs), strict=True)
    return [
        [entry[token].logprob for token, entry in zip(response, entries[len(prompt) :], strict=True)]
        for (prompt, response), entries in given
    ]


def child_hold(policy: PolicyConfig, initial: WeightUpdate) -> int:
    """As ``child_start``, but an engine of this policy that is there gets its initial weights back."""
    if not (_current and _started[-1] == policy):
        return child_start(policy)
    if _current[0].version != 0:
        _current[0].load_weights(initial)
    return int(_current[0].version)


def child_require(policy: PolicyConfig) -> None:
    from actors.vllm_sampler import require_architecture

    require_architecture(policy.path, "cpu")


def child_call(method: str, *arguments: Any) -> Any:
    return getattr(_current[0], method)(*arguments)


def child_load_with_broken(name: str, update: WeightUpdate) -> str:
    """Load weights while ``reload`` (vLLM is never told of them) or ``repack`` (of tied heads) does nothing."""
    import actors.vllm_sampler

    with pytest.MonkeyPatch.context() as patch:
        if name == "reload":
            patch.setattr(_current[0]._engine, "collective_rpc", lambda *_, **__: None)
        else:
            patch.setattr(actors.vllm_sampler, "repack_heads", lambda _: None)
        return str(_current[0].load_weights(update))


class Engine:
    """The child process, seen from here."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.submit(function, *arguments).result(timeout=DEADLINE_SECONDS)

    def hold(self, policy: PolicyConfig) -> int:
        """Have the policy in its initial weights; the version of what is held."""
        return int(self.run(child_hold, policy, perturbed(policy, version=0, scale=0.0)[0]))

    def sample(self, requests: Sequence[SampleRequest]) -> dict[str, Response]:
        return by_id(self.run(child_call, "sample", requests))

    def logprobs(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        return list(self.run(child_call, "logprobs", rows))


def _own_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with _own_process() as pool:
        yield Engine(pool)


@pytest.fixture
def llama(engine: Engine, tiny_policy: Policies) -> Engine:
    """Holds the initial weights of the Llama policy."""
    engine.hold(tiny_policy("llama"))
    return engine


def test_tokens_are_exact_draws_whatever_settings_the_policy_ships(tiny_policy: Policies, llama: Engine) -> None:
    drawn = llama.sample([request(f"r{index}", seed=index, max_new_tokens=1) for index in range(2000)])
    with torch.inference_mode():
        logits_V = load_policy(tiny_policy("llama").path, "float32", "cpu")(torch.tensor([[5, 6, 7]])).logits[0, -1]
    tokens = [response.token_ids[0] for response in drawn.values()]
    assert goodness_of_fit(tokens, (logits_V / 0.7).softmax(-1)) > 1e-3
    assert goodness_of_fit(tokens, (logits_V / 0.85).softmax(-1)) < 1e-6


def test_the_seed_decides_the_tokens(llama: Engine) -> None:
    requests = varied_requests(12)
    together = llama.sample(requests)
    assert llama.sample(requests[::-1]) == together
    for one in requests[:4]:
        assert llama.sample([one])[one.id].token_ids == together[one.id].token_ids
    twins = llama.sample([request("a", seed=1), request("b", seed=1), request("c", seed=2)])
    assert twins["a"].token_ids == twins["b"].token_ids
    assert twins["a"].token_ids != twins["c"].token_ids


def test_responses_end_at_the_end_token_or_at_their_own_limit(tiny_policy: Policies, llama: Engine) -> None:
    tokenizer = load_tokenizer(tiny_policy("llama").path)
    limits = {f"r{index}": 1 + index % 12 for index in range(200)}
    responses = llama.sample(
        [request(name, seed=int(name[1:]), temperature=1.5, max_new_tokens=limit) for name, limit in limits.items()]
    )
    ended = [response for response in responses.values() if response.token_ids[-1] == END]
    assert 10 < len(ended) < 190
    for name, response in responses.items():
        assert END not in response.token_ids[:-1]
        assert response.token_ids[-1] == END or len(response.token_ids) == limits[name]
        assert len(response.logprobs) == len(response.token_ids)
        assert response.text == tokenizer.decode(response.token_ids, skip_special_tokens=True)
        assert "</s>" not in response.text


def test_temperature_zero_takes_the_likeliest_token_at_every_step(tiny_policy: Policies, llama: Engine) -> None:
    model = load_policy(tiny_policy("llama").path, "float32", "cpu")
    drawn = varied_requests(4)
    greedy = [replace(one, id=f"greedy-{one.id}", temperature=0.0) for one in drawn]
    responses = llama.sample([*drawn, *greedy])
    for one in greedy:
        response = responses[one.id]
        assert response.token_ids == greedy_tokens(model, one)
        assert response.logprobs == pytest.approx(
            forward_logprobs(model, one.prompt.token_ids, response.token_ids), abs=1e-4
        )
    assert any(responses[one.id].token_ids != greedy_tokens(model, one) for one in drawn)


def test_a_full_context_is_sampled_and_scored(tiny_policy: Policies, llama: Engine) -> None:
    response = llama.sample([request("a", prompt=range(2, 40), max_new_tokens=26)])["a"]
    assert len(response.token_ids) == 26
    assert llama.logprobs([(range(2, 40), response.token_ids)])[0] == pytest.approx(response.logprobs, abs=1e-4)
    with pytest.raises(UserError, match="context of 64"):
        llama.sample([request("a", prompt=range(2, 40), max_new_tokens=27)])


def test_the_checksum_is_of_what_the_engine_computes_with(tiny_policy: Policies, llama: Engine) -> None:
    update, _ = perturbed(tiny_policy("llama"), version=1)
    assert llama.run(child_load_with_broken, "reload", update) != update.checksum
    assert llama.run(child_call, "load_weights", update) == update.checksum
    update.tensors["model.layers.0.self_attn.k_proj.weight"][3, 4] += 1e-6
    assert llama.run(child_call, "load_weights", update) != update.checksum


def test_the_sign_of_a_zero_does_not_change_the_checksum(tiny_policy: Policies, llama: Engine) -> None:
    _, model = perturbed(tiny_policy("llama"), version=1)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["model.layers.0.mlp.down_proj.weight"][0, :5] = -0.0
    update = WeightUpdate(1, tensors, "")
    assert llama.run(child_call, "load_weights", update) == checksum(tensors)


def test_weights_of_another_policy_are_refused(tiny_policy: Policies, llama: Engine) -> None:
    update, _ = perturbed(tiny_policy("llama"), version=1)
    update.tensors["typo"] = update.tensors.pop("model.norm.weight")
    with pytest.raises(RunFailure, match=r"model\.norm\.weight is missing; typo is not a weight"):
        llama.run(child_call, "load_weights", update)


@pytest.mark.parametrize(
    ("architecture", "tied"), [("llama", False), ("gpt_neox", False), ("gemma2", True), ("llama", True)]
)
def test_logprobs_equal_transformers_before_and_after_three_updates(
    tiny_policy: Policies, engine: Engine, architecture: str, tied: bool
) -> None:
    policy = tiny_policy(architecture, tied=tied)
    assert engine.hold(policy) == 0
    requests = varied_requests(6)

    def gap(model: torch.nn.Module, version: int) -> float:
        """Largest difference of any log-probability, reported or scored, from a plain forward pass."""
        responses = engine.sample(requests)
        assert {response.policy_version for response in responses.values()} == {version}
        rows = [(one.prompt.token_ids, responses[one.id].token_ids) for one in requests]
        expected = torch.tensor([value for row in rows for value in forward_logprobs(model, *row)])
        reported = torch.tensor([value for one in requests for value in responses[one.id].logprobs])
        scored = torch.tensor([value for row in engine.logprobs(rows) for value in row])
        return float(torch.maximum((reported - expected).abs(), (scored - expected).abs()).max())

    assert gap(load_policy(policy.path, "float32", "cpu"), version=0) < 1e-4
    for version in (1, 2, 3):
        update, model = perturbed(policy, version)
        assert gap(model, version - 1) > 0.1
        assert engine.run(child_call, "load_weights", update) == update.checksum
        assert gap(model, version) < 1e-4


def test_a_tied_head_that_keeps_old_weights_is_noticed(tiny_policy: Policies, engine: Engine) -> None:
    policy = tiny_policy("llama", tied=True)
    engine.hold(policy)
    update, _ = perturbed(policy, version=1)
    assert "lm_head.weight" not in update.tensors
    with pytest.raises(RunFailure, match=r"model\.embed_tokens\.weight and lm_head\.weight"):
        engine.run(child_load_with_broken, "repack", update)


def test_a_head_without_a_module_is_where_its_tied_embedding_is_and_else_lost() -> None:
    model: Any = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3)})
    model.hf_to_vllm_mapper = SimpleNamespace(apply=list)
    shapes = {name: torch.Size((5, 3)) for name in ("embed.weight", "lm_head.weight")}
    places = locate(model, shapes, {"embed.weight": "embed.weight", "lm_head.weight": "embed.weight"})
    assert places["lm_head.weight"] == places["embed.weight"]
    with pytest.raises(UserError, match=r"lm_head\.weight of ModuleDict cannot be found"):
        locate(model, shapes, {name: name for name in shapes})


def test_an_architecture_that_vllm_does_not_know_is_refused_without_an_engine(
    tiny_policy: Policies, engine: Engine
) -> None:
    for known in ("llama", "gemma2"):
        engine.run(child_require, tiny_policy(known))
    with pytest.raises(UserError, match=r"vLLM does not know GPTNeoForCausalLM.*sampler\.backend=hf"):
        engine.run(child_require, tiny_policy("gpt_neo"))


def test_a_model_that_only_the_kernels_refuse_is_refused_at_the_start(tmp_path: Path) -> None:
    """vLLM starts with heads of 16 numbers, and its attention on CPUs cannot compute them."""
    policy = PolicyConfig(path=str(make_policy_of("gemma2", tmp_path)))
    said = r"did not start for policy\.path=.*head_dim=16.*sampler\.backend=hf"
    with _own_process() as pool, pytest.raises(UserError, match=said):  # a failed engine spoils its process
        Engine(pool).run(child_start, policy)


def test_many_long_prompts_in_one_call_are_sampled_as_they_are_in_many(llama: Engine) -> None:
    """They have more tokens than vLLM reads at once, so it would read some in parts."""
    prompts = [[2 + (index * 7 + step) % 40 for step in range(26)] for index in range(200)]
    requests = [request(f"r{index}", prompt, seed=index, max_new_tokens=3) for index, prompt in enumerate(prompts)]
    together = llama.sample(requests)
    parts = [llama.sample(requests[start : start + 50]) for start in range(0, 200, 50)]
    apart = {name: response for part in parts for name, response in part.items()}
    assert {name: one.token_ids for name, one in together.items()} == {
        name: one.token_ids for name, one in apart.items()
    }
    rows = [(one.prompt.token_ids, together[one.id].token_ids) for one in requests]
    for one, scored in zip(requests, llama.logprobs(rows), strict=True):
        assert scored == pytest.approx(together[one.id].logprobs, abs=1e-4)


def test_memory_is_reserved_for_the_longest_request_not_for_the_whole_context(engine: Engine, tmp_path: Path) -> None:
    directory = make_policy_of("llama", tmp_path, hidden_size=64, max_position_embeddings=400_000)
    policy = PolicyConfig(path=str(directory))
    with pytest.raises(UserError, match="kv_cache_gb"):
        engine.run(child_start, policy)
    engine.run(child_start, policy, CONFIG, "cpu", 40)
    [response] = engine.sample([request("a", prompt=range(3, 31), max_new_tokens=12)]).values()
    expected = forward_logprobs(load_policy(policy.path, "float32", "cpu"), range(3, 31), response.token_ids)
    assert response.logprobs == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UserError, match="context of 40"):
        engine.sample([request("a", prompt=range(3, 31), max_new_tokens=13)])


def test_an_architecture_whose_weights_cannot_be_read_back_is_refused(engine: Engine, tmp_path: Path) -> None:
    policy = PolicyConfig(path=str(make_policy_of("bloom", tmp_path, hidden_size=64)))
    with pytest.raises(UserError, match=r"BloomForCausalLM.*Use sampler\.backend=hf"):
        engine.run(child_start, policy, CONFIG, "cpu", 40)


@pytest.mark.parametrize("architecture", ["llama", "qwen2 tied", "gpt_neox", "mixtral"])
def test_plain_vllm_reads_the_saved_policy(architecture: str, engine: Engine, tmp_path: Path) -> None:
    directory = make_policy_of(architecture, tmp_path / "before", hidden_size=64)
    learner = PreferenceLearner(
        PolicyConfig(path=str(directory)), LearnerConfig(learning_rate=1e-2, max_staleness=1), total_steps=1
    )
    rows = [((5, 6, 7), (8, 9, 10, 0)), ((5, 6, 7), (11, 0))]
    prompt = Prompt("p", "", rows[0][0])
    good, bad = (Response(f"r{index}", "p", "", row[1], (), -1) for index, row in enumerate(rows))
    learner.step([Preference("d", prompt, good, bad, LabelSource.ORACLE)])
    learner.save_policy(tmp_path / "after")
    expected = learner.policy_logprobs(rows)
    for ours, theirs in zip(engine.run(child_plain_logprobs, str(tmp_path / "after"), rows), expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_an_engine_that_cannot_start_names_the_remedy(tiny_policy: Policies, engine: Engine) -> None:
    with pytest.raises(UserError, match=r"computes on cpu, but device=cuda.*\[agent,vllm\]"):
        engine.run(child_start, tiny_policy("llama"), CONFIG, "cuda")
    with pytest.raises(UserError, match="kv_cache_gb"):
        engine.run(child_start, tiny_policy("llama"), SamplerConfig(backend="vllm", kv_cache_gb=1e6))
