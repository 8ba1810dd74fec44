"""A gRPC server with TLS, which answers each unary call with what it was sent: python -m tests.bench.servers.grpc_origin PORT CERTIFICATE KEY"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

METHOD = "/bench.Echo/Unary"


def _echo(request: bytes, context: Any) -> bytes:
    return request


def main() -> None:
    port, certificate, key = sys.argv[1:]
    service, method = METHOD.strip("/").split("/")
    server = grpc.server(ThreadPoolExecutor(16))
    handlers = {method: grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    credentials = grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
