"""Engines of live mode on a Ray cluster: they outlive whoever keeps them, come back when they die, and end in order."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from e2e.two_nodes import parts as hosted
from live_clients import DEADLINE_SECONDS, TOKEN, Client, run, sampled, save_weights
from policy_zoo import make_endless_policy
from ray.cluster_utils import Cluster
from tiny_policies import perturbed

from actors.hf_sampler import HfSampler
from actors.live_host import EngineHost
from actors.placement import Need
from sea_agent.config import Compute, PolicyConfig, SamplerConfig
from sea_agent.config.live import TOKEN as TOKEN_VARIABLE
from sea_agent.errors import RunFailure, UserError
from sea_agent.live.keeper import engine_part
from sea_agent.live.supervisor import Part, Supervisor
from sea_agent.service.chat.engines import Engines, Whole
from sea_agent.service.chat.settings import located
from sea_agent.weights import WeightUpdate

pytestmark = pytest.mark.ray

BODY = {"id": "a", "token_ids": [5, 6, 7], "max_new_tokens": 300, "temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster with room for live mode with one engine."""
    nodes = Cluster()
    nodes.add_node(num_cpus=5, include_dashboard=False)
    yield nodes.address
    nodes.shutdown()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PolicyConfig:
    return PolicyConfig(path=str(make_endless_policy(tmp_path_factory.mktemp("endless"))))


class Fleet:
    """The engines of a live mode, and who starts their keepers."""

    def __init__(self, address: str, policy: PolicyConfig, out: Path) -> None:
        self.out, self._policy, self._compute = out, policy, Compute(ray_address=address)
        self.parts: list[Part] = []

    def whole(self, count: int) -> None:
        """See that so many engines are kept."""
        if len([part for part in self.parts if part.process is not None and part.process.poll() is None]) < count:
            self.start(count)

    def end(self) -> None:
        """As SIGTERM does it."""
        if self.parts:
            self.supervisor.end()

    def start(self, count: int, token: str = TOKEN, **policy: Any) -> None:
        """As each start of live mode does."""
        settings = {
            "policy": self._policy.model_dump(mode="json") | policy,
            "sampler": SamplerConfig().model_dump(mode="json"),
        }
        settings |= {"device": "cpu", "threads": 1, "initial": False}
        needs = [Need(f"engine-{index}", "engine", 1.0) for index in range(count)]
        self.parts = [engine_part(self.out, "live", need, count, self._compute, settings) for need in needs]
        self.supervisor = Supervisor(self.out / "logs", {TOKEN_VARIABLE: token}, lambda line: None)
        self.supervisor.start(*self.parts)

    def url(self, index: int) -> str:
        return located(str(self.parts[index].url))

    def pids(self) -> list[int]:
        """Of the engines, in their order."""
        return [pid_at(self.url(index)) for index in range(len(self.parts))]

    def lose_everything_here(self) -> None:
        """As when this machine's power fails: no keeper can say goodbye."""
        for part in self.parts:
            assert part.process is not None
            part.process.kill()
            part.process.wait(DEADLINE_SECONDS)

    def until(self, true: Callable[[], object]) -> None:
        """Let the supervisor look at its parts until something is the case."""
        end = time.monotonic() + DEADLINE_SECONDS
        while not true():
            assert time.monotonic() < end, self.log()
            for part in self.parts:
                self.supervisor._look(part)
            time.sleep(0.02)

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted((self.out / "logs").iterdir()))


def pid_at(url: str) -> int:
    """The process of the engine that listens there."""
    port = int(url.rpartition(":")[2])
    for pid in hosted():
        if any(one.status == "LISTEN" and one.laddr.port == port for one in psutil.Process(pid).net_connections()):
            return pid
    raise AssertionError(f"no actor listens at {url}")


@pytest.fixture(scope="module")
def fleet(address: str, policy: PolicyConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(address, policy, tmp_path_factory.mktemp("live"))
    yield fleet
    fleet.end()


def expected(policy: PolicyConfig, update: WeightUpdate | None = None) -> tuple[int, ...]:
    """The tokens of the response, by a sampler of this process."""
    sampler = HfSampler(policy, device="cpu")
    if update is not None:
        sampler.load_weights(update)
    [response] = sampler.sample([sampled(BODY)])
    return response.token_ids


async def generate(client: Client) -> list[int]:
    return (await client.generate(**BODY)).tokens


def test_engines_answer_who_has_the_token_and_nobody_else(fleet: Fleet, policy: PolicyConfig) -> None:
    async def stranger() -> list[int]:
        async with Client(fleet.url(0), "another secret").http as http:
            answers = [await http.get("/healthz"), await http.get("/state"), await http.post("/generate", json=BODY)]
        return [answer.status_code for answer in answers]

    fleet.whole(2)
    for index in range(2):
        assert tuple(run(fleet.url(index), generate)) == expected(policy)
    assert asyncio.run(stranger()) == [200, 401, 401]
    assert len({*fleet.pids()}) == 2


def test_a_killed_engine_comes_back_and_its_stream_goes_on_elsewhere_with_the_same_tokens(
    fleet: Fleet, policy: PolicyConfig, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.whole(2)
    whole, urls, pids = Whole([], []), [fleet.url(0), fleet.url(1)], fleet.pids()

    async def stream() -> None:
        engines = Engines(urls, TOKEN)
        async with asyncio.timeout(DEADLINE_SECONDS):
            async for _ in engines.generate(BODY, whole, place=0):
                if len(whole.token_ids) == 5:
                    psutil.Process(pids[0]).kill()
        await engines.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(stream())
    assert f"engine {urls[0]} failed" in caplog.text, "the control: the stream was broken"
    assert tuple(whole.token_ids) == expected(policy)
    fleet.until(lambda: fleet.parts[0].restarts == 1 and fleet.url(0) != urls[0])
    assert tuple(run(fleet.url(0), generate)) == expected(policy)
    assert fleet.url(1) == urls[1]


def test_a_killed_keeper_costs_no_token_and_the_next_one_finds_its_engine(fleet: Fleet, policy: PolicyConfig) -> None:
    fleet.whole(2)
    keeper, url, pid = fleet.parts[0].process, fleet.url(0), fleet.pids()[0]

    async def work(client: Client) -> list[int]:
        tokens: list[int] = []
        async for line in client.lines(**BODY):
            tokens += line.get("token_ids", [])
            if len(tokens) == 5:
                keeper.kill()
                keeper.wait(DEADLINE_SECONDS)
                Path(str(fleet.parts[0].url).removeprefix("file://")).unlink()
        return tokens

    assert tuple(run(url, work)) == expected(policy)
    fleet.until(lambda: fleet.url(0))
    assert fleet.parts[0].process is not keeper
    assert (fleet.url(0), fleet.pids()[0]) == (url, pid)


def test_engines_outlive_live_mode_and_are_found_again_by_who_knows_their_token(fleet: Fleet) -> None:
    fleet.whole(2)
    before = fleet.pids()
    fleet.lose_everything_here()
    fleet.start(2)
    assert fleet.pids() == before
    fleet.lose_everything_here()
    fleet.start(1, token="another secret")
    assert hosted() == fleet.pids(), "what nobody can use, or wants any more, has ended"
    assert fleet.pids()[0] not in before
    with pytest.raises(AssertionError, match="401"):
        run(fleet.url(0), generate)
    fleet.end()


def test_published_weights_are_swapped_in(fleet: Fleet, policy: PolicyConfig) -> None:
    fleet.whole(1)
    update, _ = perturbed(policy, 1)
    directory = save_weights(fleet.out / "weights" / update.checksum, update.tensors)

    async def work(client: Client) -> list[int]:
        assert (await client.publish(directory, update)).status_code == 200
        assert (await client.state())["checksum"] == update.checksum
        return await generate(client)

    assert tuple(run(fleet.url(0), work)) == expected(policy, update) != expected(policy)


def test_a_normal_end_leaves_no_engine(fleet: Fleet) -> None:
    fleet.whole(1)
    fleet.lose_everything_here()
    fleet.end()
    assert hosted(), "the control: a keeper that could not end its engine leaves it, and that is seen"
    fleet.start(1)
    fleet.end()
    assert hosted() == []


def test_what_an_engine_refuses_ends_its_keeper_for_good(fleet: Fleet) -> None:
    fleet.end()
    with pytest.raises(RunFailure, match=r"engine-0 did not start: .*/none"):
        fleet.start(1, path="/none")
    assert fleet.parts[0].process is not None
    assert fleet.parts[0].process.returncode == 2
    assert hosted() == []


def test_a_directory_that_a_node_does_not_see_is_refused_with_the_remedy(tmp_path: Path) -> None:
    host = EngineHost("mark", {}, str(tmp_path / "elsewhere"), TOKEN)
    with pytest.raises(UserError, match=r"elsewhere: is not on node .*file system that all nodes share"):
        host.look(DEADLINE_SECONDS)


def test_without_a_token_no_engine_listens_beyond_its_machine(tmp_path: Path) -> None:
    host = EngineHost("mark", {}, str(tmp_path), "")
    with pytest.raises(UserError, match=f"{TOKEN_VARIABLE} is not set"):
        host.look(DEADLINE_SECONDS)


def test_live_mode_on_a_cluster_is_refused_without_room_or_a_token_that_lasts(
    address: str, sea_agent: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*more: str) -> str:
        settings = ("runtime=ray", f"ray_address={address}", *more)
        done = sea_agent("live", "live", "--port", "0", *(part for one in settings for part in ("--set", one)))
        assert done.code == 2
        assert not Path("live").exists()
        return " ".join(done.err.split())

    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert f"answer who has {TOKEN_VARIABLE}. Set it to a random text" in told()
    monkeypatch.setenv(TOKEN_VARIABLE, "too short")
    assert "at least 32" in told()
    assert "9 live engines of 1 CPU each" in told("live.engines=9")
