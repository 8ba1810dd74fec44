"""`ExchangeCounts`: numbers of exchanges, counted in every exchange while something can read them. `Events.counts` is the object, or None.

The numbers are 64-bit words with fixed places, because all workers write them into memory that they share. Labels are taken from fixed
lists. A method or a status that is not in them is counted as `other` of its kind, so that no client makes the number of time series grow.

An exchange that is counted costs two readings of the clock, and about 40 instructions more in the compiled build.
"""

from typing import TYPE_CHECKING

from muxwsgi.errors import Expired

if TYPE_CHECKING:
    from muxwsgi.http.body import Body
    from muxwsgi.http.response import Response

__all__ = ["BUCKETS", "METHODS", "STATUSES", "ExchangeCounts"]

#: Labels for methods. Any other method is the last one.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "other")

#: Statuses that are counted apart from others of their class.
_APART = (
    200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 417, 421, 422, 426, 429,
    431, 500, 501, 502, 503, 504, 505,
)  # fmt: skip

#: Labels for statuses. `taken`: the application took the connection over. `none`: the client had left before a response was begun.
STATUSES = (*map(str, _APART), "2xx", "3xx", "4xx", "5xx", "taken", "none")

_TAKEN, _NONE = STATUSES.index("taken"), STATUSES.index("none")

#: Upper bounds of the buckets of durations, seconds. Those between 0.005 and 10 are OpenTelemetry's for http.server.request.duration.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0)

_PLACES = {method: place for place, method in enumerate(METHODS)}
_OTHER = len(METHODS) - 1


def _columns() -> bytes:
    """The place in `STATUSES` of each status from 0 to 999. Those from 600 on count as errors of the server (RFC 9110 section 15)."""
    columns = bytearray([_NONE]) * 200
    for name, codes in (("2xx", 100), ("3xx", 100), ("4xx", 100), ("5xx", 500)):
        columns += bytes([STATUSES.index(name)]) * codes
    for code in _APART:
        columns[code] = STATUSES.index(str(code))
    return bytes(columns)


_COLUMN = _columns()


class ExchangeCounts:
    """The numbers of one process.

    incomplete      responses that were begun and not completed
    slow_readers    of them, those whose client took the data too slowly
    received, sent  bytes of bodies, without framing
    """

    def __init__(self) -> None:
        self._requests = [0] * (9 * 40)  # by method and status, as in the .pxd
        self._durations = [0] * 19
        self._bounds = list(BUCKETS)
        self._status: str | None = None  # of the last exchange, and its place
        self._column = _NONE
        self._seconds = 0.0
        self.incomplete = 0
        self.slow_readers = 0
        self.received = 0
        self.sent = 0

    def note(self, response: "Response", body: "Body", seconds: float, taken: bool) -> int:
        """Count one exchange, `seconds` after its head was read. `taken`: the application has taken the connection over.

        Returns 0. In the compiled build a number costs less than None.
        """
        row = 0
        if response.method != "GET":
            row = _PLACES.get(response.method, _OTHER)
        self.received += body.received
        if taken:
            self._requests[row * 40 + _TAKEN] += 1
            return 0  # its duration is that of another protocol
        self.sent += response.body_bytes
        if not response.complete:
            self._note_incomplete(response)
        if response.status is not self._status:  # applications give the same string again and again
            self._note_status(response.status)
        self._requests[row * 40 + self._column] += 1
        return self._note_duration(seconds)

    def _note_status(self, status: str | None) -> None:
        self._status = status
        self._column = _NONE if status is None else _COLUMN[int(status[:3])]

    def note_refusal(self, status: int, seconds: float) -> None:
        """Count a request whose head was refused. Its method is not known."""
        self._requests[_OTHER * 40 + _COLUMN[status]] += 1
        self._note_duration(seconds)

    def _note_duration(self, seconds: float) -> int:
        self._seconds += seconds
        place = 0
        while place < 18 and seconds > self._bounds[place]:
            place += 1
        self._durations[place] += 1
        return 0

    def _note_incomplete(self, response: "Response") -> None:
        if response.head_sent:
            self.incomplete += 1
            if isinstance(response.peer_error, Expired):
                self.slow_readers += 1

    @property
    def requests(self) -> list[int]:
        """Exchanges by method and status: the statuses of the first method, then those of the next one."""
        return list(self._requests)

    @property
    def durations(self) -> list[int]:
        """Exchanges by duration: of each bucket alone, and at the end those that took longer than its last bound."""
        return list(self._durations)

    @property
    def seconds(self) -> float:
        """All durations together."""
        return self._seconds
