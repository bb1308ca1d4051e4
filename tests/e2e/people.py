"""People who answer duels of a run by what the hidden reward says, however often the service goes away."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from service.processes import GIVEN_KEY, Process, launch

from sea_agent.worlds import scorer

RUN = "people"
KEY = "SEA_AGENT_KEY"


def give_key(key: str) -> None:
    """Put the experiment's key where the oracle looks for it."""
    os.environ[KEY] = key


class Office:
    """A service that can be killed and started again at the same address, and its admin."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process: Process = launch(folder, key=GIVEN_KEY)
        self.url = self.process.url
        self.admin = self.process.client(GIVEN_KEY)

    def kill_and_restart(self) -> None:
        """End the service as a crash would; it comes back."""
        self.process.end()
        self.process = launch(self._folder, "--port", self.url.rpartition(":")[2], key=GIVEN_KEY)

    def close(self) -> None:
        self.admin.close()
        self.process.end()

    def key(self, name: str, scope: str) -> str:
        """A new key."""
        made = self.admin.post("/v1/keys", json={"name": name, "scopes": [scope]}).raise_for_status()
        return str(made.json()["key"])

    def log(self) -> list[dict[str, Any]]:
        """The label log; empty before the run is there."""
        answer = self.admin.get(f"/v1/runs/{RUN}/labels")
        return answer.json()["labels"] if answer.status_code == 200 else []

    def wait_for_duels(self, count: int, seconds: float = 120.0) -> None:
        """Until so many duels are posted."""
        deadline = time.monotonic() + seconds
        while (answer := self.admin.get(f"/v1/runs/{RUN}")).status_code != 200 or answer.json()["queries"] < count:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.05)

    def wait_for_labels(self, count: int, seconds: float = 120.0) -> None:
        """Until the log has so many entries."""
        deadline = time.monotonic() + seconds
        while len(self.log()) < count:
            assert time.monotonic() < deadline, f"{len(self.log())} of {count} labels"
            time.sleep(0.05)


class Person(threading.Thread):
    """Answers until told to stop; an answer that is not acknowledged is sent again. The first duels are skipped."""

    def __init__(self, office: Office, name: str, skips: int = 0) -> None:
        super().__init__(name=name, daemon=True)
        self._skips = skips
        headers = {"Authorization": f"Bearer {office.key(name, 'annotate')}"}
        self._client = httpx.Client(base_url=office.url, headers=headers, timeout=30)
        self._over = threading.Event()
        self._reward = scorer("lexicon", "reward")

    def run(self) -> None:
        while not self._over.is_set():
            lease = self._insist("POST", f"/v1/runs/{RUN}/leases", {"wait_s": 1})
            if lease is None:
                time.sleep(0.05)
                continue
            if self._skips:
                self._skips -= 1
                self._insist("POST", f"/v1/leases/{lease['lease_id']}/skip", {})
                continue
            first, second = (self._reward(lease["prompt"], lease[side]) for side in ("first", "second"))
            outcome = "tie" if first == second else "first" if first > second else "second"
            self._insist("PUT", f"/v1/leases/{lease['lease_id']}/label", {"outcome": outcome})

    def leave(self) -> None:
        self._over.set()
        self.join(60)
        self._client.close()

    def _insist(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer, from however many attempts; None for nothing."""
        while not self._over.is_set():
            try:
                answer = self._client.request(method, path, json=body)
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            return answer.json() if answer.status_code in (200, 201) else None
        return None
