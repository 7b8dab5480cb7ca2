"""Our server, but hasty: it answers a publish while its transaction waits for the next one to be written.

`kill9.py` has to find that out, or it would find out nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast_reference.backends.sqlite_file import SqliteFile
from holdfast_reference.cli import main

if TYPE_CHECKING:
    from holdfast_reference.backends.channel_log import Retention
    from holdfast_reference.backends.sqlite_file import Plan

commit = SqliteFile.commit
held: list[Plan] = []


def late(self: SqliteFile, plan: Plan, retention: Retention) -> None:
    held.append(plan)
    if len(held) > 1:
        commit(self, held.pop(0), retention)


if __name__ == "__main__":
    SqliteFile.commit = late  # type: ignore[method-assign]  # that is the point
    main()
