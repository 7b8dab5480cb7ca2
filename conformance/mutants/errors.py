"""Mutants of spec/08-errors.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast_reference.protocol import connection as core
from holdfast_reference.protocol import intake, session
from holdfast_reference.protocol.codec import encode_error
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.effects import Close
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError

from mutants.harness import Patch, mutant
from mutants.tools import on_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_reference.protocol.effects import Effects

    from mutants.tools import Read, Row


def _error(patch: Patch, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every error frame on its way out."""
    original = encode_error

    def encode(id: int, error: ExchangeError) -> bytes:
        fields: dict[str, Any] = {"code": error.code, "retry_ms": error.retry_ms}
        change(fields)
        changed = ExchangeError(error.code, error.message, data=error.data, ref=error.ref)
        changed.code = fields["code"]
        changed.retry_ms = fields["retry_ms"]
        return original(id, changed)

    for module in (core, intake, session):
        patch.set(module, "encode_error", encode)


@mutant(
    "err/unknown-code",
    violates="ERR-01",
    killed_by="err/known-codes",
    says="no_such_thing",
    during=["err/unknown-method-*"],
)
def _(patch: Patch) -> None:
    """A code of its own, without a dot."""

    def change(fields: dict[str, Any]) -> None:
        if fields["code"] == ErrorCode.NOT_FOUND:
            fields["code"] = "no_such_thing"

    _error(patch, change)


@mutant(
    "err/no-retry-time",
    violates="ERR-02",
    killed_by=["err/retry-when-retryable", "err/draining-names-a-time", "lim/rate-exceeded"],
    says="retry_ms",
)
def _(patch: Patch) -> None:
    """Retryable errors do not say when to retry."""
    _error(patch, lambda fields: fields.update(retry_ms=None))


@mutant(
    "err/retry-what-is-final",
    violates="ERR-03",
    killed_by=[
        "err/definite-errors-name-no-time",
        "err/mismatch-names-no-time",
        "err/too-large-names-no-time",
    ],
    says="carries retry_ms",
)
def _(patch: Patch) -> None:
    """Every error invites to try again."""
    _error(patch, lambda fields: fields.update(retry_ms=fields["retry_ms"] or 0))


def _close(patch: Patch, change: Callable[[Close], Close]) -> None:
    def close(original: Callable[..., Effects], self: Connection, *args: object) -> Effects:
        return [change(effect) if isinstance(effect, Close) else effect for effect in original(self, *args)]

    patch.wrap(Connection, "close", close)


@mutant(
    "err/client-code-sent",
    violates="ERR-07",
    killed_by="err/close-codes",
    says="4501",
    during=["framing/id-*"],
)
def _(patch: Patch) -> None:
    """The server closes with a code that only clients send."""

    def change(effect: Close) -> Close:
        return Close(4501, "bad_server_frame", effect.detail) if effect.code == 4005 else effect

    _close(patch, change)


@mutant(
    "err/chatty-reason",
    violates="ERR-08",
    killed_by="err/close-reason",
    says="reason",
    during=["framing/id-*"],
)
def _(patch: Patch) -> None:
    """The reason of a close frame is a sentence."""
    _close(patch, lambda effect: Close(effect.code, f"sorry: {effect.reason}", effect.detail))


@mutant(
    "err/broken-method-is-silent",
    violates="ERR-04",
    killed_by="err/broken-method-is-internal",
    says='expected error "internal"',
)
def _(patch: Patch) -> None:
    """What a broken method throws is reported as a fault of the request."""

    def change(fields: dict[str, Any]) -> None:
        if fields["code"] == ErrorCode.INTERNAL:
            fields["code"] = ErrorCode.BAD_REQUEST

    _error(patch, change)


@mutant(
    "err/strict-about-oddities",
    violates="ERR-12",
    killed_by="err/odd-client-stays",
    says="closed with 4000",
)
def _(patch: Patch) -> None:
    """Two cancels of an exchange that never was are taken for a fault of the client."""
    seen: set[tuple[Connection, object]] = set()

    def read(self: Connection, frame: Row, read: Read) -> Effects | None:
        if frame.get("type") != "cancel" or frame.get("of") in self.session.exchanges.running:
            return None
        if (self, frame["of"]) in seen:
            return self.close(4000, "cancelled again")
        seen.add((self, frame["of"]))
        return None

    on_frame(patch, read)
