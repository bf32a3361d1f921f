"""What the tests of teachers share: trained ones, and a cache of their own."""

import pytest

from tests.teachers.taught import train_teachers


@pytest.fixture(scope="package")
def runs(tmp_path_factory):
    return train_teachers(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "teachers"
