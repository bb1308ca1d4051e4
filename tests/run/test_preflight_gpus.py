"""On this machine, too, the GPUs are counted before anything starts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def settings(*changes: str) -> list[str]:
    alone = ("sampler.reference_candidates=0", "learner.optimism=none")
    return [part for one in ("device=cuda", "runtime=ray", *alone, *changes) for part in ("--set", one)]


def test_a_run_is_told_what_its_actors_take_or_which_setting_fits(
    sea_agent: Callable[..., Any], gpus: Callable[[int], None]
) -> None:
    gpus(3)
    refused = sea_agent("check", "sea", *settings("sampler.actors=4"))
    assert refused.code == 2
    assert "this run needs 6 GPUs" in refused.err
    assert "It fits with sampler.actors=1" in refused.err
    fits = sea_agent("check", "sea", *settings("sampler.actors=1"))
    assert fits.code == 0
    for line in ("learner-0: 1 GPU", "sampler-0: 1 GPU", "posterior: 1 GPU"):
        assert line in fits.out.splitlines()


def test_actors_that_share_one_gpu_fit_on_it(sea_agent: Callable[..., Any], gpus: Callable[[int], None]) -> None:
    gpus(1)
    shares = ("placement.learner_gpus=0.5", "placement.sampler_gpus=0.3", "placement.posterior_gpus=0.2")
    assert sea_agent("check", "sea", *settings(*shares)).code == 0
    assert sea_agent("check", "sea", *settings(*shares[:2])).code == 2


def test_a_reward_model_needs_a_gpu_where_the_run_is_started(
    sea_agent: Callable[..., Any], gpus: Callable[[int], None]
) -> None:
    gpus(0)
    refused = sea_agent(
        "check", "sea", *settings("ray_address=10.0.0.1:6379", "oracle={kind: reward_model, path: there}")
    )
    assert refused.code == 2
    assert "oracle.kind=reward_model computes in the process of the run" in refused.err
