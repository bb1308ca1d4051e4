"""Wakes requests that wait for something to be committed."""

import asyncio

Topic = tuple[str, str]


def work(run: str) -> Topic:
    """Something to lease may have come up in a run."""
    return ("work", run)


def log(run: str) -> Topic:
    """The label log of a run has grown."""
    return ("log", run)


def publishing(run: str) -> Topic:
    """Other weights of a live run are to serve."""
    return ("publishing", run)


class Signals:
    """One event for each topic. Take the event, look at the store, then wait for the event: nothing is missed."""

    def __init__(self) -> None:
        self.closed = False
        self._events: dict[Topic, asyncio.Event] = {}

    def event(self, topic: Topic) -> asyncio.Event:
        """The event of the topic's next wake-up."""
        event = self._events.setdefault(topic, asyncio.Event())
        if self.closed:
            event.set()
        return event

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Whether the event came within ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        return True

    def wake(self, topic: Topic) -> None:
        """Wake everybody who waits for a topic."""
        event = self._events.pop(topic, None)
        if event is not None:
            event.set()

    def close(self) -> None:
        """Wake everybody for good: the service is ending."""
        self.closed = True
        for event in self._events.values():
            event.set()
