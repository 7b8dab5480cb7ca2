"""Static tokens and rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from holdfast_reference.backends.base import Upgrade
from holdfast_reference.backends.tokens import Rule, RulePermissions, Token, TokenAuthenticator
from holdfast_reference.protocol import Credentials, ExchangeError, Grant, Limits

if TYPE_CHECKING:
    from holdfast_reference.protocol.grants import Action

EVERY: frozenset[Action] = frozenset({"call", "subscribe", "publish"})
LIMITS = Limits(max_inflight=1)


def ask(
    authenticator: TokenAuthenticator,
    token: str | None = None,
    scheme: str = "bearer",
    cookie: str | None = None,
) -> Grant:
    upgrade = Upgrade("memory", {} if cookie is None else {"cookie": cookie})
    shown = None if token is None else Credentials(scheme, token)
    return trio.run(authenticator.authenticate, shown, upgrade)


def make(**options: bool | str) -> TokenAuthenticator:
    tokens = [
        Token("t1", "alice"),
        Token("t2", "bob", expires_in_ms=50, limits=LIMITS),
        Token("old", "eve", expires_in_ms=0),
    ]
    return TokenAuthenticator(tokens, **options)  # type: ignore[arg-type]  # booleans and a string


def test_a_known_token_is_somebody() -> None:
    assert ask(make(), "t1").principal == "alice"
    grant = ask(make(), "t2")
    assert (grant.principal, grant.expires_in_ms, grant.limits) == ("bob", 50, LIMITS)


@pytest.mark.parametrize(
    ("token", "scheme"), [("t3", "bearer"), ("", "bearer"), ("t1", "basic"), ("old", "bearer"), (None, "")]
)
def test_everything_else_is_nobody(token: str | None, scheme: str) -> None:
    """[SES-14] [SES-15] [SES-21]."""
    with pytest.raises(ExchangeError) as caught:
        ask(make(), token, scheme)
    assert caught.value.code == "unauthenticated"
    assert token is None or token == "" or token not in str(caught.value)


def test_anonymous_clients_are_all_different() -> None:
    """[SES-16]."""
    authenticator = make(anonymous=True)
    assert len({ask(authenticator).principal for _ in range(5)}) == 5


def test_a_cookie_counts_only_without_other_credentials() -> None:
    """[SEC-04] [SEC-05]."""
    authenticator = make(cookie="tok")
    assert authenticator.ambient
    assert ask(authenticator, cookie="a=b; tok=t1").principal == "alice"
    assert ask(authenticator, "t2", cookie="tok=t1").principal == "bob"
    for cookie in ("tok=wrong", "other=t1", ";;;=\x00"):
        with pytest.raises(ExchangeError):
            ask(authenticator, cookie=cookie)
    with pytest.raises(ExchangeError):
        ask(make(), cookie="tok=t1")


def test_without_rules_everything_is_allowed() -> None:
    assert RulePermissions([], "alice", frozenset()).may("call", "m")


def test_the_first_rule_that_applies_decides() -> None:
    rules = [
        Rule(False, frozenset({"publish"}), ("news/*",)),
        Rule(True, EVERY, ("news/*", "exact")),
    ]
    may = RulePermissions(rules, "alice", frozenset()).may
    assert not may("publish", "news/a")
    assert may("subscribe", "news/a")
    assert may("call", "exact")
    assert not may("call", "exactly")
    assert not may("subscribe", "news")
    assert not may("subscribe", "newsx")
    assert not may("subscribe", "other")


def test_a_prefix_covers_names_of_any_shape() -> None:
    """Empty segments do not slip through a denial."""
    may = RulePermissions([Rule(False, EVERY, ("secret/*",)), Rule(True, EVERY)], "a", frozenset()).may
    assert not may("subscribe", "secret//x")
    assert not may("subscribe", "secret/")


def test_rules_may_be_for_some() -> None:
    rules = [Rule(True, EVERY, None, frozenset({"alice"}), frozenset({"admin"}))]
    assert RulePermissions(rules, "alice", frozenset()).may("call", "m")
    assert RulePermissions(rules, "bob", frozenset({"admin"})).may("call", "m")
    assert not RulePermissions(rules, "bob", frozenset({"other"})).may("call", "m")


def test_what_is_remembered_is_bounded() -> None:
    permissions = RulePermissions([Rule(True, EVERY)], "a", frozenset())
    assert all(permissions.may("call", str(n)) for n in range(5000))
    assert len(permissions._known) <= 1024
