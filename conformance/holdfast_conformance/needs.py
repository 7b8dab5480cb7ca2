"""What a check needs from its target, and what it means when that is missing.

A missing fixture makes a check `unverified`, with the line that would unlock it. A profile that the server
does not offer makes it `n/a`, but only when a probe has seen the specified refusal; see `probe`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import registry
from .verdict import Verdict

if TYPE_CHECKING:
    from .bench import Bench

__all__ = ["NEEDS", "missing"]

NEEDS = {
    "identity": "add an identity `{}` to [identities] in the target file",
    "method": "add `{}` to [methods] in the target file",
    "channel": "add a channel `{}` to [channels] in the target file",
    "script": "implement the step `{}` of the conformance script and list it under [script]",
    "limit": "the server does not advertise the limit `{}`; if welcome cannot tell, state it under [limits]",
}
"""Kinds of needs of the form `kind:name`, with what to do about a missing one."""

PLAIN = {
    "session": "the server wants credentials: add an identity to [identities] in the target file",
    "events": "no way to cause an event: the server lacks profile pubsub, and [events] names no other way",
    "spawned": "let the suite start the server: [target] spawn = { cmd = ..., ready = ... }",
    "loopback": "run the server on this machine",
    "intrusive": "the target is not on loopback: allow floods and stalls with --intrusive",
    "tls": "needs a wss:// target",
    "anonymous": "the target file has identities, so anonymous use is not judged",
    "ambient": "no identity of the target file travels in headers",
}
"""Needs without a name, with what to do about a missing one."""


def missing(bench: Bench, needs: tuple[str, ...]) -> tuple[Verdict, str] | None:
    """Return the verdict and the reason when something is missing, None when all needs are met.

    Raises:
        KeyError: a need that nobody knows; the check is wrong.
    """
    for need in needs:
        kind, _, name = need.partition(":")
        if kind == "no" or need == "core":
            continue
        if not name and kind in registry.published().needs:
            if not bench.admits:
                return Verdict.UNVERIFIED, PLAIN["session"]
            if kind not in bench.offered:
                doubt = bench.refusals.get(kind, "")
                reason = f"the server does not offer profile {kind}"
                return (Verdict.UNVERIFIED, f"{reason}, but {doubt}") if doubt else (Verdict.NA, reason)
        elif not _met(bench, kind, name):
            return Verdict.UNVERIFIED, NEEDS[kind].format(name) if name else PLAIN[kind]
    return None


def _met(bench: Bench, kind: str, name: str) -> bool:
    target = bench.target
    match kind:
        case "identity":
            return name in target.identities
        case "method":
            return name in target.methods
        case "channel":
            return name == "open" or name in target.channels
        case "script":
            return name in target.script_steps
        case "limit":
            return name in bench.limits or name in target.limits
        case "session":
            return bench.admits
        case "events":
            return target.events[0] != "publish" or "pubsub" in bench.offered
        case "spawned":
            return bench.process is not None
        case "loopback":
            return bench.endpoint.loopback
        case "intrusive":
            return bench.intrusive or bench.endpoint.loopback
        case "tls":
            return bench.endpoint.tls is not None
        case "anonymous":
            return not target.identities
        case "ambient":
            return any(identity.headers for identity in target.identities.values())
    raise KeyError(f"unknown need {kind!r}")
