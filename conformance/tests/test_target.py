"""Target files and URLs: what they mean, and what is said about bad ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from holdfast_conformance import schemas
from holdfast_conformance.target import Identity, TargetError, bundled, from_text, parse, read

FULL = """
[target]
url = "wss://example.org/ws"
[identities]
alice = { token = "tok-alice" }
alice-2 = { token = { env = "SECOND" }, principal = "alice", scheme = "jwt" }
cookie = { headers = { Cookie = "session=abcdef" } }
brief = { token = "tok-brief", expires_in_ms = 400 }
old = { token = "tok-old", expired = true }
[channels]
open = "x/{run}/{test}/{n}"
[events]
via = ["method:emit"]
[methods]
fail = { name = "boom", code = "app" }
[script]
method = "conf.run"
steps = ["emit", "hold"]
[limits]
hello_ms = 1000
max_connections = 50
[tls]
ca = "ca.pem"
[headers]
X-Key = { env = "KEY" }
"""


def parsed(text: str) -> object:
    """Parse the text of a target file."""
    return parse(tomllib.loads(text), "t.toml", Path("/base"))


def test_a_full_file_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table ends up where the suite looks for it, secrets resolved from the environment."""
    monkeypatch.setenv("SECOND", "tok-second")
    monkeypatch.setenv("KEY", "k-123")
    target = parse(tomllib.loads(FULL), "t.toml", Path("/base"))
    assert target.identities["alice"] == Identity("alice", "tok-alice", principal="alice")
    assert target.identities["alice-2"] == Identity("alice-2", "tok-second", "jwt", "alice")
    assert target.identities["cookie"].headers == (("Cookie", "session=abcdef"),)
    assert target.identities["brief"].expires_in_ms == 400
    assert target.identities["old"].expired
    assert target.events == ("method:emit",)
    assert (target.script_method, sorted(target.script_steps)) == ("conf.run", ["emit", "hold"])
    assert target.limits == {"hello_ms": 1000, "max_connections": 50}
    assert target.headers == (("X-Key", "k-123"),)
    assert target.tls["ca"] == "/base/ca.pem"
    assert target.rung == 2


def test_secrets_are_masked_by_value_longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """No secret survives, not even the end of one that begins with another."""
    monkeypatch.setenv("SECOND", "tok-alice-more")
    monkeypatch.setenv("KEY", "k-123")
    target = parse(tomllib.loads(FULL), "t.toml", Path("/base"))
    masked = target.mask("tok-alice-more tok-alice k-123 session=abcdef tok-old")
    assert masked == "••• ••• ••• ••• •••"


def test_the_bundled_target_is_good() -> None:
    """The target that judges the reference server reads without a fault and starts a process."""
    target = bundled()
    assert target.spawn is not None
    assert target.spawn.cmd.startswith("holdfast-server")
    assert target.rung == 2
    assert next(iter(target.identities)) == "alice"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'target' is a required property"),
        ("[target]", "is not valid"),
        ('[target]\nurl = "ws://a"\nspawn = { cmd = "x", ready = "url" }', "is valid under each of"),
        ('[target]\nurl = "http://a"', "must begin with ws:// or wss://"),
        ('[target]\nurl = "ws:///path"', "needs a host"),
        ('[target]\nurl = "ws://a:99999/"', "not a URL"),
        ('[target]\nurl = "ws://a/#x"', "no fragment"),
        ('[target]\nurl = "ws://a"\n[identites]', "'identites' was unexpected"),
        ('[target]\nurl = "ws://a"\n[identities]\nalice = {}', "$.identities.alice"),
        ('[target]\nurl = "ws://a"\n[headers]\na = { env = "NO_SUCH_VARIABLE" }', "NO_SUCH_VARIABLE"),
        ('[target]\nurl = "ws://a"\n[script]\nmethod = "m"\nsteps = ["jump"]', "$.script.steps[0]"),
        ('[target]\nurl = "ws://a"\n[limits]\nhello_ms = "1 s"', "$.limits.hello_ms"),
        ('[target]\nspawn = { cmd = "x", ready = "soon" }', "'soon' is not one of"),
        ('[target]\nspawn = { cmd = "x", ready = "tcp" }', "needs {port} in cmd"),
        ('[target]\nurl = "ws://a/x y"', "a character that no URL can"),
        ('[target]\nurl = "ws://me:pw@a/"', "must not carry a user or a password"),
    ],
)  # fmt: skip
def test_bad_files_are_named_in_one_line(text: str, words: str) -> None:
    """What is wrong, and where, in one line, with a hint."""
    with pytest.raises(TargetError) as caught:
        parsed(text)
    message = str(caught.value)
    assert message.startswith("t.toml: ")
    assert words in message
    assert "\n" not in message
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        '[target]\nurl = "ws://a"\n[identities]\nalice = "tok-secret"',
        '[target]\nurl = "ws://a"\n[identities]\nalice = { token = ["tok-secret"] }',
        '[target]\nurl = "ws://a"\n[headers]\nCookie = ["tok-secret"]',
        '[target]\nurl = "ws://a"\nspawn = { cmd = "x", ready = "url", env = { K = "tok-secret" } }',
        '[target]\nurl = "ws://me:tok-secret@a/"',
    ],
)
def test_a_complaint_quotes_no_secret(text: str) -> None:
    """A file that is not understood may be refused with its secrets in the wrong place."""
    with pytest.raises(TargetError) as caught:
        parsed(text)
    assert "tok-secret" not in str(caught.value) + caught.value.hint


def test_a_password_in_a_bare_url_is_not_repeated() -> None:
    """The argument itself is the source that other complaints name."""
    with pytest.raises(TargetError, match="the URL: a URL must not carry") as caught:
        from_text("ws://me:tok-secret@a/")
    assert "tok-secret" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, one that is not TOML, and one that is not text are told apart."""
    (tmp_path / "broken.toml").write_text("[target\n")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name, words in (
        ("none.toml", "no such file"),
        ("broken.toml", "not TOML"),
        ("binary.toml", "cannot be read"),
    ):
        with pytest.raises(TargetError, match=words):
            read(tmp_path / name)


def test_a_url_is_a_target_of_rung_0() -> None:
    """A bare URL offers nothing else."""
    target = from_text("ws://127.0.0.1:8080/ws")
    assert (target.url, target.rung, target.secrets) == ("ws://127.0.0.1:8080/ws", 0, ())


def test_the_schemas_are_schemas() -> None:
    """The two schemas that belong to the suite are valid themselves."""
    from jsonschema import Draft202012Validator

    for name in ("target", "report"):
        Draft202012Validator.check_schema(schemas.load(f"meta/{name}.schema.json"))  # type: ignore[arg-type]  # a dict


def test_a_missing_tls_file_is_named(tmp_path: Path) -> None:
    """A certificate that is not there is a fault of the target file."""
    text = '[target]\nurl = "wss://a"\n[tls]\nca = "none.pem"'
    target = parse(tomllib.loads(text), "t.toml", tmp_path)
    with pytest.raises(TargetError, match=r"t\.toml: \[tls\]"):
        target.tls_context()
