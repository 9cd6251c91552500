"""Wait until a cached resolver is up to date: by its heartbeats, not by the test's clock."""

from collections.abc import Callable

from keylatch import Secret
from keylatch.cached import CachedResolver
from keylatch.clock import steady_clock
from stack import until


def is_listening(resolver: CachedResolver) -> Callable[[], bool]:
    """Whether it listens, to wait for."""
    return lambda: resolver.stats().is_listening


def until_heard(resolver: CachedResolver) -> None:
    """Wait until all that is committed by now was heard.

    A heartbeat that is sent later is answered. From then on the first answer to a question is the
    right one, from any source.
    """
    now, cache = steady_clock(), resolver._cache
    until(lambda: cache._heard_until - cache.bound > now, "no heartbeat is answered")


def until_remembered(resolver: CachedResolver, key: Secret) -> None:
    """Resolves an active key until the answer comes from memory."""
    hits = resolver.stats().hits

    def is_hit() -> bool:
        assert resolver.resolve(key) is not None
        return resolver.stats().hits > hits

    until(is_hit, "memory never answers")
