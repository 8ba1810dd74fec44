from setuptools import setup

setup(
    name="muxwsgi-rpc",
    version="0.1.0",
    description="JSON-RPC 2.0 and MessagePack-RPC on the web port, as hijackers for muxwsgi",
    python_requires=">=3.11",
    packages=["muxwsgi_rpc"],
    package_data={"muxwsgi_rpc": ["py.typed"]},
    install_requires=["muxwsgi", "msgpack>=1.1", "flask>=3.0"],
    entry_points={"muxwsgi.hijack": ["json-rpc = muxwsgi_rpc.json_rpc:JSONRPC", "msgpack-rpc = muxwsgi_rpc.msgpack_rpc:MessagePackRPC"]},
)
