"""A Kafka topic -> pieces: JSON messages as lines, or one Arrow message.

What is in the spool is not taken twice, and a group's offsets are stored only once flows are written. So a kill loses
nothing. Where a partition passes to another machine, what this one had not written by then is read there again.

Importing this raises ImportError without the extra `kafka`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Final, cast, final

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from thalweg.errors import ConfigError
from thalweg.ingest.feeds.feed import Piece, Position
from thalweg.ingest.feeds.kafka.reader import KafkaConfig, KafkaReader, json_lines
from thalweg.ingest.tabular.columnar import MAGICS
from thalweg.tally import Tally

__all__ = ["KafkaFeed", "KafkaReader"]

_PIECE: Final = 2 << 20
_MAX_MESSAGE: Final = 32 << 20
# What one poll takes at most: it shares its thread with the sockets.
_POLL_BYTES: Final = 16 << 20
_POLL_MESSAGES: Final = 100_000
_ASK_S: Final = 1.0
_AGAIN_S: Final = 5.0
_CLOSE_S: Final = 1.5
_GIVEN: Final = ("bootstrap.servers", "group.id")
_FIXED: Final = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Where reading begins is decided here, as librdkafka would pass over messages without a word.
    "auto.offset.reset": "error",
    "partition.assignment.strategy": "cooperative-sticky",
    "group.protocol": "classic",
}
_LOGGER: Final = logging.getLogger(__name__)
# What goes wrong is counted; its log is for those who ask for it.
_LOGGER.addHandler(logging.NullHandler())


@final
class KafkaFeed:
    """Takes the messages of a topic, as one of a group. Brokers that are away are waited for.

    settings: of librdkafka, such as `security.protocol`. piece_bytes: about what lines are put together to.

    Raises: ConfigError, where the address cannot be meant, or a setting is decided by the feed.
    """

    def __init__(
        self,
        address: str,
        settings: Mapping[str, str] | None = None,
        *,
        piece_bytes: int = _PIECE,
        max_message_bytes: int = _MAX_MESSAGE,
    ) -> None:
        self.config = KafkaConfig.of(address)
        self.name = address
        self.tally = Tally()
        self.ended = False
        self._settings = dict(settings or {})
        if own := [name for name in self._settings if name in (*_GIVEN, *_FIXED)]:
            raise ConfigError(f"{address}: {own[0]} is not for the configuration file: the address or the feed sets it")
        self._piece_bytes, self._max_message_bytes = piece_bytes, max_message_bytes
        self._consumer: Consumer | None = None
        # By partition: what comes after all that was taken, and after all that is written.
        self._taken: dict[int, int] = {}
        self._written: dict[int, int] = {}
        self._ours: set[int] = set()
        # Of those that are ours: what the group has stored, or somewhat more.
        self._stored: dict[int, int] = {}
        # Of those: the ones that do not know yet where to begin, and what was asked for in vain.
        self._unplaced: dict[int, int | None] = {}
        self._at_end: set[int] | None = None
        self._again_at = math.inf
        self._fail_at = 0.0
        self._is_lost = False

    def open(self, position: Position | None) -> None:
        """Begin, or go on after a position. Raises: ConfigError, where librdkafka refuses a setting."""
        self.close()
        self._taken = {int(one): int(offset) for one, offset in (position or {}).get("offsets", {}).items()}
        self._written = {}
        # Partitions that come later are new ones: they are read from their beginning, or messages would be missed.
        self._at_end = None if position is None and not self.config.from_start else set()
        self._join()

    def poll(self) -> Iterator[Piece]:
        """Give what has arrived from the brokers; nothing is waited for, but for where to begin (2 s at most)."""
        if time.monotonic() >= self._again_at:
            self._try_again()
        lines: list[bytes] = []
        num_waiting = num_bytes = 0
        for _ in range(_POLL_MESSAGES):
            message = None if self._consumer is None else self._consumer.poll(0)
            if message is None or (message.error() is not None and not self._is_astray(message)):
                break
            if message.error() is not None or self._is_known(message):
                continue
            value, is_lines = self._value(message)
            if lines and (not is_lines or num_waiting + len(value) > self._piece_bytes):
                yield Piece(b"\n".join(lines) + b"\n", self._position())
                lines, num_waiting = [], 0
            partition, offset = _whence(message)
            self._taken[partition] = offset + 1
            if not is_lines:
                yield Piece(value, self._position())
            elif value:
                lines.append(value)
                num_waiting += len(value)
            num_bytes += len(message)
            if num_bytes >= _POLL_BYTES:
                break
        if lines:
            yield Piece(b"\n".join(lines) + b"\n", self._position())

    def acknowledge(self, position: Position) -> None:
        """Store in the group that everything up to a position is written. Called by the thread that polls."""
        self._written.update((int(one), int(offset)) for one, offset in position.get("offsets", {}).items())
        self._store()

    def close(self) -> None:
        """Leave the group, so that others take over at once; no longer than 1.5 s is spent on it."""
        consumer, self._consumer = self._consumer, None
        self._ours, self._stored, self._unplaced = set(), {}, {}
        self._again_at, self._is_lost = math.inf, False
        if consumer is not None:
            # It waits for a coordinator that may be away. Nothing is lost by not waiting.
            leaving = Thread(target=_leave, args=(consumer,), name="thalweg-kafka-close", daemon=True)
            leaving.start()
            leaving.join(_CLOSE_S)

    def _join(self) -> None:
        settings = {
            # A machine that was killed makes the others, and itself when it is back, wait for so long.
            "session.timeout.ms": 10_000,
            "client.id": "thalweg",
            **self._settings,
            **_FIXED,
            "bootstrap.servers": self.config.brokers,
            "group.id": self.config.group,
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
        }
        try:
            consumer = Consumer(settings, logger=_LOGGER)
            consumer.subscribe(
                [self.config.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )
        except (KafkaException, TypeError, ValueError) as error:
            raise ConfigError(f"{self.name}: librdkafka refuses its settings: {_said(error)}") from error
        self._consumer = consumer

    # Called back while the consumer is polled or closed; the default action follows each of the first two.

    def _on_assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        del consumer
        self._ours.update(one.partition for one in partitions)
        if self._at_end is None and partitions:
            self._at_end = set(self._ours)

    def _on_revoke(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        del consumer
        for one in partitions:
            self._ours.discard(one.partition)
            self._stored.pop(one.partition, None)
            self._unplaced.pop(one.partition, None)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # said of each broker before, with the reason
            self._fail(error.str())
        if error.fatal() and self._consumer is not None:
            self._is_lost = True
            self._later()

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        failed = next((found for found in (error, *(one.error for one in partitions)) if found is not None), None)
        if failed is not None:
            self.tally.add("failed_commits", 1, f"{self.name}: {failed.str()}")
            self._later()
        for one in partitions:
            if error is None and one.error is None and one.partition in self._stored:
                self._stored[one.partition] = max(self._stored[one.partition], one.offset)

    # Where reading stands.

    def _is_known(self, message: Message) -> bool:
        """Tell whether a message was taken before, and pass over all that were."""
        partition, offset = _whence(message)
        taken = self._taken.get(partition, 0)
        if partition not in self._stored:
            self._stored[partition] = offset
            if self._written.get(partition, offset) > offset:
                self._again_at = 0.0
            if offset < taken and self._consumer is not None:
                with suppress(KafkaException):  # then they come, and are passed over one by one
                    self._consumer.seek(TopicPartition(self.config.topic, partition, taken))
        return offset < taken

    def _is_astray(self, message: Message) -> bool:
        """Deal with an error; tell whether it was that a partition does not know where to begin."""
        error, partition = cast(KafkaError, message.error()), message.partition()
        if error.code() != KafkaError._AUTO_OFFSET_RESET or partition is None:
            self._on_error(error)
            return False
        if partition in self._ours:
            # Where there are some already, the brokers did not answer just now.
            self._again_at = self._again_at if self._unplaced else 0.0
            self._unplaced[partition] = message.offset()
        return True

    def _place(self) -> None:
        """Begin partitions where the group knows no offset, or where the brokers have nothing at that offset."""
        consumer = self._consumer
        if consumer is None or not self._unplaced:
            return
        try:
            lows, highs = self._offsets(consumer, OFFSET_BEGINNING), self._offsets(consumer, OFFSET_END)
            begins = {one: self._begin(one, lows[one], highs[one]) for one in lows.keys() & highs.keys()}
            consumer.incremental_unassign([TopicPartition(self.config.topic, one) for one in begins])
            consumer.incremental_assign([TopicPartition(self.config.topic, one, at) for one, at in begins.items()])
        except KafkaException as error:
            self._fail(_said(error))
            self._later()
            return
        for partition, at in begins.items():
            del self._unplaced[partition]
            self._stored[partition] = -1
            if at != self._taken.get(partition):
                # Nothing before it is to come; known to the group, the next to have the partition misses nothing.
                self._taken[partition] = self._written[partition] = at
        if self._unplaced:
            self._later()

    def _offsets(self, consumer: Consumer, which: int) -> dict[int, int]:
        """Ask for the first or next offsets of the partitions that do not know where to begin; some may be missing."""
        # Beginning and end are asked for like a time (Kafka protocol, ListOffsets): all partitions at once.
        asked = [TopicPartition(self.config.topic, partition, which) for partition in self._unplaced]
        found = consumer.offsets_for_times(asked, timeout=_ASK_S)
        for one in found:
            if one.error is not None:
                self._fail(f"partition {one.partition}: {one.error.str()}")
        return {one.partition: one.offset for one in found if one.error is None}

    def _begin(self, partition: int, low: int, high: int) -> int:
        """Choose where a partition is read from, and count what is missed."""
        where = f"{self.name}, partition {partition}"
        known = [one for one in (self._taken.get(partition), self._unplaced[partition]) if one is not None]
        if not known:
            return high if partition in (self._at_end or ()) else low
        if max(known) > high:
            self.tally.add("restarted_partitions", 1, where)
            return low
        self.tally.add("expired_messages", low - max(known), where)
        return max(low, *known)

    def _store(self) -> None:
        offsets = [
            TopicPartition(self.config.topic, partition, offset)
            for partition, offset in self._written.items()
            # Never less than the group has, which another machine may have stored.
            if self._stored.get(partition, offset) < offset <= self._taken.get(partition, -1)
        ]
        if not offsets or self._consumer is None:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self.tally.add("failed_commits", 1, f"{self.name}: {_said(error)}")
            self._later()

    def _fail(self, reason: str) -> None:
        """Count that brokers could not be read, once in a while: librdkafka tries many times a second."""
        now = time.monotonic()
        if now >= self._fail_at:
            self.tally.add("failed_readings", 1, f"{self.name}: {reason}")
            self._fail_at = now + _AGAIN_S

    def _later(self) -> None:
        self._again_at = min(self._again_at, time.monotonic() + _AGAIN_S)

    def _try_again(self) -> None:
        """Do what could not be done before."""
        self._again_at = math.inf
        if self._is_lost:
            self.close()
            self._join()
        self._place()
        self._store()

    def _position(self) -> Position:
        return {"topic": self.config.topic, "offsets": {str(one): offset for one, offset in self._taken.items()}}

    def _value(self, message: Message) -> tuple[bytes, bool]:
        """Return what a message says, empty where it is left out; and whether that is lines of JSON."""
        value = message.value()
        where = "{}, partition {}, offset {}".format(self.name, *_whence(message))
        if not value:
            self.tally.add("empty_messages", 1, where)
        elif len(value) > self._max_message_bytes:
            self.tally.add("oversized_messages", 1, where)
        elif value.startswith(MAGICS):
            if self.config.format in ("auto", "arrow"):
                return value, False
            self.tally.add("other_messages", 1, where)
        elif self.config.format != "arrow" and (lines := json_lines(value)) is not None:
            return lines, True
        else:
            self.tally.add("other_messages", 1, where)
        return b"", True


def _whence(message: Message) -> tuple[int, int]:
    return cast(int, message.partition()), cast(int, message.offset())


def _leave(consumer: Consumer) -> None:
    with suppress(KafkaException, RuntimeError):
        consumer.close()


def _said(error: BaseException) -> str:
    first = error.args[0] if error.args else error
    return first.str() if isinstance(first, KafkaError) else str(first)
