from setuptools import setup

setup(
    name="muxwsgi-inspector",
    version="0.1.0",
    description="A security team's rules for muxwsgi's proxy: deny list, redaction, secrets, no SSH",
    python_requires=">=3.11",
    packages=["muxwsgi_inspector"],
    package_data={"muxwsgi_inspector": ["py.typed"]},
    install_requires=["muxwsgi"],
)
