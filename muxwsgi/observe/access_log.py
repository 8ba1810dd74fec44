"""The access log: one line per exchange, in a file, in syslog, or as records of logging. `access_format` makes the lines."""

import logging

from muxwsgi.events import Events
from muxwsgi.http.exchange import Exchange
from muxwsgi.observe.access_format import DEFAULT_FORMAT, JSON_FORMAT, Atoms, compile_format
from muxwsgi.observe.line_log import LineLog
from muxwsgi.observe.syslog import Syslog

__all__ = ["AccessLog"]


class AccessLog(LineLog):
    """Takes exchanges (it is an `OnExchange`) and writes their lines."""

    def __init__(
        self,
        path: str | None,
        format_text: str = DEFAULT_FORMAT,
        *,
        syslog: Syslog | None = None,
        logger: logging.Logger | None = None,
        exclude: tuple[str, ...] = (),
    ) -> None:
        """`path` and `syslog` as for `LineLog`. Records of `logger` have the format as their message, and the atoms as their arguments, as
        in gunicorn. Paths that begin with one of `exclude` have no line if the status is below 400. Raises `OperatorError` if the file
        cannot be opened."""
        self._line = compile_format(format_text)
        self._logger = logger
        self._message = None if format_text == JSON_FORMAT else format_text
        self._exclude = exclude
        super().__init__(path, "access_logfile", syslog=syslog, kind="access")

    def subscribe(self, events: Events) -> None:
        """Hear of exchanges."""
        events.subscribe(exchange=self)

    def __call__(self, exchange: Exchange) -> None:
        if self._exclude and exchange.status < "4" and str(exchange.request["PATH_INFO"]).startswith(self._exclude):
            return
        if self._logger is not None:
            self._log(self._logger, exchange)
        if self.writes:
            self.write(self._line(exchange))

    def _log(self, logger: logging.Logger, exchange: Exchange) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        message, arguments = (self._line(exchange), ()) if self._message is None else (self._message, (Atoms(exchange),))
        logger.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, message, arguments, None))
