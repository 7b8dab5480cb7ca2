"""Mutants of spec/11-security.md."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast_reference.backends.tokens import TokenAuthenticator
from holdfast_reference.protocol import connection as core
from holdfast_reference.protocol.codec import encode_error, encode_result
from holdfast_reference.protocol.connection import Connection
from holdfast_reference.protocol.errors import ExchangeError
from holdfast_reference.protocol.session import Session as CoreSession
from holdfast_reference.server import handshake, serve
from holdfast_reference.server.link import Link

from mutants.harness import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from holdfast_reference.backends.base import Upgrade
    from holdfast_reference.protocol.effects import Effects
    from holdfast_reference.protocol.grants import Credentials, Grant
    from holdfast_reference.protocol.messages import Payload
    from holdfast_reference.server.handshake import Policy


def _policy(patch: Patch, change: Callable[[Policy], Policy]) -> None:
    patch.wrap(serve.Server, "_policy", lambda original, self, secure: change(original(self, secure)))


@mutant("sec/any-origin", violates="SEC-01", killed_by="sec/foreign-origin", says="403")
def _(patch: Patch) -> None:
    """Cookies count, and any web page may use them."""
    _policy(patch, lambda policy: replace(policy, origins=None))


@mutant("sec/own-origin-refused", violates="SEC-02", killed_by="sec/own-origin", says="403")
def _(patch: Patch) -> None:
    """Without a list, not even the server's own pages are let in."""
    _policy(patch, lambda policy: replace(policy, origins=frozenset({"https://nowhere.invalid"})))


@mutant("sec/no-origin-refused", violates="SEC-03", killed_by="sec/foreign-origin", says="without Origin")
def _(patch: Patch) -> None:
    """A program that is no browser, and so sends no Origin, is refused."""

    def check(original: Callable[..., str], request: object, headers: dict[str, str], policy: Policy) -> str:
        if "origin" not in headers and "cookie" in headers:
            raise handshake.Refusal(403, "no origin")
        return original(request, headers, policy)

    patch.wrap(handshake, "_check", check)


def _authenticate(patch: Patch, around: Callable[..., Awaitable[Grant]]) -> None:
    patch.wrap(TokenAuthenticator, "authenticate", around)


@mutant(
    "sec/cookie-beats-hello",
    violates="SEC-04",
    killed_by=["sec/hello-auth-counts-alone", "sec/bad-hello-auth-with-ambient-identity"],
    says="expected",
)
def _(patch: Patch) -> None:
    """A cookie wins over the credentials of hello."""

    async def authenticate(
        original: Callable[..., Awaitable[Grant]],
        self: TokenAuthenticator,
        credentials: Credentials | None,
        upgrade: Upgrade | None,
    ) -> Grant:
        cookie = self._cookie_of(upgrade) if upgrade is not None else None
        return await original(self, cookie or credentials, upgrade)

    _authenticate(patch, authenticate)


@mutant("sec/cookie-ignored", violates="SEC-05", killed_by="sec/ambient-identity-served", says="4101")
def _(patch: Patch) -> None:
    """The identity in a cookie is looked for, and then not used."""
    patch.set(TokenAuthenticator, "_cookie_of", lambda self, upgrade: None)


@mutant(
    "sec/token-in-error",
    violates="SEC-07",
    killed_by=["sec/tokens-not-returned", "sec/no-token-leaks"],
    says="token",
)
def _(patch: Patch) -> None:
    """An error about credentials quotes them."""
    seen: list[str] = []

    async def authenticate(
        original: Callable[..., Awaitable[Grant]],
        self: TokenAuthenticator,
        credentials: Credentials | None,
        upgrade: Upgrade | None,
    ) -> Grant:
        if credentials is not None:
            seen.append(credentials.token)
        return await original(self, credentials, upgrade)

    _authenticate(patch, authenticate)
    original = encode_error
    patch.set(
        core,
        "encode_error",
        lambda id, error: original(id, ExchangeError(error.code, f"{error.message}: {seen[-1]}")),
    )


@mutant(
    "sec/bad-frame-ends-all",
    violates="SEC-09",
    killed_by="sec/garbage-disturbs-nobody",
    says="closed with 4300",
)
def _(patch: Patch) -> None:
    """A frame that closes one connection closes every connection."""
    everybody: set[Link] = set()

    def init(original: Callable[..., None], self: Link, *args: object) -> None:
        original(self, *args)
        everybody.add(self)

    def close(
        original: Callable[..., Effects], self: Connection, code: int, *args: object, **how: object
    ) -> Effects:
        effects = original(self, code, *args, **how)
        if code == 4001:
            for link in [link for link in everybody if link.core is not self]:
                everybody.discard(link)
                link.close(4300)
        return effects

    patch.wrap(Link, "__init__", init)
    patch.wrap(Connection, "close", close)


@mutant(
    "sec/answer-to-the-wrong-session",
    violates="SEC-10",
    killed_by="sec/answers-stay-apart",
    says="how many answers",
)
def _(patch: Patch) -> None:
    """An answer goes to everybody who has used that id."""
    ready: list[Connection] = []

    def welcome(original: Callable[..., Effects], self: Connection, *args: object) -> Effects:
        effects = original(self, *args)
        ready.append(self)
        return effects

    def succeed(
        original: Callable[..., Effects], self: CoreSession, id: int, payload: Payload | None
    ) -> Effects:
        if payload is not None:
            for other in ready:
                mine = self.attached
                same = mine is not None and other is not mine and other.phase is mine.phase
                if same and other.session.exchanges.last_id >= id:
                    other._outgoing.urgent(encode_result(id, payload))
        return original(self, id, payload)

    patch.wrap(Connection, "_welcome", welcome)
    patch.wrap(CoreSession, "succeed", succeed)
