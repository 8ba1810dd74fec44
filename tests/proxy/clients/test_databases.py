"""redis-cli and psql, which know of no proxy: proxychains4 takes them through ours, by CONNECT and by SOCKS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.clients.conftest import StartProxy
from tests.proxy.clients.proxy_process import ProxyProcess, Trust, environment, run
from tests.proxy.clients.services import Postgres, Redis

#: What proxychains calls them, and what we do.
DOORS = {"http": "connect", "socks4": "socks4", "socks5": "socks5"}

ways = pytest.mark.parametrize("way", DOORS)


@pytest.fixture(scope="module")
def redis(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis.start(tmp_path_factory.mktemp("redis"), trust.leaf) as server:
        yield server


@pytest.fixture(scope="module")
def postgres(trust: Trust) -> Iterator[Postgres]:
    with Postgres.start(trust.leaf) as server:
        yield server


def chained(way: str, proxy: ProxyProcess, folder: Path, *command: str | Path, **variables: str) -> Any:
    """Run a program whose connections go through the proxy."""
    configuration = folder / "proxychains.conf"
    configuration.write_text(f"strict_chain\nquiet_mode\ntcp_connect_time_out 20000\n[ProxyList]\n{way} 127.0.0.1 {proxy.port}\n")
    return run("proxychains4", "-q", "-f", configuration, *command, env=environment(**variables))


@ways
def test_redis_is_relayed(way: str, proxy: ProxyProcess, redis: Redis, tmp_path: Path) -> None:
    done = chained(way, proxy, tmp_path, "redis-cli", "-h", "127.0.0.1", "-p", str(redis.port), "set", way, "stored")
    assert done.stdout == "OK\n", done
    assert run("redis-cli", "-p", str(redis.port), "get", way).stdout == "stored\n"
    flow = proxy.flows.first(lambda flow: flow["door"] == DOORS[way] and way in str(flow["from_client"].get("text")))
    assert (flow["kind"], flow["destination"], flow["client_tls"]) == ("raw", f"127.0.0.1:{redis.port}", None)


@ways
def test_redis_in_tls_is_looked_into_and_relayed_in_tls_again(way: str, proxy: ProxyProcess, redis: Redis, tmp_path: Path) -> None:
    command = ("redis-cli", "--tls", "--cacert", proxy.trust.ca, "-h", "127.0.0.1", "-p", str(redis.tls_port), "set", f"tls-{way}", "stored")
    done = chained(way, proxy, tmp_path, *command)
    assert done.stdout == "OK\n", done
    assert run("redis-cli", "-p", str(redis.port), "get", f"tls-{way}").stdout == "stored\n"
    flow = proxy.flows.first(lambda flow: flow["door"] == DOORS[way] and f"tls-{way}" in str(flow["from_client"].get("text")))
    assert flow["kind"] == "raw" and flow["client_tls"] is not None and flow["upstream_tls"] is not None
    assert flow["from_server"]["text"] == "+OK\r\n"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "in TLS"])
@ways
def test_a_hijacker_answers_in_the_place_of_redis(way: str, tls: bool, start_proxy: StartProxy, redis: Redis, tmp_path: Path) -> None:
    proxy = start_proxy("--hijack=resp")
    secure, port = (("--tls", "--cacert", proxy.trust.ca), redis.tls_port) if tls else ((), redis.port)
    done = chained(way, proxy, tmp_path, "redis-cli", *secure, "-h", "127.0.0.1", "-p", str(port), "set", f"hijacked-{tls}", "kept here")
    assert done.stdout == "OK\n", done
    assert run("redis-cli", "-p", str(redis.port), "exists", f"hijacked-{tls}").stdout == "0\n"  # which Redis never saw


@pytest.mark.parametrize("sslmode", ["disable", "require", "verify-full"])
@ways
def test_psql_asks_and_is_answered(way: str, sslmode: str, proxy: ProxyProcess, postgres: Postgres, tmp_path: Path) -> None:
    # With TLS, psql asks for it in the clear and the server answers with a byte before TLS begins: relayed to the server, whose own
    # certificate psql sees.
    where = f"host=127.0.0.1 port={postgres.port} dbname=postgres user=ann sslmode={sslmode} sslrootcert={proxy.trust.root}"
    asks = "select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()"
    done = chained(way, proxy, tmp_path, "psql", "-XAt", "-c", asks, where, PGPASSWORD=Postgres.PASSWORD)
    assert done.stdout == f"ann|{'f' if sslmode == 'disable' else 't'}\n", done
    flow = proxy.flows.first(lambda flow: flow["door"] == DOORS[way] and flow["destination"] == f"127.0.0.1:{postgres.port}")
    assert flow["kind"] == "raw"


def test_psql_copies_a_million_rows_both_ways(proxy: ProxyProcess, postgres: Postgres, tmp_path: Path) -> None:
    where = f"host=127.0.0.1 port={postgres.port} dbname=postgres user=ann sslmode=require"
    rows = "".join(f"{number}\n" for number in range(1_000_000))
    (tmp_path / "rows").write_text(rows)
    script = ("create temporary table numbers (number int)", rf"\copy numbers from '{tmp_path / 'rows'}'", r"\copy numbers to stdout")
    commands = [part for each in script for part in ("-c", each)]
    done = chained("http", proxy, tmp_path, "psql", "-XAtq", *commands, where, PGPASSWORD=Postgres.PASSWORD)
    assert done.stdout == rows, (done.returncode, done.stderr, len(done.stdout))
