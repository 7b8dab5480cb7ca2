"""What a hello that comes too late leaves as it was: `spec/07-resume.md`."""

from __future__ import annotations

from holdfast_conformance.case import Test, check
from holdfast_conformance.lives import ask, is_refused, pause

LONGEST = 5000
"""Milliseconds of `resume_ms` that a check is willing to sit out."""

SLACK = 2.0
"""Seconds, before scaling, by which a timer of the target may be late without blame."""


@check("res/late-hellos-prolong-nothing", covers="RES-19", needs=["resume"], slow=True)
async def late_hellos_prolong_nothing(t: Test) -> None:
    """A suspended session ends in time, however often hellos come whose `attempt` is not higher."""
    session = await t.session("small" if "small" in t.bench.target.identities else None)
    resume = session.limit("resume_ms") / 1000
    if 1000 * resume > LONGEST:
        raise t.unverified("resume_ms is long; add an identity `small`, whose limits are small")
    session = await t.resume(session, attempt=3)
    await pause(session)
    over = t.now() + resume + SLACK * t.bench.clock.scale
    while t.now() < over:
        late = await ask(t, session, attempt=3, name="late")
        if (await t.reply(late)) is not None:
            break  # the session is over, and nothing is known of its attempts
        await t.sit_out(0.7 * resume, "a part of resume_ms")
    await t.sit_out(max(0.0, over - t.now()), "the rest of resume_ms, and the slack for timers")
    fresh = await t.resume(session, expect="either")
    hint = "a stale hello leaves the session as it was, its end included"
    is_refused(t, fresh, session, "expired", "not_found", last_id=0, hint=hint)
