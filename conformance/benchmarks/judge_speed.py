"""How fast the judge of histories is: one JSON line.

    python conformance/benchmarks/judge_speed.py [PUBLISHES]

Eight publishers on two channels, of which one has two subscribers and the other one; one session is cut and
resumed all the time. `cpu_seconds` and `wall_seconds` are the judging of rows in memory, `parsing_cpu_s` what
it takes to get them out of their file before; the schema of each row is not checked here.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from holdfast_conformance.explore.history import FORMAT, kept, write
from holdfast_conformance.explore.judge import judge

if TYPE_CHECKING:
    from holdfast_conformance.explore.history import Row

PROFILES = ["ack", "fence", "history", "pubsub", "resume"]
PUBLISHERS = 8
CUT_EVERY = 1000


def made(publishes: int) -> list[Row]:
    """Return a history of a server without a fault, with one and a half deliveries for each publish."""
    rows: list[dict[str, object]] = [{"what": "plan", "format": FORMAT, "identities": {}}]
    conns = 0
    conn: dict[str, int] = {}
    seq: dict[str, int] = {}

    def connect(client: str, resumed: bool) -> None:
        nonlocal conns
        conns += 1
        conn[client] = conns
        resume = {"resume": {"seq": seq[client], "attempt": conns}} if resumed else {}
        rows.append({"what": "hello", "client": client, "conn": conns, **resume})
        said = {"type": "welcome", "profiles": PROFILES, "resumed": resumed, "limits": {"window": 256}}
        rows.append(
            {
                "what": "frame",
                "client": client,
                "conn": conns,
                "said": said | {"last_id": 1 if resumed else 0},
            }
        )
        seq.setdefault(client, 0)

    def got(client: str, **said: object) -> None:
        seq[client] += 1
        rows.append(
            {"what": "frame", "client": client, "conn": conn[client], "said": {"seq": seq[client], **said}}
        )

    subscribers = {"s1": "x", "s2": "x", "s3": "y"}
    for client in [*(f"p{n}" for n in range(PUBLISHERS)), *subscribers]:
        connect(client, False)
    for client, channel in subscribers.items():
        frame = {"type": "subscribe", "id": 1, "channel": channel}
        rows.append({"what": "call", "client": client, "life": 1, "frame": frame})
        got(client, type="open", id=1, cursor="e:start")
    for n in range(publishes):
        publisher, channel, id = f"p{n % PUBLISHERS}", "xy"[n % 2], n // PUBLISHERS + 1
        data = {"t": f"{publisher}.{id}"}
        frame = {"type": "publish", "id": id, "channel": channel, "data": data}
        rows.append({"what": "call", "client": publisher, "life": 1, "frame": frame})
        for client, wanted in subscribers.items():
            if wanted == channel:
                got(client, type="event", id=1, cursor=f"e:{n}", data=dict(data))
                if seq[client] % 64 == 0:
                    ack = {"type": "ack", "seq": seq[client]}
                    rows.append({"what": "sent", "client": client, "conn": conn[client], "frame": ack})
        got(publisher, type="result", id=id, data={"cursor": f"e:{n}"})
        rows.append({"what": "return", "client": publisher, "life": 1, "id": id, "outcome": "ok"})
        if n % 64 == 0:
            for client in (f"p{m}" for m in range(PUBLISHERS)):
                ack = {"type": "ack", "seq": seq[client]}
                rows.append({"what": "sent", "client": client, "conn": conn[client], "frame": ack})
        if n % CUT_EVERY == CUT_EVERY - 1:
            rows.append({"what": "fault", "client": "s1", "conn": conn["s1"], "fault": "abort"})
            connect("s1", True)
    for client in subscribers:
        rows.append(
            {"what": "sent", "client": client, "conn": conn[client], "frame": {"type": "ping", "t": "end"}}
        )
        said = {"type": "pong", "t": "end"}
        rows.append({"what": "frame", "client": client, "conn": conn[client], "said": said})
    for number, row in enumerate(rows):
        row["at"] = number / 100_000
    return cast("list[Row]", rows)


def main() -> None:
    """Judge one large history and print the line."""
    publishes = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        write(path, made(publishes))
        size = path.stat().st_size
        began = time.process_time()
        with kept(), path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        parsing = time.process_time() - began
    gc.collect()
    wall, began = time.perf_counter(), time.process_time()
    found = judge(rows)
    seconds, wall = time.process_time() - began, time.perf_counter() - wall
    line = {
        "benchmark": "judge_speed",
        "publishes": found.counts["publishes"],
        "deliveries": found.counts["deliveries"],
        "resumes": found.counts["resumes"],
        "rows": len(rows),
        "megabytes": round(size / 1e6, 1),
        "anomalies": len(found.found),
        "order": found.order,
        "cpu_seconds": round(seconds, 2),
        "wall_seconds": round(wall, 2),
        "parsing_cpu_s": round(parsing, 2),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
