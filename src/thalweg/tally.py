"""Named counts of what was dropped, changed or is doubtful; docs/formats.md and docs/live.md explain each name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

MEANINGS: Final[dict[str, str]] = {
    "malformed_rows": "rows left out: a needed field is missing, negative or not a number",
    "wrapped_durations": "durations above 4,290,000 ms, read as 0: a 32-bit counter wrapped below zero",
    "unset_as_zero": "rows whose unset duration or bytes were read as 0",
    "unreadable_values": "values of other columns that do not fit the column's type, read as empty",
    "corrected_times": "flows with impossible or incomplete times, read with a duration of 0 or the time of receipt",
    "named_hosts": "flows of which a host is a name, and not an address",
    "unread_columns": "columns of Parquet or Arrow of a type that cannot be read, left out of the result",
    "undecodable_text": "characters that are not UTF-8, read as \ufffd",
    "late_columns": "columns that first occur deep inside a JSON-lines file, left out of the result",
    "empty_files": "files without any flow, skipped",
    "other_events": "lines about something other than a flow, left out",
    "no_data_rows": "rows that report that nothing was seen or recorded, left out",
    "vanished_files": "files that disappeared before they were read to the end",
    "unreadable_files": "files that cannot be read, are damaged or hold something other than flows",
    "changed_files": "files that changed after they had been read; they are read again from the start",
    "truncated_logs": "logs truncated while they were followed; lines not read before that are lost",
    "unfinished_lines": "last lines of finished logs that have no newline, left out",
    "overlong_lines": "lines of more than 64 MiB in a followed log, left out",
    "unlabelled_flows": "flows left out of the evaluation: their label is missing or unreadable",
    "late_flows": "flows older than the window they arrived in",
    "guarded_cells": "cells of the CSV output that got a ' in front: a spreadsheet would compute text that begins so",
    "renamed_columns": "input columns renamed because the result has a column of that name",
    "early_unpaired": "records emitted unpaired before their time was up: too many were waiting for a partner",
    "unpaired_records": "records emitted unpaired: no partner came in time",
    "joined_pieces": "records merged into an earlier piece of their flow that was still waiting for a partner",
    "duplicate_flows": "records left out: another observer had already reported the flow",
    "repeated_records": "records left out: the same observer had already sent an identical one",
    "translated_destinations": "records whose destination was replaced by the host behind the exporter's NAT",
    "reduced_totals": "records of totals from which what their flow had reported before was subtracted",
    "repeated_totals": "records of totals left out: nothing was added since their flow was reported last",
    "forgotten_totals": "flows with totals dropped to make room: if they are reported again, it is counted as new",
    "continued_flows": "flows of which an earlier piece had already been emitted",
    "turned_round": "unpaired responses emitted with source and destination swapped: the source is the initiator",
    "short_datagrams": "datagrams too short for a header",
    "unknown_versions": "datagrams that are neither NetFlow v5, v9 nor IPFIX",
    "truncated_datagrams": "datagrams shorter than their lengths or counts state; what is complete in them was read",
    "malformed_sets": "datagrams with a set that states an impossible length",
    "malformed_templates": "sets with templates that are incomplete or contradict themselves",
    "oversized_templates": "sets with a template of more than 1,024 fields",
    "refused_templates": "templates, or sets of them, beyond the limit of one exporter or of one datagram",
    "forgotten_templates": "templates of one exporter dropped to make room for those of others",
    "refused_samplers": "samplers beyond the limit of one exporter",
    "disbelieved_intervals": "sampling intervals that are too large, as in the wrong byte order; taken as not reported",
    "ignored_withdrawals": "withdrawals of IPFIX templates over UDP, which no exporter sends (RFC 7011 section 8.4)",
    "forgotten_samplers": "samplers of one exporter dropped to make room for those of others",
    "broken_records": "sets that end within a record; the records before it were read",
    "expired_templates": "templates dropped because their exporter did not repeat them within their lifetime",
    "reserved_sets": "sets with a reserved id, which has no meaning",
    "skipped_sets": "sets skipped: their sender had taken its share of the decoder's time",
    "sets_without_template": "data sets dropped: their template did not come in time, or too many sets were waiting",
    "other_records": "records that are not flows: they have no addresses or no bytes",
    "event_records": "records of a firewall about flows that have only begun, left out",
    "misdated_packets": "packets captured by a clock more than a day off their exporter's, which was believed",
    "forgotten_exporters": "exporters dropped to make room for others",
    "refused_datagrams": "datagrams from networks that --allow does not name",
    "kernel_drops": "datagrams dropped by the kernel: the socket's buffer was full",
    "unspooled_datagrams": "datagrams that could not be written to the spool: its disk was full",
    "dropped_datagrams": "datagrams removed from the full spool before they were read",
    "dropped_pieces": "pieces of files removed from the full spool before they were read",
    "dropped_flows": "flows in dropped datagrams, as far as their headers state them (v5)",
    "quarantined_datagrams": "datagrams that could not be decoded, set aside in the spool's quarantine/: please report",
    "quarantined_pieces": "pieces of a log, folder or topic that could not be read, set aside in quarantine/",
    "quarantined_flows": "flows that could not be scored or written, set aside in quarantine/: please report",
    "unkept_quarantine": "times that quarantine/ was full or could not be written: what was to go there is lost",
    "clock_steps": "times that this machine's clock was set back; waiting records were emitted",
    "windows_read_otherwise": "windows that differed when read again after a crash: flows may have been written twice",
    "failed_writes": "times that the spool could not be written; receiving resumed when it could",
    "failed_readings": "times that a source could not be read for now; it is retried",
    "missing_segments": "segments of the spool that somebody removed",
    "damaged_segments": "segments of the spool whose end is unreadable: a crash, a full disk or power loss",
    "damaged_datagrams": "datagrams in the unreadable ends of segments, as far as later marks state them",
    "passed_over_files": "files of exports skipped: they came, or grew, after a file with a later name had been read",
    "empty_messages": "Kafka messages without content, left out",
    "oversized_messages": "Kafka messages of more than 32 MiB, left out",
    "other_messages": "Kafka messages that are neither JSON nor Arrow, or not in the format named by format=; left out",
    "expired_messages": "Kafka messages that the brokers removed before they were read",
    "restarted_partitions": "Kafka partitions that were truncated or recreated; read from their beginning",
    "failed_commits": "times that offsets could not be committed to a Kafka group; it is retried",
    "damaged_files": "files that end early or are damaged inside; what could be read of them was read",
    "reversed_times": "records that end before they start: times swapped, or read as 0 ms if a day or more apart",
    "truncated_packets": "packets and messages of which a file holds only a part",
    "fragmented_packets": "IP fragments left out: other fragments of their datagram are missing",
    "other_packets": "packets left out that carry no NetFlow or IPFIX",
}
"""Every name that a count can have, and what it counts. Declare a new count here first."""


@final
class Tally:
    """Counts by name, each with the place where the first one was found."""

    __slots__ = ("_counts", "_first")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, name: str, num: int = 1, first: str = "") -> None:
        """Add `num` to the count `name`; `first` is the place of the first of them.

        Raises KeyError if MEANINGS does not declare the name.
        """
        if name not in MEANINGS:
            raise KeyError(f"no count named {name!r}: add it to MEANINGS")
        if num <= 0:
            return
        self._counts[name] = self._counts.get(name, 0) + num
        if first:
            self._first.setdefault(name, first)

    def merge(self, other: Tally) -> None:
        """Add the counts of `other` to these."""
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
