"""`FlowLog`: the flow log, one JSON object a line. docs/flows.md describes its content."""

import json
from collections.abc import Callable, Collection

from muxwsgi.records.flow import Flow
from muxwsgi.records.flow_record import SECRET_FIELDS, record_of
from muxwsgi.records.flow_spool import FlowSpool
from muxwsgi.records.record_file import RecordFile

__all__ = ["FlowLog"]

# ASCII only, so that data from the traffic cannot send control sequences to a terminal that shows the log.
_encoder = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), check_circular=False)


class FlowLog(FlowSpool):
    """A `FlowSink` that writes JSON lines.

    path            "-" is standard output
    flow_filter     which flows are written (`flow_filter.parse_filter`), None for all
    redact          names of header fields, in any case, whose values are left out
    max_bytes       the file is rotated before it becomes larger, and `keep` old files are kept; 0 for no limit
    max_queued      bytes of flows that may wait for the disk
    """

    def __init__(
        self,
        path: str,
        *,
        flow_filter: Callable[[Flow], bool] | None = None,
        redact: Collection[str] = SECRET_FIELDS,
        max_bytes: int = 0,
        keep: int = 5,
        max_queued: int = 64 << 20,
    ) -> None:
        """Raises `OperatorError` if the file cannot be opened."""
        secret = frozenset(name.lower() for name in redact)
        super().__init__(
            RecordFile(path, max_bytes=max_bytes, keep=keep),
            lambda flow: _encoder.encode(record_of(flow, secret)).encode("ascii") + b"\n",
            flow_filter=flow_filter,
            max_queued=max_queued,
        )
