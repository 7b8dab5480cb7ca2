"""What the suite knows about a target: the target file, or a bare URL.

Reading a file resolves its secrets from the environment and remembers every secret value, so that reports can
mask them. Nothing here touches the network.
"""

from __future__ import annotations

import os
import ssl
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from . import schemas

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Identity", "Method", "Spawn", "Target", "TargetError", "bundled", "checked_url", "from_text"]

Table = dict[str, object]

SECRET_PATHS = ("$.identities", "$.headers", "$.target.spawn.env")
"""Where a target file holds secrets, so that no complaint about it may quote a value."""


class TargetError(Exception):
    """The target file or URL cannot be used; the message says what is wrong and where, `hint` what to do.

    Args:
        message: one line.
        hint: one line.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody whom the target knows.

    Args:
        name: the name in the target file.
        token: credentials for `hello.auth`; None when `headers` alone carry the identity.
        scheme: of the token.
        principal: identities with equal principals are the same principal; default: the name.
        headers: handshake headers of this identity, such as a cookie.
        expires_in_ms: the token expires so long after it was presented; None when it outlives a run.
        expired: the token has expired already.
    """

    name: str
    token: str | None
    scheme: str = "bearer"
    principal: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    expires_in_ms: int | None = None
    expired: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """A request method of the target; `code` is the error that it always ends with, for the one that
    fails.
    """

    name: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Spawn:
    """How to start the target.

    Args:
        cmd: the command line; `{port}` in it is replaced by a free port.
        ready: `url`: the first line on stdout is the URL; `tcp`: `{port}` accepts connections.
        env: further environment variables.
        timeout: seconds until it must be ready.
        url: the URL when `ready` is `tcp`; `{port}` is replaced.
        folder: where it starts; that of the target file.
    """

    cmd: str
    ready: str
    env: tuple[tuple[str, str], ...] = ()
    timeout: float = 10.0
    url: str = "ws://127.0.0.1:{port}/"
    folder: Path = Path()


@dataclass(frozen=True, slots=True)
class Target:
    """Everything that a target offers to the suite; see the published schema of the target file."""

    source: str
    url: str | None = None
    spawn: Spawn | None = None
    identities: Mapping[str, Identity] = field(default_factory=dict)
    channels: Mapping[str, str] = field(default_factory=dict)
    events: tuple[str, ...] = ("publish",)
    methods: Mapping[str, Method] = field(default_factory=dict)
    script_method: str | None = None
    script_steps: frozenset[str] = frozenset()
    limits: Mapping[str, int] = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    tls: Mapping[str, object] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    @property
    def rung(self) -> int:
        """0 for a bare URL, 1 with identities, channels or methods, 2 with the script."""
        if self.script_method is not None:
            return 2
        return 1 if self.identities or self.channels or self.methods else 0

    def mask(self, text: str) -> str:
        """Replace every secret value in a text; everything that is stored or shown goes through here."""
        for secret in self.secrets:
            text = text.replace(secret, "•••")
        return text

    def tls_context(self) -> ssl.SSLContext:
        """Return how to verify a `wss` target."""
        try:
            context = ssl.create_default_context(cafile=cast("str | None", self.tls.get("ca")))
            if self.tls.get("insecure"):
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if "cert" in self.tls:
                context.load_cert_chain(str(self.tls["cert"]), cast("str | None", self.tls.get("key")))
        except (OSError, ssl.SSLError) as error:
            raise TargetError(
                f"{self.source}: [tls] {error}", "name PEM files that exist and fit together"
            ) from error
        return context


def bundled() -> Target:
    """Return the target that starts the bundled reference server."""
    return read(Path(__file__).parent / "targets" / "reference.toml")


def from_text(text: str) -> Target:
    """Return the target that a command-line argument names: a URL or the path of a target file."""
    if not text:
        raise TargetError("the target is empty", "give a ws:// or wss:// URL, or the path of a target file")
    if "://" in text:
        return Target(source=text, url=checked_url(text, text))
    return read(Path(text))


def read(path: Path) -> Target:
    """Read a target file.

    Raises:
        TargetError: it is not there, not TOML, does not fit the schema, or names a missing environment
            variable.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise TargetError(
            f"{path}: no such file", "give a ws:// or wss:// URL, or the path of a target file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"{path}: cannot be read: {error}", "a target file is UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"{path}: not TOML: {error}", "see the line and column above") from None
    return parse(document, str(path), path.parent)


def parse(document: Table, source: str, base: Path) -> Target:
    """Build a target from the parsed file; `base` is where relative paths start."""
    if (problem := schemas.meta_fault("target", document, SECRET_PATHS)) is not None:
        raise TargetError(f"{source}: {problem}", "the schema is schemas/meta/target.schema.json")
    reader = _Reader(source)
    head = cast("Table", document["target"])
    identities = cast("dict[str, Table]", document.get("identities", {}))
    script = cast("Table", document.get("script", {}))
    tls = dict(cast("Table", document.get("tls", {})))
    for name in ("ca", "cert", "key"):
        if name in tls:
            tls[name] = str(base / str(tls[name]))
    target = Target(
        source=source,
        url=checked_url(str(head["url"]), source) if "url" in head else None,
        spawn=reader.spawn(cast("Table", head["spawn"]), base) if "spawn" in head else None,
        identities={name: reader.identity(name, table) for name, table in identities.items()},
        channels=cast("dict[str, str]", document.get("channels", {})),
        events=tuple(cast("dict[str, list[str]]", document.get("events", {})).get("via", ["publish"])),
        methods={
            name: Method(str(table["name"]), cast("str | None", table.get("code")))
            for name, table in cast("dict[str, Table]", document.get("methods", {})).items()
        },
        script_method=cast("str | None", script.get("method")),
        script_steps=frozenset(cast("list[str]", script.get("steps", []))),
        limits=cast("dict[str, int]", document.get("limits", {})),
        headers=reader.headers(cast("Table", document.get("headers", {})), "headers"),
        tls=tls,
    )
    # Longest first, so that a secret that begins another does not leave the other's end in the open.
    return replace(target, secrets=tuple(sorted(reader.secrets, key=len, reverse=True)))


class _Reader:
    """Resolves values of one file and collects the secret ones."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.secrets: set[str] = set()

    def secret(self, value: object, where: str) -> str:
        if isinstance(value, dict):
            name = str(value["env"])
            if name not in os.environ:
                raise TargetError(
                    f"{self.source}: {where}: the environment variable {name} is not set", f"export {name}=…"
                )
            value = os.environ[name]
        if value:
            self.secrets.add(str(value))
        return str(value)

    def headers(self, table: Table, where: str) -> tuple[tuple[str, str], ...]:
        return tuple((name, self.secret(value, f"{where}.{name}")) for name, value in table.items())

    def identity(self, name: str, table: Table) -> Identity:
        where = f"identities.{name}"
        return Identity(
            name,
            token=self.secret(table["token"], f"{where}.token") if "token" in table else None,
            scheme=str(table.get("scheme", "bearer")),
            principal=str(table.get("principal", name)),
            headers=self.headers(cast("Table", table.get("headers", {})), f"{where}.headers"),
            expires_in_ms=cast("int | None", table.get("expires_in_ms")),
            expired=bool(table.get("expired", False)),
        )

    def spawn(self, table: Table, folder: Path) -> Spawn:
        env = cast("Table", table.get("env", {}))
        if table["ready"] == "tcp" and "{port}" not in str(table["cmd"]):
            raise TargetError(
                f'{self.source}: target.spawn: ready = "tcp" needs {{port}} in cmd',
                "{port} is replaced by the free port on which the target has to listen",
            )
        return Spawn(
            cmd=str(table["cmd"]),
            ready=str(table["ready"]),
            env=tuple((name, self.secret(value, f"target.spawn.env.{name}")) for name, value in env.items()),
            timeout=float(cast("float", table.get("timeout", 10.0))),
            url=str(table.get("url", "ws://127.0.0.1:{port}/")),
            folder=folder,
        )


def checked_url(url: str, source: str) -> str:
    """Return the URL if the suite can use it.

    Raises:
        TargetError: it cannot be parsed, is not a WebSocket URL, or carries a password.
    """
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise TargetError(
            f"{source.replace(url, 'the URL')}: a URL must not carry a user or a password",
            "put an Authorization header into [headers] of a target file, where it is masked",
        )
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        raise TargetError(f"{source}: not a URL: {error}", "for example ws://127.0.0.1:8080/ws") from None
    if parts.scheme not in ("ws", "wss"):
        raise TargetError(
            f"{source}: the URL must begin with ws:// or wss://, not {parts.scheme}://", "a WebSocket URL"
        )
    if not parts.hostname or not port_is_fine or parts.fragment:
        raise TargetError(
            f"{source}: the URL needs a host, and no fragment", "for example ws://127.0.0.1:8080/ws"
        )
    if not url.isascii() or any(character.isspace() for character in url):
        raise TargetError(
            f"{source}: the URL holds a character that no URL can",
            "write them as %XX, a host in punycode",
        )
    return url
