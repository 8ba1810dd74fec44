from setuptools import setup

setup(
    name="muxwsgi-iot",
    version="0.1.0",
    description="An MQTT 3.1.1 and 5 broker beside a Flask application, as a hijacker for muxwsgi",
    python_requires=">=3.11",
    packages=["muxwsgi_iot", "muxwsgi_iot.mqtt"],
    package_data={"muxwsgi_iot": ["py.typed", "templates/*.html"]},
    install_requires=["muxwsgi", "flask>=3.0"],
    entry_points={"muxwsgi.hijack": ["mqtt = muxwsgi_iot.hijacker:mqtt"]},
)
