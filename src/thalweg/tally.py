"""Counts of what was dropped, changed or doubted, under names a person can look up (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

MEANINGS: Final[dict[str, str]] = {
    "malformed_rows": "rows left out: a needed field is missing, negative or not a number",
    "wrapped_durations": "durations above 4,290,000 ms read as 0: a 32-bit counter that ran below zero",
    "unset_as_zero": "rows whose unset duration or bytes were read as 0",
    "unreadable_values": "values of other columns that did not fit the column's type, read as empty",
    "undecodable_text": "characters that are not UTF-8, read as the sign \ufffd",
    "late_columns": "columns first seen deep inside a JSON-lines file, left out of the result",
    "empty_files": "files without any flow, passed over because others had flows",
    "other_events": "lines about something else than a flow, left out",
    "no_data_rows": "rows that say that nothing was seen or recorded, left out",
    "vanished_files": "files that were gone before they had been read to their end",
    "unreadable_files": "files that are damaged, or hold something else than flows",
    "changed_files": "files that had been read and have changed since; read again as a whole",
    "truncated_logs": "logs that were cut while they were followed; lines not read by then are lost",
    "unfinished_lines": "last lines of finished logs that have no end, left out",
    "overlong_lines": "lines of more than 64 MiB in a followed log, left out",
    "unreadable_pieces": "pieces of a feed that could not be read at all",
    "unlabelled_flows": "flows whose label is missing or unreadable, left out of the judging",
    "late_flows": "flows older than the window they arrived in",
    "renamed_columns": "input columns renamed because the result has a column of that name",
    "early_unpaired": "records given out alone before their time, as too many waited for a partner",
    "unpaired_records": "records given out alone: no partner came in time",
    "joined_pieces": "records joined to the earlier piece of their flow, which still waited for a partner",
    "duplicate_flows": "records left out: another observer had reported the flow",
    "repeated_records": "records left out: the same observer had sent the very same before",
    "continued_flows": "flows of which an earlier piece had been given out",
    "turned_round": "records of an answer given out with source and destination changed over, as its flow was opened",
    "short_datagrams": "datagrams too short for any header",
    "unknown_versions": "datagrams that are neither NetFlow v5, v9 nor IPFIX",
    "truncated_datagrams": "datagrams shorter than they claim; what is whole in them was read",
    "malformed_sets": "sets in datagrams that do not say how long they are",
    "malformed_templates": "templates that do not say what they claim",
    "oversized_templates": "templates with more than 1,024 fields",
    "refused_templates": "templates beyond what one exporter may have, or sets of them beyond what one datagram may",
    "forgotten_templates": "templates of one exporter that had to make room for those of others",
    "refused_samplers": "samplers beyond what one exporter may have",
    "forgotten_samplers": "samplers of one exporter that had to make room for those of others",
    "broken_records": "sets that end within a record; the records before it were read",
    "expired_templates": "templates that had not come again for their lifetime",
    "reserved_sets": "sets with an id that has no meaning",
    "sets_without_template": "sets of records whose template did not come in time",
    "other_records": "records that are no flows: no addresses, or no bytes",
    "event_records": "records of a firewall about flows that have only begun",
    "forgotten_exporters": "exporters that had to make room for others",
    "refused_datagrams": "datagrams from networks that --allow does not name",
    "kernel_drops": "datagrams that found the socket's buffer full",
    "unspooled_datagrams": "datagrams that could not be put into the spool: its disk was full",
    "dropped_datagrams": "datagrams that had to leave the full spool unread",
    "dropped_pieces": "pieces of files that had to leave the full spool unread",
    "dropped_flows": "flows in dropped datagrams, as far as their headers say (v5)",
    "undecodable_datagrams": "datagrams that the decoder failed at, by our mistake: please report what it printed",
    "clock_steps": "times that this machine's clock was set back: what waited was given out",
    "windows_read_otherwise": "windows that were not the same when read again after a kill: flows may have come twice",
    "failed_writes": "times that the spool could not be written; receiving went on when it could",
    "failed_readings": "times that a source could not be read for now; it was tried again",
    "missing_segments": "segments of the spool that somebody removed",
    "damaged_segments": "segments of the spool with an end that could not be read: a kill, a full disk or power loss",
    "passed_over_files": "files of exports that came, or grew, after a file with a later name had been read; left out",
    "empty_messages": "Kafka messages without content, left out",
    "oversized_messages": "Kafka messages of more than 32 MiB, left out",
    "other_messages": "Kafka messages that are neither JSON nor Arrow, or not what format= says; left out",
    "expired_messages": "Kafka messages that the brokers had removed before they were read",
    "restarted_partitions": "Kafka partitions that were cut or made anew; read from their beginning",
    "failed_commits": "times that a Kafka group could not be told what is written; it was tried again",
    "damaged_files": "files that end early or are damaged inside; what could be read of them was",
    "reversed_times": "records whose end lay before their begin: read the other way round, or as 0 ms if a day or more",
    "truncated_packets": "packets and messages that a file holds in part only",
    "fragmented_packets": "IP fragments left out: not all pieces of their datagram came",
    "other_packets": "packets left out that carry no NetFlow or IPFIX",
}
"""Every name a count can have, and what it means. A new count is added here first."""


@final
class Tally:
    """Named counts with the first place each was seen."""

    __slots__ = ("_counts", "_first")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, name: str, num: int = 1, first: str = "") -> None:
        """Count `num` more under `name`; `first` says where the first of them is."""
        if name not in MEANINGS:
            raise KeyError(f"no count named {name!r}: add it to MEANINGS")
        if num <= 0:
            return
        self._counts[name] = self._counts.get(name, 0) + num
        if first:
            self._first.setdefault(name, first)

    def merge(self, other: Tally) -> None:
        """Add all of `other`'s counts to these."""
        for name, num in other:
            self.add(name, num, other._first.get(name, ""))

    def __getitem__(self, name: str) -> int:
        return self._counts.get(name, 0)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._counts.items())

    def __bool__(self) -> bool:
        return bool(self._counts)

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name, for machines."""
        return dict(self._counts)

    def lines(self) -> list[str]:
        """Return one sentence per count, for people."""
        return [
            f"{num:,} {MEANINGS[name]}" + (f" (first: {self._first[name]})" if name in self._first else "")
            for name, num in self
        ]
