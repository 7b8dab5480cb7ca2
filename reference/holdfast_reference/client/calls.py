"""What an application can start, each as a value from which a session makes an exchange.

Spec: 04-requests, 05-subscriptions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from holdfast_reference.client.exchanges import Kind
from holdfast_reference.client.frames import ABSENT

if TYPE_CHECKING:
    from collections.abc import Mapping


class Call(NamedTuple):
    """A frame without its id.

    Attributes:
        needs: profiles without which the server would not take it.
        repeatable: whether the server does it once, however often it is sent within `dedupe_ms`.
    """

    kind: Kind
    type: str
    needs: frozenset[str]
    members: Mapping[str, object]
    data: object = ABSENT
    repeatable: bool = False


def request(
    method: str, data: object = ABSENT, *, timeout_ms: int | None = None, stream: bool = False
) -> Call:
    """Call a method; only with `stream` its answer may come in parts."""
    members = _given(method=method, timeout_ms=timeout_ms, stream=stream or None)
    return Call(Kind.STREAM if stream else Kind.PLAIN, "request", frozenset({"rpc"}), members, data)


def subscribe(
    channel: str | None = None,
    *,
    pattern: str | None = None,
    since: str | None = None,
    last: int | None = None,
    require: bool = False,
) -> Call:
    """Subscribe to exactly one of `channel` and `pattern`.

    Args:
        since: cursor to continue from; with `require` the subscription fails when that cannot be done.
        last: begin with so many of the newest events of the log.
    """
    if (channel is None) == (pattern is None):
        raise TypeError("a subscription has either a channel or a pattern")
    needs = {"pubsub" if pattern is None else "pattern"}
    if since is not None or last is not None:
        needs.add("history")
    recover = "require" if require else None
    members = _given(channel=channel, pattern=pattern, since=since, last=last, recover=recover)
    return Call(Kind.SUBSCRIPTION, "subscribe", frozenset(needs), members)


def publish(channel: str, data: object, *, echo: bool = True, dedupe: str | None = None) -> Call:
    """Publish one event.

    Args:
        echo: whether this session's own subscriptions are to see it.
        dedupe: a name that no other publish of this principal to the channel has; with it the frame may be
            sent again when nobody knows whether it was acted on.
    """
    needs = {"pubsub"} if dedupe is None else {"pubsub", "history"}
    members = _given(channel=channel, echo=None if echo else False, dedupe=dedupe)
    return Call(Kind.PLAIN, "publish", frozenset(needs), members, data, repeatable=dedupe is not None)


def auth(token: str) -> Call:
    """Present new credentials for the same principal."""
    return Call(Kind.AUTH, "auth", frozenset(), {"token": token})


def _given(**members: object) -> dict[str, object]:
    """The members that are there."""
    return {name: value for name, value in members.items() if value is not None}
