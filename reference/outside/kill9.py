"""A storm of publishes, and `kill -9` in the middle of it, again and again on one log.

Each round starts `holdfast-server --log FILE`, lets publishers write as fast as they are answered, and kills
the server at a random moment. A second server then opens what is left, and has to prove that

- every confirmed publish is in the log, once, with the cursor that was confirmed, in the order of sending;
- a subscriber whose session is refused goes on from its cursor, and has seen the whole log in the end;
- what was not confirmed can be sent again under its `dedupe` key, and stands in the log once.

At the end a last server must still have the logs of all rounds. Then the same is done to a server that
answers too early (`hasty.py`): the experiment is worth something only if it finds that out. Exit code 1 when
anything was lost, doubled or out of order, or when the hasty server was not found out.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, open_websocket_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Frame = dict[str, object]

CHANNELS = 2  # of each round
ROUND_SECONDS = 60.0
ACK_EVERY = 32  # events between two acks; anything else is acknowledged at once
PAGE = 500
MOST = 3000  # publishes of one publisher: a round that is not killed ends too
OURS = ("-m", "holdfast_reference")
HASTY = (str(Path(__file__).parent / "hasty.py"),)
HASTY_ROUNDS = 5
CONFIG = """
[server]
port = 0
[history]
events = 1000000
bytes = 1000000000
[[token]]
value = "kill9"
principal = "kill9"
"""


class Wrong(Exception):
    """The server broke its word."""


class Site(NamedTuple):
    """Where a log is, and which program serves it."""

    folder: Path
    program: tuple[str, ...]


class Publish(NamedTuple):
    """What one event says: who published it, and as which of theirs."""

    channel: str
    by: int
    number: int

    @property
    def dedupe(self) -> str:
        return f"{self.channel} {self.by} {self.number}"


class Logged(NamedTuple):
    """An event with its place."""

    cursor: str
    publish: Publish


class Speaker:
    """A connection after `welcome`, which speaks JSON, counts ids, and acknowledges what has a number."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self._socket = socket
        self._acked = 0
        self.id = 0
        self.got = 0
        self.welcome: Frame = {}

    async def send(self, **frame: object) -> None:
        await self._socket.send_message(json.dumps(frame))

    async def start(self, **frame: object) -> int:
        """Start an exchange; its id."""
        self.id += 1
        await self.send(id=self.id, **frame)
        return self.id

    async def receive(self) -> Frame:
        frame: Frame = json.loads(await self._socket.get_message())
        if "seq" in frame:
            self.got = _integer(frame["seq"])
            if self.got - self._acked >= ACK_EVERY or frame["type"] != "event":
                self._acked = self.got
                await self.send(type="ack", seq=self.got)
        return frame

    async def answer(self, id: int) -> Frame:
        """The next frame of an exchange; what belongs to others is passed over."""
        while (frame := await self.receive()).get("id") != id:
            pass
        if frame["type"] == "error":
            raise Wrong(f"exchange {id} ended with {frame['error']}")
        return frame


@asynccontextmanager
async def speaking(url: str, *profiles: str, **hello: object) -> AsyncIterator[Speaker]:
    async with open_websocket_url(url, subprotocols=["holdfast.v1.json"]) as socket:
        speaker = Speaker(socket)
        auth = {"scheme": "bearer", "token": "kill9"}
        await speaker.send(type="hello", profiles=["pubsub", "history", *profiles], auth=auth, **hello)
        speaker.welcome = await speaker.receive()
        yield speaker


@asynccontextmanager
async def serving(site: Site) -> AsyncIterator[tuple[str, trio.Process]]:
    """A server on the log in a folder; killed in the end if it still runs."""
    command = [sys.executable, *site.program, "--config", str(site.folder / "server.toml")]
    command += ["--log", str(site.folder / "log.db"), "--log-level", "error"]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = await process.stdout.receive_some()
        if not line:
            raise Wrong("the server does not start")
        yield line.decode().split()[0], process
    finally:
        process.kill()
        await process.wait()


@dataclass
class Round:
    """What was seen of one round.

    Attributes:
        sent: by publisher, in order.
        confirmed: the cursor of each publish that was answered.
        seen: by channel, what the subscriber has received, in order.
        places: by channel, the cursor to go on from.
        begin: by channel, the cursor before its first event.
    """

    number: int
    channels: list[str]
    sent: list[list[Publish]] = field(default_factory=list)
    confirmed: dict[Publish, str] = field(default_factory=dict)
    seen: dict[str, list[Logged]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    begin: dict[str, str] = field(default_factory=dict)
    session: str = ""
    got: int = 0


async def publisher(url: str, found: Round, by: int, in_flight: int, padding: int) -> None:
    """Publish until the server is gone."""
    mine: list[Publish] = []
    found.sent.append(mine)
    room = trio.Semaphore(in_flight)
    asked: dict[int, Publish] = {}
    try:
        async with speaking(url) as speaker, trio.open_nursery() as nursery:
            nursery.start_soon(_confirmations, speaker, asked, found, room)
            for number in range(MOST):
                await room.acquire()
                publish = Publish(found.channels[number % CHANNELS], by, number)
                mine.append(publish)
                asked[speaker.id + 1] = publish
                await _publish(speaker, publish, padding)
    except* (ConnectionClosed, HandshakeError, OSError):
        pass


async def _publish(speaker: Speaker, publish: Publish, padding: int) -> int:
    data = {"by": publish.by, "number": publish.number, "padding": "x" * padding}
    channel, dedupe = publish.channel, publish.dedupe
    return await speaker.start(type="publish", channel=channel, dedupe=dedupe, data=data)


async def _confirmations(
    speaker: Speaker, asked: dict[int, Publish], found: Round, room: trio.Semaphore
) -> None:
    while True:
        frame = await speaker.receive()
        if frame["type"] == "result":
            publish = asked.pop(_integer(frame["id"]))
            found.confirmed[publish] = str(_object(frame["data"])["cursor"])
            room.release()
        elif frame["type"] == "error":
            raise Wrong(f"a publish was answered with {frame['error']}")


async def subscriber(
    url: str, found: Round, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Take in events until the server is gone."""
    try:
        async with speaking(url, "ack", "resume") as speaker:
            found.session = str(speaker.welcome["session"])
            channels: dict[int, str] = {}
            for channel in found.channels:
                channels[await speaker.start(type="subscribe", channel=channel)] = channel
            while True:
                frame = await speaker.receive()
                found.got = speaker.got
                if frame["type"] == "open":
                    channel = channels[_integer(frame["id"])]
                    found.places[channel] = found.begin[channel] = str(frame["cursor"])
                    if len(found.begin) == len(channels):
                        task_status.started()
                elif frame["type"] == "event":
                    _take(found, channels[_integer(frame["id"])], frame)
                elif frame["type"] not in ("ping", "pong"):
                    raise Wrong(f"the subscriber got {frame}")
    except* (ConnectionClosed, HandshakeError, OSError):
        pass


def _take(found: Round, channel: str, event: Frame) -> None:
    found.places[channel] = str(event["cursor"])
    found.seen.setdefault(channel, []).append(_logged(channel, event))


def _logged(channel: str, event: Frame) -> Logged:
    data = _object(event["data"])
    return Logged(str(event["cursor"]), Publish(channel, _integer(data["by"]), _integer(data["number"])))


async def storm(site: Site, found: Round, rng: random.Random) -> str:
    """One server's life; how it was."""
    publishers, delay = rng.randint(2, 6), rng.uniform(0.02, 0.6)
    in_flight, padding = rng.choice([1, 4, 16, 32]), rng.choice([0, 100, 2000])
    async with serving(site) as (url, process), trio.open_nursery() as nursery:
        await nursery.start(subscriber, url, found)
        for by in range(publishers):
            nursery.start_soon(publisher, url, found, by, in_flight, padding)
        await trio.sleep(delay)
        process.kill()
    return f"{publishers} x {in_flight} in flight, killed after {delay * 1000:.0f} ms"


async def log_of(speaker: Speaker, found: Round, channel: str) -> list[Logged]:
    """The whole log of a channel, page by page."""
    events: list[Logged] = []
    after, more = found.begin[channel], True
    while more:
        id = await speaker.start(type="history", channel=channel, after=after, limit=PAGE)
        page = _object((await speaker.answer(id))["data"])
        items = page["events"]
        assert isinstance(items, list)
        events += [_logged(channel, item) for item in items]
        after, more = (events[-1].cursor if events else after), bool(page["more"])
    return events


async def go_on(speaker: Speaker, found: Round) -> int:
    """Subscribe from where the subscriber stood, until it stands at the end of the log; how many came."""
    if (resumed := speaker.welcome.get("resumed")) is not False:
        raise Wrong(f"a new server says resumed:{resumed}")
    error = _object(speaker.welcome["resume_error"])
    if error.get("code") != "not_found" or "last_id" in error:
        raise Wrong(f"the session of a dead server is refused with {error}")
    came = 0
    for channel in found.channels:
        log = await log_of(speaker, found, channel)
        end = log[-1].cursor if log else found.begin[channel]
        id = await speaker.start(type="subscribe", channel=channel, since=found.places[channel])
        opened = await speaker.answer(id)
        if opened.get("recovered") is not True:
            raise Wrong(f"{channel} is not recovered: {opened}")
        while found.places[channel] != end:
            frame = await speaker.answer(id)
            if frame["type"] != "event":
                raise Wrong(f"a replay has {frame}")
            _take(found, channel, frame)
            came += 1
        judge(found, channel, log)
        if found.seen.get(channel, []) != log:
            raise Wrong(f"{channel}: the subscriber has not seen the log as it is")
    return came


def judge(found: Round, channel: str, log: list[Logged]) -> None:
    """What is confirmed is in the log, once, with its cursor, and nothing overtook."""
    cursors = {logged.publish: logged.cursor for logged in log}
    if len(cursors) != len(log):
        raise Wrong(f"{channel}: {len(log) - len(cursors)} events are in the log twice")
    for publish, cursor in found.confirmed.items():
        if publish.channel == channel and cursors.get(publish) != cursor:
            raise Wrong(f"{publish} was confirmed at {cursor}, and is in the log at {cursors.get(publish)}")
    for mine in found.sent:
        sent = [publish for publish in mine if publish.channel == channel]
        kept = [logged.publish for logged in log if logged.publish in set(sent)]
        if kept != sent[: len(kept)]:
            raise Wrong(f"{channel}: publishes of {mine[0].by} are out of order, or have a hole")


async def send_again(url: str, found: Round) -> int:
    """Send what was not confirmed, under its key; how much of it had happened."""
    duplicates = 0
    async with speaking(url) as speaker:
        for publish in [publish for mine in found.sent for publish in mine]:
            if publish not in found.confirmed:
                data = _object((await speaker.answer(await _publish(speaker, publish, 0)))["data"])
                found.confirmed[publish] = str(data["cursor"])
                duplicates += data.get("duplicate") is True
        for channel in found.channels:
            judge(found, channel, await log_of(speaker, found, channel))
    return duplicates


async def one_round(site: Site, found: Round, rng: random.Random) -> dict[str, int]:
    with trio.fail_after(ROUND_SECONDS):
        how = await storm(site, found, rng)
        sent, confirmed = sum(map(len, found.sent)), len(found.confirmed)
        seen = sum(map(len, found.seen.values()))
        resume = {"session": found.session, "seq": found.got, "attempt": 1}
        async with AsyncExitStack() as stack:
            url, _ = await stack.enter_async_context(serving(site))
            speaker = await stack.enter_async_context(speaking(url, "ack", "resume", resume=resume))
            recovered = await go_on(speaker, found)
            duplicates = await send_again(url, found)
    print(f"round {found.number}: {how}: {confirmed} of {sent} confirmed, all there", flush=True)
    return {
        "round": found.number,
        "sent": sent,
        "confirmed": confirmed,
        "unconfirmed": sent - confirmed,
        "of these logged": duplicates,
        "seen": seen,
        "recovered": recovered,
    }


async def look_back(site: Site, rounds: list[Round]) -> None:
    """The last server still has everything."""
    with trio.fail_after(ROUND_SECONDS):
        async with serving(site) as (url, _), speaking(url) as speaker:
            for found in rounds:
                for channel in found.channels:
                    judge(found, channel, await log_of(speaker, found, channel))


def show(rows: list[dict[str, int]]) -> None:
    names = list(rows[0])
    print("  ".join(names))
    for row in rows:
        print("  ".join(f"{row[name]:>{len(name)}}" for name in names))
    print(
        "  ".join(
            f"{sum(row[name] for row in rows) if name != 'round' else 'all':>{len(name)}}" for name in names
        )
    )


def _object(value: object) -> Frame:
    if not isinstance(value, dict):
        raise Wrong(f"{value!r} is no object")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise Wrong(f"{value!r} is no integer")
    return value


async def run(site: Site, rounds: int, rng: random.Random) -> None:
    (site.folder / "server.toml").write_text(CONFIG)
    everything: list[Round] = []
    rows: list[dict[str, int]] = []
    for number in range(1, rounds + 1):
        found = Round(number, [f"storm/{number}/{channel}" for channel in range(CHANNELS)])
        everything.append(found)
        rows.append(await one_round(site, found, rng))
    await look_back(site, everything)
    show(rows)


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def outcome(program: tuple[str, ...], rounds: int, rng: random.Random) -> str:
    """What is wrong with a server, "" for nothing."""
    wrong = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            trio.run(run, Site(Path(folder), program), rounds, rng)
        except* (Wrong, ConnectionClosed, trio.TooSlowError) as group:
            wrong = repr(_first(group))
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the loads (default: 1)")
    options = parser.parse_args()
    signal.alarm(int(ROUND_SECONDS) * (options.rounds + HASTY_ROUNDS + 1))  # whatever hangs, the run ends
    rng = random.Random(options.seed)
    wrong = outcome(OURS, options.rounds, rng)
    if wrong:
        print(f"WRONG: {wrong}")
        return 1
    print(f"{options.rounds} rounds: nothing lost, nothing doubled, nothing out of order", flush=True)
    found = outcome(HASTY, HASTY_ROUNDS, rng)
    print(f"a hasty server was found out: {found}" if found else "WRONG: a hasty server was not found out")
    return 0 if found else 1


if __name__ == "__main__":
    raise SystemExit(main())
