"""The compiled pass over records, in order of arrival, that makes the biflows of `Pairing`.

`table.py` describes the arrays, the key of a conversation and the direction of a record in it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from thalweg.ingest.pairing import table as memory
from thalweg.ingest.pairing.initiator import (
    EXPORTER,
    UNKNOWN,
    icmp_role,
    icmp_subject,
    initiator_of_one,
    initiator_of_pair,
    memory_key,
)
from thalweg.ingest.pairing.table import (
    AFTER,
    CLOCK,
    DEDUPLICATE,
    EMITTED_FLAGS,
    EMITTED_HASH,
    END,
    EVIDENCE,
    FAR,
    FINGERPRINT,
    HASH,
    HELD_SINCE,
    HOLD,
    IDLE,
    INITIATOR,
    LAST_FINGERPRINT,
    MAX_CHAIN_STEPS,
    MAX_HELD,
    NEWER,
    NO_OBSERVER,
    NUM_HELD,
    NUM_OUT,
    OBSERVER,
    OLDEST,
    PAIR,
    TOLERANCE,
    compiled_without_refcounts,
)  # fmt: skip

PREFETCH: Final = 128  # records whose memory is loaded together


@compiled_without_refcounts
def pair_records(
    records: Any, now: Any, flush: Any, scalars: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any,
    out: Any, hashes: Any,
) -> None:  # fmt: skip
    """Pair records, then advance the clock to `now`, microseconds; with `flush`, emit all held records.

    out: written from row scalars[NUM_OUT] on; has a row for each new and each held record. hashes: (PREFETCH,) int64,
    overwritten.
    """
    for begin in range(0, len(records), PREFETCH):
        end = min(begin + PREFETCH, len(records))
        # Storing the sum keeps the compiler from dropping the loads.
        scalars[memory.PREFETCHED] += _prefetch(records[begin:end], hashes, scalars, rows, links, heads, sets, table)
        for i in range(begin, end):
            scalars[CLOCK] = max(scalars[CLOCK], memory.clamped_time(records[i]["arrival_us"]))
            _emit_expired(scalars[CLOCK] - scalars[HOLD], scalars, rows, links, heads, sets, table, out)
            _pair_one(records[i], scalars, rows, links, heads, sets, table, out)
    scalars[CLOCK] = max(scalars[CLOCK], now)
    _emit_expired(2 * FAR if flush else scalars[CLOCK] - scalars[HOLD], scalars, rows, links, heads, sets, table, out)


@compiled_without_refcounts
def _prefetch(records: Any, hashes: Any, scalars: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any) -> Any:
    # Loads the memory that the next records need, all at once; one after another, each record would wait for it.
    total = np.int64(0)
    for i in range(len(records)):
        key, _ = memory.key_of(records[i])
        hashes[i] = memory.hash_of(key)
        total += np.int64(sets[memory.set_of(sets, hashes[i]), 0]) + heads[hashes[i] & (len(heads) - 1)]
    for i in range(len(records)):
        total += _load_row(table, memory.row_for(scalars, sets, hashes[i]))
        at = heads[hashes[i] & (len(heads) - 1)]
        if at >= 0:
            total += links[at, HASH] + np.int64(rows[at]["src_lo"]) + np.int64(rows[at]["tcp_flags"])
    # As many held records may be emitted, by age or to make room.
    last = memory.clamped_time(records[-1]["arrival_us"]) - scalars[HOLD]
    at, num = scalars[OLDEST], 0
    while (
        num < len(records)
        and at >= 0
        and (links[at, HELD_SINCE] < last or scalars[NUM_HELD] + len(records) - num > scalars[MAX_HELD])
    ):
        hashes[num] = links[at, HASH]
        total += np.int64(sets[memory.set_of(sets, hashes[num]), 0]) + np.int64(rows[at]["src_lo"])
        at = links[at, NEWER]
        num += 1
    for i in range(num):
        total += _load_row(table, memory.row_for(scalars, sets, hashes[i]))
    return total


@compiled_without_refcounts
def _load_row(table: Any, row: Any) -> Any:
    # One word of each cache line, 64 bytes.
    return table[row, 0] + table[row, 8] + table[row, 16]


@compiled_without_refcounts
def _emit_expired(
    before: Any, scalars: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any, out: Any
) -> None:
    # Emits the records held since before the time `before`.
    while scalars[NUM_HELD] > 0 and links[scalars[OLDEST], HELD_SINCE] < before:
        _emit_oldest(scalars, rows, links, heads, sets, table, out)
        scalars[memory.UNPAIRED] += 1


@compiled_without_refcounts
def _emit_oldest(scalars: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any, out: Any) -> None:
    at = scalars[OLDEST]
    memory.unlink(scalars, links, heads, at)
    key, direction = memory.key_of(rows[at])
    _emit_unpaired(rows[at], key, direction, links[at, HASH], links[at, FINGERPRINT], scalars, sets, table, out)


@compiled_without_refcounts
def _pair_one(record: Any, scalars: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any, out: Any) -> None:
    key, direction = memory.key_of(record)
    hash_, fingerprint = memory.hash_of(key), memory.fingerprint_of(record)
    start, end = memory.span_of(record)
    flags, observer, subject = np.int64(record["tcp_flags"]), memory.observer_of(record), icmp_subject(record)
    known_key, known_hash = memory_key(record, key, direction, hash_)
    known = memory.find(sets, table, known_key, known_hash)

    if known >= 0 and scalars[DEDUPLICATE]:
        if table[known, LAST_FINGERPRINT + direction] == fingerprint:
            scalars[memory.REPEATED] += 1
            return
        others = table[known, OBSERVER + direction] != observer
        if others and memory.is_covered(table, known, direction, start, end, scalars[TOLERANCE]):
            nothing_backward = not record["two_way"] or (record["bwd_bytes"] == 0 and record["bwd_packets"] == 0)
            if nothing_backward or memory.is_covered(table, known, 1 - direction, start, end, scalars[TOLERANCE]):
                scalars[memory.DUPLICATE] += 1
                return
    if record["two_way"] or not scalars[PAIR] or memory.is_to_group(record):
        _emit_unpaired(record, key, direction, hash_, fingerprint, scalars, sets, table, out)
        return

    piece, partner, is_known = _search(
        record, key, direction, hash_, fingerprint, start, end, flags, observer, subject, scalars, rows, links, heads
    )
    if is_known:
        return
    if piece >= 0:
        memory.merge(rows[piece], record)
        links[piece, FINGERPRINT] = fingerprint
        scalars[memory.JOINED] += 1
        return
    if partner >= 0:
        memory.unlink(scalars, links, heads, partner)
        _emit_pair(
            rows[partner], links[partner, FINGERPRINT], record, fingerprint, key, direction, hash_,
            scalars, sets, table, out,
        )  # fmt: skip
        return
    if known >= 0 and memory.continues(table, known, record["protocol"], start, end, flags, scalars[IDLE]):
        # Its partner has been emitted. Only what lies after the last piece of this direction is new.
        new = start
        if table[known, OBSERVER + direction] != NO_OBSERVER and start < table[known, END + direction] < end:
            new = table[known, END + direction]
        if memory.is_covered(table, known, 1 - direction, new, end, np.int64(0)):
            _emit_unpaired(record, key, direction, hash_, fingerprint, scalars, sets, table, out)
            return
    while scalars[NUM_HELD] >= scalars[MAX_HELD]:
        _emit_oldest(scalars, rows, links, heads, sets, table, out)
        scalars[memory.EARLY_UNPAIRED] += 1
    memory.hold(scalars, rows, links, heads, record, hash_, fingerprint)


@compiled_without_refcounts
def _search(
    record: Any, key: Any, direction: Any, hash_: Any, fingerprint: Any, start: Any, end: Any, flags: Any,
    observer: Any, subject: Any, scalars: Any, rows: Any, links: Any, heads: Any,
) -> Any:  # fmt: skip
    # Returns the held record that is an earlier piece and the one that is the partner, each −1 if there is none, and
    # whether the record is a duplicate.
    piece, partner = np.int64(-1), np.int64(-1)
    partner_rank, partner_gap, partner_off = np.int64(2), np.int64(0), np.int64(0)
    protocol, tolerance = record["protocol"], scalars[TOLERANCE]
    # If ports are in the key, an observer sees one flow per key at a time; else any number.
    one_per_key = memory.has_ports(protocol)
    at, steps = np.int64(heads[hash_ & (len(heads) - 1)]), 0
    while at >= 0 and steps < MAX_CHAIN_STEPS:
        here = at
        at = links[here, AFTER]
        steps += 1
        if links[here, HASH] != hash_:
            continue
        other = rows[here]
        other_key, other_direction = memory.key_of(other)
        if other_key != key:
            continue
        other_start, other_end = memory.span_of(other)
        gap = max(max(start, other_start) - min(end, other_end), 0)
        if other_direction == direction and memory.observer_of(other) != observer:
            alike = icmp_subject(other) == subject
            if scalars[DEDUPLICATE] and alike and memory.covers(start, end, other_start, other_end, tolerance):
                scalars[memory.DUPLICATE] += 1
                return piece, partner, True
        elif other_direction == direction:
            if scalars[DEDUPLICATE] and links[here, FINGERPRINT] == fingerprint:
                scalars[memory.REPEATED] += 1
                return piece, partner, True
            near = (
                one_per_key
                and gap <= scalars[IDLE]
                and not memory.are_separate(protocol, start, end, flags, other, np.int64(0))
            )
            if near and piece < 0:
                piece = here
        elif gap <= scalars[IDLE] and not memory.are_separate(protocol, start, end, flags, other, tolerance):
            # Two pings that cross are two flows; a request is paired with its reply before any other message.
            both_request = icmp_role(protocol, other["dst_port"]) * icmp_role(protocol, record["dst_port"]) > 0
            rank, off = np.int64(icmp_subject(other) != subject), abs(start - other_start)
            # Of equals the oldest wins, which comes last in the chain.
            if not both_request and (rank, gap, off) <= (partner_rank, partner_gap, partner_off):
                partner, partner_rank, partner_gap, partner_off = here, rank, gap, off
    return piece, partner, False


@compiled_without_refcounts
def _remember(
    key: Any, hash_: Any, start: Any, end: Any, flags: Any, initiator: Any, evidence: Any, scalars: Any, sets: Any,
    table: Any,
) -> Any:  # fmt: skip
    # Returns the row of the conversation that is being emitted, a new one if it has none, and whether an earlier piece
    # of the flow has been emitted.
    row = memory.find(sets, table, key, hash_)
    continued = row >= 0 and memory.continues(table, row, key[4] >> 32, start, end, flags, scalars[IDLE])
    if row < 0:
        row = memory.claim(scalars, sets, hash_)
        for word in range(5):
            table[row, word] = key[word]
        table[row, EMITTED_HASH] = hash_
        table[row, LAST_FINGERPRINT], table[row, LAST_FINGERPRINT + 1] = 0, 0
        table[row, OBSERVER], table[row, OBSERVER + 1] = NO_OBSERVER, NO_OBSERVER
    elif not continued:
        first, last = memory.emitted_span(table, row)
        if max(start, first) - min(end, last) > scalars[IDLE]:
            table[row, OBSERVER], table[row, OBSERVER + 1] = NO_OBSERVER, NO_OBSERVER
    if continued:
        table[row, EMITTED_FLAGS] |= flags
        scalars[memory.CONTINUED] += 1
    else:
        # A reopened connection keeps the time covered: another observer may yet report the connection before it.
        table[row, EMITTED_FLAGS], table[row, INITIATOR], table[row, EVIDENCE] = flags, initiator, evidence
    memory.touch(scalars, sets, row)
    return row, continued


@compiled_without_refcounts
def _emit_unpaired(
    record: Any, key: Any, direction: Any, hash_: Any, fingerprint: Any, scalars: Any, sets: Any, table: Any, out: Any
) -> None:
    start, end = memory.span_of(record)
    key, hash_ = memory_key(record, key, direction, hash_)
    side, evidence = initiator_of_one(record)
    if record["two_way"]:
        side, evidence = 1, evidence if record["initiator"] != UNKNOWN else np.int64(EXPORTER)
    elif side < 0 and memory.is_to_group(record):
        side, evidence = 0, np.int64(UNKNOWN)
    initiator = 1 - direction if side < 0 else direction
    row, continued = _remember(
        key, hash_, start, end, np.int64(record["tcp_flags"]), initiator, evidence, scalars, sets, table
    )
    emitted = out[scalars[NUM_OUT]]
    out[scalars[NUM_OUT]] = record
    scalars[NUM_OUT] += 1
    if continued:
        # Without pairing, the first record of the opposite direction is not a later piece of this one.
        if scalars[PAIR] or table[row, OBSERVER + direction] != NO_OBSERVER:
            emitted["continued"] = 1
        else:
            scalars[memory.CONTINUED] -= 1
        if not record["two_way"]:
            initiator, evidence = table[row, INITIATOR], table[row, EVIDENCE]
    if initiator != direction:
        memory.swap(emitted)
        scalars[memory.SWAPPED] += 1
    emitted["initiator"] = evidence
    memory.extend(table, row, direction, record, fingerprint)
    if record["two_way"]:
        memory.extend(table, row, 1 - direction, record, np.int64(0))


@compiled_without_refcounts
def _emit_pair(
    first: Any, first_fingerprint: Any, second: Any, fingerprint: Any, key: Any, direction: Any, hash_: Any,
    scalars: Any, sets: Any, table: Any, out: Any,
) -> None:  # fmt: skip
    # `second` goes in `direction`, `first` in the opposite one.
    start, end = memory.span_of(first)
    second_start, second_end = memory.span_of(second)
    start, end = min(start, second_start), max(end, second_end)
    side, evidence = initiator_of_pair(first, second)
    initiator = direction if side < 0 else 1 - direction
    if icmp_role(first["protocol"], first["dst_port"]) != 0:
        key, hash_ = memory_key(first, key, 1 - direction, hash_)
    else:
        key, hash_ = memory_key(second, key, direction, hash_)
    flags = np.int64(first["tcp_flags"] | second["tcp_flags"])
    row, continued = _remember(key, hash_, start, end, flags, initiator, evidence, scalars, sets, table)
    if continued:
        initiator, evidence = table[row, INITIATOR], table[row, EVIDENCE]
    forward, backward = second, first
    if initiator != direction:
        forward, backward = first, second
    flow = out[scalars[NUM_OUT]]
    out[scalars[NUM_OUT]] = forward
    scalars[NUM_OUT] += 1
    flow["start_us"], flow["end_us"] = start, end
    flow["fwd_bytes"] = memory.saturating_add(forward["fwd_bytes"], backward["bwd_bytes"])
    flow["fwd_packets"] = memory.saturating_add(forward["fwd_packets"], backward["bwd_packets"])
    flow["bwd_bytes"] = memory.saturating_add(forward["bwd_bytes"], backward["fwd_bytes"])
    flow["bwd_packets"] = memory.saturating_add(forward["bwd_packets"], backward["fwd_packets"])
    flow["tcp_flags"] = flags
    flow["sampling"] = max(forward["sampling"], backward["sampling"])
    flow["arrival_us"] = max(forward["arrival_us"], backward["arrival_us"])
    flow["initiator"], flow["two_way"], flow["continued"] = evidence, 1, continued
    memory.extend(table, row, 1 - direction, first, first_fingerprint)
    memory.extend(table, row, direction, second, fingerprint)


@compiled_without_refcounts
def order_held(scalars: Any, links: Any, order: Any) -> None:
    """List the rows of the held records, oldest first. order: (K,) int64, filled."""
    at = scalars[OLDEST]
    for i in range(len(order)):
        order[i] = at
        at = links[at, NEWER]


@compiled_without_refcounts
def restore(
    records: Any, about: Any, emitted: Any, scalars: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any
) -> None:
    """Fill empty arrays with held records and emitted conversations, each oldest first.

    about: (K, 2) int64, the clock when each record was held and its fingerprint. emitted: (C, 17) int64, rows of
    `table`.
    """
    clock = scalars[CLOCK]
    for i in range(len(records)):
        key, _ = memory.key_of(records[i])
        scalars[CLOCK] = about[i, 0]
        memory.hold(scalars, rows, links, heads, records[i], memory.hash_of(key), about[i, 1])
    scalars[CLOCK] = clock
    for i in range(len(emitted)):
        at = memory.claim(scalars, sets, emitted[i, EMITTED_HASH])
        for word in range(table.shape[1]):
            table[at, word] = emitted[i, word]
        memory.touch(scalars, sets, at)
