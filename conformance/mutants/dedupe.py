"""Mutants of spec/12-history.md: publishing once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from holdfast_reference.backends import memory
from holdfast_reference.backends.dedupe import Remembered, key_of
from holdfast_reference.backends.memory import MemoryBroker
from holdfast_reference.protocol import connection, intake, messages
from holdfast_reference.protocol.errors import ExchangeError
from holdfast_reference.protocol.logs import Published

from mutants.harness import Patch, mutant
from mutants.lives import on_publish_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.backends.dedupe import Key
    from holdfast_reference.protocol.connection import Connection
    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.events import Event
    from holdfast_reference.protocol.logs import Dedupe

    Done = Callable[[Published | ExchangeError], None]


@mutant(
    "his/publish-without-cursor", violates="HIS-35", killed_by="his/cursor-of-a-publish", says="has no cursor"
)
def _(patch: Patch) -> None:
    """Who publishes is not told where."""
    on_publish_result(patch, lambda data: {k: v for k, v in data.items() if k != "cursor"})


def _shifted(data: dict[str, object], by: int) -> dict[str, object]:
    """The data of a publish's result with the cursor of another place."""
    tag, _, position = str(data.get("cursor", "")).rpartition("-")
    return data | {"cursor": f"{tag}-{int(position) + by}"} if tag else data


@mutant(
    "his/publish-before-its-cursor",
    violates="HIS-35",
    killed_by="his/cursor-of-a-publish",
    says="the first event",
)
def _(patch: Patch) -> None:
    """Who publishes is told the place before the event."""
    on_publish_result(patch, lambda data: _shifted(data, -1))


@mutant(
    "his/duplicate-unsaid",
    violates="HIS-36",
    killed_by=["his/duplicate", "his/duplicate-without-a-log"],
    says="is not called one",
)
def _(patch: Patch) -> None:
    """A duplicate is answered as if it had been the first."""
    on_publish_result(patch, lambda data: {k: v for k, v in data.items() if k != "duplicate"})


@mutant("his/duplicate-without-cursor", violates="HIS-36", killed_by="his/duplicate", says="has no cursor")
def _(patch: Patch) -> None:
    """A duplicate is not told where the first is."""
    on_publish_result(patch, lambda data: {"duplicate": True} if "duplicate" in data else data)


@mutant(
    "his/duplicate-with-another-cursor",
    violates="HIS-36",
    killed_by="his/duplicate",
    says="expected the event behind",
)
def _(patch: Patch) -> None:
    """A duplicate is told the place of the newest event."""
    on_publish_result(patch, lambda data: _shifted(data, 1) if "duplicate" in data else data)


def _keyed(patch: Patch, change: Callable[[Key, Event, Dedupe], Key]) -> None:
    """Change what counts as the same publish."""
    patch.wrap(
        memory, "key_of", lambda original, event, dedupe: change(original(event, dedupe), event, dedupe)
    )


@mutant("his/keys-without-case", violates="HIS-36", killed_by="his/different-keys", says="counts as another")
def _(patch: Patch) -> None:
    """Keys that differ in case are the same."""
    _keyed(patch, lambda key, _, __: (key[0], key[1], key[2].lower()))


@mutant("his/keys-cut", violates="HIS-36", killed_by="his/different-keys", says="counts as another")
def _(patch: Patch) -> None:
    """Keys are compared in their first 128 bytes."""
    _keyed(patch, lambda key, _, __: (key[0], key[1], key[2][:128]))


@mutant("his/keys-of-a-session", violates="HIS-36", killed_by="his/duplicate", says="is not called one")
def _(patch: Patch) -> None:
    """A key counts in the session alone that used it first."""
    origins: list[str] = []

    def read(original: Callable[..., Effects], self: Connection, *args: object) -> Effects:
        origins.append(self.session.origin)
        return original(self, *args)

    handler = intake.READERS[messages.Publish]
    patch.set(
        connection,
        "READERS",
        {**intake.READERS, messages.Publish: lambda *args: read(handler, *args)},
    )
    _keyed(patch, lambda key, _, __: (f"{key[0]} {origins[-1]}", key[1], key[2]))


@mutant("his/keys-include-the-data", violates="HIS-36", killed_by="his/duplicate", says="is not called one")
def _(patch: Patch) -> None:
    """A publish is a duplicate when its data is the same, too."""
    _keyed(patch, lambda key, event, _: (key[0], key[1], f"{key[2]} {event.tail!r}"))


@mutant(
    "his/duplicate-delivered",
    violates="HIS-37",
    killed_by="his/duplicate-without-a-log",
    says="what was delivered",
)
def _(patch: Patch) -> None:
    """A duplicate is answered as one, and delivered all the same."""

    def publish(
        original: Callable[..., None],
        self: MemoryBroker,
        event: Event,
        dedupe: Dedupe | None = None,
        done: Done | None = None,
    ) -> None:
        known = dedupe is not None and self._remembered.outcome(key_of(event, dedupe)) is not None
        original(self, event, dedupe, done)
        if known:
            original(self, event)

    patch.wrap(MemoryBroker, "publish", publish)


def _remembering(patch: Patch, factor: float) -> None:
    """Remember keys for another time."""

    def add(original: Callable[..., None], self: Remembered, key: Key, cursor: str, ms: float) -> None:
        original(self, key, cursor, ms * factor)

    patch.wrap(Remembered, "add", add)


@mutant("his/keys-for-ever", violates="HIS-38", killed_by="his/dedupe-ms-over", says="a key still counts")
def _(patch: Patch) -> None:
    """A key is never forgotten."""
    _remembering(patch, 1000)


@mutant("his/keys-too-briefly", violates="HIS-36", killed_by="his/dedupe-ms-over", says="forgotten before")
def _(patch: Patch) -> None:
    """A key is forgotten after half of `dedupe_ms`."""
    _remembering(patch, 0.5)


@mutant(
    "his/both-take-effect",
    violates="HIS-39",
    killed_by="his/two-at-once-with-a-key",
    says="that were no duplicate",
)
def _(patch: Patch) -> None:
    """A key is remembered shortly after its publish has taken effect."""

    def add(original: Callable[..., None], self: Remembered, key: Key, *rest: object) -> None:
        async def later() -> None:
            await trio.sleep(0.05)
            if self.outcome(key) is None:
                original(self, key, *rest)

        trio.lowlevel.spawn_system_task(later)

    patch.wrap(Remembered, "add", add)


@mutant(
    "his/second-is-refused",
    violates="HIS-39",
    killed_by="his/two-at-once-with-a-key",
    says='got error "conflict"',
)
def _(patch: Patch) -> None:
    """A publish whose key is in use is refused."""

    def publish(
        original: Callable[..., None],
        self: MemoryBroker,
        event: Event,
        dedupe: Dedupe | None = None,
        done: Done | None = None,
    ) -> None:
        known = None if dedupe is None else self._remembered.outcome(key_of(event, dedupe))
        if done is not None and isinstance(known, Published):
            done(ExchangeError("conflict", ""))
        else:
            original(self, event, dedupe, done)

    patch.wrap(MemoryBroker, "publish", publish)


@mutant(
    "his/failure-remembered",
    violates="HIS-40",
    killed_by=["his/failure-is-forgotten", "his/too-large-is-forgotten"],
    says="of one that failed",
)
def _(patch: Patch) -> None:
    """A key counts as soon as it is read."""
    failed: set[tuple[str, str, str]] = set()

    def read(
        original: Callable[..., Effects], self: Connection, message: messages.Publish, now: float
    ) -> Effects:
        try:
            return original(self, message, now)
        except ExchangeError:
            if isinstance(message.dedupe, str) and self.session.grant is not None:
                failed.add((self.session.grant.principal, message.channel, message.dedupe))
            raise

    def outcome(original: Callable[..., object], self: Remembered, key: Key) -> object:
        return Published(None, duplicate=True) if key in failed else original(self, key)

    handler = intake.READERS[messages.Publish]
    patch.set(
        connection,
        "READERS",
        {**intake.READERS, messages.Publish: lambda *args: read(handler, *args)},
    )
    patch.wrap(Remembered, "outcome", outcome)


@mutant(
    "his/one-key-for-all",
    violates="HIS-41",
    killed_by="his/keys-of-two-principals",
    says="by another principal",
)
def _(patch: Patch) -> None:
    """The keys of all principals are the same."""
    _keyed(patch, lambda key, _, __: ("", key[1], key[2]))


@mutant(
    "his/one-key-for-all-channels",
    violates="HIS-41",
    killed_by="his/keys-of-two-principals",
    says="to another channel",
)
def _(patch: Patch) -> None:
    """The keys of all channels are the same."""
    _keyed(patch, lambda key, _, __: (key[0], "", key[2]))
