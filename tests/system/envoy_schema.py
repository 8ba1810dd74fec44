"""Reads conf/envoy.yaml as Envoy's own messages, and prints what the tests ask about it, as JSON.

A program of its own, because the package with the schema (xds-protos) also has modules of OpenTelemetry, in an old version. `make` installs
it into a folder of its own, which is on the path of this program alone.
"""
# mypy: ignore-errors

import json
import sys

import yaml
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpConnectionManager
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import json_format

# An unknown field, or a value of another type, is an error.
envoy = Bootstrap()
with open(sys.argv[1]) as file:
    json_format.ParseDict(yaml.safe_load(file), envoy)
try:
    json_format.ParseDict({"static_resources": {"clusters": [{"conect_timeout": "1s"}]}}, Bootstrap())
    refused = False
except json_format.ParseError:
    refused = True
(listener,), (cluster,) = envoy.static_resources.listeners, envoy.static_resources.clusters
manager = HttpConnectionManager()
assert listener.filter_chains[0].filters[0].typed_config.Unpack(manager)
(route,) = manager.route_config.virtual_hosts[0].routes
(options,) = cluster.typed_extension_protocol_options.values()
protocol = http_protocol_options_pb2.HttpProtocolOptions()
assert options.Unpack(protocol)
print(
    json.dumps(
        {
            "refuses a misspelt field": refused,
            "health check": cluster.health_checks[0].http_health_check.path,
            "clusters": [route.route.cluster, cluster.name, cluster.load_assignment.cluster_name],
            "uses the remote address": manager.use_remote_address.value,
            "upgrade": manager.upgrade_configs[0].upgrade_type,
            "the last filter is the router": manager.http_filters[-1].typed_config.Is(router_pb2.Router.DESCRIPTOR),
            "idle timeout": protocol.common_http_protocol_options.idle_timeout.seconds,
        }
    )
)
