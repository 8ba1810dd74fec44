"""The options of `muxwsgi proxy`, beside those of every server."""

from muxwsgi.cli.option import by_section, option, options_of
from muxwsgi.proxy.settings import LOOK, RULES, WAY, ProxySettings

__all__ = ["PROXY_OPTIONS"]

_ACCESS = "The proxy: access and destinations"

#: Options that are not fields of a settings class.
_ROWS = (
    option("mitm", bool, False, LOOK, "Intercept TLS in tunnels, with leaves of our own CA (`muxwsgi ca init`). Default: relay them as they are."),
    option("keylog", str, None, LOOK, "Append the secrets of TLS to this file, for Wireshark. The file lets its readers decrypt the traffic.", metavar="FILE"),
    option("proxy_auth", str, None, _ACCESS, "Ask for a user and password of this file, made with `htpasswd -B`.", metavar="FILE"),
    option("proxy_realm", str, "muxwsgi", _ACCESS, "What browsers show when they ask for user and password.", metavar="TEXT"),
    option("allow", str, [], _ACCESS, "Networks whose clients may use the proxy.", many=True, metavar="NETWORK"),
    option("open_proxy", bool, False, _ACCESS, "Every client that reaches the proxy may use it."),
    option("allow_private", bool, False, _ACCESS, "Clients of other machines may go to private addresses."),
    option("allow_destination", str, [], _ACCESS, "Networks that every client may go to, private or not.", many=True, metavar="NETWORK"),
    option("upstream_proxy", str, None, WAY, "Go through this proxy: http, https, socks5, socks5h or socks4a://[USER:PASSWORD@]HOST:PORT; `direct` for none. "
           "Default: as HTTPS_PROXY, http_proxy and NO_PROXY say.", metavar="URL"),
    option("source_address", str, [], WAY, "The address of this machine that upstreams see, one for IPv4 and one for IPv6.", many=True, metavar="ADDRESS"),
    option("rules", str, None, RULES, "Call this function with the proxy, so that it adds rules.", metavar="MODULE:FUNCTION"),
    option("block", str, [], RULES, "Refuse the hosts of this list: names, *.names, /regexes/ or a hosts file. It is read again when it changes.",
           many=True, metavar="FILE"),
    option("flows", str, None, RULES, "Record every exchange and raw stream in this file, as JSON lines.", metavar="FILE"),
    option("har", str, None, RULES, "Record every exchange in this file, as HAR 1.2.", metavar="FILE"),
    option("flow_filter", str, None, RULES, "Record only what this expression fits, as in `~d example.com & ~m POST`.", metavar="EXPRESSION"),
    option("flow_rotate", int, 0, RULES, "Bytes at which the records' files are rotated, 0 for never.", metavar="BYTES"),
    option("pac_direct", str, [], RULES, "Hosts that the PAC file sends past the proxy.", many=True, metavar="HOST"),
)

#: In the order of the page.
_SECTIONS = (LOOK, _ACCESS, WAY, RULES)

#: A setting that the proxy shares with every server is an option of every server.
PROXY_OPTIONS = by_section(_SECTIONS, [*_ROWS, *(each for each in options_of(ProxySettings) if each.section in _SECTIONS)])
