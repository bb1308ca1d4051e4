"""Makes the configured sampler; each back end's libraries are imported only when it is chosen."""

from actors.sampling import Sampler
from sea_agent.config import PolicyConfig, SamplerConfig
from sea_agent.pretrained import use_threads


def make_sampler(policy: PolicyConfig, config: SamplerConfig, *, device: str, threads: int, index: int = 0) -> Sampler:
    """The configured back end, holding the policy's initial weights on ``device`` (``cpu`` or ``cuda``).

    ``index`` tells this one of ``config.actors`` samplers from the others.

    Raises:
        UserError: the policy cannot be loaded, or the back end is not installed.
    """
    use_threads(threads)
    if config.backend == "vllm":
        from actors.vllm_sampler import VllmSampler

        return VllmSampler(policy, config, device=device, threads=threads, index=index)
    from actors.hf_sampler import HfSampler

    return HfSampler(policy, device=device)
