"""Static tokens and ordered rules, as they stand in the configuration file.

Spec: 03-session [SES-14] [SES-16] [SES-21], 11-security [SEC-04] [SEC-05].
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final

from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.grants import Credentials, Grant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast_reference.backends.base import Upgrade
    from holdfast_reference.protocol.grants import Action
    from holdfast_reference.protocol.limits import Limits

__all__ = ["Rule", "RulePermissions", "Token", "TokenAuthenticator"]

_REMEMBERED: Final = 1024  # answers per grant


@dataclass(frozen=True, slots=True)
class Token:
    """One secret and whom it stands for.

    `expires_in_ms` counts from the moment at which the token is presented; 0 is a token that has expired.
    `limits` replaces the server's for sessions that begin with this token.
    """

    value: str
    principal: str
    roles: frozenset[str] = frozenset()
    expires_in_ms: int | None = None
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows or denies some actions on some names to some principals; the first rule that applies decides.

    A name is exact, or a prefix followed by `*`. None means everything or everybody; a rule with both
    `principals` and `roles` applies to those whom either names.
    """

    allow: bool
    actions: frozenset[Action]
    names: tuple[str, ...] | None = None
    principals: frozenset[str] | None = None
    roles: frozenset[str] | None = None

    def concerns(self, principal: str, roles: frozenset[str]) -> bool:
        if self.principals is None and self.roles is None:
            return True
        return principal in (self.principals or ()) or not roles.isdisjoint(self.roles or ())

    def covers(self, action: Action, name: str) -> bool:
        return action in self.actions and (
            self.names is None
            or any(
                name.startswith(known[:-1]) if known.endswith("*") else name == known for known in self.names
            )
        )


class RulePermissions:
    """What the rules allow to one principal: what none covers is denied, unless there are none at all."""

    __slots__ = ("_known", "_rules")

    def __init__(self, rules: Sequence[Rule], principal: str, roles: frozenset[str]) -> None:
        self._rules = [rule for rule in rules if rule.concerns(principal, roles)] if rules else None
        self._known: dict[tuple[Action, str], bool] = {}

    def may(self, action: Action, name: str) -> bool:
        if self._rules is None:
            return True
        answer = self._known.get((action, name))
        if answer is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            answer = next((rule.allow for rule in self._rules if rule.covers(action, name)), False)
            self._known[action, name] = answer
        return answer


class TokenAuthenticator:
    """Knows a fixed set of tokens.

    Args:
        tokens: all there are.
        rules: see `RulePermissions`.
        anonymous: whether clients without credentials are served, each as a principal of its own.
        cookie: name of a cookie that holds a token, or None when cookies are not looked at.
    """

    def __init__(
        self,
        tokens: Sequence[Token],
        rules: Sequence[Rule] = (),
        *,
        anonymous: bool = False,
        cookie: str | None = None,
    ) -> None:
        self._rules = rules
        self._anonymous = anonymous
        self._cookie = cookie
        # Looked up by digest, so that the time a look-up takes says nothing about the secrets.
        self._tokens = {_digest(token.value): token for token in tokens}
        self._permissions = {token: RulePermissions(rules, token.principal, token.roles) for token in tokens}
        self._nobody = RulePermissions(rules, "", frozenset({"anonymous"}))

    @property
    def ambient(self) -> bool:
        return self._cookie is not None

    async def authenticate(self, credentials: Credentials | None, upgrade: Upgrade | None) -> Grant:
        if credentials is None and upgrade is not None:
            credentials = self._cookie_of(upgrade)
        if credentials is None:
            if self._anonymous:
                return Grant(f"anonymous:{secrets.token_hex(8)}", self._nobody, anonymous=True)
            raise ExchangeError(ErrorCode.UNAUTHENTICATED, "no credentials")
        if credentials.scheme != "bearer":
            raise ExchangeError(ErrorCode.UNAUTHENTICATED, "unknown scheme")
        token = self._tokens.get(_digest(credentials.token))
        if token is None or token.expires_in_ms == 0:
            raise ExchangeError(ErrorCode.UNAUTHENTICATED, "unknown or expired token")
        return Grant(token.principal, self._permissions[token], token.expires_in_ms, token.limits)

    def _cookie_of(self, upgrade: Upgrade) -> Credentials | None:
        if self._cookie is None or "cookie" not in upgrade.headers:
            return None
        try:
            cookie = SimpleCookie(upgrade.headers["cookie"]).get(self._cookie)
        except CookieError:
            return None
        return None if cookie is None else Credentials("bearer", cookie.value)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
