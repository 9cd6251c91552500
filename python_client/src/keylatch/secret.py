"""Keeps keys out of printed output: `Secret` wraps one key, `mask_keys` masks keys in a text."""

from __future__ import annotations

import hmac
import re
from typing import NoReturn, final

# Wider than the key format on purpose: mistyped keys and session tokens must be masked too.
_KEY_SHAPED = re.compile(r"([a-z][a-z0-9]{1,11}_(?:(?:pk|sk)_(?:live|test)|st)_)([0-9A-Za-z]+)")
_WHOLE = 36


def mask_keys(text: str) -> str:
    """Mask every key in a text: `wk_sk_live_...abcd`. A truncated key shows no last characters."""
    return _KEY_SHAPED.sub(
        lambda found: f"{found[1]}...{found[2][-4:] if len(found[2]) >= _WHOLE else ''}", text
    )


@final
class Secret:
    """A key that is hidden in every repr, string, log line, pickle and traceback.

    Only `reveal` gives the value. Two secrets are equal if their values are equal, compared in
    constant time; a secret never equals a string. A copy within the process keeps the value. A
    pickle leaves the value out, because pickles end up in caches and queues. Source:
    `IssuedKey.key`.
    """

    __slots__ = ("_value",)

    _value: str | None

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):
            raise TypeError(f"a Secret holds a str, not {type(value).__name__}")
        object.__setattr__(self, "_value", value)

    def reveal(self) -> str:
        """Return the text that the secret was made from. Do not log this text.

        Raises:
            RuntimeError: This secret was unpickled, and a pickle does not carry the value.
        """
        if self._value is None:
            raise RuntimeError(
                "this Secret was unpickled, and a pickle does not carry the value: "
                "pass on the result of reveal() instead"
            )
        return self._value

    def __repr__(self) -> str:
        return f"Secret('{self}')"

    def __str__(self) -> str:
        if self._value is not None and _KEY_SHAPED.fullmatch(self._value):
            return mask_keys(self._value)
        return "..."

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        if self._value is None or other._value is None:
            return self is other
        # surrogatepass: a Secret may hold any str, and equality must not raise.
        return hmac.compare_digest(
            self._value.encode("utf-8", "surrogatepass"),
            other._value.encode("utf-8", "surrogatepass"),
        )

    def __hash__(self) -> int:
        return object.__hash__(self) if self._value is None else hash((Secret, self._value))

    def __setattr__(self, *_: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed")

    __delattr__ = __setattr__

    def __copy__(self, _: object = None) -> Secret:
        return self

    __deepcopy__ = __copy__

    def __getstate__(self) -> None:
        return None

    def __reduce__(self) -> tuple[object, ...]:
        return (_sealed, ())


def _sealed() -> Secret:
    """Make a secret without a value, for an unpickled object."""
    secret = object.__new__(Secret)
    object.__setattr__(secret, "_value", None)
    return secret
