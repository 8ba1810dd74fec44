"""What watches a service from outside: the admin bind, the control socket, the path of health checks."""


from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.setting import check, setting
from muxwsgi.settings.sections import ADMIN

__all__ = ["AdminSettings"]


@record(kw_only=True)
class AdminSettings:
    """How a service is watched and controlled. Nothing of it is on by default."""

    admin_bind: str | None = setting(
        None,
        "Serve /metrics, /healthz, /readyz and /status there: unix:PATH or 127.0.0.1:PORT. Another address needs --admin-token-file.",
        section=ADMIN,
        unit="ADDRESS",
    )
    admin_token_file: str | None = setting(
        None,
        "The admin bind asks clients for the token in this file (Authorization: Bearer TOKEN), but for /healthz and /readyz.",
        section=ADMIN,
        unit="FILE",
    )
    control_socket: str | None = setting(
        None, "The unix socket for `muxwsgi ctl` and `muxwsgi top`. Only root and the server's user may use it.", section=ADMIN, unit="FILE"
    )
    health_path: str | None = setting(
        None,
        "Answer requests for this path on every bind, without the application: 200, or 503 while the service drains or stops.",
        section=ADMIN,
        unit="PATH",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.health_path is not None and not self.health_path.startswith("/"):
            raise OperatorError(f"health_path: {self.health_path!r} does not begin with /")

    @property
    def watched(self) -> bool:
        """Whether something reads what workers count."""
        return self.admin_bind is not None or self.control_socket is not None
