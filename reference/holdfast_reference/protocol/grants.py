"""Who somebody is and what they may do: the answer of an authenticator, as the core needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from holdfast_reference.protocol.limits import Limits

__all__ = ["Action", "Credentials", "Grant", "Permissions"]

Action = Literal["call", "subscribe", "publish"]


class Permissions(Protocol):
    """A pure function of what one grant allows; asked once per frame, so it should remember its answers."""

    def may(self, action: Action, name: str) -> bool:
        """Whether `action` is allowed on `name`, a method for `call` and a channel for the others."""
        ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client showed, in `hello.auth` or `auth`; `scheme` is `bearer` unless it said otherwise."""

    scheme: str
    token: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What an authenticator gave for credentials.

    Args:
        principal: issuer and subject, as one string; two grants speak of the same person if these are equal.
        permissions: what it may do.
        expires_in_ms: how long from now it lasts; None for ever.
        limits: those of the session that begins with it; None for the server's.
        anonymous: whether no credentials were shown. Such a client is whoever's session it names.
    """

    principal: str
    permissions: Permissions
    expires_in_ms: int | None = None
    limits: Limits | None = None
    anonymous: bool = False
