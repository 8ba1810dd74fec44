"""How long and how far first bytes are looked at."""


from muxwsgi.record import record
from muxwsgi.setting import check, setting
from muxwsgi.settings.sections import ROUTES

__all__ = ["MuxSettings"]


@record(kw_only=True)
class MuxSettings:
    """How long and how far first bytes are looked at.

    After `sniff_timeout` a silent client goes to the silence route, and one that is undecided to the fallback or to the route that was held
    back. If no route gets them, `HTTPSettings.request_head_timeout` holds instead, if it is longer.
    """

    sniff_timeout: float = setting(
        3.0,
        "Seconds that first bytes may take to decide, if a route gets undecided connections then; otherwise --request-head-timeout.",
        section=ROUTES,
        unit="SECONDS",
        above=0,
    )
    peek_limit: int = setting(16384, "The most first bytes that are looked at.", section=ROUTES, unit="BYTES", at_least=64)

    limit_per_client: int = setting(
        0,
        "Connections that one client address may have at once, in each worker; of IPv6, 64 bits. 0 for no limit.",
        section=ROUTES,
        unit="N",
        at_least=0,
    )
    rate: float = setting(
        0.0,
        "New connections a second that each worker takes; as many as of one second may come at once. 0 for no limit.",
        section=ROUTES,
        unit="PER_SECOND",
        at_least=0,
    )
    rate_per_client: float = setting(0.0, "The same of one client address.", section=ROUTES, unit="PER_SECOND", at_least=0)
    rate_wait: float = setting(
        0.0,
        "Seconds that a connection above --rate or --rate-per-client waits until it is closed.",
        section=ROUTES,
        unit="SECONDS",
        at_least=0,
    )

    def __post_init__(self) -> None:
        check(self)
