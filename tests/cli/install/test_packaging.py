"""The package: each way to build it gives the same files, and it works outside the repository."""

import json
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from cli.install.project import REPOSITORY, Project
from cli.program import Program
from keylatch_cli.install.migrations import shipped
from stack.tools import ROOT

pytestmark = pytest.mark.one_server

PYTHON_CLIENT = ROOT / "python_client"
# The content of keylatch_cli/sql, and its place in the repository.
LINKS = {
    "adoption": ROOT / "sql/adoption",
    "audit": ROOT / "sql/audit",
    "migrations": REPOSITORY,
    "modules.toml": ROOT / "sql/modules.toml",
    "ops": ROOT / "sql/ops",
    "platform": ROOT / "sql/platform",
    "tenancy": ROOT / "sql/tenancy",
    "uninstall": ROOT / "sql/uninstall",
    "upgrades": ROOT / "sql/upgrades",
}
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
# Nothing is fetched: hatchling is in this environment.
WHEEL = [*PIP, "wheel", "--no-index", "--no-deps", "--no-build-isolation"]

LOADED = """
import json, sys
import keylatch
loaded = {name.partition(".")[0] for name in sys.modules}
from keylatch_cli.install.migrations import shipped
print(json.dumps({
  "modules": sorted(loaded - sys.stdlib_module_names - {"__main__"}),
  "file": keylatch.__file__,
  "parts": list(shipped().parts),
}))
"""


def run(*command: object) -> str:
    """Run a command outside the repository, and return its output."""
    done = subprocess.run(
        [str(one) for one in command], cwd="/", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, built from the tree."""
    directory = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist"]
    subprocess.run(
        [*command, "--directory", directory],
        cwd=PYTHON_CLIENT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree."""
    return build_wheel(PYTHON_CLIENT, tmp_path_factory.mktemp("wheel"))


def build_wheel(source: Path, directory: Path) -> Path:
    run(*WHEEL, "--wheel-dir", directory, source)
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the programs in an environment that has only the wheel."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, with_pip=False)
    python = directory / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-index", "--no-deps", wheel)
    return python.parent


def test_the_wheel_from_the_sdist_is_the_wheel_from_the_tree(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    with ZipFile(wheel) as ours, ZipFile(build_wheel(sdist, tmp_path)) as theirs:
        assert ours.namelist() == theirs.namelist()
        for name in ours.namelist():
            assert ours.read(name) == theirs.read(name), name
            assert ours.getinfo(name).external_attr == theirs.getinfo(name).external_attr, name


def test_the_wheel_holds_the_sql_and_the_license_of_the_repository(wheel: Path) -> None:
    with ZipFile(wheel) as built:
        found = {
            name: built.read(name)
            for name in built.namelist()
            if name.startswith("keylatch_cli/sql/")
        }
        (license_file,) = (name for name in built.namelist() if name.endswith("licenses/LICENSE"))
        assert built.read(license_file) == (ROOT / "LICENSE").read_bytes()
    expected = {
        f"keylatch_cli/sql/{path.relative_to(source.parent)}": path.read_bytes()
        for source in LINKS.values()
        for path in ([source] if source.is_file() else source.iterdir())
    }
    assert found == expected


def test_the_sdist_holds_files_and_no_links(sdist: Path) -> None:
    with tarfile.open(sdist) as built:
        assert [one.name for one in built if not one.isfile()] == []
        names = [one.name for one in built]
        assert len(set(names)) == len(names)


def test_the_tree_has_no_second_copy() -> None:
    assert {path.name for path in (PYTHON_CLIENT / "src/keylatch_cli/sql").iterdir()} == set(LINKS)
    for name, directory in LINKS.items():
        link = PYTHON_CLIENT / "src" / "keylatch_cli" / "sql" / name
        assert link.is_symlink()
        assert link.resolve() == directory
        assert not link.readlink().is_absolute()


def test_importing_the_installed_wheel_loads_nothing_else(environment: Path) -> None:
    found = json.loads(run(environment / "python", "-I", "-c", LOADED))
    assert found["modules"] == ["keylatch"]
    assert Path(found["file"]).is_relative_to(environment.parent)
    assert found["parts"] == list(shipped().parts)


def test_without_its_extra_the_program_says_what_to_install(environment: Path) -> None:
    done = subprocess.run(
        [environment / "keylatch", "--help"], capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert done.returncode == 5
    assert 'pip install "keylatch[cli]"' in done.stderr


def test_the_installed_program_installs_from_anywhere(
    environment: Path, project: Project, program: Program
) -> None:
    # Add the libraries of the tests' environment, without its link to the source tree.
    packages = environment.parent / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    assert f"{environment.parent}" in run(
        environment / "python", "-c", "import keylatch; print(keylatch.__file__)"
    )
    options = ("--tenancy", "own", "--all", "--expose", "--json")
    shown = run(environment / "keylatch", "install", project.path, *options)
    (written,) = json.loads(shown)["written"]
    # The program in the source tree finds the same file.
    assert program.ok("install", project.path, "--all")["present"] == [written]
    assert program.ok("install", project.path, "--all")["written"] == []
