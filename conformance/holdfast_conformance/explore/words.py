"""Plans and histories in words: the steps of a witness, and a space-time diagram in plain text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .history import Called, Row, Said
    from .plan import Plan, Step

__all__ = ["diagram", "steps"]

LONGEST = 60
"""Lines of a diagram; of a longer history those around the proof are kept."""

AROUND = 6
"""Lines before and behind a row of the proof that are worth seeing."""

HIDDEN = ("ping", "pong", "ack")
"""Frames that are left out of a diagram unless they prove something."""


def steps(plan: Plan) -> list[str]:
    """Say what each client of a plan does, one line each."""
    return [
        f"{client['name']} ({client['identity']}): {'; '.join(map(_step, client['steps']))}"
        for client in plan["clients"]
    ]


def _step(step: Step) -> str:
    do, ms = step["do"], step.get("ms", 0)
    channel = f"channel {step.get('channel', 0)}"
    match do:
        case "subscribe":
            what = f"all around {channel}" if step.get("pattern") else channel
            if step.get("since"):
                what += " since the last place"
            if "last" in step:
                what += f", the last {step['last']} first"
            return f"subscribes to {what}"
        case "publish":
            count = step.get("count", 1)
            extra = ", not for itself" if not step.get("echo", True) else ""
            extra += ", with a key" if step.get("key") else ""
            return f"publishes {'once' if count == 1 else f'{count} times'} to {channel}{extra}"
        case "again":
            return "tries its last publish with a key again"
        case "request":
            return "asks for an echo"
        case "cancel":
            return "cancels " + (
                "its newest exchange" if not step.get("nth") else f"exchange -{step['nth'] + 1}"
            )
        case "history":
            return f"reads the history of {channel} ({step.get('way', 'newest')})"
        case "auth":
            return "shows its credentials"
        case "think":
            return f"waits {ms} ms"
        case "wait":
            return "waits for its answers"
        case "abort" | "close" | "half-close":
            lost = f", {step['lost']} welcomes lost" if step.get("lost") else ""
            return f"{do}s and is back after {ms} ms{lost}{' in a new session' if step.get('fresh') else ''}"
        case "takeover":
            return "takes its living session over"
        case "ping":
            return "pings"
    verbs = {
        "stall": "reads nothing",
        "throttle": "reads slowly",
        "hold": "acknowledges nothing",
        "split": "writes in pieces",
        "join": "writes nothing",
    }
    return f"{verbs[do]} for {ms} ms"


def diagram(rows: Sequence[Row], proof: Sequence[int], mask: Callable[[str], str] = str) -> list[str]:
    """Draw a history: one column for each client and one for the server, time downwards, the proof marked."""
    clients = list(rows[0]["identities"])
    proven = set(proof)
    shown = [i for i, row in enumerate(rows) if i in proven or _worth(row)]
    if len(shown) > LONGEST:
        near = {j for p in proven for j in range(p - AROUND * 3, p + AROUND * 3)}
        shown = [i for i in shown if i in near][-2 * LONGEST :]
    lines = [f"{'ms':>9}  {''.join(f'{name:<4}' for name in clients)}server"]
    last = 0
    for i in shown:
        if last and any(_worth(row) for row in rows[last + 1 : i]):
            lines.append(f"{'⋮':>9}")
        last = i
        mark = "  ◀ proof" if i in proven else ""
        lines.append(f"{rows[i]['at'] * 1000:9.1f}  {_lanes(rows[i], clients)}  {mask(_text(rows[i]))}{mark}")
    return lines


def _worth(row: Row) -> bool:
    what = row["what"]
    if what in ("call", "hello", "fault", "end"):
        return True
    if what == "frame":
        return row["said"]["type"] not in HIDDEN
    return what == "sent" and row["frame"]["type"] not in HIDDEN


def _lanes(row: Row, clients: Sequence[str]) -> str:
    """Draw the lanes of one row: an arrow between the client and the server, or what befalls the client."""
    at = clients.index(row["client"])
    what = row["what"]
    cells = ["│   "] * at
    if what in ("hello", "call", "sent"):
        return "".join(cells) + "●" + "────" * (len(clients) - at - 1) + "──▶│"
    if what == "frame":
        return "".join(cells) + "◀" + "────" * (len(clients) - at - 1) + "───●"
    sign = {"fault": "✕", "end": "┴"}.get(what, "·")
    return "".join(cells) + sign + "   " + "│   " * (len(clients) - at - 1) + "│"


def _text(row: Row) -> str:
    what = row["what"]
    if what == "hello":
        resume = row.get("resume")
        return f"hello, resumes at {resume['seq']}, attempt {resume['attempt']}" if resume else "hello"
    if what == "frame":
        return _said(row["said"])
    if what in ("call", "sent"):
        return _called(row["frame"])
    if what == "return":
        return f"exchange {row['id']} {row['outcome']} {row.get('code', '')}".rstrip()
    return row.get("fault") or row.get("how") or what


def _said(said: Said) -> str:
    words = [said["type"], *(f"{name} {said[name]}" for name in ("id", "seq", "cursor") if name in said)]
    if said["type"] == "welcome":
        words += ["resumed, last_id " + str(said.get("last_id")) if said.get("resumed") else "new session"]
        words += [str(said["resume_error"].get("code"))] if "resume_error" in said else []
    words += [f"{name} {said[name]}" for name in ("recovered", "reason", "missed", "held") if name in said]
    words += [said["error"]["code"]] if "error" in said else []
    return " ".join([*words, *_data(said.get("data"))])


def _called(frame: Called) -> str:
    words = [
        frame["type"],
        *(f"{name} {frame[name]}" for name in ("id", "of", "seq", "since", "dedupe") if name in frame),
    ]
    if "channel" in frame or "pattern" in frame:
        words.append(f"to …{(frame.get('channel') or frame.get('pattern') or '')[-6:]}")
    words += ["echo false"] if frame.get("echo") is False else []
    return " ".join([*words, *_data(frame.get("data"))])


def _data(data: object) -> list[str]:
    if isinstance(data, dict):
        if isinstance(data.get("t"), str):
            return [str(data["t"])]
        events = data.get("events")
        if isinstance(events, list):
            return [
                "[" + " ".join(w for e in events if isinstance(e, dict) for w in _data(e.get("data"))) + "]"
            ]
        return ["duplicate"] if data.get("duplicate") else []
    return []
