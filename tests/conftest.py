"""What tests of several floors need: certificates, made once, for nobody but localhost."""

from collections.abc import Callable
from pathlib import Path

import pytest

from muxwsgi.settings import CertificateFiles
from muxwsgi.wire.tls.development_certificate import development_certificate


@pytest.fixture(scope="session")
def make_certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], CertificateFiles]:
    """A development certificate in a folder of its own; the same one each time."""
    folder: Path = tmp_path_factory.mktemp("data")

    def make() -> CertificateFiles:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_DATA_HOME", str(folder))
            return development_certificate(["localhost"])

    return make
