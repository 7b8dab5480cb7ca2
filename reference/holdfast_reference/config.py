"""The server's configuration: what it may hold, its defaults, and reading it from a TOML file.

A mistake in the file becomes one `ConfigError` that says where it is, what was expected, and what to do.
"""

from __future__ import annotations

import ssl
import tomllib
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from holdfast_reference.backends.channel_log import Retention
from holdfast_reference.backends.tokens import Rule, Token
from holdfast_reference.protocol.greeting import PROFILES
from holdfast_reference.protocol.limits import MAX_INTEGER, MIN_FRAME, Limits, Rate, Timers
from holdfast_reference.protocol.names import Pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from holdfast_reference.protocol.grants import Action

__all__ = ["Config", "ConfigError", "apply_override", "load"]

_MILLISECONDS: Final = 2**31 - 1


class ConfigError(Exception):
    """Something in the configuration is wrong.

    Args:
        message: where and what, on one line.
        hint: what to do about it, on one line.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that an operator can set.

    `origins` empty means the server's own origin where it matters, and any where it does not; see
    `handshake.py`. One principal can have so many `suspended` sessions and `tombstones` of ended ones. `log`
    is the file that keeps the events of channels, None for memory alone; `retention` says how many. `tokens`,
    `rules`, `anonymous` and `cookie` are explained in `backends/tokens.py`.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    path: str = "/"
    origins: frozenset[str] = frozenset()
    max_connections: int = 10_000
    profiles: frozenset[str] = frozenset(PROFILES)
    limits: Limits = field(default_factory=Limits)
    timers: Timers = field(default_factory=Timers)
    suspended: int = 32
    tombstones: int = 64
    log: str | None = None
    retention: Retention = field(default_factory=Retention)
    tokens: tuple[Token, ...] = ()
    rules: tuple[Rule, ...] = ()
    anonymous: bool = True
    cookie: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    version: str = field(default_factory=lambda: version("holdfast"))

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS side of the listeners, or None for plain TCP.

        Raises:
            ConfigError: the files cannot be used, or the key has no certificate.
        """
        if self.tls_cert is None:
            if self.tls_key is not None:
                raise ConfigError(f"the TLS key {self.tls_key} has no certificate", "give both, or neither")
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        except OSError as error:
            raise ConfigError(
                f"the certificate {self.tls_cert} cannot be used: {error.strerror or error}",
                "give a PEM file with the chain, and its key in the same file or with --tls-key",
            ) from None
        return context


class _Table:
    """One table of the file: takes members out, with checks; what is left at the end is unknown."""

    def __init__(self, where: str, members: object) -> None:
        if not isinstance(members, dict):
            raise ConfigError(f"{where} is not a table", f"write it as [{where}] with its members below")
        self.where = where
        self._members: dict[str, object] = dict(members)

    def _wrong(self, name: str, expected: str, value: object) -> ConfigError:
        return ConfigError(f"{self._path(name)} is {value!r:.60}", f"it must be {expected}")

    def _path(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def has(self, name: str) -> bool:
        return name in self._members

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        value = self._members.pop(name, default)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(name, f"an integer from {least} to {most}", value)
        return value

    def boolean(self, name: str, default: bool) -> bool:
        value = self._members.pop(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def string(self, name: str, default: str | None = None) -> str | None:
        value = self._members.pop(name, default)
        if value is not None and not (isinstance(value, str) and value):
            raise self._wrong(name, "a non-empty string", value)
        return value

    def required(self, name: str) -> str:
        value = self.string(name)
        if value is None:
            raise ConfigError(f"{self._path(name)} is missing", "add it as a non-empty string")
        return value

    def strings(self, name: str) -> tuple[str, ...] | None:
        value = self._members.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self._wrong(name, "a list of non-empty strings", value)
        return tuple(value)

    def table(self, name: str) -> _Table:
        return _Table(self._path(name), self._members.pop(name, {}))

    def tables(self, name: str) -> Iterable[_Table]:
        items = self._members.pop(name, [])
        if not isinstance(items, list):
            raise ConfigError(
                f"{name} is not a list of tables", f"write each as [[{name}]] with its members below"
            )
        return [_Table(f"{name}[{index}]", item) for index, item in enumerate(items)]

    def end(self, known: Iterable[str]) -> None:
        for name in self._members:
            raise ConfigError(f"{self._path(name)} is unknown", f"known here: {', '.join(sorted(known))}")


def load(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or says something that is not understood.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(
            f"{path} cannot be read: {reason}", "give the path of a TOML file with --config"
        ) from None
    try:
        members = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}", "the file must be TOML, see https://toml.io") from None
    try:
        return _read(_Table("", members))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", error.hint) from None


def _read(root: _Table) -> Config:
    default = Config()
    server = root.table("server")
    config = replace(
        default,
        host=server.string("host", default.host) or default.host,
        port=server.integer("port", default.port, 0, 65_535),
        path=server.string("path", default.path) or default.path,
        origins=frozenset(server.strings("origins") or ()),
        max_connections=server.integer("max_connections", default.max_connections, 1, 10_000_000),
        profiles=_profiles(server),
        tls_cert=server.string("tls_cert"),
        tls_key=server.string("tls_key"),
    )
    if not config.path.startswith("/") or "?" in config.path:
        raise ConfigError(f"server.path is {config.path!r:.60}", "it must begin with / and hold no ?")
    server.end(["host", "port", "path", "origins", "max_connections", "profiles", "tls_cert", "tls_key"])
    sessions = root.table("sessions")
    history = root.table("history")
    auth = root.table("auth")
    limits = _limits(root.table("limits"), default.limits)
    tokens = tuple(_token(table, limits) for table in root.tables("token"))
    config = replace(
        config,
        limits=limits,
        timers=_timers(root.table("timers"), default.timers),
        suspended=sessions.integer("suspended", default.suspended, 0, 2**20),
        tombstones=sessions.integer("tombstones", default.tombstones, 0, 2**20),
        log=history.string("path"),
        retention=_retention(history, default.retention),
        tokens=tokens,
        rules=tuple(_rule(table) for table in root.tables("rule")),
        # Whoever lists tokens wants them to be asked for.
        anonymous=auth.boolean("anonymous", not tokens),
        cookie=auth.string("cookie"),
    )
    auth.end(["anonymous", "cookie"])
    sessions.end(["suspended", "tombstones"])
    history.end(["path", "unlogged", *_RETENTION])
    root.end(["server", "auth", "limits", "timers", "sessions", "history", "token", "rule"])
    return config


def _profiles(server: _Table) -> frozenset[str]:
    wanted = server.strings("profiles")
    for name in wanted or ():
        if name not in PROFILES:
            raise ConfigError(f"server.profiles names {name!r}", f"this server has: {', '.join(PROFILES)}")
    return frozenset(PROFILES if wanted is None else wanted)


def _limits(table: _Table, default: Limits) -> Limits:
    rate = default.rate
    if table.has("rate"):
        inner = table.table("rate")
        rate = Rate(
            inner.integer("count", 1000, 1, MAX_INTEGER), inner.integer("per_ms", 1000, 1, _MILLISECONDS)
        )
        inner.end(["count", "per_ms"])
    sizes = {name: table.integer(name, getattr(default, name), *bounds) for name, bounds in _LIMITS.items()}
    table.end([*_LIMITS, "rate"])
    if sizes["queue_bytes"] < sizes["max_frame"]:  # [LIM-19]
        raise ConfigError(
            f"limits.queue_bytes is {sizes['queue_bytes']}, less than limits.max_frame",
            f"the largest event must fit: at least {sizes['max_frame']}",
        )
    return Limits(**sizes, rate=rate)


#: Least and most of each limit.
_LIMITS: Final[Mapping[str, tuple[int, int]]] = {
    "max_frame": (MIN_FRAME, 2**30),
    "max_inflight": (1, 2**20),
    "max_subscriptions": (1, 2**20),
    "queue": (1, 2**20),
    "queue_bytes": (1, 2**40),
    "window": (1, 2**20),
    "window_bytes": (1, 2**40),
    "ack_delay_ms": (1, _MILLISECONDS),
    "resume_ms": (1, _MILLISECONDS),
    "dedupe_ms": (1, _MILLISECONDS),
    "history_limit": (1, 2**20),
}

#: Least and most of what is kept of the events; see `Retention`.
_RETENTION: Final[Mapping[str, tuple[int, int]]] = {
    "events": (1, MAX_INTEGER),
    "bytes": (1, MAX_INTEGER),
    "channels": (1, MAX_INTEGER),
    "total_bytes": (1, MAX_INTEGER),
    "keys": (1, MAX_INTEGER),
}


def _retention(table: _Table, default: Retention) -> Retention:
    sizes = {
        name: table.integer(name, getattr(default, name), *bounds) for name, bounds in _RETENTION.items()
    }
    unlogged = []
    for text in table.strings("unlogged") or ():
        try:
            unlogged.append(Pattern(text))
        except ValueError as error:
            raise ConfigError(
                f"history.unlogged has {text!r:.60}: {error}", "write it as drafts/**"
            ) from None
    return Retention(**sizes, unlogged=tuple(unlogged))


#: Least and most of each timer, in milliseconds.
_TIMERS: Final[Mapping[str, tuple[int, int]]] = {
    "head_ms": (100, 120_000),
    "hello_ms": (1000, 30_000),
    "authenticate_ms": (10, 120_000),
    "heartbeat_interval_ms": (10, _MILLISECONDS),
    "heartbeat_timeout_ms": (10, _MILLISECONDS),
    "close_ms": (10, 120_000),
    "drain_ms": (0, _MILLISECONDS),
}


def _timers(table: _Table, default: Timers) -> Timers:
    timers = replace(
        default,
        **{name: table.integer(name, getattr(default, name), *bounds) for name, bounds in _TIMERS.items()},
    )
    table.end(_TIMERS)
    return timers


def _token(table: _Table, limits: Limits) -> Token:
    token = Token(
        table.required("value"),
        table.required("principal"),
        frozenset(table.strings("roles") or ()),
        table.integer("expires_in_ms", 0, 0, MAX_INTEGER) if table.has("expires_in_ms") else None,
        _limits(table.table("limits"), limits) if table.has("limits") else None,
    )
    table.end(["value", "principal", "roles", "expires_in_ms", "limits"])
    return token


def _rule(table: _Table) -> Rule:
    allow, deny = table.strings("allow"), table.strings("deny")
    if (allow is None) == (deny is None):
        raise ConfigError(f"{table.where} has both or neither of allow and deny", "give one of them")
    actions: set[Action] = set()
    for action in allow or deny or ():
        if action not in ("call", "subscribe", "publish"):
            raise ConfigError(
                f"{table.where} names the action {action!r}", "there are: call, subscribe, publish"
            )
        actions.add(action)  # type: ignore[arg-type]  # one of the three, as was just checked
    principals, roles = table.strings("principals"), table.strings("roles")
    rule = Rule(
        allow is not None,
        frozenset(actions),
        table.strings("names"),
        None if principals is None else frozenset(principals),
        None if roles is None else frozenset(roles),
    )
    table.end(["allow", "deny", "names", "principals", "roles"])
    return rule


def apply_override(config: Config, text: str) -> Config:
    """Change one setting, given as `limits.NAME=NUMBER` or `timers.NAME=NUMBER`.

    Raises:
        ConfigError: it is not of that form, or the value is out of bounds.
    """
    hint = "write it as limits.queue=64 or timers.hello_ms=2000"
    path, equals, value = text.partition("=")
    section, dot, name = path.partition(".")
    if not equals or not dot or section not in ("limits", "timers"):
        raise ConfigError(f"--set {text}", hint)
    try:
        number = int(value)
    except ValueError:
        raise ConfigError(f"--set {text}: {value!r} is not an integer", hint) from None
    if section == "timers":
        return replace(config, timers=_timers(_Table("timers", {name: number}), config.timers))
    if name.startswith("rate."):
        rate = config.limits.rate or Rate(1000, 1000)
        members = {"count": rate.count, "per_ms": rate.per_ms, name.removeprefix("rate."): number}
        return replace(config, limits=_limits(_Table("limits", {"rate": members}), config.limits))
    return replace(config, limits=_limits(_Table("limits", {name: number}), config.limits))
