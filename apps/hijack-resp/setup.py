from setuptools import setup

setup(
    name="muxwsgi-resp",
    version="0.1.0",
    description="A key-value store for Redis clients, as a hijacker for muxwsgi",
    python_requires=">=3.11",
    packages=["muxwsgi_resp", "muxwsgi_resp.commands"],
    package_data={"muxwsgi_resp": ["py.typed"]},
    install_requires=["muxwsgi"],
    entry_points={"muxwsgi.hijack": ["resp = muxwsgi_resp:resp"]},
)
