"""A live engine over vLLM that can be broken: versions from ``BROKEN`` on are named before their weights come, and the
cached prefixes of requests whose id begins with ``UNSALTED`` bear no version.

It is started as ``python live_vllm_program.py SETTINGS.json``, and is otherwise ``actors.live_engine``.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator

import actors.live_engine
import actors.live_vllm
from actors.live import LiveRequest, Tokens
from actors.live_vllm import VllmLive
from sea_agent.weights import WeightUpdate

BROKEN = 1000
UNSALTED = "unsalted"


class BreakableLive(VllmLive):
    """Names a broken version, waits until a token bears it, and only then loads its weights, without a pause."""

    _borne: asyncio.Event | None = None

    async def generate(self, request: LiveRequest) -> AsyncGenerator[Tokens, None]:
        self._salted = not request.id.startswith(UNSALTED)
        async for tokens in super().generate(request):
            if self._borne is not None and tokens.version == self.version:
                self._borne.set()
            yield tokens

    async def load(self, update: WeightUpdate, directory: str) -> None:
        if update.version < BROKEN:
            await super().load(update, directory)
            return
        self._borne = asyncio.Event()
        self.version, self.checksum = update.version, update.checksum
        await self._engines[0].update_weight_version(str(update.version))
        async with asyncio.timeout(60.0):
            await self._borne.wait()
        self._borne = None
        await self._engines[0].collective_rpc("sea_hold", args=(directory,))


if __name__ == "__main__":
    actors.live_vllm.VllmLive = BreakableLive  # type: ignore[misc]
    sys.exit(actors.live_engine.main())
