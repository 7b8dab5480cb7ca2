"""The ambient rules: what must hold for every frame of every check. `ambient` judges by them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RULES", "Rule"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One ambient check: an id like any check's, the requirement that it judges, and its title.

    `optional`: about something that a server may do and need not, so that never seeing it leaves nothing
    open.
    """

    id: str
    requirement: str
    title: str
    optional: bool = False


RULES: dict[str, Rule] = {
    rule.id: rule
    for rule in (
        Rule("trn/every-message-is-text", "TRN-06", "Every message of the server is one text message."),
        Rule(
            "trn/no-reserved-close-codes",
            "TRN-16",
            "No close frame of the server carries 1005, 1006 or 1015.",
        ),
        Rule("trn/nothing-after-close", "TRN-17", "Nothing follows the server's close frame."),
        Rule("env/frames-match-schema", "ENV-01", "Every frame of the server fits the schema of its type."),
        Rule("env/plain-integers", "ENV-02", "The ids of the server are written as plain digits."),
        Rule(
            "env/no-duplicate-names",
            "ENV-03",
            "No object of the server has two members of one name, `data` aside.",
        ),
        Rule("ses/one-welcome", "SES-06", "There is exactly one welcome on a connection."),
        Rule("ses/nothing-before-welcome", "SES-07", "The server's first frame is welcome."),
        Rule(
            "ses/only-asked-profiles",
            "SES-09",
            "Welcome lists only profiles that were asked for and have their needs.",
        ),
        Rule("ses/profiles-listed-once", "SES-10", "Welcome lists no profile twice, and never core."),
        Rule("ses/conn-is-unique", "SES-11", "No two connections have the same conn."),
        Rule("ses/one-ping-per-interval", "SES-31", "There is at most one ping per heartbeat interval."),
        Rule(
            "ses/pong-echoes-t",
            "SES-35",
            "Each pong carries the t of a ping that is still unanswered, or none.",
        ),
        Rule("rpc/nothing-after-terminal", "RPC-02", "No frame follows the terminal of its exchange."),
        Rule("rpc/only-known-ids", "RPC-03", "Every id of the server was used by the client before."),
        Rule("rpc/chunks-only-when-asked", "RPC-20", "Chunks come only on requests with stream:true."),
        Rule("sub/one-open", "SUB-01", "Each subscription opens at most once."),
        Rule("sub/nothing-before-open", "SUB-02", "No event or gap comes before open."),
        Rule(
            "sub/event-names-its-channel",
            "SUB-10",
            "The channel on an event is the one subscribed to.",
            optional=True,
        ),
        Rule(
            "sub/pattern-event-has-channel",
            "SUB-24",
            "Each event of a pattern subscription names its channel.",
        ),
        Rule("del/no-held", "DEL-16", "No pong carries held."),
        Rule(
            "del/frames-are-numbered", "DEL-20", "With profile ack exactly the frames with an id have a seq."
        ),
        Rule("del/numbers-have-no-holes", "DEL-21", "The numbers of a session are 1, 2, 3 and so on."),
        Rule("del/window-is-kept", "DEL-22", "No more than `window` frames are unacknowledged."),
        Rule("del/window-bytes-are-kept", "DEL-23", "No new frame is sent on top of `window_bytes` bytes."),
        Rule(
            "del/no-overflow-with-a-log", "DEL-35", "A subscription that has a log loses nothing to overflow."
        ),
        Rule(
            "res/every-welcome-has-a-session",
            "RES-01",
            "With profile resume welcome has session and resumed.",
        ),
        Rule("res/names-are-unique", "RES-02", "No two sessions have the same name."),
        Rule(
            "res/nothing-resumed-unasked",
            "RES-04",
            "Who asks for no resume gets a new session, and no error.",
        ),
        Rule(
            "res/refused-is-said", "RES-26", "A refused resume is answered by a new session and resume_error."
        ),
        Rule(
            "res/accepted-is-said", "RES-27", "An accepted resume is answered with the name and the last_id."
        ),
        Rule(
            "res/sent-again-unchanged",
            "RES-29",
            "After a resume everything above seq comes again, unchanged.",
        ),
        Rule("res/limits-come-again", "RES-37", "A resumed session keeps its limits."),
        Rule(
            "his/cursor-on-every-event", "HIS-01", "Each event of a subscription that has a log has a cursor."
        ),
        Rule(
            "his/recovered-only-when-asked", "HIS-14", "Without since, open has neither recovered nor reason."
        ),
        Rule(
            "his/gaps-have-cursors",
            "HIS-19",
            "Each gap of a subscription that has a log has a cursor.",
            optional=True,
        ),
        Rule("sub/one-order-of-cursors", "SUB-08", "No two subscribers see two cursors in opposite orders."),
        Rule("err/known-codes", "ERR-01", "Every error code is of the table or private."),
        Rule("err/retry-when-retryable", "ERR-02", "Retryable codes carry retry_ms."),
        Rule("err/close-codes", "ERR-07", "The server closes with a code that the table gives to servers."),
        Rule("err/close-reason", "ERR-08", "The reason of a close frame is the name of its code."),
        Rule("lim/limits-present", "LIM-01", "Welcome advertises every limit of the session's profiles."),
        Rule("lim/max-frame-floor", "LIM-04", "The advertised max_frame is at least 4096."),
        Rule("lim/queue-takes-a-frame", "LIM-19", "The advertised queue_bytes is at least max_frame."),
        Rule("lim/frames-fit", "LIM-05", "No frame of the server exceeds max_frame of either side."),
        Rule(
            "ver/only-negotiated",
            "VER-07",
            "The server sends no type or member of a profile that is not in force.",
        ),
        Rule("sec/no-token-leaks", "SEC-07", "No frame or close reason holds a token of the client."),
    )
}
