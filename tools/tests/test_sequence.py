"""Sequence diagrams: what a conversation shows, as text and as a drawing."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tools import sequence

STEPS = (
    {
        "from": "client",
        "frame": {"type": "hello", "profiles": [], "resume": {"session": "s", "seq": 7, "attempt": 2}},
    },
    {
        "from": "server",
        "frame": {"type": "welcome", "resumed": False, "resume_error": {"code": "expired", "last_id": 3}},
        "lost": True,
    },
    {"from": "others", "does": ["wipe", "room/7"]},
    {"from": "client", "connection": "second", "frame": {"type": "ack", "seq": 7}, "note": "a; b # c"},
    {"from": "client", "cut": True},
    {"from": "server", "close": 4008},
)


def test_mermaid_shows_who_says_what_and_what_is_lost() -> None:
    assert sequence.mermaid(STEPS).splitlines()[4:-1] == [
        "    Client->>Server: hello seq 7, attempt 2",
        "    Server--xClient: welcome resumed false, code expired, last_id 3",
        '    Note over Client,Server: ["wipe", "room/7"]',
        "    Client->>Server: (second) ack seq 7",
        "    Note over Client,Server: a, b no. c",
        "    Client->>Server: the connection is cut",
        "    Server-->>Client: close 4008",
    ]


def test_drawing_has_an_arrow_for_each_step_and_is_xml() -> None:
    drawn = ET.fromstring(sequence.drawing("\n".join(sequence.mermaid(STEPS).splitlines()[2:-1])))
    arrows = [path.attrib["d"] for path in drawn.iter("path") if path.attrib["class"] == "hf-arrow"]
    assert len(arrows) == 5
    assert arrows[0].startswith("M60 ")
    assert "H660" in arrows[0]
    assert "H360" in arrows[1]  # lost half-way
    assert "a, b no. c" in [text.text for text in drawn.iter("text")]
