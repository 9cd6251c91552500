"""keylatch: issue, rotate, revoke and resolve API keys in your PostgreSQL database."""

from . import errors, models
from .client import AsyncKeylatch, Keylatch
from .keys import ParsedKey, fingerprint, hash_key, matches_hash, parse_key
from .secret import Secret

__version__ = "0.1.0"

__all__ = [
    "AsyncKeylatch",
    "Keylatch",
    "ParsedKey",
    "Secret",
    "__version__",
    "errors",
    "fingerprint",
    "hash_key",
    "matches_hash",
    "models",
    "parse_key",
]
