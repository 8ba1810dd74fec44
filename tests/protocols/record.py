"""Records the first bytes of real clients into recorded.json: `python -m tests.protocols.record`, with names of protocols for these alone.

Each recipe starts a client, as a Debian package or from PyPI, against a listening socket here, and keeps what it sends first. The PyPI packages are
those of `PACKAGES`, the Debian ones those of `DEBIAN`. A client that is not installed is named on standard error and left out: what was recorded of it
before stays as it is. Lengths of time, addresses and random parts differ from run to run, and no test depends on them.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

__all__ = ["DEBIAN", "PACKAGES", "RECORDED"]

RECORDED = Path(__file__).with_name("recorded.json")

PACKAGES = (
    "python-qpid-proton slixmpp stomp.py nats-py pymemcache pymongo cassandra-driver kazoo kafka-python ldap3 smpplib pymodbus dnspython hl7 "
    "mcstatus grpcio paho-mqtt psycopg[binary] PyMySQL pika python-binary-memcached redis"
)
DEBIAN = (
    "openvpn tinc adb ldap-utils kcat knot-dnsutils libmemcached-tools mariadb-client-core swaks freerdp2-x11 xvfb xauth openssh-client "
    "postgresql-client redis-tools mosquitto-clients curl bsdutils"
)

#: Bytes that are kept, at most.
KEPT = 400
#: Seconds for a client to say something, and for more of it to come.
PATIENCE, MORE = 20.0, 0.4


class Recipe(NamedTuple):
    """A client: the package that has it and its version's source, how it is started, and what the server says before it speaks.

    protocol    its name in a configuration
    client      a PyPI package for `code`, or the program of `command`
    command     arguments, in which {port} and {folder} stand for what they say
    code        Python, in which `port` is known
    greeting    sent at once
    version     arguments that make the program say its version
    """

    protocol: str
    client: str
    command: str = ""
    code: str = ""
    greeting: bytes = b""
    version: str = "--version"


_MYSQL = (
    b"\x0a5.5.5-10.11.6-MariaDB\0\1\0\0\0saltsalt\0\xfe\xf7\x2d\2\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0saltsaltsalt\0mysql_native_password\0"
)

RECIPES = [
    Recipe(
        "ssh", "ssh", "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile={folder}/k -p {port} 127.0.0.1", version="-V"
    ),
    Recipe("postgresql", "psql", "psql 'host=127.0.0.1 port={port} user=ann dbname=shop sslmode=require'"),
    Recipe("postgresql", "psql", "psql 'host=127.0.0.1 port={port} user=ann dbname=shop sslmode=disable gssencmode=disable'"),
    Recipe("tls", "curl", "curl -sk https://127.0.0.1:{port}/"),
    Recipe("http1", "curl", "curl -s http://127.0.0.1:{port}/"),
    Recipe("http2", "curl", "curl -s --http2-prior-knowledge http://127.0.0.1:{port}/"),
    Recipe("redis", "redis-cli", "redis-cli -p {port} ping"),
    Recipe("mqtt", "mosquitto_pub", "mosquitto_pub -p {port} -t a -m b", version="--help"),
    Recipe("mqtt", "mosquitto_pub", "mosquitto_pub -V 5 -p {port} -t a -m b", version="--help"),
    Recipe(
        "openvpn",
        "openvpn",
        "openvpn --client --dev null --proto tcp-client --remote 127.0.0.1 {port} --auth-user-pass {folder}/up --ca {folder}/ca.pem --connect-retry-max 1",
    ),
    Recipe(
        "openvpn",
        "openvpn",
        "openvpn --client --dev null --proto tcp-client --remote 127.0.0.1 {port} --auth-user-pass {folder}/up --ca {folder}/ca.pem --tls-auth {folder}/key 1 --connect-retry-max 1",
    ),
    Recipe(
        "openvpn",
        "openvpn",
        "openvpn --client --dev null --proto tcp-client --remote 127.0.0.1 {port} --auth-user-pass {folder}/up --ca {folder}/ca.pem --tls-crypt {folder}/key --connect-retry-max 1",
    ),
    Recipe("tinc", "tincd", "tincd -c {folder}/tinc -D --pidfile={folder}/pid -o hub.Address='127.0.0.1 {port}'"),
    Recipe("adb", "adb", "adb -H 127.0.0.1 -P {port} devices"),
    Recipe("ldap", "ldapsearch", "ldapsearch -x -H ldap://127.0.0.1:{port} -D cn=ann -w secret -b dc=a", version="-VV"),
    Recipe("ldap", "ldapsearch", "ldapsearch -x -ZZ -H ldap://127.0.0.1:{port} -b dc=a", version="-VV"),
    Recipe("kafka", "kcat", "kcat -L -b 127.0.0.1:{port}", version="-V"),
    Recipe("dns", "kdig", "kdig +tcp @127.0.0.1 -p {port} www.example.com"),
    Recipe("dot", "kdig", "kdig +tls @127.0.0.1 -p {port} www.example.com"),
    Recipe("memcached", "memcstat", "memcstat --servers=127.0.0.1:{port} --binary"),
    Recipe("memcached", "memccat", "memccat --servers=127.0.0.1:{port} key"),
    Recipe("mysql", "mariadb", "mariadb -h 127.0.0.1 -P {port} -u ann shop", greeting=len(_MYSQL).to_bytes(3, "little") + b"\0" + _MYSQL),
    Recipe("smtp", "swaks", "swaks --server 127.0.0.1:{port} --to a@b --from c@d --quit-after EHLO", greeting=b"220 there ESMTP\r\n"),
    Recipe("rdp", "xfreerdp", "xvfb-run -a xfreerdp /v:127.0.0.1:{port} /u:ann /p:x /cert:ignore", version="/version"),
    Recipe("syslog", "logger", "logger --tcp --server 127.0.0.1 --port {port} text"),
    Recipe("syslog", "logger", "logger --tcp --octet-count --rfc5424 --server 127.0.0.1 --port {port} text"),
    Recipe("syslog", "logger", "logger --tcp --rfc3164 --server 127.0.0.1 --port {port} text"),
    Recipe("imap", "imaplib", code="import imaplib; imaplib.IMAP4('127.0.0.1', port)", greeting=b"* OK ready\r\n"),
    Recipe("pop3", "poplib", code="import poplib; poplib.POP3('127.0.0.1', port).capa()", greeting=b"+OK ready\r\n"),
    Recipe("ftp", "ftplib", code="import ftplib; f = ftplib.FTP_TLS(); f.connect('127.0.0.1', port); f.auth()", greeting=b"220 ready\r\n"),
    Recipe("amqp", "pika", code="import pika; pika.BlockingConnection(pika.ConnectionParameters('127.0.0.1', port))"),
    Recipe(
        "amqp1",
        "python-qpid-proton",
        code="from proton.utils import BlockingConnection; BlockingConnection(f'amqp://127.0.0.1:{port}', timeout=3)",
    ),
    Recipe(
        "xmpp",
        "slixmpp",
        code="""
import asyncio, slixmpp
async def main():
    client = slixmpp.ClientXMPP('ann@localhost', 'x')
    client.enable_direct_tls = False
    client.connect('127.0.0.1', port)
    await asyncio.sleep(5)
asyncio.run(main())""",
    ),
    Recipe("stomp", "stomp.py", code="import stomp; stomp.Connection([('127.0.0.1', port)]).connect(wait=True)"),
    Recipe(
        "nats",
        "nats-py",
        code="import asyncio, nats; asyncio.run(nats.connect(f'nats://127.0.0.1:{port}', connect_timeout=3))",
        greeting=b'INFO {"server_id":"A","version":"2.10.0","proto":1,"max_payload":1048576}\r\n',
    ),
    Recipe(
        "memcached",
        "pymemcache",
        code="from pymemcache.client.base import Client; Client(('127.0.0.1', port)).set('key', 'value', noreply=False)",
    ),
    Recipe("memcached", "python-binary-memcached", code="import bmemcached; bmemcached.Client((f'127.0.0.1:{port}',)).set('key', 'value')"),
    Recipe(
        "mongodb",
        "pymongo",
        code="import pymongo; pymongo.MongoClient('127.0.0.1', port, serverSelectionTimeoutMS=2000).admin.command('ping')",
    ),
    Recipe("cassandra", "cassandra-driver", code="from cassandra.cluster import Cluster; Cluster(['127.0.0.1'], port=port).connect()"),
    Recipe("zookeeper", "kazoo", code="from kazoo.client import KazooClient; KazooClient(f'127.0.0.1:{port}').start(timeout=2)"),
    Recipe("kafka", "kafka-python", code="from kafka import KafkaAdminClient; KafkaAdminClient(bootstrap_servers=f'127.0.0.1:{port}')"),
    Recipe(
        "ldap", "ldap3", code="import ldap3; ldap3.Connection(ldap3.Server('127.0.0.1', port, get_info=ldap3.NONE), 'cn=ann', 'x').bind()"
    ),
    Recipe(
        "smpp",
        "smpplib",
        code="import smpplib.client as c; k = c.Client('127.0.0.1', port); k.connect(); k.bind_transceiver(system_id='ann', password='x')",
    ),
    Recipe(
        "modbus",
        "pymodbus",
        code="from pymodbus.client import ModbusTcpClient as C; c = C('127.0.0.1', port=port); c.connect(); c.read_holding_registers(0, count=10)",
    ),
    Recipe(
        "dns",
        "dnspython",
        code="import dns.message, dns.query; dns.query.tcp(dns.message.make_query('a.example', 'A'), '127.0.0.1', 3, port)",
    ),
    Recipe(
        "mllp",
        "hl7",
        code="from hl7.client import MLLPClient as C; C('127.0.0.1', port).send_message('MSH|^~\\\\&|A|B|C|D|20260101||ADT^A01|1|P|2.5')",
    ),
    Recipe("minecraft", "mcstatus", code="from mcstatus import JavaServer; JavaServer('127.0.0.1', port, timeout=2).status()"),
    Recipe(
        "grpc",
        "grpcio",
        code="import grpc; grpc.insecure_channel(f'127.0.0.1:{port}').unary_unary('/a.B/C')(b'x', timeout=3)",
        greeting=b"\0\0\0\4\0\0\0\0\0",
    ),
    Recipe(
        "mysql",
        "PyMySQL",
        code="import pymysql; pymysql.connect(host='127.0.0.1', port=port, user='ann', password='x')",
        greeting=len(_MYSQL).to_bytes(3, "little") + b"\0" + _MYSQL,
    ),
    Recipe(
        "postgresql",
        "psycopg",
        code="import psycopg; psycopg.connect(host='127.0.0.1', port=port, user='ann', sslmode='disable', gssencmode='disable')",
    ),
    Recipe("redis", "redis", code="import redis; redis.Redis('127.0.0.1', port).ping()"),
    Recipe("socks", "curl", "curl -s --socks5 127.0.0.1:{port} http://192.0.2.1/"),
    Recipe("socks", "curl", "curl -s --socks4a 127.0.0.1:{port} http://www.example.com/"),
]


def _version(recipe: Recipe) -> str:
    if recipe.code:
        if recipe.client in sys.stdlib_module_names:
            return f"Python {sys.version.split()[0]}"
        return metadata.version(recipe.client)
    said = subprocess.run([recipe.client, recipe.version], capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    found = re.search(r"[0-9]+\.[0-9]+[0-9A-Za-z.+~_-]*", said.stdout + said.stderr)
    return found[0] if found else "?"


def _said(recipe: Recipe, folder: Path) -> bytes:
    """What the client sends first."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if recipe.code:
            command = [sys.executable, "-c", f"port = {port}\n{recipe.code}"]
        else:
            command = ["sh", "-c", "exec " + recipe.command.format(port=port, folder=folder)]
        client = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        listening.settimeout(PATIENCE)
        data = b""
        try:
            with listening.accept()[0] as sock:
                sock.sendall(recipe.greeting)
                sock.settimeout(PATIENCE)
                while len(data) < KEPT:
                    more = sock.recv(KEPT)
                    if not more:
                        break
                    data += more
                    sock.settimeout(MORE)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            client.kill()
            client.wait()
    return data[:KEPT]


def _files(folder: Path) -> None:
    """What OpenVPN and tinc want to read."""
    hosts = folder / "tinc" / "hosts"
    hosts.mkdir(parents=True)
    (hosts / "hub").touch()
    (folder / "tinc" / "tinc.conf").write_text("Name = office\nConnectTo = hub\nDeviceType = dummy\nAddressFamily = ipv4\nPort = 0\n")
    subprocess.run(["tincd", "-c", folder / "tinc", "-K2048"], stdin=subprocess.DEVNULL, check=True, capture_output=True, timeout=60)
    (folder / "up").write_text("ann\nsecret\n")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=a",
            "-keyout",
            folder / "ca.key",
            "-out",
            folder / "ca.pem",
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    subprocess.run(["openvpn", "--genkey", "secret", folder / "key"], check=True, capture_output=True, timeout=60)


def main() -> None:
    before = json.loads(RECORDED.read_text()) if RECORDED.exists() else []
    recorded = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if shutil.which("openvpn") and shutil.which("tincd"):
            _files(folder)
        for recipe in RECIPES:
            how = recipe.command or recipe.code.strip()
            if sys.argv[1:] and recipe.protocol not in sys.argv[1:]:
                recorded += [each for each in before if each["how"] == how]
                continue
            try:
                version = _version(recipe)
            except (metadata.PackageNotFoundError, FileNotFoundError):
                print(f"not installed: {recipe.client}", file=sys.stderr)
                recorded += [each for each in before if each["how"] == how]
                continue
            data = _said(recipe, folder)
            if not data:
                print(f"said nothing: {how}", file=sys.stderr)
                recorded += [each for each in before if each["how"] == how]
                continue
            recorded.append({"protocol": recipe.protocol, "client": f"{recipe.client} {version}", "how": how, "bytes": data.hex()})
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
