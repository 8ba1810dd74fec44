"""Worker processes."""


from muxwsgi.record import record
from muxwsgi.setting import check, setting, shared
from muxwsgi.settings.sections import WORKERS
from muxwsgi.settings.server import ServerSettings

__all__ = ["WorkerSettings"]


@record(kw_only=True)
class WorkerSettings:
    """How many processes serve, and when one of them is replaced. A worker that is replaced goes on until the other one is ready.

    workers         how many serve
    kill_after      seconds beyond the graceful timeout until a worker is killed: it cuts its connections meanwhile
    settled_after   seconds after which a worker that ends unexpectedly is replaced without a delay
    """

    workers: int = setting(1, "How many processes serve.", at_least=1)
    graceful_timeout: float = shared(ServerSettings, "graceful_timeout")
    timeout: float = setting(
        30.0,
        "Seconds that a worker may be blocked by what its application computes or waits for without gevent, until the worker is replaced; "
        "0 for no limit. The error log says by what.",
        section=WORKERS,
        unit="SECONDS",
        flags=("-t",),
        at_least=0,
    )
    preload_app: bool = setting(
        False,
        "Load the application once, in a process that forks the workers, which share its memory then. A reload loads it anew.",
        section=WORKERS,
        flags=("--preload",),
    )
    preload_module: tuple[str, ...] = setting(
        (), "Import this module in the process that forks the workers, before they load the application.", section=WORKERS, unit="MODULE"
    )
    boot_timeout: float = setting(
        60.0, "Seconds that a worker may take to load the application, until it is given up.", section=WORKERS, unit="SECONDS", above=0
    )
    max_requests: int = setting(
        0,
        "Requests after which a worker is replaced, 0 for no limit: for applications that leak memory.",
        section=WORKERS,
        unit="N",
        at_least=0,
    )
    max_requests_jitter: int = setting(
        0,
        "Up to so many requests more, another number for each worker, so that not all are replaced at once.",
        section=WORKERS,
        unit="N",
        at_least=0,
    )
    worker_lifetime: float = setting(
        0.0, "Seconds after which a worker is replaced, 0 for no limit.", section=WORKERS, unit="SECONDS", at_least=0
    )
    max_worker_memory: int = setting(
        0, "MiB of memory above which a worker is replaced, 0 for no limit.", section=WORKERS, unit="MIB", at_least=0
    )
    kill_after: float = setting(10.0, "Seconds from the graceful timeout until a worker is killed.", above=0)
    settled_after: float = setting(10.0, "Seconds after which a worker counts as settled.", at_least=0)

    def __post_init__(self) -> None:
        check(self)
