"""What a conformance suite may ask of this server beyond the protocol: the script method, and identities.

Only imported with `--conformance`; never to be turned on where strangers can connect.

Spec: appendix-conformance [CNF-01] to [CNF-04].
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from holdfast_reference.backends.channel_log import Retention
from holdfast_reference.backends.tokens import Rule, Token
from holdfast_reference.protocol.codec import encode_data
from holdfast_reference.protocol.errors import ErrorCode, ExchangeError
from holdfast_reference.protocol.limits import Limits, Rate
from holdfast_reference.protocol.names import Pattern, fits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from holdfast_reference.config import Config
    from holdfast_reference.server.methods import Call
    from holdfast_reference.server.serve import Server

__all__ = ["configure", "register"]

_BURST: Final = 256  # events of a burst before others get a turn
_COOKIE: Final = "conf_token"  # holds a token, for tests of identities that a browser sends by itself
#: Limits small enough to be reached by every one of them.
_TIGHT: Final = Limits(
    max_frame=16_384,
    max_inflight=8,
    max_subscriptions=8,
    queue=32,
    queue_bytes=65_536,
    window=16,
    window_bytes=65_536,
    resume_ms=2000,
    dedupe_ms=2000,
    history_limit=10,
    rate=Rate(count=20, per_ms=1000),
)
#: Smaller still, with times that can be waited for, and without a rate.
_SMALL: Final = Limits(
    max_frame=16_384,
    max_inflight=8,
    max_subscriptions=8,
    queue=8,
    queue_bytes=16_384,
    window=4,
    window_bytes=16_384,
    ack_delay_ms=100,
    resume_ms=400,
    dedupe_ms=400,
    history_limit=5,
)
_RETENTION: Final = Retention(events=2000, bytes=2**20, unlogged=(Pattern("nolog/**"),))
_TOKENS: Final = (
    Token("tok-alice", "alice"),
    Token("tok-alice-2", "alice"),
    Token("tok-alice-narrow", "alice", frozenset({"narrow"})),
    Token("tok-bob", "bob"),
    Token("tok-carol", "carol"),
    Token("tok-brief", "brief", expires_in_ms=400),
    Token("tok-alice-brief", "alice", expires_in_ms=400),
    Token("tok-limited", "limited", limits=_TIGHT),
    Token("tok-small", "small", limits=_SMALL),
    Token("tok-small-2", "small", limits=_SMALL),
    Token("tok-expired", "alice", expires_in_ms=0),
)
_RULES: Final = (
    Rule(False, frozenset({"call"}), ("conf.forbidden",)),
    Rule(False, frozenset({"subscribe", "publish"}), ("forbidden/*",)),
    Rule(False, frozenset({"subscribe", "publish"}), ("restricted/*",), roles=frozenset({"narrow"})),
    Rule(True, frozenset({"call", "subscribe", "publish"})),
)


def configure(config: Config) -> Config:
    """Add the identities and their rules, short logs, and timers short enough to be waited for."""
    timers = replace(config.timers, hello_ms=1000, heartbeat_interval_ms=1000, heartbeat_timeout_ms=500)
    limits = replace(config.limits, resume_ms=10_000, dedupe_ms=60_000)
    return replace(
        config,
        tokens=(*config.tokens, *_TOKENS),
        rules=(*config.rules, *_RULES),
        anonymous=False,
        cookie=_COOKIE,
        timers=timers,
        limits=limits,
        retention=_RETENTION,
    )


def register(server: Server) -> None:
    """Add the methods."""
    server.method("conf.echo")(lambda call: call.payload)
    server.method("conf.fail")(_fail)
    server.method("conf.broken")(lambda call: 1 // 0)
    server.method("conf.forbidden")(lambda call: None)

    @server.method("conf.run")
    async def run(call: Call) -> None:
        script = _Script(server, call)
        for name, *arguments in _checked(call.data, server.settings.limits.max_frame):
            await getattr(script, name)(*arguments)


def _fail(call: Call) -> object:
    raise ExchangeError(ErrorCode.APP, "this method always fails", data={"why": "it was asked to"})


class _Script:
    """The steps, one coroutine each; the names and the arguments were checked before."""

    def __init__(self, server: Server, call: Call) -> None:
        self._server = server
        self._call = call

    async def emit(self, channel: str, data: object) -> None:
        self._server.publish(channel, data)

    async def burst(self, channel: str, count: int, size: int | None = None) -> None:
        for n in range(count):
            self._server.publish(channel, _numbered(n, size))
            if n % _BURST == _BURST - 1:
                await trio.lowlevel.checkpoint()

    async def hold(self, ms: int) -> None:
        await trio.sleep(ms / 1000)

    async def stream(self, count: int, every_ms: int = 0, size: int | None = None) -> None:
        for n in range(count):
            if n and every_ms:
                await trio.sleep(every_ms / 1000)
            if not await self._call.chunk(_numbered(n, size)):
                return

    async def reply(self, how: Mapping[str, object] | None = None) -> None:
        how = how or {}
        await trio.sleep(_ms(how) / 1000)
        self._call.reply(encode_data(how["data"]) if "data" in how else None)

    async def error(self, how: Mapping[str, object]) -> None:
        await trio.sleep(_ms(how) / 1000)
        self._call.fail(_error(how))

    async def close(self, code: int) -> None:
        self._call.connection.close(code)

    async def abort(self) -> None:
        self._call.connection.abort()

    async def expire(self) -> None:
        self._call.connection.expire()

    async def forget(self) -> None:
        self._call.connection.forget()

    async def drain(self, deadline_ms: int) -> None:
        self._call.connection.drain(deadline_ms)

    async def trim(self, channel: str) -> None:
        await self._server.broker.trim(channel)

    async def wipe(self, channel: str) -> None:
        await self._server.broker.wipe(channel)


def _numbered(n: int, size: int | None) -> object:
    return {"n": n} if size is None else {"n": n, "pad": "x" * size}


def _ms(how: Mapping[str, object]) -> int:
    after_ms = how.get("after_ms", 0)
    assert isinstance(after_ms, int)
    return after_ms


def _error(how: Mapping[str, object]) -> ExchangeError:
    code, message, retry_ms = how["code"], how.get("message", ""), how.get("retry_ms")
    if not isinstance(code, str) or not isinstance(message, str):
        raise ValueError("code and message are strings")
    if retry_ms is not None and not _integer(0, 60_000)(retry_ms):
        raise ValueError("retry_ms is not a time")
    data = encode_data(how["data"]) if "data" in how else None
    return ExchangeError(code, message, retry_ms=cast("int | None", retry_ms), data=data)


def _checked(script: object, max_frame: int) -> list[list[Any]]:
    """The steps of a script. Spec: [CNF-01].

    Raises:
        ExchangeError: `bad_request`, anything about them is odd.
    """
    count, ms = _integer(0, 100_000), _integer(0, 60_000)
    size = _integer(0, max_frame)
    known: Mapping[str, tuple[int, list[Callable[[object], bool]]]] = {  # how many are needed, and all
        "emit": (2, [_is_channel, _is_anything]),
        "burst": (2, [_is_channel, count, size]),
        "hold": (1, [ms]),
        "stream": (1, [count, ms, size]),
        "reply": (0, [_is_reply]),
        "error": (1, [_is_error]),
        "close": (1, [_is_close_code]),
        "abort": (0, []),
        "expire": (0, []),
        "forget": (0, []),
        "drain": (1, [ms]),
        "trim": (1, [_is_channel]),
        "wipe": (1, [_is_channel]),
    }
    if not isinstance(script, list):
        raise ExchangeError(ErrorCode.BAD_REQUEST, "the script is not a list of steps")
    for step in script:
        good = isinstance(step, list) and step and isinstance(step[0], str) and step[0] in known
        if good:
            needed, checks = known[step[0]]
            arguments = step[1:]
            good = needed <= len(arguments) <= len(checks) and all(
                check(argument) for check, argument in zip(checks, arguments, strict=False)
            )
        if not good:
            raise ExchangeError(ErrorCode.BAD_REQUEST, "not a step of this script, or wrong arguments")
    return script


def _integer(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _is_anything(value: object) -> bool:
    return True


def _is_channel(value: object) -> bool:
    return isinstance(value, str) and value != "" and fits(value)


def _is_close_code(value: object) -> bool:
    good = (range(1000, 1004), range(1007, 1015), range(3000, 5000))
    return type(value) is int and any(value in codes for codes in good)


def _is_reply(how: object) -> bool:
    return _has_only(how, {"data", "after_ms"})


def _is_error(how: object) -> bool:
    try:
        _error(cast("Mapping[str, object]", how))
    except (KeyError, TypeError, ValueError):
        return False
    return _has_only(how, {"code", "message", "data", "retry_ms", "after_ms"})


def _has_only(how: object, names: set[str]) -> bool:
    return isinstance(how, dict) and how.keys() <= names and _integer(0, 60_000)(how.get("after_ms", 0))
