"""A security team's proxy: all tunnels are intercepted, and a policy is enforced.

    muxwsgi run 'muxwsgi_inspector:create_proxy("policy.toml")' -b 127.0.0.1:8080

`add_rules(proxy, policy)` puts the same rules into a proxy of your own.
"""

from muxwsgi_inspector.policy import Policy
from muxwsgi_inspector.rules import add_rules, create_proxy
from muxwsgi_inspector.secrets import Finding, SecretScanner

__all__ = ["Finding", "Policy", "SecretScanner", "add_rules", "create_proxy"]
