"""A Kafka topic -> pieces: JSON messages as lines, or one Arrow message.

A message that was taken before is not taken again, and a group's offsets are committed only once flows are written. So
a kill loses nothing. If a partition passes to another machine, that one reads again what this one had not written.

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
# What one poll takes at most: other feeds share its thread.
_POLL_BYTES: Final = 16 << 20
_POLL_MESSAGES: Final = 100_000
_ASK_S: Final = 1.0
_RETRY_S: Final = 5.0
_CLOSE_S: Final = 1.5
_FROM_ADDRESS: Final = ("bootstrap.servers", "group.id")
_FIXED: Final = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # The feed itself decides where reading starts: librdkafka would skip messages silently.
    "auto.offset.reset": "error",
    "partition.assignment.strategy": "cooperative-sticky",
    "group.protocol": "classic",
}
_LOGGER: Final = logging.getLogger(__name__)
# Errors are counted; librdkafka's log is for those who configure it.
_LOGGER.addHandler(logging.NullHandler())


@final
class KafkaFeed:
    """Takes the messages of a topic as a member of a group. Waits for brokers that are unreachable.

    settings: of librdkafka, such as `security.protocol`. piece_bytes: about how many bytes of lines make a piece.

    Raises ConfigError if the address cannot be understood, or if the feed itself decides a setting.
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
        if own := [name for name in self._settings if name in (*_FROM_ADDRESS, *_FIXED)]:
            raise ConfigError(f"{address}: {own[0]} is not for the configuration file: the address or the feed sets it")
        self._piece_bytes, self._max_message_bytes = piece_bytes, max_message_bytes
        self._consumer: Consumer | None = None
        # By partition: the offset after all that was taken, and after all that is written.
        self._taken: dict[int, int] = {}
        self._written: dict[int, int] = {}
        self._assigned: set[int] = set()
        # Of assigned partitions: the offset that the group has committed, or somewhat more.
        self._committed: dict[int, int] = {}
        # Of assigned partitions without a valid offset: the offset that was requested in vain.
        self._without_offset: dict[int, int | None] = {}
        self._at_end: set[int] | None = None
        self._retry_at = math.inf
        self._fail_at = 0.0
        self._is_lost = False

    def open(self, position: Position | None) -> None:
        """Start, or continue after a position. Raises ConfigError if librdkafka refuses a setting."""
        self.close()
        self._taken = {int(one): int(offset) for one, offset in (position or {}).get("offsets", {}).items()}
        self._written = {}
        # Partitions that appear later are new: they are read from their start, or messages would be missed.
        self._at_end = None if position is None and not self.config.from_start else set()
        self._join()

    def poll(self) -> Iterator[Piece]:
        """Yield what has arrived from the brokers. Waits only for start offsets (2 s at most)."""
        if time.monotonic() >= self._retry_at:
            self._retry()
        lines: list[bytes] = []
        num_waiting = num_bytes = 0
        for _ in range(_POLL_MESSAGES):
            message = None if self._consumer is None else self._consumer.poll(0)
            if message is None or (message.error() is not None and not self._lacks_offset(message)):
                break
            if message.error() is not None or self._was_taken(message):
                continue
            value, is_lines = self._value(message)
            if lines and (not is_lines or num_waiting + len(value) > self._piece_bytes):
                yield Piece(b"\n".join(lines) + b"\n", self._position())
                lines, num_waiting = [], 0
            partition, offset = _partition_and_offset(message)
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
        """Commit to the group that all flows up to a position are written. Called by the thread that polls."""
        self._written.update((int(one), int(offset)) for one, offset in position.get("offsets", {}).items())
        self._commit()

    def close(self) -> None:
        """Leave the group, so that others take over at once; takes at most 1.5 s."""
        consumer, self._consumer = self._consumer, None
        self._assigned, self._committed, self._without_offset = set(), {}, {}
        self._retry_at, self._is_lost = math.inf, False
        if consumer is not None:
            # It waits for a coordinator that may be unreachable. Nothing is lost if it cannot finish.
            leaving = Thread(target=_leave, args=(consumer,), name="thalweg-kafka-close", daemon=True)
            leaving.start()
            leaving.join(_CLOSE_S)

    def _join(self) -> None:
        settings = {
            # After a machine was killed, the others wait for so long, and so does itself when it is back.
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
            raise ConfigError(f"{self.name}: librdkafka refuses its settings: {_reason(error)}") from error
        self._consumer = consumer

    # Called by librdkafka while the consumer is polled or closed; the default action follows the first two.

    def _on_assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        del consumer
        self._assigned.update(one.partition for one in partitions)
        if self._at_end is None and partitions:
            self._at_end = set(self._assigned)

    def _on_revoke(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        del consumer
        for one in partitions:
            self._assigned.discard(one.partition)
            self._committed.pop(one.partition, None)
            self._without_offset.pop(one.partition, None)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # reported for each broker before, with the reason
            self._fail(error.str())
        if error.fatal() and self._consumer is not None:
            self._is_lost = True
            self._retry_soon()

    def _on_commit(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        failed = next((found for found in (error, *(one.error for one in partitions)) if found is not None), None)
        if failed is not None:
            self.tally.add("failed_commits", 1, f"{self.name}: {failed.str()}")
            self._retry_soon()
        for one in partitions:
            if error is None and one.error is None and one.partition in self._committed:
                self._committed[one.partition] = max(self._committed[one.partition], one.offset)

    # Offsets.

    def _was_taken(self, message: Message) -> bool:
        """Return whether a message was taken before; if so, skip all that were."""
        partition, offset = _partition_and_offset(message)
        taken = self._taken.get(partition, 0)
        if partition not in self._committed:
            self._committed[partition] = offset
            if self._written.get(partition, offset) > offset:
                self._retry_at = 0.0
            if offset < taken and self._consumer is not None:
                with suppress(KafkaException):  # then they come, and are skipped one by one
                    self._consumer.seek(TopicPartition(self.config.topic, partition, taken))
        return offset < taken

    def _lacks_offset(self, message: Message) -> bool:
        """Handle an error. Returns whether the error is that a partition has no valid offset."""
        error, partition = cast(KafkaError, message.error()), message.partition()
        if error.code() != KafkaError._AUTO_OFFSET_RESET or partition is None:
            self._on_error(error)
            return False
        if partition in self._assigned:
            # If some already wait for one, the brokers did not answer just now.
            self._retry_at = self._retry_at if self._without_offset else 0.0
            self._without_offset[partition] = message.offset()
        return True

    def _choose_offsets(self) -> None:
        """Choose offsets for partitions for which the group has none, or one at which the brokers have nothing."""
        consumer = self._consumer
        if consumer is None or not self._without_offset:
            return
        try:
            lows, highs = self._offsets(consumer, OFFSET_BEGINNING), self._offsets(consumer, OFFSET_END)
            starts = {one: self._start_offset(one, lows[one], highs[one]) for one in lows.keys() & highs.keys()}
            consumer.incremental_unassign([TopicPartition(self.config.topic, one) for one in starts])
            consumer.incremental_assign([TopicPartition(self.config.topic, one, at) for one, at in starts.items()])
        except KafkaException as error:
            self._fail(_reason(error))
            self._retry_soon()
            return
        for partition, at in starts.items():
            del self._without_offset[partition]
            self._committed[partition] = -1
            if at != self._taken.get(partition):
                # Nothing before it will come. Committed, it keeps the partition's next owner from missing anything.
                self._taken[partition] = self._written[partition] = at
        if self._without_offset:
            self._retry_soon()

    def _offsets(self, consumer: Consumer, which: int) -> dict[int, int]:
        """Ask for the first or next offsets of the partitions that have no valid one; some may be missing."""
        # Start and end are requested like a time (Kafka protocol, ListOffsets): all partitions at once.
        asked = [TopicPartition(self.config.topic, partition, which) for partition in self._without_offset]
        found = consumer.offsets_for_times(asked, timeout=_ASK_S)
        for one in found:
            if one.error is not None:
                self._fail(f"partition {one.partition}: {one.error.str()}")
        return {one.partition: one.offset for one in found if one.error is None}

    def _start_offset(self, partition: int, low: int, high: int) -> int:
        """Choose the offset from which a partition is read, and count what is missed."""
        where = f"{self.name}, partition {partition}"
        known = [one for one in (self._taken.get(partition), self._without_offset[partition]) if one is not None]
        if not known:
            return high if partition in (self._at_end or ()) else low
        if max(known) > high:
            self.tally.add("restarted_partitions", 1, where)
            return low
        self.tally.add("expired_messages", low - max(known), where)
        return max(low, *known)

    def _commit(self) -> None:
        offsets = [
            TopicPartition(self.config.topic, partition, offset)
            for partition, offset in self._written.items()
            # Never less than the group has: another machine may have committed more.
            if self._committed.get(partition, offset) < offset <= self._taken.get(partition, -1)
        ]
        if not offsets or self._consumer is None:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self.tally.add("failed_commits", 1, f"{self.name}: {_reason(error)}")
            self._retry_soon()

    def _fail(self, reason: str) -> None:
        """Count that brokers could not be read, at most once in 5 s: librdkafka retries many times a second."""
        now = time.monotonic()
        if now >= self._fail_at:
            self.tally.add("failed_readings", 1, f"{self.name}: {reason}")
            self._fail_at = now + _RETRY_S

    def _retry_soon(self) -> None:
        self._retry_at = min(self._retry_at, time.monotonic() + _RETRY_S)

    def _retry(self) -> None:
        """Retry what failed before."""
        self._retry_at = math.inf
        if self._is_lost:
            self.close()
            self._join()
        self._choose_offsets()
        self._commit()

    def _position(self) -> Position:
        return {"topic": self.config.topic, "offsets": {str(one): offset for one, offset in self._taken.items()}}

    def _value(self, message: Message) -> tuple[bytes, bool]:
        """Return a message's content, empty if it is left out; and whether it is lines of JSON."""
        value = message.value()
        where = "{}, partition {}, offset {}".format(self.name, *_partition_and_offset(message))
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


def _partition_and_offset(message: Message) -> tuple[int, int]:
    return cast(int, message.partition()), cast(int, message.offset())


def _leave(consumer: Consumer) -> None:
    with suppress(KafkaException, RuntimeError):
        consumer.close()


def _reason(error: BaseException) -> str:
    first = error.args[0] if error.args else error
    return first.str() if isinstance(first, KafkaError) else str(first)
