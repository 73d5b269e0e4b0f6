"""Healthy data sets, looked at once a session."""

from pathlib import Path

import pytest

from tests.doctor.healthy import Healthy, look, small_chair, small_fox


@pytest.fixture(scope="session")
def chair(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    """Twenty views of NeRF-synthetic's chair."""
    folder = tmp_path_factory.mktemp("doctor") / "chair"
    return look(small_chair(shared_data / "nerf" / "chair_400", folder))


@pytest.fixture(scope="session")
def fox(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    """Fifteen photographs of instant-ngp's fox."""
    folder = tmp_path_factory.mktemp("doctor") / "fox"
    return look(small_fox(shared_data / "nerf" / "fox", folder))
