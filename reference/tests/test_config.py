"""The configuration file: what it sets, and how it says what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from holdfast_reference.backends.channel_log import Retention
from holdfast_reference.backends.tokens import Rule, Token
from holdfast_reference.config import Config, ConfigError, apply_override, load
from holdfast_reference.protocol import Limits, Rate

if TYPE_CHECKING:
    from pathlib import Path

FULL = """
[server]
host = "0.0.0.0"
port = 0
path = "/ws"
origins = ["https://app.example"]
max_connections = 5
profiles = ["rpc", "pubsub"]

[limits]
max_frame = 4096
queue = 7
rate = { count = 10, per_ms = 100 }

[timers]
hello_ms = 2000

[sessions]
suspended = 3
tombstones = 4

[history]
path = "events.db"
events = 5
bytes = 6
channels = 7
total_bytes = 8
keys = 9
unlogged = ["drafts/**", "typing"]

[auth]
cookie = "tok"

[[token]]
value = "t1"
principal = "alice"
roles = ["admin"]
limits = { max_inflight = 1 }

[[token]]
value = "t2"
principal = "bob"
expires_in_ms = 400

[[rule]]
deny = ["publish"]
names = ["news/*"]
roles = ["guest"]

[[rule]]
allow = ["call", "subscribe", "publish"]
"""


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "holdfast.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def test_a_file_that_sets_everything(tmp_path: Path) -> None:
    config = read(tmp_path, FULL)
    assert (config.host, config.port, config.path) == ("0.0.0.0", 0, "/ws")
    assert config.origins == {"https://app.example"}
    assert config.profiles == {"rpc", "pubsub"}
    assert config.limits == Limits(max_frame=4096, queue=7, rate=Rate(10, 100))
    assert config.timers.hello_ms == 2000
    assert (config.suspended, config.tombstones, config.log) == (3, 4, "events.db")
    retention = config.retention
    assert retention == Retention(5, 6, 7, 8, 9, retention.unlogged)
    logged = [channel for channel in ("drafts", "drafts/1", "typing", "room") if retention.keeps(channel)]
    assert logged == ["drafts", "room"]
    own = Limits(max_frame=4096, queue=7, rate=Rate(10, 100), max_inflight=1)
    assert config.tokens == (
        Token("t1", "alice", frozenset({"admin"}), limits=own),
        Token("t2", "bob", expires_in_ms=400),
    )
    assert config.rules == (
        Rule(False, frozenset({"publish"}), ("news/*",), roles=frozenset({"guest"})),
        Rule(True, frozenset({"call", "subscribe", "publish"})),
    )
    assert (config.anonymous, config.cookie) == (False, "tok")


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Config()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("\nport = [server", "line 2"),
        ("[sever]", "sever is unknown"),
        ("server = 5", "server is not a table"),
        ("[server]\nprot = 1", "server.prot is unknown"),
        ("[server]\nport = 'x'", "server.port is 'x'"),
        ("[server]\nport = 70000", "server.port is 70000"),
        ("[server]\nport = true", "server.port is True"),
        ("[server]\npath = 'ws'", "server.path is 'ws'"),
        ("[server]\norigins = 'x'", "server.origins is 'x'"),
        ("[server]\nprofiles = ['nack']", "server.profiles names 'nack'"),
        ("[limits]\nmax_frame = 100", "limits.max_frame is 100"),
        ("[limits]\nqueue_bytes = 5000", "limits.queue_bytes is 5000"),
        ("[limits]\nrate = { count = 0 }", "limits.rate.count is 0"),
        ("[limits]\nrate = 5", "limits.rate is not a table"),
        ("[timers]\nhello_ms = 40000", "timers.hello_ms is 40000"),
        ("[limits]\nwindow = 0", "limits.window is 0"),
        ("[sessions]\nsuspended = -1", "sessions.suspended is -1"),
        ("[sessions]\nresume_ms = 1", "sessions.resume_ms is unknown"),
        ("[history]\nevents = 0", "history.events is 0"),
        ("[history]\npath = 1", "history.path is 1"),
        ("[history]\nlog = 'x'", "history.log is unknown"),
        ("[history]\nunlogged = ['a//b']", "history.unlogged has 'a//b'"),
        ("[auth]\nanonymous = 1", "auth.anonymous is 1"),
        ("[token]\nvalue = 'x'", "token is not a list"),
        ("[[token]]\nvalue = 'x'", "token[0].principal is missing"),
        ("[[token]]\nvalue = 'x'\nprincipal = ''", "token[0].principal is ''"),
        ("[[token]]\nvalue = 'x'\nprincipal = 'p'\nrole = 'r'", "token[0].role is unknown"),
        ("[[rule]]\nallow = ['call']\ndeny = ['call']", "rule[0] has both or neither"),
        ("[[rule]]\nallow = ['read']", "rule[0] names the action 'read'"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, text: str, where: str) -> None:
    """What, where, and what to do."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert where in caught.value.message
    assert "holdfast.toml" in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml")


def test_a_certificate_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="certificate"):
        Config(tls_cert="none.pem").tls_context()


def test_a_key_alone_does_not_mean_plain_text() -> None:
    with pytest.raises(ConfigError, match="no certificate"):
        Config(tls_key="key.pem").tls_context()


def test_overrides_change_one_number() -> None:
    config = apply_override(Config(), "limits.queue=64")
    assert config.limits == Limits(queue=64)
    config = apply_override(config, "timers.hello_ms=2000")
    assert (config.limits.queue, config.timers.hello_ms) == (64, 2000)
    config = apply_override(apply_override(config, "limits.rate.count=5"), "limits.rate.per_ms=50")
    assert config.limits.rate == Rate(5, 50)


@pytest.mark.parametrize(
    "text", ["queue=5", "limits.queue", "limits.queue=x", "limits.queue=0", "limits.nope=5", "server.port=5"]
)
def test_a_wrong_override(text: str) -> None:
    with pytest.raises(ConfigError):
        apply_override(Config(), text)
