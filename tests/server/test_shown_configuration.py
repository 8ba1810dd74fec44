"""The configuration that /status shows to everybody who can reach the admin bind."""

import json

from muxwsgi.cli.admin import ALL, shown


def test_no_secret_of_the_configuration_is_shown() -> None:
    values = {option.name: option.default for option in ALL} | {
        "upstream_proxy": "socks5h://eve:hunter2@proxy.example:1080",
        "proxy_auth": ["eve:hunter2"],
        "raw_env": ["KEY=hunter2"],
        "logconfig_dict": {"handlers": {"mail": {"credentials": ["eve", "hunter2"]}}},
        "admin_token_file": "/hunter2",
        "statsd_host": "localhost:8125",
        "bind": ["127.0.0.1:80"],
    }
    found = shown(values)
    assert "hunter2" not in json.dumps(found)
    assert found["upstream_proxy"] == "socks5h://(not shown)@proxy.example:1080"
    assert (found["statsd_host"], found["bind"]) == ("localhost:8125", ["127.0.0.1:80"])
