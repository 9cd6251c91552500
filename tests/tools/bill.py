"""The software bill of materials (SBOM) of a release: a CycloneDX file beside the packages.

The package itself needs only Python. Each library of the extras is an optional component. Its
version is the version in tests/requirements.lock, with which the release was tested.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[1] / "requirements.lock"


class Unlocked(Exception):
    """The installed version of a library differs from the version in the lock file."""


def write_bill(wheel: Path, sdist: Path, epoch: int) -> None:
    """Write the SBOM beside the packages; equal packages and times give equal bytes."""
    (built,) = distributions(path=[str(wheel)])
    product = _component(built)
    product.licenses = [DisjunctiveLicense(id=built.metadata["License-Expression"])]
    product.components = [
        Component(
            name=path.name,
            type=ComponentType.FILE,
            bom_ref=path.name,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=_digest(path))],
        )
        for path in (wheel, sdist)
    ]
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, _digest(wheel)))
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    bom.metadata.component = product
    bom.metadata.properties = [Property(name="keylatch:versions", value=f"tests/{LOCK.name}")]
    _add(bom, product, built, built.metadata.get_all("Provides-Extra") or [])
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    wheel.with_name(f"{product.name}-{product.version}.cdx.json").write_text(f"{text}\n")


def _add(bom: Bom, component: Component, of: Distribution, extras: list[str]) -> None:
    """Add the requirements of a component, and their requirements in turn."""
    needed = []
    for wanted in map(Requirement, of.requires or []):
        if wanted.marker and not any(
            wanted.marker.evaluate({"extra": extra}) for extra in (*extras, "")
        ):
            continue
        installed = distribution(wanted.name)
        library = _component(installed, ComponentScope.OPTIONAL)
        if f"\n{library.name}=={library.version} " not in LOCK.read_text():
            raise Unlocked(f"{library.name} {library.version} is not in {LOCK.name}.")
        bom.components.add(library)
        needed.append(library)
        _add(bom, library, installed, sorted(wanted.extras))
    bom.register_dependency(component, needed)


def _component(of: Distribution, scope: ComponentScope | None = None) -> Component:
    url = PackageURL("pypi", name=canonicalize_name(of.name), version=of.version)
    return Component(
        name=url.name,
        version=of.version,
        type=ComponentType.LIBRARY,
        scope=scope,
        purl=url,
        bom_ref=url.to_string(),
    )


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
