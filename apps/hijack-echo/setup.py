from setuptools import setup

setup(
    name="muxwsgi-echo",
    version="0.1.0",
    description="The smallest hijacker for muxwsgi: it sends back what it gets",
    python_requires=">=3.11",
    packages=["muxwsgi_echo"],
    install_requires=["muxwsgi"],
    entry_points={"muxwsgi.hijack": ["echo = muxwsgi_echo:echo"]},
)
