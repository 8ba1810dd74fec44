"""Dates as HTTP writes them (RFC 9110 section 5.6.7). Not strftime: its names follow the locale."""

import time

__all__ = ["MONTHS", "http_date"]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(now: int) -> str:
    """The value of a Date field. `now` in seconds since the epoch."""
    moment = time.gmtime(now)
    clock = f"{moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02}"
    return f"{_DAYS[moment.tm_wday]}, {moment.tm_mday:02} {MONTHS[moment.tm_mon - 1]} {moment.tm_year} {clock} GMT"
