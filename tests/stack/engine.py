"""A Docker engine and an image for the tests in containers.

`contained` runs a command with both. If no engine answers, it starts an engine for the run. If no
registry answers, the image is built from the Debian packages of this machine.
"""

import fcntl
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import docker
import requests

from stack.janitor import Janitor
from stack.tools import MissingTool, cache_directory, major_version, postgres_bin

LOCAL = "local"
"""The value of `KEYLATCH_IMAGE` for the image that this module builds."""

_SUPABASE = "supabase/postgres:15.8.1.060"
_REGISTRY_SECONDS = 20  # for one answer of a registry, not for a whole download
_ENGINE_SECONDS = 60.0
_ANSWER_SECONDS = 600

_PACKAGES = "postgresql-{0}", "postgresql-{0}-pgtap", "postgresql-{0}-plpgsql-check"
_UNREAD = ("/usr/share/doc", "/usr/share/locale", "/usr/share/man", "/usr/share/perl")
_ENTRYPOINT = Path(__file__).with_name("entrypoint.sh")
_CONFIGURATION = [
    "ENV POSTGRES_INITDB_ARGS='--encoding=UTF8 --locale=C.UTF-8'",
    "ENV PATH=/usr/lib/postgresql/{0}/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    "EXPOSE 5432",
    'ENTRYPOINT ["/bin/sh", "/entrypoint.sh"]',
    'CMD ["postgres"]',
]
_USERS = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\npostgres:x:999:\n",
}
_SETUP = "tests/setup.sh --containers"


def contained(command: Sequence[str]) -> int:
    """Run a command with an engine and an image; its environment variables name both.

    The image is that of `KEYLATCH_IMAGE`. If the variable is not set, the image is Supabase's, or
    our own if Supabase's cannot be downloaded.

    Returns:
        The command's exit code.
    """
    janitor = Janitor()
    try:
        if not _answers():
            os.environ["DOCKER_HOST"] = _start_engine(janitor)
        environment = {**os.environ, "KEYLATCH_IMAGE": _image(client())}
        print(f"containers of {environment['KEYLATCH_IMAGE']}", flush=True)
        return subprocess.run(command, env=environment, check=False).returncode
    finally:
        janitor.close()


def client() -> Any:
    """A client of the engine that `DOCKER_HOST` names.

    Raises:
        MissingTool: No engine answers.
    """
    if not _answers():
        raise MissingTool("a Docker engine that answers", "make test-containers")
    return docker.from_env(timeout=_ANSWER_SECONDS)


def local_image(engine: Any) -> str:
    """Return the name of our own image; build the image if the engine does not have it.

    The image contains the packages of this machine's PostgreSQL and their dependencies.

    Raises:
        MissingTool: PostgreSQL is not installed as packages of Debian or Ubuntu.
    """
    version = major_version(postgres_bin() / "postgres")
    try:
        packages = _packages([name.format(version) for name in _PACKAGES])
        versions = _output("dpkg-query", "--show", *packages)
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingTool(f"PostgreSQL {version} as packages for apt", _SETUP) from error
    configuration = [line.replace("{0}", str(version)) for line in _CONFIGURATION]
    recipe = repr((versions, _ENTRYPOINT.read_text(), _UNREAD, configuration, _USERS))
    name = f"keylatch-postgres:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    cache = cache_directory()
    with (cache / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _has(engine, name):
            archive = cache / "image.tar"
            _write_root(archive, packages)
            repository, tag = name.split(":")
            engine.api.import_image(str(archive), repository, tag, changes=configuration)
            archive.unlink()
    return name


def start_remover(janitor: Janitor, *ids: str) -> "subprocess.Popen[bytes]":
    """Start a process that removes a container and its network when the janitor ends the process.

    Args:
        janitor: The janitor that ends the process, at the latest with the run.
        ids: The ids of the container and the network; without ids, everything in the engine.
    """
    return janitor.start(
        [sys.executable, "-P", Path(__file__).with_name("remover.py"), *ids],
        signals=[signal.SIGTERM],
        output=Path(os.devnull),
    )


def _answers() -> bool:
    try:
        return bool(docker.from_env(timeout=5).ping())
    except (docker.errors.DockerException, requests.RequestException):
        return False


def _image(engine: Any) -> str:
    wanted = os.environ.get("KEYLATCH_IMAGE")
    if wanted == LOCAL:
        return local_image(engine)
    name = wanted or _SUPABASE
    if _has(engine, name):
        return name
    try:
        docker.from_env(timeout=_REGISTRY_SECONDS).images.get_registry_data(name)
        engine.images.pull(name)
    except (docker.errors.DockerException, requests.RequestException) as error:
        if wanted:
            raise
        print(f"{name} cannot be had, so the image is one of our own: {error}", flush=True)
        return local_image(engine)
    return name


def _has(engine: Any, name: str) -> bool:
    try:
        engine.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def _start_engine(janitor: Janitor) -> str:
    """Start an engine that does not change the machine's network, and return its address."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    program = shutil.which("dockerd", path=path)
    if program is None or os.geteuid() != 0:
        raise MissingTool("a Docker engine that answers, or root and one to start,", _SETUP)
    # On disk: some machines forbid executing files from /dev/shm.
    directory = janitor.make_directory(cache_directory())
    log = directory / "log"
    address = f"unix://{directory}/socket"
    engine = janitor.start(
        [
            *(program, "--host", address, "--pidfile", directory / "pid"),
            *("--data-root", directory / "data", "--exec-root", directory / "exec"),
            # A program of the engine publishes ports on loopback. The engine changes no firewall
            # rule and no bridge of another engine.
            *("--iptables=false", "--ip6tables=false", "--ip-forward=false"),
            *("--bridge", "none", "--ip", "127.0.0.1", "--shutdown-timeout", "3"),
        ],
        signals=[signal.SIGTERM, signal.SIGTERM],
        output=log,
        environment={**os.environ, "PATH": path},
    )
    deadline = time.monotonic() + _ENGINE_SECONDS
    os.environ["DOCKER_HOST"] = address
    while not _answers():
        if engine.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the Docker engine did not start:\n{log.read_text()}")
        time.sleep(0.05)
    # An engine leaves the bridges of its networks behind. The janitor ends this remover first.
    start_remover(janitor)
    return address


def _packages(server: Sequence[str]) -> list[str]:
    """These packages, their dependencies, and the packages that every Debian system has."""
    form = "--showformat=${Package} ${Essential}\n"
    installed = dict(line.split() for line in _output("dpkg-query", "--show", form).splitlines())
    depends = _output("apt-cache", "depends", "--recurse", "--important", *server).splitlines()
    return [name for name in installed if installed[name] == "yes" or name in depends]


def _write_root(archive: Path, packages: Sequence[str]) -> None:
    """Write the file system of the image."""
    with tarfile.open(archive, "w") as root:
        for path in sorted(set(_files(packages))):
            root.add(path, recursive=False)
        root.add(_ENTRYPOINT, _ENTRYPOINT.name)
        for name, text in _USERS.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            root.addfile(entry, io.BytesIO(text.encode()))


def _files(packages: Sequence[str]) -> Iterator[Path]:
    """The files of the packages, and the files that the image needs but no package owns."""
    yield from (link for link in Path("/").iterdir() if link.is_symlink())  # such as /bin
    yield from (Path("/etc/ld.so.cache"), Path("/etc/localtime"))
    for line in _output("dpkg-query", "--listfiles", *packages).splitlines():
        # The other lines do not name files; they report diversions.
        if line.startswith("/") and not line.startswith(("/.", *_UNREAD)):
            path = Path(line).parent.resolve() / Path(line).name
            if os.path.lexists(path):
                yield path


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
