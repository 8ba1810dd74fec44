"""The options of `muxwsgi proxy`, beside those of every server."""

from muxwsgi.cli.option import option

__all__ = ["PROXY_OPTIONS"]

_LOOK = "The proxy: what is looked into"
_WHO = "The proxy: who may use it, and where to"
_WAY = "The proxy: how upstreams are reached"
_RULES = "The proxy: rules and records"

PROXY_OPTIONS = (
    option("mitm", bool, False, _LOOK, "Look inside of tunnels, with leaves of our own CA (`muxwsgi ca init`). Default: relay them as they are."),
    option("ca_folder", str, None, _LOOK, "Where the CA lies. Default: as for `muxwsgi ca`.", metavar="FOLDER"),
    option("leaf_key_type", str, None, _LOOK, "Kind of the leaves' key: ec or rsa, for clients that know no ECDSA. Default: as the CA's.",
           choices=("ec", "rsa")),
    option("passthrough", str, [], _LOOK, "Never look into TLS for this host: a name, *.name or /regex/.", many=True, metavar="HOST"),
    option("passthrough_after", int, 0, _LOOK, "Stop looking into a host once clients have refused our leaf for it so many times; 0 for never.",
           metavar="N"),
    option("mimic", bool, False, _LOOK, "Give leaves the names of the upstream's certificate, which is fetched first."),
    option("tunnel_sniff_timeout", float, 1.0, _LOOK, "Seconds that first bytes in a tunnel may take. After them it is a protocol in which the server speaks first.",
           metavar="SECONDS"),
    option("keylog", str, None, _LOOK, "Append the secrets of TLS there, for Wireshark. Who has the file can read the traffic.", metavar="FILE"),
    option("proxy_auth", str, None, _WHO, "Ask for a user and password of this file, made with `htpasswd -B`.", metavar="FILE"),
    option("proxy_realm", str, "muxwsgi", _WHO, "What browsers show when they ask for user and password.", metavar="TEXT"),
    option("allow", str, [], _WHO, "Networks whose clients may use the proxy.", many=True, metavar="NETWORK"),
    option("open_proxy", bool, False, _WHO, "Anybody who reaches the proxy may use it."),
    option("allow_private", bool, False, _WHO, "Clients of other machines may go to private addresses."),
    option("allow_destination", str, [], _WHO, "Networks that every client may go to, whatever they are.", many=True, metavar="NETWORK"),
    option("upstream_proxy", str, None, _WAY, "Go through this proxy: http, https, socks5, socks5h or socks4a://[USER:PASSWORD@]HOST:PORT; `direct` for none. "
           "Default: as HTTPS_PROXY, http_proxy and NO_PROXY say.", metavar="URL"),
    option("insecure_upstream", bool, False, _WAY, "Do not verify the certificates of upstreams."),
    option("ignore_unexpected_eof", bool, False, _WAY, "Take TLS of an upstream that ends without close_notify for whole."),
    option("upstream_ca", str, None, _WAY, "CA certificates that upstreams and https proxies are verified with, PEM. Default: the system's.", metavar="FILE"),
    option("source_address", str, [], _WAY, "The address of this machine that upstreams see, one for IPv4 and one for IPv6.", many=True, metavar="ADDRESS"),
    option("connect_timeout", float, 10.0, _WAY, "Seconds that connecting to an upstream may take: 504.", metavar="SECONDS"),
    option("response_head_timeout", float, 120.0, _WAY, "Seconds until the head of a response has to be there: 504.", metavar="SECONDS"),
    option("upstream_idle_timeout", float, 300.0, _WAY, "Seconds without a byte of a response's body.", metavar="SECONDS"),
    option("tunnel_idle_timeout", float, 3600.0, _WAY, "Seconds without a byte either way in a tunnel.", metavar="SECONDS"),
    option(
        "tunnel_fin_timeout", float, 30.0, _WAY, "The same once one side of the tunnel has ended its direction.", metavar="SECONDS"
    ),
    option("via", str, None, _WAY, "Our name in the Via field, for servers and further proxies; what comes back with it is refused (508). "
           "Default: a name that nobody can guess, for further proxies alone; empty for none.", metavar="NAME"),
    option("keep_header", bool, False, _WAY, "Leave hop-by-hop fields in requests."),
    option("keep_destination_headers", bool, False, _WAY, "Leave hop-by-hop fields in responses."),
    option("rules", str, None, _RULES, "Call this function with the proxy, so that it adds rules.", metavar="MODULE:FUNCTION"),
    option("block", str, [], _RULES, "Refuse the hosts of this list: names, *.names, /regexes/ or a hosts file. It is read again when it changes.",
           many=True, metavar="FILE"),
    option("limit_rule_body", int, 16 << 20, _RULES, "Bytes of a body that a rule may have in one piece.", metavar="BYTES"),
    option("flows", str, None, _RULES, "Record every exchange and raw stream there, as JSON lines.", metavar="FILE"),
    option("har", str, None, _RULES, "Record every exchange there, as HAR 1.2.", metavar="FILE"),
    option("flow_filter", str, None, _RULES, "Record only what this expression fits, as in `~d example.com & ~m POST`.", metavar="EXPRESSION"),
    option("flow_rotate", int, 0, _RULES, "Bytes at which the records' files are rotated, 0 for never.", metavar="BYTES"),
    option("flow_bodies", int, 64 << 10, _RULES, "Bytes of each body that are recorded.", metavar="BYTES"),
    option("pac_direct", str, [], _RULES, "Hosts that the PAC file sends past the proxy.", many=True, metavar="HOST"),
)
