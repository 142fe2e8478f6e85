"""Kafka: every message once, through restarts, rebalances and brokers that are away. Brokers are librdkafka's own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from threading import Event
from typing import Any, Final

import pytest

from tests.ingest.feeds.kafka.brokers import DEADLINE_S, Brokers, arrow, goflow2, numbered, ports, reader_of
from thalweg.errors import ConfigError
from thalweg.ingest import ReadOptions
from thalweg.ingest.feeds.feed import Feed, Piece, PieceReader, pack_piece, unpack_piece
from thalweg.ingest.sources import open_feed, open_reader, source_at

pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")

from thalweg.ingest.feeds.kafka.feed import KafkaFeed


@pytest.fixture(scope="module")
def brokers() -> Iterator[Brokers]:
    made = Brokers()
    yield made
    made.close()


FEEDS: list[KafkaFeed] = []
"""What a test has opened; closed when it is over."""


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while FEEDS:
        FEEDS.pop().close()


# A group waits for members that have left without a word for so long.
SETTINGS: Final = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "300"}


def feed_of(brokers: Brokers, topic: str, query: str = "", **options: Any) -> KafkaFeed:
    """Make a feed in a group of the topic's name."""
    address = f"kafka://{brokers.address}/{topic}?group={topic}{query and '&'}{query}"
    feed = KafkaFeed(address, SETTINGS, **options)
    FEEDS.append(feed)
    return feed


def until(is_done: Callable[[], bool], *feeds: KafkaFeed, given: Sequence[list[Piece]] = ()) -> None:
    """Poll feeds until something is so. given: takes what each gives."""
    deadline = time.monotonic() + DEADLINE_S
    pause = Event()
    while not is_done():
        assert time.monotonic() < deadline, "it took too long"
        for feed, pieces in zip(feeds, given or [[] for _ in feeds], strict=True):
            pieces += feed.poll()
        pause.wait(0.01)


def take(feed: KafkaFeed, num: int) -> list[Piece]:
    """Poll a feed until it has given so many lines, or Arrow messages, and once more."""
    pieces: list[Piece] = []
    until(lambda: sum(len(lines(piece)) for piece in pieces) >= num, feed, given=[pieces])
    return pieces + list(feed.poll())


def lines(piece: Piece) -> list[bytes]:
    return [piece.payload] if piece.payload.startswith(b"\xff") else piece.payload.splitlines()


def numbers(pieces: list[Piece]) -> list[int]:
    return [json.loads(line)["n"] for piece in pieces for line in lines(piece)]


def test_a_kafka_feed_and_its_reading_are_what_the_protocols_say() -> None:
    feed = open_feed(source_at("kafka://broker/flows"))
    assert isinstance(feed, Feed)
    assert isinstance(feed, KafkaFeed)
    assert isinstance(open_reader("kafka://broker/flows", ReadOptions()), PieceReader)
    assert feed.name == "kafka://broker/flows"
    assert not feed.ended
    assert not list(feed.poll())


def test_settings_that_would_lose_messages_or_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"enable\.auto\.commit is not for"):
        KafkaFeed("kafka://a/flows", {"enable.auto.commit": "true"})
    with pytest.raises(ConfigError, match=r"no\.such\.setting"):
        KafkaFeed("kafka://a/flows", {"no.such.setting": "1"}).open(None)


def test_every_message_is_given_once_and_in_order(brokers: Brokers) -> None:
    brokers.create("once", 1)
    brokers.send("once", goflow2(1), goflow2(2))
    feed = feed_of(brokers, "once", "start=earliest")
    feed.open(None)
    pieces = take(feed, 2)
    brokers.send("once", goflow2(3), arrow(4, 5), goflow2(6))
    pieces += take(feed, 3)
    reader = reader_of()
    assert ports(reader, *(unpack_piece(pack_piece(piece)).payload for piece in pieces)) == [1, 2, 3, 4, 5, 6]
    assert pieces[-1].position == {"topic": "once", "offsets": {"0": 5}}
    assert not feed.tally
    assert not reader.tally


def test_any_position_gives_exactly_what_came_after_it(brokers: Brokers) -> None:
    brokers.create("after", 2)
    brokers.send("after", *numbered(*range(10)))
    brokers.send("after", *numbered(*range(10, 20)), partition=1)
    feed = feed_of(brokers, "after", "start=earliest", piece_bytes=20)
    feed.open(None)
    pieces = take(feed, 20)
    assert len(pieces) > 5
    for i, piece in enumerate(pieces[:-1]):
        # A group of its own has stored nothing.
        other = KafkaFeed(f"kafka://{brokers.address}/after?group=after{i}", SETTINGS)
        FEEDS.append(other)
        other.open(json.loads(json.dumps(piece.position)))
        before = numbers(pieces[: i + 1])
        assert sorted(numbers(take(other, 20 - len(before))) + before) == list(range(20))
        other.close()


def test_offsets_are_stored_only_when_flows_are_accepted(brokers: Brokers) -> None:
    brokers.create("accepted", 1)
    brokers.send("accepted", *numbered(*range(9)))
    feed = feed_of(brokers, "accepted", "start=earliest", piece_bytes=30)
    feed.open(None)
    pieces = take(feed, 9)
    # Three pieces, or more where not all had arrived at the first poll.
    ends = [piece.position["offsets"]["0"] for piece in pieces]
    assert [numbers([piece]) for piece in pieces] == [[*range(*pair)] for pair in pairwise([0, *ends])]
    assert len(ends) >= 3
    assert ends[-1] == 9
    assert brokers.stored("accepted", "accepted") <= 0
    feed.acknowledge(pieces[0].position)
    until(lambda: brokers.stored("accepted", "accepted") == ends[0], feed)
    feed.close()
    # What was spooled is not taken again, and what is not spooled is.
    feed.open(pieces[1].position)
    rest = take(feed, 9 - ends[1])
    assert numbers(rest) == [*range(ends[1], 9)]
    assert brokers.stored("accepted", "accepted") == ends[0]
    feed.acknowledge(rest[-1].position)
    until(lambda: brokers.stored("accepted", "accepted") == 9, feed)
    feed.close()
    # A position that is older than what the group has.
    brokers.send("accepted", *numbered(9))
    feed.open(pieces[0].position)
    feed.acknowledge(pieces[0].position)
    assert numbers(take(feed, 1)) == [9]
    feed.acknowledge(pieces[1].position)
    brokers.send("accepted", *numbered(10))
    take(feed, 1)
    assert brokers.stored("accepted", "accepted") == 9
    assert not feed.tally


def test_what_was_accepted_before_a_partition_was_given_is_stored_then(brokers: Brokers) -> None:
    brokers.create("early", 1)
    brokers.send("early", *numbered(0, 1, 2))
    feed = feed_of(brokers, "early", "start=earliest")
    feed.open(None)
    position = take(feed, 3)[-1].position
    feed.close()
    feed.open(position)
    feed.acknowledge(position)
    until(lambda: brokers.stored("early", "early") == 3, feed)


def test_a_group_begins_at_the_end_and_misses_nothing_from_then_on(brokers: Brokers) -> None:
    brokers.create("latest", 1)
    brokers.send("latest", *numbered(0, 1))
    feed = feed_of(brokers, "latest")
    feed.open(None)
    until(lambda: brokers.stored("latest", "latest") == 2, feed)
    feed.close()
    brokers.send("latest", *numbered(2))
    feed.open(None)
    assert numbers(take(feed, 1)) == [2]


def test_a_partition_that_is_new_is_read_from_its_beginning(brokers: Brokers) -> None:
    brokers.create("wider", 2)
    brokers.send("wider", *numbered(0, 1))
    brokers.send("wider", *numbered(2, 3), partition=1)
    feed = feed_of(brokers, "wider", "start=latest")
    feed.open({"topic": "wider", "offsets": {"0": 1}})
    assert sorted(numbers(take(feed, 3))) == [1, 2, 3]


def test_messages_that_hold_no_flows_are_counted(brokers: Brokers) -> None:
    brokers.create("odd", 1)
    large = b'{"n":0,"text":"' + b"x" * 5000 + b'"}'
    brokers.send("odd", None, b"", b"\x08\x03protobuf", large, *numbered(1), arrow(2), None)
    feed = feed_of(brokers, "odd", "start=earliest&format=json", max_message_bytes=5000)
    feed.open(None)
    assert numbers(take(feed, 1)) == [1]
    until(lambda: sum(feed.tally.as_dict().values()) >= 6, feed)
    assert feed.tally.as_dict() == {"empty_messages": 3, "other_messages": 2, "oversized_messages": 1}


def test_messages_that_the_brokers_removed_are_counted(brokers: Brokers) -> None:
    brokers.create("expired", 1)
    brokers.send("expired", *numbered(0, 1))
    feed = feed_of(brokers, "expired", "start=earliest")
    feed.open(None)
    position = take(feed, 2)[-1].position
    feed.close()
    # These brokers keep 5 MB of a partition.
    for n in range(2, 12):
        brokers.send("expired", b'{"n":%d,"text":"%s"}' % (n, b"x" * 900_000))
    feed.open(position)
    taken = []
    while 11 not in taken:
        taken += numbers(take(feed, 1))
    assert taken == list(range(taken[0], 12))
    assert feed.tally.as_dict() == {"expired_messages": taken[0] - 2}
    assert taken[0] > 2


def test_a_topic_that_was_recreated_is_read_from_its_beginning(brokers: Brokers) -> None:
    brokers.create("anew", 1)
    brokers.send("anew", *numbered(0, 1))
    feed = feed_of(brokers, "anew")
    feed.open({"topic": "anew", "offsets": {"0": 500}})
    feed.acknowledge({"topic": "anew", "offsets": {"0": 500}})
    assert numbers(take(feed, 2)) == [0, 1]
    assert feed.tally.as_dict() == {"restarted_partitions": 1}
    assert brokers.stored("anew", "anew") <= 0


def test_two_machines_share_a_topic_and_lose_nothing(brokers: Brokers) -> None:
    brokers.create("shared", 4)
    feeds = [feed_of(brokers, "shared", "start=earliest") for _ in range(2)]
    given: list[list[int]] = [[], []]
    sent = 0

    def send_and_poll(*which: int) -> None:
        nonlocal sent
        for partition in range(4):
            brokers.send("shared", *numbered(sent), partition=partition)
            sent += 1
        for i in which:
            for piece in feeds[i].poll():
                given[i] += numbers([piece])
                feeds[i].acknowledge(piece.position)

    def go_on(is_done: Callable[[], bool], *which: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not is_done():
            assert time.monotonic() < deadline, "it took too long"
            send_and_poll(*which)

    feeds[0].open(None)
    go_on(lambda: len(given[0]) > 20, 0)
    feeds[1].open(None)
    go_on(lambda: len(given[1]) > 20, 0, 1)
    both = len(given[0]), len(given[1])
    go_on(lambda: len(given[0]) > both[0] + 20 and len(given[1]) > both[1] + 20, 0, 1)
    feeds[0].close()
    last = sent
    go_on(lambda: {*range(last, last + 4)} <= {*given[1]}, 1)
    go_on(lambda: {*range(last + 4)} <= {*given[0], *given[1]}, 1)
    assert [len(of_one) for of_one in given] == [len(set(of_one)) for of_one in given]
    assert not feeds[0].tally["failed_readings"] + feeds[1].tally["failed_readings"]


def test_a_partition_that_comes_back_is_not_set_back(brokers: Brokers) -> None:
    brokers.create("back", 2)
    first, second = (feed_of(brokers, "back", "start=earliest") for _ in range(2))
    for partition in range(2):
        brokers.send("back", *numbered(0, 1), partition=partition)
    first.open(None)
    before = take(first, 4)[-1].position
    second.open(None)
    pieces: list[Piece] = []
    until(lambda: {0, 1} <= {*numbers(pieces)}, first, second, given=[[], pieces])
    (moved,) = pieces[-1].position["offsets"]
    brokers.send("back", *numbered(2), partition=int(moved))
    second.acknowledge(take(second, 1)[-1].position)
    until(lambda: brokers.stored("back", "back", int(moved)) == 3, second)
    second.close()
    brokers.send("back", *numbered(3), partition=int(moved))
    assert numbers(take(first, 1)) == [3]
    first.acknowledge(before)
    (kept,) = before["offsets"].keys() - {moved}
    until(lambda: brokers.stored("back", "back", int(kept)) == 2, first)
    assert brokers.stored("back", "back", int(moved)) == 3


def test_brokers_that_are_away_are_counted_and_waited_for() -> None:
    brokers = Brokers()
    try:
        brokers.create("away", 1)
        brokers.send("away", *numbered(0))
        feed = feed_of(brokers, "away", "start=earliest")
        feed.open(None)
        assert numbers(take(feed, 1)) == [0]
        brokers.go_away()
        until(lambda: feed.tally["failed_readings"] > 0, feed)
        brokers.come_back()
        brokers.send("away", *numbered(1))
        assert numbers(take(feed, 1)) == [1]
        brokers.go_away()
        feed.close()
        feed.open(None)
        until(lambda: feed.tally["failed_readings"] > 1, feed)
        feed.close()
    finally:
        brokers.close()
    assert set(feed.tally.as_dict()) <= {"failed_readings", "failed_commits"}


def test_a_topic_that_is_missing_is_counted(brokers: Brokers) -> None:
    feed = feed_of(brokers, "missing")
    feed.open(None)
    until(lambda: feed.tally["failed_readings"] > 0, feed)
