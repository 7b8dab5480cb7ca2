"""Performing one client's steps, and settling at the end so that silence can be judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from .link import Gone, Link
from .scene import cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .history import Called
    from .plan import Client, Step
    from .scene import Scene

__all__ = ["Actor"]

QUIET = 0.05
"""Seconds of silence that stand for a fence where there is none, after three round trips."""

ROUND_TRIPS = 3


class Actor:
    """One client of a plan.

    Args:
        scene: what it shares with the others.
        client: its part of the plan.
    """

    def __init__(self, scene: Scene, client: Client) -> None:
        self.link = Link(scene, client["name"], cast(scene.target, client), client.get("window", 0))
        self.gone = ""
        self._scene = scene
        self._steps = client["steps"]
        self._tokens = 0
        self._pings = 0
        self._keyed: Called | None = None
        self._lasting: set[str] = set()

    # Acts

    async def play(self) -> None:
        """Connect and perform every step; a client that is not let in any more stops where it is."""
        turns: dict[str, Callable[[Step], Awaitable[None]]] = {
            "subscribe": self._subscribe,
            "publish": self._publish,
            "again": self._again,
            "request": self._request,
            "cancel": self._cancel,
            "history": self._history,
            "auth": self._auth,
            "ping": self._ping,
            "think": self._think,
            "wait": self._wait,
            "abort": self._cut,
            "close": self._cut,
            "half-close": self._cut,
            "takeover": self._takeover,
            "stall": self._stall,
            "throttle": self._throttle,
            "hold": self._hold,
            "split": self._split,
            "join": self._join,
        }
        try:
            await self.link.connect()
            for step in self._steps:
                if not self.link.up:
                    await self.link.connect()
                await turns[step["do"]](step)
                await trio.lowlevel.checkpoint()
        except Gone as gone:
            self.gone = str(gone)

    async def answered(self) -> None:
        """Wait until every exchange that ends by itself has ended, on a connection that lasts."""
        await self._settled(
            lambda: all(x.frame["type"] == "subscribe" and x.opened for x in self.link.running.values())
        )

    async def proven(self) -> None:
        """Make sure that everything published so far has arrived, by a fence or by patience."""
        deadline = trio.current_time() + 2 * self._scene.patience
        while not self.gone and trio.current_time() < deadline:
            try:
                if not self.link.up:
                    await self.link.connect()
            except Gone as gone:
                self.gone = str(gone)
                return
            if "fence" in self.link.offered:
                if await self._round_trip():
                    return
                # Held back, or lost with the connection: nothing announces the end of that, so ask again.
                await trio.sleep(0.002)
            elif await self._quiet():
                return

    async def ended(self) -> None:
        """End every subscription, and leave."""
        if self.gone:
            return
        for id in list(self.link.running):
            self.link.cancel(id)
        await self._settled(lambda: not self.link.running)

    async def _settled(self, done: Callable[[], bool]) -> None:
        """Wait until `done`; what a lasting connection does not bring in time is recorded as never ended."""
        began = trio.current_time()
        deadline = began + 4 * self._scene.patience
        while not self.gone and not done() and trio.current_time() < deadline:
            try:
                if not self.link.up:
                    await self.link.connect()
            except Gone as gone:
                self.gone = str(gone)
                return
            left = max(began, self.link.since) + self._scene.patience - trio.current_time()
            if left > 0:
                await self.link.until(done, left)
            else:
                self._expired()

    def _expired(self) -> None:
        """Record what has had its time."""
        for id, exchange in list(self.link.running.items()):
            if not (exchange.frame["type"] == "subscribe" and exchange.opened) or exchange.cancelling:
                self.link.give_up(id, "timeout")

    async def _round_trip(self) -> bool | None:
        self._pings += 1
        t = f"{self._pings}"
        self.link.put_ping(t)
        return await self.link.pong(t)

    async def _quiet(self) -> bool:
        for _ in range(ROUND_TRIPS):
            if await self._round_trip() is None:
                return False
        await trio.sleep(QUIET)
        if self.link.up:
            self.link.calm()
        return self.link.up

    # Steps

    def _data(self, pad: int) -> dict[str, object]:
        """Return data that nobody else has."""
        self._tokens += 1
        data: dict[str, object] = {"t": f"{self.link.name}.{self._tokens}"}
        return data | ({"pad": "x" * pad} if pad else {})

    def _may(self, profile: str) -> bool:
        return profile in self.link.offered

    async def _subscribe(self, step: Step) -> None:
        if not self._may("pubsub"):
            return
        channel = self._scene.channel(step.get("channel", 0))
        if step.get("pattern"):
            if self._may("pattern"):
                self.link.call({"type": "subscribe", "pattern": self._scene.pattern(step.get("channel", 0))})
            return
        frame: Called = {"type": "subscribe", "channel": channel}
        place = self.link.places.get(channel)
        if self._may("history"):
            if step.get("since") and place is not None:
                frame["since"] = place
                if step.get("require"):
                    frame["recover"] = "require"
            elif "last" in step:
                frame["last"] = step["last"]
        self.link.call(frame)

    async def _publish(self, step: Step) -> None:
        if not self._may("pubsub"):
            return
        for _ in range(step.get("count", 1)):
            frame: Called = {"type": "publish", "channel": self._scene.channel(step.get("channel", 0))}
            if not step.get("echo", True):
                frame["echo"] = False
            frame["data"] = self._data(step.get("pad", 0))
            if step.get("key") and self._may("history"):
                frame["dedupe"] = self._scene.next_key(self.link.principal)
                self._keyed = frame
            self.link.call(frame)

    async def _again(self, step: Step) -> None:
        if self._keyed is not None and self._may("history"):
            self.link.call(self._keyed)

    async def _request(self, step: Step) -> None:
        echo = self._scene.target.methods.get("echo")
        if echo is not None and self._may("rpc"):
            self.link.call({"type": "request", "method": echo.name, "data": self._data(step.get("pad", 0))})

    async def _cancel(self, step: Step) -> None:
        running = [id for id, exchange in self.link.running.items() if not exchange.cancelling]
        if running:
            self.link.cancel(running[max(-len(running), -1 - step.get("nth", 0))])

    async def _history(self, step: Step) -> None:
        if not self._may("history"):
            return
        channel = self._scene.channel(step.get("channel", 0))
        place = self.link.places.get(channel)
        frame: Called = {"type": "history", "channel": channel}
        if place is not None and step.get("way") == "after":
            frame["after"] = place
        elif place is not None and step.get("way") == "back":
            frame["before"] = place
        self.link.call(frame)

    async def _auth(self, step: Step) -> None:
        token = self.link.token
        if token is not None:
            self.link.call({"type": "auth", "token": token})

    async def _ping(self, step: Step) -> None:
        self._pings += 1
        self.link.put_ping(f"{self._pings}")

    async def _think(self, step: Step) -> None:
        await trio.sleep(step.get("ms", 0) / 1000)

    async def _wait(self, step: Step) -> None:
        running = self.link.running
        await self.link.until(
            lambda: all(x.frame["type"] == "subscribe" and x.opened for x in running.values()), 0.5
        )

    # Faults

    async def _cut(self, step: Step) -> None:
        await self.link.cut(step["do"])
        await trio.sleep(step.get("ms", 0) / 1000)
        await self.link.connect(fresh=step.get("fresh", False), lost=step.get("lost", 0))

    async def _takeover(self, step: Step) -> None:
        if self._may("resume"):
            self.link.fault("takeover")
            await self.link.connect(over=True)

    async def _stall(self, step: Step) -> None:
        peer = self.link.peer
        await self._meanwhile(step, peer.pause_reading, peer.resume_reading)

    async def _throttle(self, step: Step) -> None:
        peer, pad = self.link.peer, max(1, step.get("pad", 64))
        await self._meanwhile(step, lambda: peer.throttle(pad, 0.002), lambda: peer.throttle(65536, 0))

    async def _hold(self, step: Step) -> None:
        def hold(on: bool) -> None:
            self.link.holding = on
            self.link.flush()

        if self._may("ack"):
            await self._meanwhile(step, lambda: hold(True), lambda: hold(False))

    async def _split(self, step: Step) -> None:
        def split(size: int) -> None:
            self.link.split = size

        await self._meanwhile(step, lambda: split(step.get("pad", 1)), lambda: split(0))

    async def _join(self, step: Step) -> None:
        def join(on: bool) -> None:
            self.link.joining = on
            self.link.flush()

        await self._meanwhile(step, lambda: join(True), lambda: join(False))

    async def _meanwhile(self, step: Step, begin: Callable[[], None], over: Callable[[], None]) -> None:
        """Let a fault last while the next steps go on; a kind that lasts already is left alone."""
        kind = step["do"]
        if kind in self._lasting:
            return

        async def later() -> None:
            await trio.sleep(step.get("ms", 0) / 1000)
            over()
            self._lasting.remove(kind)

        self._lasting.add(kind)
        self.link.fault(kind)
        begin()
        self._scene.nursery.start_soon(later)
