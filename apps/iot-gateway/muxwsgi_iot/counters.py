"""What the broker counts. What is dropped is logged too, once for each reason: a flood of messages must not become a flood of lines."""

import logging

__all__ = ["DROPS", "Counters"]

log = logging.getLogger(__name__)

#: Why something was dropped or refused, and the option that has the limit.
DROPS = {
    "queue": "messages wait for a client: max_queued_messages, max_queued_bytes",
    "slow": "a client does not receive what it has subscribed to: max_queued_bytes",
    "too-large": "a message is larger than the maximum packet size of a client",
    "retained": "too much is retained: max_retained_messages, max_retained_bytes",
    "sessions": "too many sessions: max_sessions",
    "connections": "too many connections: max_connections",
    "subscriptions": "a client has too many subscriptions: max_subscriptions",
    "callback": "a function of the application is behind with its messages",
}


class Counters:
    """received, sent    messages
    expired           messages that expired before they could be sent
    refused           logins
    dropped           by reason, see `DROPS`
    """

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.expired = 0
        self.refused = 0
        self.dropped = dict.fromkeys(DROPS, 0)

    def drop(self, reason: str, client_id: str) -> None:
        """Count one more, and log the first."""
        self.dropped[reason] += 1
        if self.dropped[reason] == 1:
            log.warning("dropped: %s. The first was for %r; further ones are only counted", DROPS[reason], client_id)

    def as_dict(self) -> dict[str, object]:
        """For the API."""
        counted: dict[str, object] = {name: getattr(self, name) for name in ("received", "sent", "expired", "refused")}
        return {**counted, "dropped": dict(self.dropped)}
