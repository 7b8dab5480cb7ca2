"""Error codes and what goes with them."""

from __future__ import annotations

import pytest
from holdfast_reference.protocol import ErrorCode, ExchangeError
from holdfast_reference.protocol.errors import FINAL, RETRYABLE


@pytest.mark.parametrize("code", sorted(RETRYABLE))
def test_codes_that_must_say_when_to_retry_do(code: str) -> None:
    """[ERR-02]."""
    assert ExchangeError(code, "").retry_ms == 0
    assert ExchangeError(code, "", retry_ms=5).retry_ms == 5


@pytest.mark.parametrize("code", sorted(FINAL))
def test_codes_that_must_not_say_it_do_not(code: str) -> None:
    """[ERR-03]."""
    assert ExchangeError(code, "", retry_ms=5).retry_ms is None


def test_other_codes_may_say_it() -> None:
    assert ExchangeError(ErrorCode.APP, "").retry_ms is None
    assert ExchangeError(ErrorCode.APP, "", retry_ms=5).retry_ms == 5


def test_a_code_that_is_neither_ours_nor_private_is_a_mistake() -> None:
    """[ERR-01]."""
    with pytest.raises(ValueError, match="dot"):
        ExchangeError("failed", "")
