"""A Docker engine, and images for it: the one that answers, or one of our own for the run.

`contained` runs a command with both. Where no registry answers, the image is built here, from
Debian packages alone.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker
import requests

from stack.janitor import Janitor
from stack.tools import MissingTool, cache_directory

LOCAL = "local"
"""What `KEYLATCH_IMAGE` says for the image that is built here."""

_SUPABASE = "supabase/postgres:15.8.1.060"
_REGISTRY_SECONDS = 20  # for one answer of a registry, not for the whole of an image
_ENGINE_SECONDS = 60.0
_BUILD_SECONDS = 600

_FILES = Path(__file__).with_name("image")
_ROOT = {
    "suite": "bookworm",
    "packages": ["postgresql-15", "postgresql-15-pgtap", "postgresql-15-plpgsql-check"],
    "left_out": [  # what a server does not read
        "debootstrap",
        "dev/*",
        "usr/share/doc/*",
        "usr/share/locale/*",
        "usr/share/man/*",
        "var/cache/apt/*",
        "var/lib/apt/lists/*",
    ],
}
_QUIET = {
    "etc/postgresql-common/createcluster.d/keylatch.conf": "create_main_cluster = false\n",
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
}
_SETUP = "tests/setup.sh --containers"


def contained(command: Sequence[str]) -> int:
    """Run a command with an engine and an image, which its environment names.

    The image is the one in `KEYLATCH_IMAGE`; unless that is set, Supabase's if a registry gives it,
    else ours.

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
    return docker.from_env(timeout=_BUILD_SECONDS)


def local_image(engine: Any) -> str:
    """The name of the image that is built here, after building it unless the engine has it."""
    files = sorted(_FILES.iterdir())
    recipe = [repr(_ROOT), *(file.read_text() for file in files)]
    name = f"keylatch-postgres:{_digest(recipe)}"
    cache = cache_directory()
    with (cache / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _has(engine, name):
            return name
        root = _root(cache)
        context = cache / "image"
        shutil.rmtree(context, ignore_errors=True)
        shutil.copytree(_FILES, context)
        (context / "root.tar").hardlink_to(root)
        try:
            # By the API the engine builds as with DOCKER_BUILDKIT=0: it asks no registry.
            engine.images.build(path=str(context), tag=name, rm=True)
        finally:
            shutil.rmtree(context)
    return name


def start_remover(janitor: Janitor, *ids: str) -> "subprocess.Popen[bytes]":
    """Have a container and its network removed when the janitor ends what this returns.

    Args:
        janitor: Who ends it, at the latest with the run.
        ids: Of the container and of the network; unless given, all that the engine has goes.
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
    """Start an engine that touches nothing of the machine's, and return its address."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    program = shutil.which("dockerd", path=path)
    if program is None or os.geteuid() != 0:
        raise MissingTool("a Docker engine that answers, or root and one to start,", _SETUP)
    # On disk: what a container executes may not lie in memory everywhere.
    directory = janitor.make_directory(cache_directory())
    log = directory / "log"
    address = f"unix://{directory}/socket"
    engine = janitor.start(
        [
            *(program, "--host", address, "--pidfile", directory / "pid"),
            *("--data-root", directory / "data", "--exec-root", directory / "exec"),
            # Ports are published by a program of the engine, on loopback; no rule of the firewall
            # and no bridge that another engine may have is touched.
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
    # An engine that ends leaves bridges of its networks; the janitor ends this one first.
    start_remover(janitor)
    return address


def _root(cache: Path) -> Path:
    """An archive of Debian with PostgreSQL, which is made once: it takes a minute."""
    archive = cache / f"root-{_digest([repr(_ROOT)])}.tar"
    if archive.exists():
        return archive
    program = shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None or os.geteuid() != 0:
        raise MissingTool("debootstrap, or root to run it,", _SETUP)
    print("building an image of Debian's PostgreSQL (a minute, once)", flush=True)
    root, partial = cache / "root", archive.with_suffix(".partial")
    shutil.rmtree(root, ignore_errors=True)  # of a run that was killed here
    include = f"--include={','.join(_ROOT['packages'])}"
    _run([program, "--foreign", "--variant=minbase", include, str(_ROOT["suite"]), root])
    # A package of a server would make a cluster and start it, beside those of this machine.
    for path, text in _QUIET.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(0o755)
    _run(["chroot", root, "/debootstrap/debootstrap", "--second-stage"])
    left_out = [f"--exclude=./{path}" for path in _ROOT["left_out"]]
    _run(["tar", "--create", "--file", partial, "--numeric-owner", *left_out, "-C", root, "."])
    partial.rename(archive)
    shutil.rmtree(root)
    return archive


def _run(command: Sequence[str | Path]) -> None:
    """Run a command whose mounts end with it, however it ends."""
    result = subprocess.run(
        ["/usr/bin/unshare", "--mount", *command],
        env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{result.stdout}")


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
