"""The public face of `muxwsgi.proxy`."""

import subprocess
import sys

import muxwsgi.proxy


def test_every_public_name_is_there() -> None:
    assert set(muxwsgi.proxy._HOME_OF) == set(muxwsgi.proxy.__all__)
    for name in muxwsgi.proxy.__all__:
        assert getattr(muxwsgi.proxy, name) is not None
    assert dir(muxwsgi.proxy) == sorted(muxwsgi.proxy.__all__)


def test_the_package_alone_imports_no_gevent() -> None:
    code = "import sys, muxwsgi.proxy; sys.exit('gevent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(muxwsgi.proxy, "Squid")
