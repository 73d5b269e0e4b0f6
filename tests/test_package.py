"""The wheel has everything that the console command needs outside a checkout."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    [file] = folder.glob("*.whl")
    return file


@pytest.mark.slow
def test_wheel_has_every_config_script_and_module(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [
        *(f"nfields/{f.relative_to(REPOSITORY)}" for f in REPOSITORY.glob("configs/**/*.yaml")),
        *(f"nfields/{f.relative_to(REPOSITORY)}" for f in REPOSITORY.glob("scripts/*.py")),
        *(str(f.relative_to(REPOSITORY)) for f in REPOSITORY.glob("nfields/**/*.py")),
    ]
    assert "nfields/configs/train.yaml" in files
    assert set(files) <= names


@pytest.mark.slow
def test_wheel_has_no_tests_data_or_outputs(wheel):
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"nfields"}


@pytest.mark.slow
def test_command_runs_from_the_wheel_in_another_folder(wheel, tmp_path):
    """Unpacked and put first on the path, the wheel is what `pip install` would have installed."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r});"
        "sys.argv = ['nfields', 'train', '--cfg', 'job', 'seed=5'];"
        "import nfields.cli; print(nfields.cli.__file__); nfields.cli.main()"
    )
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "site"))
    assert "seed: 5" in done.stdout
    assert list(folder.iterdir()) == []


def test_every_direct_dependency_is_pinned():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["tensorboard"], *extras["wandb"]]
    names = {name_of(line) for line in wanted} - {"nfields"}
    pins = [
        line
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert names <= {name_of(pin) for pin in pins}
    assert all(pin.count("==") == 1 for pin in pins)
    assert "torch==2.13.0" in pins


def name_of(requirement: str) -> str:
    name = requirement
    for sign in "<>=!~[; ":
        name = name.partition(sign)[0]
    return name.lower().replace("_", "-")
