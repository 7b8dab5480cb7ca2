"""A plain view of `protocol.json`: the tables that checks and ambient rules go by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import cast

from . import schemas

__all__ = ["Registry", "published"]

Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Registry:
    """The tables of version 1 in the form in which they are asked.

    Attributes:
        constants: name to value.
        senders: message type to who sends it (`client`, `server`).
        profile_of: message type to the profile that it belongs to, `core` included.
        needs: profile to the profiles that it needs.
        fields: (message type, member) to profile; the type `*` means every type.
        retry: error code to whether it always carries `retry_ms`.
        server_closes: close code to name, of the single codes that servers send.
        server_ranges: first and last code of the ranges that servers may use.
        limits: limit to (profile, whether it is always present with that profile).
    """

    constants: dict[str, object]
    senders: dict[str, frozenset[str]]
    profile_of: dict[str, str]
    needs: dict[str, frozenset[str]]
    fields: dict[tuple[str, str], str]
    retry: dict[str, bool]
    server_closes: dict[int, str]
    server_ranges: tuple[tuple[int, int], ...]
    limits: dict[str, tuple[str, bool]]


@cache
def published() -> Registry:
    """Return the registry of the published version."""
    tables = cast("dict[str, list[Row]]", schemas.load("v1/protocol.json"))
    return Registry(
        constants={str(row["name"]): row["value"] for row in tables["constants"]},
        senders={str(row["type"]): frozenset(cast("list[str]", row["from"])) for row in tables["messages"]},
        profile_of={str(row["type"]): str(row["profile"]) for row in tables["messages"]},
        needs={str(row["name"]): frozenset(cast("list[str]", row["needs"])) for row in tables["profiles"]},
        fields={(str(row["message"]), str(row["field"])): str(row["profile"]) for row in tables["fields"]},
        retry={
            str(row["code"]): bool(row["retryable"])
            for row in tables["error_codes"]
            if row["scope"] != "local"
        },
        server_closes={
            code: str(row["name"])
            for row in tables["close_codes"]
            if "server" in cast("list[str]", row["sender"]) and isinstance(code := row.get("code"), int)
        },
        server_ranges=tuple(
            (found[0], found[1])
            for row in tables["close_codes"]
            if "server" in cast("list[str]", row["sender"]) and (found := cast("list[int]", row.get("range")))
        ),
        limits={str(row["key"]): (str(row["profile"]), bool(row["required"])) for row in tables["limits"]},
    )
