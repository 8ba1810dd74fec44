"""Authorities, made once for each module."""

import pytest

from tests.tls.authority import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One whom nobody was told to trust."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")
