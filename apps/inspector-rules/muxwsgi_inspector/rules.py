"""The policy as rules. Read from top to bottom, it is what happens to a connection."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from muxwsgi import Connection
from muxwsgi.mux.matchers import prefix
from muxwsgi.mux.route import Route
from muxwsgi.proxy import BlockList, Chunk, Context, Frame, Proxy, ProxySettings, Request, Response
from muxwsgi_inspector.policy import Policy
from muxwsgi_inspector.secrets import Finding, SecretScanner
from muxwsgi_inspector.ssh import BANNER, SSHWatch

__all__ = ["add_rules", "create_proxy"]

log = logging.getLogger("muxwsgi.inspector")

#: Media types whose bodies are text, in which a secret is what it looks like.
_TEXT = ("text/", "application/json", "application/x-www-form-urlencoded", "application/xml", "application/javascript")


def create_proxy(policy_file: str | Path, **more: Any) -> Proxy:
    """A proxy under the policy of a file. `more` goes to `Proxy`. Raises `OperatorError`."""
    policy = Policy.load(policy_file)
    settings = ProxySettings(default_action="mitm", passthrough=policy.passthrough)
    ssh = Route("no-ssh", prefix(BANNER), _no_ssh)
    proxy = Proxy(more.pop("settings", settings), hijackers=[ssh, *more.pop("hijackers", ())], **more)
    add_rules(proxy, policy)
    return proxy


def add_rules(proxy: Proxy, policy: Policy | None = None) -> None:
    """Add the rules to `proxy`, which should look inside of tunnels."""
    policy = policy or Policy()

    # 1. Nobody reaches what is denied.
    if policy.deny:
        proxy.block(BlockList(policy.deny).blocked)

    # 2. Fields that are nobody's business.
    @proxy.on_request()
    def strip_request(request: Request, ctx: Context) -> None:
        for name in policy.strip_request:
            request.headers.pop(name, None)

    @proxy.on_response()
    def strip_response(response: Response, ctx: Context) -> None:
        for name in policy.strip_response:
            response.headers.pop(name, None)

    # 3. Secrets are reported, on their way out and on their way in, and pass.
    scanner = SecretScanner(policy.secrets)

    @proxy.on_request()
    def watch_request(request: Request, ctx: Context) -> None:
        if _is_text(request.headers.get("Content-Type")):
            request.watch_body(lambda pieces: scanner.watch(pieces, _report(ctx, "request", request.url)))

    def watch_response(response: Response, ctx: Context) -> None:
        url = ctx.request.url if ctx.request is not None else ""
        response.watch_body(lambda pieces: scanner.watch(pieces, _report(ctx, "response", url)))

    proxy.on_response(_carries_text).do(watch_response)

    # 4. No SSH, wherever it hides.
    @proxy.on_chunk()
    def no_ssh_in_streams(chunk: Chunk, ctx: Context) -> None:
        _ssh_watch(ctx).see(chunk.data, chunk.from_client)

    @proxy.on_frame()
    def no_ssh_in_web_sockets(frame: Frame, ctx: Context) -> None:
        _ssh_watch(ctx).see(frame.data, frame.from_client)


def _ssh_watch(ctx: Context) -> SSHWatch:
    """Of the stream that `ctx` is about: a tunnel may carry several, one after the other."""
    watch = ctx.user_data.get("ssh-watch")
    if watch is None or watch.session != ctx.session:
        watch = ctx.user_data["ssh-watch"] = SSHWatch(ctx.session)
    return cast(SSHWatch, watch)


def _no_ssh(connection: Connection) -> None:
    """The client's banner is the first thing in a tunnel: it ends before anybody is connected to."""
    log.warning("%r to %s: SSH is not allowed through here", connection, connection.destination)


def _is_text(content_type: str | None) -> bool:
    return content_type is not None and content_type.lower().startswith(_TEXT)


def _carries_text(response: Any, ctx: Context) -> bool:
    return isinstance(response, Response) and _is_text(response.headers.get("Content-Type"))


def _report(ctx: Context, where: str, url: str) -> Callable[[Finding], None]:
    def report(finding: Finding) -> None:
        if ctx.flow is not None:
            ctx.flow.tags.append(f"secret:{finding.kind}")
        log.warning(
            "%s",
            json.dumps(
                {
                    "found": finding.kind,
                    "begins": finding.shown,
                    "in": where,
                    "url": url,
                    "client": str(ctx.client[0]),
                    "who": ctx.identity,
                    "session": ctx.session,
                    "byte": finding.at,
                }
            ),
        )

    return report
