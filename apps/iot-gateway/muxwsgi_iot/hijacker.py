"""The hijacker `mqtt`, and the broker of this process."""

import logging

from muxwsgi import Connection, hijack
from muxwsgi.protocols.mqtt import mqtt as begins_mqtt
from muxwsgi_iot.broker import Broker
from muxwsgi_iot.client import serve_client
from muxwsgi_iot.login import Login
from muxwsgi_iot.options import Options
from muxwsgi_iot.streams import ConnectionStream

__all__ = ["Gateway", "broker", "gateway", "mqtt"]

log = logging.getLogger(__name__)


class Gateway:
    """A broker with its logins. It serves connections from any stream.

    multiprocess  set by the server: other processes serve the same port
    """

    multiprocess = False

    def __init__(self, options: Options | None = None, broker: Broker | None = None) -> None:
        """Raises `OperatorError` for a file that cannot be used."""
        self.broker = broker or Broker()
        self.configure(options or Options())

    def configure(self, options: Options) -> None:
        """Raises `OperatorError` for a file that cannot be used. Clients that have logged in stay."""
        self.login = Login(options)
        self.broker.configure(options)
        self.broker.on_tick = None
        if self.login.acl is not None:
            self.login.acl.on_change = self.broker.forget_plans
            self.broker.on_tick = self.login.acl.look

    def start(self) -> None:
        """Before the first connection of this worker."""
        if self.login.lets_nobody_in:
            log.warning("mqtt: nobody can log in: set password_file, use_identity_as_username or allow_anonymous in [hijack.mqtt]")
        if self.multiprocess:
            log.warning("mqtt: each worker has a broker of its own, and clients of different workers do not hear each other: --workers 1")
        self.broker.start()

    def stop(self) -> None:
        """After its last connection."""
        self.broker.stop()

    def __call__(self, connection: Connection) -> None:
        """Serve one client."""
        serve_client(ConnectionStream(connection), connection, self.broker, self.login)


#: Of this process: the hijacker and the application share it.
gateway = Gateway()
broker = gateway.broker


@hijack(
    match=begins_mqtt,
    alpn=("mqtt",),
    options=Options,
    examples=("mosquitto_sub -h {host} -p {port} -t '#' -v", "mosquitto_sub -h {host} -p {port} --insecure --cafile CA -t '#' -v"),
)
def mqtt(options: Options) -> Gateway:
    """The gateway of this process, with the operator's options."""
    gateway.configure(options)
    return gateway
