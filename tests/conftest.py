"""What tests of several floors need: certificates, made once, for nobody but localhost."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.tls.development_certificate import development_certificate

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def make_certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], CertificateFiles]:
    """A development certificate in a folder of its own; the same one each time."""
    folder: Path = tmp_path_factory.mktemp("data")

    def make() -> CertificateFiles:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_DATA_HOME", str(folder))
            return development_certificate(["localhost"])

    return make


@pytest.fixture(scope="session", autouse=True)
def frozen_tests() -> None:
    """The modules and the thousands of tests are not looked through by each garbage collection, which many tests wait for."""
    gc.collect()
    gc.freeze()
