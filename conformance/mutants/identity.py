"""Mutants of spec/03-session.md, its section about identity."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import trio
from holdfast_conformance.target import Identity
from holdfast_reference.backends.tokens import TokenAuthenticator
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.correlation import Pool
from holdfast_reference.protocol.effects import NOTHING
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.session import Session as CoreSession
from holdfast_reference.protocol.states import Phase
from holdfast_reference.protocol.timers import NEVER

from mutants.harness import Patch, mutant
from mutants.tools import answer, on_close, on_frame, on_write

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast_conformance.target import Target
    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Grant

    Row = dict[str, object]
    Read = Callable[[Row], Effects]


@mutant(
    "ses/tokens-by-prefix",
    violates="SES-14",
    killed_by="ses/nearly-a-token",
    says="closed with 4101",
)
def _(patch: Patch) -> None:
    """The beginning of a token is enough."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        auth = frame.get("auth")
        if frame.get("type") != "hello" or not isinstance(auth, dict):
            return None
        token = str(auth.get("token"))
        known = token.startswith("tok-alic") and token not in ("tok-alice", "tok-alice-2", "tok-alice-narrow")
        return read(frame | {"auth": {"token": "tok-alice"}}) if known else None

    on_frame(patch, look)


@mutant(
    "ses/expired-tokens-good",
    violates="SES-14",
    killed_by="auth/hello-expired-token",
    says="close 4101",
)
def _(patch: Patch) -> None:
    """An expired token is as good as any."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        auth = frame.get("auth")
        expired = isinstance(auth, dict) and auth.get("token") == "tok-expired"
        return read(frame | {"auth": {"token": "tok-alice"}}) if expired else None

    on_frame(patch, look)


@mutant(
    "ses/nobody-served",
    violates="SES-15",
    killed_by="ses/no-identity",
    says="closed with 4101; it is still open",
)
def _(patch: Patch) -> None:
    """A client without credentials is let in."""
    patch.config = lambda config: replace(config, anonymous=True)


@mutant(
    "ses/nobody-is-somebody",
    violates="SES-16",
    killed_by="ses/anonymous-principals",
    says="two anonymous connections are",
)
def _(patch: Patch) -> None:
    """All anonymous clients are one principal."""

    async def authenticate(
        original: Callable[..., object], self: object, credentials: object, upgrade: object
    ) -> Grant:
        grant = cast("Grant", await original(self, credentials, upgrade))  # type: ignore[misc]  # a coroutine function
        return replace(grant, principal="anonymous") if credentials is None else grant

    patch.wrap(TokenAuthenticator, "authenticate", authenticate)
    patch.config = lambda config: replace(config, anonymous=True)
    patch.target = with_anonymous


@mutant(
    "ses/expiry-kept-back", violates="SES-17", killed_by="ses/expiry-announced", says="expires_in_ms is None"
)
def _(patch: Patch) -> None:
    """Welcome does not say when the identity expires."""

    def change(frame: Row) -> Row | None:
        auth = frame.get("auth")
        if not isinstance(auth, dict):
            return None
        return frame | {"auth": {name: value for name, value in auth.items() if name != "expires_in_ms"}}

    on_write(patch, change)


@mutant(
    "ses/expiry-as-date", violates="SES-17", killed_by="ses/expiry-announced", says="the target file says 400"
)
def _(patch: Patch) -> None:
    """Welcome gives a date where a duration should be."""

    def change(frame: Row) -> Row | None:
        auth = frame.get("auth")
        if not isinstance(auth, dict) or "expires_in_ms" not in auth:
            return None
        return frame | {"auth": auth | {"expires_in_ms": 1_800_000_000_000}}

    on_write(patch, change)


@mutant(
    "ses/expiry-without-effect",
    violates="SES-18",
    killed_by=["ses/expiry-announced", "ses/expiry-amid-work"],
    says="closed with 4100; it is still open",
)
def _(patch: Patch) -> None:
    """An identity that has expired goes on as before."""

    def change(core: Connection, code: int) -> int | None:
        if code != 4100:
            return code
        core._clock.expires_at = NEVER
        return None

    on_close(patch, change)


@mutant(
    "ses/auth-result-empty",
    violates="SES-19",
    killed_by="ses/auth-extends",
    says="expires_in_ms of the result is None",
)
def _(patch: Patch) -> None:
    """The result of an auth has no data."""

    def end(original: Callable[..., bool], self: CoreSession, id: int, text: bytes) -> bool:
        exchange = self.exchanges.running.get(id)
        frame = json.loads(text)
        if exchange is not None and exchange.pool is Pool.AUTH and frame["type"] == "result":
            text = b'{"type":"result","id":%d}' % id
        return original(self, id, text)

    patch.wrap(CoreSession, "finish", end)


@mutant(
    "ses/auth-expiry-always",
    violates="SES-19",
    killed_by="ses/auth-tells-expiry",
    says="whether the result has expires_in_ms",
)
def _(patch: Patch) -> None:
    """The result of an auth always says that the identity expires."""

    def change(frame: Row) -> Row | None:
        data = frame.get("data")
        if frame["type"] != "result" or data != {}:
            return None
        return frame | {"data": {"expires_in_ms": 86_400_000}}

    on_write(patch, change)


@mutant(
    "ses/old-expiry-kept",
    violates="SES-20",
    killed_by=["ses/auth-extends", "ses/auth-races-expiry"],
    says="closed with 4100",
)
def _(patch: Patch) -> None:
    """The earlier expiry counts, of the old and the new identity."""
    adopt_expiry(patch, min)


@mutant(
    "ses/later-expiry-kept",
    violates="SES-20",
    killed_by="ses/auth-shortens",
    says="closed with 4100; it is still open",
)
def _(patch: Patch) -> None:
    """The later expiry counts, of the old and the new identity."""
    adopt_expiry(patch, max)


@mutant(
    "ses/auth-forbidden", violates="SES-21", killed_by="auth/auth-unknown-token", says='"unauthenticated"'
)
def _(patch: Patch) -> None:
    """An unknown token in auth is answered with `forbidden`."""

    def denied(original: Callable[..., Effects], self: Connection, id: int, error: ExchangeError) -> Effects:
        return original(self, id, ExchangeError(ErrorCode.FORBIDDEN, "no") if id else error)

    patch.wrap(Connection, "denied", denied)


@mutant(
    "ses/principal-changes",
    violates="SES-22",
    killed_by="auth/auth-other-principal",
    says='"principal_mismatch"',
)
def _(patch: Patch) -> None:
    """An auth may change who the client is."""

    def granted(
        original: Callable[..., Effects], self: Connection, id: int, grant: Grant, now: float
    ) -> Effects:
        if id and self.session.grant is not None:
            self.session.grant = replace(self.session.grant, principal=grant.principal)
        return original(self, id, grant, now)

    patch.wrap(Connection, "granted", granted)


@mutant(
    "ses/refused-identity-taken",
    violates="SES-23",
    killed_by="ses/refused-auth-keeps-expiry",
    says="it is still open",
)
def _(patch: Patch) -> None:
    """A refused auth leaves the expiry and the permissions of the wrong identity behind."""

    def granted(
        original: Callable[..., Effects], self: Connection, id: int, grant: Grant, now: float
    ) -> Effects:
        done = original(self, id, grant, now)
        if id and self.session.grant is not None and grant.principal != self.session.grant.principal:
            self._adopt(replace(grant, principal=self.session.grant.principal), now)
        return done

    patch.wrap(Connection, "granted", granted)


@mutant(
    "ses/refused-permissions-taken",
    violates="SES-23",
    killed_by="ses/refused-auth-keeps-permissions",
    says='expected error "forbidden"',
)
def _(patch: Patch) -> None:
    """A refused auth gives the permissions of the other identity."""

    def granted(
        original: Callable[..., Effects], self: Connection, id: int, grant: Grant, now: float
    ) -> Effects:
        done = original(self, id, grant, now)
        if id and self.session.grant is not None:
            self.session.grant = replace(self.session.grant, permissions=grant.permissions)
        return done

    patch.wrap(Connection, "granted", granted)


@mutant(
    "ses/refused-auth-closes",
    violates="SES-23",
    killed_by="ses/refused-auth-keeps-expiry",
    says="closed with 4101",
)
def _(patch: Patch) -> None:
    """A refused auth costs the connection soon after."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        refused = (
            frame.get("type") == "ping"
            and core.session.exchanges.last_id == 2
            and core.session.grant is not None
        )
        return (
            core.close(4101)
            if refused and core.session.grant is not None and core.session.grant.principal == "brief"
            else None
        )

    on_frame(patch, look)


@mutant(
    "ses/auths-at-will",
    violates="SES-24",
    killed_by="ses/auth-behind-an-unfinished-one",
    says='expected error "conflict"',
)
def _(patch: Patch) -> None:
    """Any number of auths may be unfinished."""
    patch.set(Connection, "_check_auth_slot", lambda self: None)


@mutant(
    "ses/auth-needs-slot",
    violates="SES-25",
    killed_by="ses/auth-with-full-slots",
    says='got error "limit_exceeded"',
)
def _(patch: Patch) -> None:
    """An auth takes a slot of max_inflight."""

    def slot(original: Callable[..., None], self: Connection) -> None:
        original(self)
        if not self.session.exchanges.is_free(Pool.CALLS, self._outgoing):
            raise ExchangeError(ErrorCode.LIMIT_EXCEEDED, "full")

    patch.wrap(Connection, "_check_auth_slot", slot)


@mutant(
    "ses/auth-drained", violates="SES-26", killed_by="ses/draining-accepts-auth", says='got error "draining"'
)
def _(patch: Patch) -> None:
    """A draining connection refuses an auth like everything else."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        drained = core.phase is Phase.DRAINING and frame.get("type") == "auth"
        return answer(core, frame, "draining") if drained else None

    on_frame(patch, look)


@mutant(
    "ses/auth-overtaken-by-expiry", violates="SES-27", killed_by="ses/auth-extends", says="closed with 4100"
)
def _(patch: Patch) -> None:
    """While an auth is looked at, which takes its time, the old identity may expire."""

    async def authenticate(
        original: Callable[..., object], self: object, credentials: object, upgrade: object
    ) -> object:
        if upgrade is None:
            await trio.sleep(0.25)
        return await original(self, credentials, upgrade)  # type: ignore[misc]  # a coroutine function

    patch.wrap(TokenAuthenticator, "authenticate", authenticate)
    patch.set(Connection, "_auth_pending", lambda self: False)


@mutant(
    "ses/permissions-kept",
    violates="SES-28",
    killed_by="ses/auth-takes-permissions",
    says='error "forbidden"',
)
def _(patch: Patch) -> None:
    """Running subscriptions outlive their permission."""
    patch.set(CoreSession, "reauthorize", lambda self, grant: NOTHING)


@mutant(
    "ses/subscriptions-ended-by-auth",
    violates="SES-29",
    killed_by="ses/auth-takes-permissions",
    says='got error "forbidden"',
)
def _(patch: Patch) -> None:
    """An auth ends every subscription."""

    def end_all(self: CoreSession, grant: Grant) -> Effects:
        done: list[object] = []
        for id, exchange in list(self.exchanges.running.items()):
            if exchange.pool is Pool.SUBSCRIPTIONS:
                done += self.fail(id, ExchangeError(ErrorCode.FORBIDDEN, "again, please"))
        return cast("Effects", done)

    patch.set(CoreSession, "reauthorize", end_all)


@mutant(
    "ses/patterns-keep-permissions",
    violates="SUB-25",
    killed_by="ses/auth-narrows-patterns",
    says="must not come, and came",
)
def _(patch: Patch) -> None:
    """A pattern subscription keeps the permissions with which the session began."""
    first: dict[str, Grant] = {}

    def deliver(original: Callable[..., object], self: CoreSession, *args: object, **lossy: object) -> object:
        now = self.grant
        assert now is not None
        self.grant = first.setdefault(self.origin, now)
        done = original(self, *args, **lossy)
        self.grant = now
        return done

    patch.wrap(CoreSession, "deliver", deliver)


@mutant(
    "ses/second-auth-swallowed",
    violates="SES-24",
    killed_by="ses/auth-twice-at-once",
    says='expected error "conflict" or "unauthenticated"',
)
def _(patch: Patch) -> None:
    """An auth while another is unfinished has no answer."""

    def look(core: Connection, frame: Row, read: Read) -> Effects | None:
        if frame.get("type") != "auth" or core.session.exchanges.is_free(Pool.AUTH, core._outgoing):
            return None
        core.session.exchanges.consume(cast("int", frame["id"]))
        return NOTHING

    on_frame(patch, look)


# Tools


def adopt_expiry(patch: Patch, choose: Callable[[float, float], float]) -> None:
    """Choose between the expiry of the old identity and that of the new one."""

    def adopt(original: Callable[..., None], self: Connection, grant: Grant, now: float) -> None:
        first, before = self.session.grant is None, self._clock.expires_at
        original(self, grant, now)
        if not first:
            self._clock.expires_at = choose(before, self._clock.expires_at)

    patch.wrap(Connection, "_adopt", adopt)


def with_anonymous(target: Target) -> Target:
    """Say in the target file that anonymous clients are served."""
    return replace(target, identities={**target.identities, "anonymous": Identity("anonymous", None)})


@mutant(
    "ses/permissions-of-hello",
    violates="SES-48",
    killed_by="ses/auth-gives-permissions",
    says='expected "open"',
)
def _(patch: Patch) -> None:
    """What a session may do is what the identity of hello might."""

    def reauthorize(original: Callable[..., Effects], self: CoreSession, grant: Grant) -> Effects:
        first, effects = self.grant, original(self, grant)
        assert first is not None
        self.grant = replace(grant, permissions=first.permissions)
        return effects

    patch.wrap(CoreSession, "reauthorize", reauthorize)
