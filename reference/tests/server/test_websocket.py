"""Bytes to messages: RFC 6455 as a server reads it."""

from __future__ import annotations

import pytest
from holdfast_reference.server.websocket import (
    Closed,
    Fault,
    Pinged,
    Reader,
    close_frame,
    pong_frame,
    text_header,
)
from hypothesis import given
from hypothesis import strategies as st
from tests.wire import masked


def read(*pieces: bytes, max_size: int = 1000) -> list[bytes | Pinged | Closed | Fault]:
    """All messages in these pieces, as far as the first fault."""
    reader = Reader(max_size)
    messages: list[bytes | Pinged | Closed | Fault] = []
    for piece in pieces:
        reader.feed(piece)
        while (message := reader.next()) is not None:
            messages.append(message)
            if isinstance(message, Fault):
                return messages
    return messages


def fault(*pieces: bytes, max_size: int = 1000) -> int:
    message = read(*pieces, max_size=max_size)[-1]
    assert isinstance(message, Fault)
    return message.code


@given(
    st.lists(st.binary(max_size=300).map(bytes.hex), max_size=8), st.lists(st.integers(1, 400), max_size=30)
)
def test_cuts_between_segments_mean_nothing(texts: list[str], cuts: list[int]) -> None:
    """[TRN-06]: whatever TCP does, the messages are those that were sent."""
    data = b"".join(masked(text.encode()) for text in texts)
    pieces = []
    for cut in cuts:
        pieces.append(data[:cut])
        data = data[cut:]
    assert read(*pieces, data) == [text.encode() for text in texts]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_every_length_is_read_and_written(size: int) -> None:
    assert read(masked(b"x" * size), max_size=size) == [b"x" * size]
    header = text_header(size)
    assert header[0] == 0x81
    assert int.from_bytes(header[2:], "big") == size if size > 125 else header[1] == size


def test_a_message_in_fragments_with_a_ping_between() -> None:
    pieces = [masked("é".encode()[:1], 1, fin=False), masked(b"p", 9), masked("é".encode()[1:], 0)]
    assert read(*pieces) == [Pinged(b"p"), "é".encode()]


@pytest.mark.parametrize("size", [1000, 1001])
def test_a_message_of_exactly_max_size_is_the_largest(size: int) -> None:
    """[TRN-07] [TRN-08]: in one frame or in many; the header alone is enough to refuse it."""
    whole = masked(b"x" * size)
    parts = b"".join([masked(b"x" * 500, 1, fin=False), masked(b"x" * (size - 500), 0)])
    if size == 1000:
        assert read(whole) == read(parts) == [b"x" * size]
    else:
        assert fault(whole[:8]) == fault(parts[:520]) == 1009


def test_too_large_comes_before_binary() -> None:
    """[ENV-05]: the reading order."""
    assert fault(masked(b"x" * 1001, 2)) == 1009
    assert fault(masked(b"x", 2)) == 1003


@pytest.mark.parametrize("bad", [b"\x80", b"\xc3(", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"abc\xc3"])
def test_text_that_is_not_utf8(bad: bytes) -> None:
    """[TRN-11]: whole, or cut where a character is."""
    assert fault(masked(bad)) == 1007
    assert fault(masked(bad[:1], 1, fin=False), masked(bad[1:], 0)) == 1007


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x05hello",  # no mask
        masked(b"", bits=0x40),
        masked(b"", bits=0x20),
        masked(b"", 3),
        masked(b"", 11),
        masked(b"", 9, fin=False),
        masked(b"x" * 126, 9),
        masked(b"x", 0),
        masked(b"a", 1, fin=False) + masked(b"b", 1),
        b"\x81\xfe\x00\x05" + b"\0" * 9,  # a length not in the shortest form
        b"\x81\xff" + (65_535).to_bytes(8, "big"),
        masked(b"\x03", 8),
        masked((1005).to_bytes(2, "big"), 8),
        masked((999).to_bytes(2, "big"), 8),
        masked((5000).to_bytes(2, "big"), 8),
    ],
)
def test_broken_frames(data: bytes) -> None:
    """[TRN-13]."""
    assert fault(data) == 1002


def test_a_length_of_2_to_the_63_is_refused_at_the_header() -> None:
    assert fault(b"\x81\xff" + (2**63).to_bytes(8, "big")) in (1002, 1009)


def test_close_frames() -> None:
    """[TRN-16]."""
    assert read(masked(b"", 8)) == [Closed(None)]
    assert read(masked((4500).to_bytes(2, "big") + b"bye", 8)) == [Closed(4500)]
    assert fault(masked((1000).to_bytes(2, "big") + b"\xff", 8)) == 1007
    assert close_frame(4200, "going_away") == b"\x88\x0c\x10\x68going_away"
    assert close_frame(1005) == close_frame(1006) == close_frame(1015) == b"\x88\x00"
    assert len(close_frame(4000, "x" * 500)) == 127


def test_pongs_are_passed_over_and_pings_answered() -> None:
    """[TRN-14]."""
    assert read(masked(b"x", 10), masked(b"y")) == [b"y"]
    assert pong_frame(b"abc") == b"\x8a\x03abc"


def test_thousands_of_fragments_are_one_message() -> None:
    reader = Reader(1000)
    reader.feed(masked(b"", 1, fin=False) + masked(b"", 0, fin=False) * 10_000)
    assert reader.next() is None
    reader.feed(masked(b"x", 0))
    assert reader.next() == b"x"


def test_the_limit_may_change_between_messages() -> None:
    reader = Reader(10)
    reader.feed(masked(b"x" * 10) + masked(b"x" * 20))
    assert reader.next() == b"x" * 10
    reader.max_size = 20
    assert reader.next() == b"x" * 20
