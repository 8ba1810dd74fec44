"""The options of the broker, in the file under `[hijack.mqtt]`. The names are mosquitto's where it has the option."""

from dataclasses import dataclass

from muxwsgi.setting import setting
from muxwsgi_iot.mqtt import Limits

__all__ = ["Options"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """All limits hold for one worker process."""

    allow_anonymous: bool = setting(False, "Clients without a user name are let in.")
    password_file: str = setting(
        "", "Users and their passwords, as `htpasswd -B` writes them. It is read again when it has changed.", unit="FILE"
    )
    acl_file: str = setting("", "Who may read and write which topics, in mosquitto's format. Without it, all who log in may.", unit="FILE")
    use_identity_as_username: bool = setting(False, "A verified client certificate is a login.")
    identity_from: str = setting(
        "cn", "Which name of the certificate is the user name: its common name, or its first alternative name.", choices=("cn", "san")
    )
    max_connections: int = setting(20_000, "Connections at once. Further ones are refused: server busy.", at_least=1)
    max_sessions: int = setting(
        100_000, "Sessions, those of clients that are away included. Further ones are refused: quota exceeded.", at_least=1
    )
    persistent_client_expiration: int = setting(
        7 * 86400, "The session of a client that is away is dropped after so long, also if it asked for more.", unit="SECONDS", at_least=0
    )
    max_keepalive: int = setting(
        3600, "The longest keep alive. Clients of version 5 that ask for more, or for none, get this one.", unit="SECONDS", at_least=1
    )
    max_packet_size: int = setting(1 << 20, "A larger packet ends the connection.", unit="BYTES", at_least=1024)
    max_inflight_messages: int = setting(
        100, "Messages of QoS 1 and 2 that are under way at once, for each client and direction.", at_least=1
    )
    max_queued_messages: int = setting(1000, "Messages of QoS 1 and 2 that wait for a client. Further ones are dropped.", at_least=1)
    max_queued_bytes: int = setting(8 << 20, "Bytes that wait for a client. What is beyond is dropped.", unit="BYTES", at_least=1024)
    max_subscriptions: int = setting(1000, "Subscriptions of a client. Further ones are refused.", at_least=1)
    max_retained_messages: int = setting(100_000, "Retained messages. Further topics are not retained.", at_least=0)
    max_retained_bytes: int = setting(
        64 << 20, "Bytes of topics and payloads of retained messages. What is beyond is not retained.", unit="BYTES", at_least=0
    )
    max_topic_alias: int = setting(16, "Topic aliases of a client, in each direction. 0 turns them off.", at_least=0)
    max_topic_levels: int = setting(64, "Levels of a topic.", at_least=1)
    connect_timeout: float = setting(10.0, "A client has so long to send CONNECT.", unit="SECONDS", above=0)

    def __post_init__(self) -> None:
        for name in ("max_inflight_messages", "max_topic_alias", "max_keepalive"):
            if getattr(self, name) > 65535:
                raise ValueError(f"{name}: {getattr(self, name)} is more than 65535")

    def limits(self) -> Limits:
        """What the decoder is held to."""
        return Limits(max_packet_size=self.max_packet_size, max_levels=self.max_topic_levels)
