"""When the cache may answer from memory, with a clock that the test moves."""

import dataclasses
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from keylatch.cached.memory import ANY_KEY, Cache, Heartbeat, Question, mark_of
from keylatch.clock import steady_clock
from keylatch.models import ReadOnlyDict, ReplayPosition, ResolvedKey

pytestmark = pytest.mark.one_server

START = datetime(2026, 11, 20, tzinfo=UTC)
QUESTION: Question = (b"k" * 32, "https://a.example")
OTHER: Question = (b"o" * 32, None)


def key(key_id: UUID | None = None, expires_at: datetime | None = None) -> ResolvedKey:
    return ResolvedKey(
        key_id=key_id or uuid4(),
        workspace_id=uuid4(),
        kind="publishable",
        environment="live",
        scopes=(),
        metadata=ReadOnlyDict(),
        expires_at=expires_at,
    )


HERE = ReplayPosition(system_identifier="7", timeline=1, is_replica=False, position=100)
DATABASE = 16384


class System:
    """A cache with a bound of 1 second, a time to live of 10 seconds, and room for three keys."""

    def __init__(self) -> None:
        self.now = 100.0
        self.left_out = 1
        self.writers: set[str] = set()
        self.cache = Cache(bound=1, ttl=10, size=3, clock=lambda: self.now)
        self.connect()

    def connect(self) -> None:
        self.cache.listening()
        self.beat()
        self.prove()

    def beat(self, server_ahead: float = 0.0) -> None:
        """Report an answered heartbeat to the cache, as the listener does."""
        server = START + timedelta(seconds=self.now - 100 + server_ahead)
        writers = None if self.cache.is_settled else frozenset(self.writers)
        self.cache.beat(self.now, Heartbeat(server, self.left_out, "7 1 16384", writers))

    def prove(self) -> None:
        """Check the client's server if a check is due, as a resolver does before a question."""
        if (asked := self.cache.begin_proof()) is not None:
            self.cache.proven(asked, HERE, DATABASE)

    def learn(self, question: Question, found: ResolvedKey | None) -> None:
        self.cache.end(self.cache.begin(question), found)

    def pass_(self, seconds: float, *, beating: bool = True) -> None:
        self.now += seconds
        if beating:
            self.beat()
            self.prove()


@pytest.fixture
def system() -> System:
    return System()


def test_an_answer_is_remembered_for_its_origin_alone(system: System) -> None:
    found = key()
    system.learn(QUESTION, found)
    assert system.cache.answer(QUESTION) == (found,)
    assert system.cache.answer((QUESTION[0], None)) is None
    assert system.cache.answer((QUESTION[0], "")) is None


def test_memory_is_closed_when_no_heartbeat_was_answered_within_the_bound(system: System) -> None:
    system.learn(QUESTION, key())
    system.learn(OTHER, None)
    system.pass_(0.99, beating=False)
    assert system.cache.answer(QUESTION) is not None
    system.pass_(0.02, beating=False)
    assert system.cache.answer(QUESTION) is None
    assert system.cache.answer(OTHER) is None
    assert system.cache.stats().stale_avoided == 1
    # Memory opens again and keeps its entries: the server sends all notifications before it answers
    # a heartbeat.
    system.pass_(0)
    assert system.cache.answer(QUESTION) is not None


def test_the_bound_counts_from_the_sending_of_a_heartbeat_not_from_its_answer(
    system: System,
) -> None:
    system.learn(QUESTION, key())
    sent = system.now
    system.now += 0.9
    system.prove()
    system.cache.beat(sent, Heartbeat(START, 1, "7 1 16384", None))
    assert system.cache.answer(QUESTION) is not None
    system.now += 0.2
    assert system.cache.answer(QUESTION) is None


def test_a_change_forgets_its_key_and_no_other(system: System) -> None:
    changed, other = key(), key()
    system.learn(QUESTION, changed)
    system.learn((QUESTION[0], None), changed)
    system.learn(OTHER, other)
    system.cache.heard(mark_of(changed.key_id))
    assert system.cache.answer(QUESTION) is None
    assert system.cache.answer((QUESTION[0], None)) is None
    assert system.cache.answer(OTHER) == (other,)


def test_an_answer_that_was_asked_for_before_a_change_was_heard_is_not_kept(system: System) -> None:
    found = key()
    flight = system.cache.begin(QUESTION)
    system.cache.heard(mark_of(found.key_id))
    system.cache.end(flight, found)
    assert system.cache.answer(QUESTION) is None
    # A change of another key does not matter.
    flight = system.cache.begin(QUESTION)
    system.cache.heard(mark_of(uuid4()))
    system.cache.end(flight, found)
    assert system.cache.answer(QUESTION) == (found,)


def test_the_answer_no_key_is_forgotten_at_any_change_and_after_the_bound(
    system: System,
) -> None:
    system.learn(QUESTION, None)
    assert system.cache.answer(QUESTION) == (None,)
    system.cache.heard(mark_of(uuid4()))
    assert system.cache.answer(QUESTION) is None
    flight = system.cache.begin(QUESTION)
    system.cache.heard(mark_of(uuid4()))
    system.cache.end(flight, None)
    assert system.cache.answer(QUESTION) is None
    system.learn(QUESTION, None)
    system.pass_(1.01)
    assert system.cache.answer(QUESTION) is None


@pytest.mark.parametrize("when", ["before the question", "while it is asked"])
def test_nothing_survives_a_lost_connection(system: System, when: str) -> None:
    flight = system.cache.begin(QUESTION)
    system.learn(OTHER, key())
    system.cache.lost()
    if when == "before the question":
        flight = system.cache.begin(QUESTION)
    system.connect()
    system.cache.end(flight, key())
    assert system.cache.answer(QUESTION) is None
    assert system.cache.answer(OTHER) is None
    assert system.cache.stats().entries == 0


def test_a_key_is_asked_for_again_after_its_time_to_live(system: System) -> None:
    system.learn(QUESTION, key())
    for _ in range(9):
        system.pass_(1)
    assert system.cache.answer(QUESTION) is not None
    system.pass_(1)
    assert system.cache.answer(QUESTION) is None


def test_a_key_ends_in_memory_when_the_servers_clock_says_so(system: System) -> None:
    # The server's clock is a minute ahead of the client's clock. Only the server's clock counts.
    system.cache.lost()
    system.cache.listening()
    system.beat(server_ahead=60)
    system.prove()
    system.learn(QUESTION, key(expires_at=START + timedelta(seconds=62)))
    for seconds, known in ((1.9, True), (0.2, False)):
        system.now += seconds
        system.beat(server_ahead=60)
        system.prove()
        assert (system.cache.answer(QUESTION) is not None) is known


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_when_the_servers_clock_is_moved_everything_is_asked_for_again(
    system: System, jump: int
) -> None:
    system.learn(QUESTION, key(expires_at=START + timedelta(hours=2)))
    system.beat(server_ahead=jump)
    system.prove()
    assert system.cache.answer(QUESTION) is None


def test_only_so_many_are_kept_and_those_that_were_not_asked_for_go_first(system: System) -> None:
    questions: list[Question] = [(bytes([n]) * 32, None) for n in range(5)]
    for question in questions[:3]:
        system.learn(question, key())
    system.cache.answer(questions[0])
    for question in questions[3:]:
        system.learn(question, key())
    known = [question for question in questions if system.cache.answer(question)]
    assert known == [questions[0], *questions[3:]]


def test_guessing_evicts_no_key(system: System) -> None:
    system.learn(QUESTION, key())
    for n in range(100):
        system.learn((bytes([n]) * 32, None), None)
    assert system.cache.answer(QUESTION) is not None
    remembered = [n for n in range(100) if system.cache.answer((bytes([n]) * 32, None))]
    assert remembered == [97, 98, 99]


def test_when_any_key_may_have_changed_everything_is_forgotten(system: System) -> None:
    found = key()
    system.learn(OTHER, found)
    flight = system.cache.begin(QUESTION)
    system.cache.heard(ANY_KEY)
    system.cache.end(flight, found)
    assert system.cache.answer(QUESTION) is None
    assert system.cache.answer(OTHER) is None
    assert system.cache.stats().entries == 0
    system.learn(OTHER, found)
    assert system.cache.answer(OTHER) == (found,)


def test_a_change_without_a_notification_makes_memory_forget_everything(system: System) -> None:
    system.learn(QUESTION, key())
    flight = system.cache.begin(OTHER)
    system.left_out += 1
    system.pass_(0.1)
    assert system.cache.answer(QUESTION) is None
    # The next heartbeat asks which transactions may still commit such a change. There are none.
    system.pass_(0.1)
    system.cache.end(flight, key())
    assert system.cache.answer(OTHER) is None
    system.learn(QUESTION, key())
    assert system.cache.answer(QUESTION) is not None


@pytest.mark.parametrize("when", ["while it listens", "before it listened"])
def test_memory_stays_closed_until_the_silent_transaction_has_committed(
    system: System, when: str
) -> None:
    system.writers = {"3/7", "4/2"}
    system.left_out += 1
    if when == "before it listened":
        system.cache.lost()
        system.connect()
    else:
        system.pass_(0.1)
        system.pass_(0.1)
    flight = system.cache.begin(QUESTION)
    for gone, come in (("3/7", "5/1"), ("4/2", "6/1")):
        system.learn(OTHER, key())
        assert system.cache.answer(OTHER) is None
        system.writers = system.writers - {gone} | {come}
        system.pass_(0.1)
    # The answer to a question from before the commit may be out of date.
    system.cache.end(flight, key())
    assert system.cache.answer(QUESTION) is None
    # A later writer sends a notification, or increases the count of changes without one.
    system.learn(OTHER, key())
    assert system.cache.answer(OTHER) is not None


def test_memory_is_closed_when_the_other_connection_was_not_asked_within_the_bound(
    system: System,
) -> None:
    system.learn(QUESTION, key())
    for _ in range(9):
        system.now += 0.11
        system.beat()
    assert system.cache.answer(QUESTION) is not None
    system.now += 0.11
    system.beat()
    assert system.cache.answer(QUESTION) is None
    assert system.cache.stats().is_listening
    system.prove()
    assert system.cache.answer(QUESTION) is not None


def test_one_caller_asks_where_the_other_connection_is_twice_in_the_bound(
    system: System,
) -> None:
    system.pass_(0.51)
    assert system.cache.begin_proof() is None
    system.now += 0.49
    assert system.cache.begin_proof() is None
    system.beat()
    system.now += 0.02
    assert system.cache.begin_proof() == system.now
    # While no heartbeat is answered, the check is useless.
    system.now += 5
    assert system.cache.begin_proof() is None


@pytest.mark.parametrize(
    ("at", "database"),
    [
        (dataclasses.replace(HERE, system_identifier="8"), DATABASE),
        (dataclasses.replace(HERE, timeline=2), DATABASE),
        (dataclasses.replace(HERE, timeline=None, is_replica=True), DATABASE),
        (dataclasses.replace(HERE, is_replica=True), DATABASE),
        (HERE, DATABASE + 1),
    ],
)
def test_memory_forgets_when_the_other_connection_is_somewhere_else(
    system: System, at: ReplayPosition, database: int
) -> None:
    system.learn(QUESTION, key())
    assert not system.cache.is_misplaced
    system.cache.proven(system.now, at, database)
    assert system.cache.is_misplaced
    assert system.cache.answer(QUESTION) is None
    system.connect()
    assert not system.cache.is_misplaced
    assert system.cache.answer(QUESTION) is None


def test_refusals_that_are_over_leave_memory_by_themselves(system: System) -> None:
    for n in range(3):
        system.learn((bytes([n]) * 32, None), None)
        system.pass_(0.4)
    assert len(system.cache._negative) == 2
    system.pass_(2)
    assert len(system.cache._negative) == 0


def test_time_passes_while_the_machine_sleeps() -> None:
    """`time.monotonic` stops while the machine sleeps, so an old heartbeat would look fresh."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= steady_clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)
