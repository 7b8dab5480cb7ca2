"""What the suite's own tests share: checks made on the spot, judged against a fake server in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing
from holdfast_conformance.case import Check
from holdfast_conformance.runner import Options, run
from holdfast_conformance.target import Target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from holdfast_conformance.case import Test
    from holdfast_conformance.report import Report
    from holdfast_conformance.verdict import CheckResult
    from tests.fake import Fake

__all__ = ["BARE", "define", "judge", "only"]

BARE = Target(source="fake")
SEEDED = Options(seed=1)


def judge(
    fake: Fake,
    checks: Sequence[Check],
    *,
    target: Target = BARE,
    options: Options = SEEDED,
    stop: trio.CancelScope | None = None,
) -> Report:
    """Run checks against a fake server in memory, by a clock that jumps over every wait."""

    async def main() -> Report:
        async with trio.open_nursery() as nursery:
            fake.nursery = nursery
            with trio.fail_after(3600):
                report = await run(target, checks=checks, options=options, connect=fake.connect, stop=stop)
            nursery.cancel_scope.cancel()
        return report

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def define(
    function: Callable[[Test], Awaitable[None]],
    id: str = "env/made-up",
    covers: str = "ENV-01",
    needs: tuple[str, ...] = (),
    *,
    slow: bool = False,
    serial: bool = False,
) -> Check:
    """Make a check without registering it."""
    return Check(id, "A check.", (covers,), needs, function, slow=slow, serial=serial)


def only(report: Report, id: str = "env/made-up") -> CheckResult:
    """Return the result of one check."""
    return next(result for result in report.checks if result.id == id)
