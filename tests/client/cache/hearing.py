"""Wait until a cached resolver is up to date, as its heartbeats show."""

from collections.abc import Callable

from keylatch import Secret
from keylatch.cached import CachedResolver
from keylatch.clock import steady_clock
from stack import until


def is_listening(resolver: CachedResolver) -> Callable[[], bool]:
    """Return a condition for `until`: whether the resolver listens."""
    return lambda: resolver.stats().is_listening


def until_heard(resolver: CachedResolver) -> None:
    """Wait until the resolver has heard of every change that is committed now.

    The function waits for the answer to a heartbeat that was sent later. After that, the first
    answer to a question is correct, from memory or from the database.
    """
    now, cache = steady_clock(), resolver._cache
    until(lambda: cache._heard_until - cache.bound > now, "no heartbeat is answered")


def until_remembered(resolver: CachedResolver, key: Secret) -> None:
    """Resolve an active key until the answer comes from memory."""
    hits = resolver.stats().hits

    def is_hit() -> bool:
        assert resolver.resolve(key) is not None
        return resolver.stats().hits > hits

    until(is_hit, "memory never answers")
