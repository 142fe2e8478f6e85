"""The pass over records that makes biflows, compiled: what `biflow.Pairing` does with each, in order of arrival.

The arrays are those of `Pairing`: see `biflow_table`. A key is a conversation; `way`, the way a record goes in it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from thalweg.ingest.pairing import table as bt
from thalweg.ingest.pairing.initiator import (
    EXPORTER,
    UNKNOWN,
    asks,
    opener_alone,
    opener_of_two,
    remembered_as,
    subject_of,
)
from thalweg.ingest.pairing.table import (
    AFTER,
    CLOCK,
    DEDUPLICATE,
    END,
    FAR,
    GIVEN_FLAGS,
    GIVEN_HASH,
    HASH,
    HOLD,
    HOW,
    IDLE,
    LAST_PRINT,
    LONGEST_WALK,
    MAX_HELD,
    NEWER,
    NOBODY,
    NUM_HELD,
    NUM_OUT,
    OLDEST,
    OPENER,
    OWNER,
    PAIR,
    PRINT,
    SINCE,
    TOLERANCE,
    unowned,
)  # fmt: skip

AHEAD: Final = 128


@unowned
def pass_(
    records: Any, now: Any, flush: Any, marks: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any, out: Any,
    ahead: Any,
) -> None:  # fmt: skip
    """Take records, then move the clock on to `now`, microseconds; release all that is held with `flush`.

    out: written from row marks[NUM_OUT] on; has a row for each record given and held. ahead: (AHEAD,) int64, written.
    """
    for begin in range(0, len(records), AHEAD):
        end = min(begin + AHEAD, len(records))
        marks[bt.WARMED] += _warm(records[begin:end], ahead, marks, rows, links, heads, sets, table)
        for i in range(begin, end):
            marks[CLOCK] = max(marks[CLOCK], bt.time_of(records[i]["arrival_us"]))
            _release(marks[CLOCK] - marks[HOLD], marks, rows, links, heads, sets, table, out)
            _take(records[i], marks, rows, links, heads, sets, table, out)
    marks[CLOCK] = max(marks[CLOCK], now)
    _release(2 * FAR if flush else marks[CLOCK] - marks[HOLD], marks, rows, links, heads, sets, table, out)


@unowned
def _warm(records: Any, ahead: Any, marks: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any) -> Any:
    # Reads what the next records will need, all at once: one after another, each would wait for the memory.
    total = np.int64(0)
    for i in range(len(records)):
        key, _ = bt.key_of(records[i])
        ahead[i] = bt.hash_of(key)
        total += np.int64(sets[bt.set_of(sets, ahead[i]), 0]) + heads[ahead[i] & (len(heads) - 1)]
    for i in range(len(records)):
        total += _read(table, bt.row_for(marks, sets, ahead[i]))
        at = heads[ahead[i] & (len(heads) - 1)]
        if at >= 0:
            total += links[at, HASH] + np.int64(rows[at]["src_lo"]) + np.int64(rows[at]["tcp_flags"])
    # As many of those held may have to go, by age or for want of room.
    last = bt.time_of(records[-1]["arrival_us"]) - marks[HOLD]
    at, num = marks[OLDEST], 0
    while (
        num < len(records)
        and at >= 0
        and (links[at, SINCE] < last or marks[NUM_HELD] + len(records) - num > marks[MAX_HELD])
    ):
        ahead[num] = links[at, HASH]
        total += np.int64(sets[bt.set_of(sets, ahead[num]), 0]) + np.int64(rows[at]["src_lo"])
        at = links[at, NEWER]
        num += 1
    for i in range(num):
        total += _read(table, bt.row_for(marks, sets, ahead[i]))
    return total


@unowned
def _read(table: Any, row: Any) -> Any:
    # One word of each 64 bytes.
    return table[row, 0] + table[row, 8] + table[row, 16]


@unowned
def _release(before: Any, marks: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any, out: Any) -> None:
    # Gives out what is held since earlier than `before`.
    while marks[NUM_HELD] > 0 and links[marks[OLDEST], SINCE] < before:
        _release_oldest(marks, rows, links, heads, sets, table, out)
        marks[bt.ALONE] += 1


@unowned
def _release_oldest(marks: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any, out: Any) -> None:
    at = marks[OLDEST]
    bt.let_go(marks, links, heads, at)
    key, way = bt.key_of(rows[at])
    _give_alone(rows[at], key, way, links[at, HASH], links[at, PRINT], marks, sets, table, out)


@unowned
def _take(record: Any, marks: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any, out: Any) -> None:
    key, way = bt.key_of(record)
    hash_, print_ = bt.hash_of(key), bt.print_of(record)
    start, end = bt.span_of(record)
    flags, observer, subject = np.int64(record["tcp_flags"]), bt.observer_of(record), subject_of(record)
    known_key, known_hash = remembered_as(record, key, way, hash_)
    known = bt.find(sets, table, known_key, known_hash)

    if known >= 0 and marks[DEDUPLICATE]:
        if table[known, LAST_PRINT + way] == print_:
            marks[bt.REPEATED] += 1
            return
        others = table[known, OWNER + way] != observer
        if others and bt.is_covered(table, known, way, start, end, marks[TOLERANCE]):
            nothing_back = not record["two_way"] or (record["bwd_bytes"] == 0 and record["bwd_packets"] == 0)
            if nothing_back or bt.is_covered(table, known, 1 - way, start, end, marks[TOLERANCE]):
                marks[bt.DUPLICATE] += 1
                return
    if record["two_way"] or not marks[PAIR] or bt.is_to_many(record):
        _give_alone(record, key, way, hash_, print_, marks, sets, table, out)
        return

    piece, partner, is_known = _search(
        record, key, way, hash_, print_, start, end, flags, observer, subject, marks, rows, links, heads
    )
    if is_known:
        return
    if piece >= 0:
        bt.join(rows[piece], record)
        links[piece, PRINT] = print_
        marks[bt.JOINED] += 1
        return
    if partner >= 0:
        bt.let_go(marks, links, heads, partner)
        _give_pair(rows[partner], links[partner, PRINT], record, print_, key, way, hash_, marks, sets, table, out)
        return
    if known >= 0 and bt.goes_on(table, known, record["protocol"], start, end, flags, marks[IDLE]):
        # Its partner has been given out. What lies before the last piece of this way is not new.
        new = start
        if table[known, OWNER + way] != NOBODY and start < table[known, END + way] < end:
            new = table[known, END + way]
        if bt.is_covered(table, known, 1 - way, new, end, np.int64(0)):
            _give_alone(record, key, way, hash_, print_, marks, sets, table, out)
            return
    while marks[NUM_HELD] >= marks[MAX_HELD]:
        _release_oldest(marks, rows, links, heads, sets, table, out)
        marks[bt.EARLY] += 1
    bt.hold(marks, rows, links, heads, record, hash_, print_)


@unowned
def _search(
    record: Any, key: Any, way: Any, hash_: Any, print_: Any, start: Any, end: Any, flags: Any, observer: Any,
    subject: Any, marks: Any, rows: Any, links: Any, heads: Any,
) -> Any:  # fmt: skip
    # Returns which held record is the earlier piece, which the partner, −1 for neither; and whether one was it already.
    piece, partner = np.int64(-1), np.int64(-1)
    partner_rank, partner_gap, partner_off = np.int64(2), np.int64(0), np.int64(0)
    protocol, tolerance = record["protocol"], marks[TOLERANCE]
    # An observer sees one flow of a key at a time where ports are in the key; any number of others.
    one_a_key = bt.has_ports(protocol)
    at, steps = np.int64(heads[hash_ & (len(heads) - 1)]), 0
    while at >= 0 and steps < LONGEST_WALK:
        here = at
        at = links[here, AFTER]
        steps += 1
        if links[here, HASH] != hash_:
            continue
        other = rows[here]
        other_key, other_way = bt.key_of(other)
        if other_key != key:
            continue
        other_start, other_end = bt.span_of(other)
        gap = max(max(start, other_start) - min(end, other_end), 0)
        if other_way == way and bt.observer_of(other) != observer:
            alike = subject_of(other) == subject
            if marks[DEDUPLICATE] and alike and bt.covers(start, end, other_start, other_end, tolerance):
                marks[bt.DUPLICATE] += 1
                return piece, partner, True
        elif other_way == way:
            if marks[DEDUPLICATE] and links[here, PRINT] == print_:
                marks[bt.REPEATED] += 1
                return piece, partner, True
            near = (
                one_a_key and gap <= marks[IDLE] and not bt.are_apart(protocol, start, end, flags, other, np.int64(0))
            )
            if near and piece < 0:
                piece = here
        elif gap <= marks[IDLE] and not bt.are_apart(protocol, start, end, flags, other, tolerance):
            # Two pings that cross are two flows; a reply is the partner of a request before other messages are.
            both_ask = asks(protocol, other["dst_port"]) * asks(protocol, record["dst_port"]) > 0
            rank, off = np.int64(subject_of(other) != subject), abs(start - other_start)
            # Of equals the oldest, which the walk comes to last.
            if not both_ask and (rank, gap, off) <= (partner_rank, partner_gap, partner_off):
                partner, partner_rank, partner_gap, partner_off = here, rank, gap, off
    return piece, partner, False


@unowned
def _note(
    key: Any, hash_: Any, start: Any, end: Any, flags: Any, opener: Any, how: Any, marks: Any, sets: Any, table: Any
) -> Any:
    # Finds or makes the row of what is being given out. Returns it, and whether an earlier piece has been given out.
    row = bt.find(sets, table, key, hash_)
    goes_on = row >= 0 and bt.goes_on(table, row, key[4] >> 32, start, end, flags, marks[IDLE])
    if row < 0:
        row = bt.claim(marks, sets, hash_)
        for word in range(5):
            table[row, word] = key[word]
        table[row, GIVEN_HASH] = hash_
        table[row, LAST_PRINT], table[row, LAST_PRINT + 1] = 0, 0
        table[row, OWNER], table[row, OWNER + 1] = NOBODY, NOBODY
    elif not goes_on:
        first, last = bt.all_time_of(table, row)
        if max(start, first) - min(end, last) > marks[IDLE]:
            table[row, OWNER], table[row, OWNER + 1] = NOBODY, NOBODY
    if goes_on:
        table[row, GIVEN_FLAGS] |= flags
        marks[bt.CONTINUED] += 1
    else:
        # A connection opened anew keeps the time that is covered: another observer may yet report the one before.
        table[row, GIVEN_FLAGS], table[row, OPENER], table[row, HOW] = flags, opener, how
    bt.touch(marks, sets, row)
    return row, goes_on


@unowned
def _give_alone(
    record: Any, key: Any, way: Any, hash_: Any, print_: Any, marks: Any, sets: Any, table: Any, out: Any
) -> None:
    start, end = bt.span_of(record)
    key, hash_ = remembered_as(record, key, way, hash_)
    told, how = opener_alone(record)
    if record["two_way"]:
        told, how = 1, how if record["initiator"] != UNKNOWN else np.int64(EXPORTER)
    elif told < 0 and bt.is_to_many(record):
        told, how = 0, np.int64(UNKNOWN)
    opener = 1 - way if told < 0 else way
    row, goes_on = _note(key, hash_, start, end, np.int64(record["tcp_flags"]), opener, how, marks, sets, table)
    given = out[marks[NUM_OUT]]
    out[marks[NUM_OUT]] = record
    marks[NUM_OUT] += 1
    if goes_on:
        # Where nothing is paired, the first record of the other direction is no later piece of this one.
        if marks[PAIR] or table[row, OWNER + way] != NOBODY:
            given["continued"] = 1
        else:
            marks[bt.CONTINUED] -= 1
        if not record["two_way"]:
            opener, how = table[row, OPENER], table[row, HOW]
    if opener != way:
        bt.turn_round(given)
        marks[bt.TURNED] += 1
    given["initiator"] = how
    bt.cover(table, row, way, record, print_)
    if record["two_way"]:
        bt.cover(table, row, 1 - way, record, np.int64(0))


@unowned
def _give_pair(
    first: Any, first_print: Any, second: Any, print_: Any, key: Any, way: Any, hash_: Any, marks: Any, sets: Any,
    table: Any, out: Any,
) -> None:  # fmt: skip
    # `second` goes `way` in the conversation, and `first` the other.
    start, end = bt.span_of(first)
    second_start, second_end = bt.span_of(second)
    start, end = min(start, second_start), max(end, second_end)
    told, how = opener_of_two(first, second)
    opener = way if told < 0 else 1 - way
    if asks(first["protocol"], first["dst_port"]) != 0:
        key, hash_ = remembered_as(first, key, 1 - way, hash_)
    else:
        key, hash_ = remembered_as(second, key, way, hash_)
    flags = np.int64(first["tcp_flags"] | second["tcp_flags"])
    row, goes_on = _note(key, hash_, start, end, flags, opener, how, marks, sets, table)
    if goes_on:
        opener, how = table[row, OPENER], table[row, HOW]
    there, back = second, first
    if opener != way:
        there, back = first, second
    both = out[marks[NUM_OUT]]
    out[marks[NUM_OUT]] = there
    marks[NUM_OUT] += 1
    both["start_us"], both["end_us"] = start, end
    both["fwd_bytes"] = bt.add(there["fwd_bytes"], back["bwd_bytes"])
    both["fwd_packets"] = bt.add(there["fwd_packets"], back["bwd_packets"])
    both["bwd_bytes"] = bt.add(there["bwd_bytes"], back["fwd_bytes"])
    both["bwd_packets"] = bt.add(there["bwd_packets"], back["fwd_packets"])
    both["tcp_flags"] = flags
    both["sampling"] = max(there["sampling"], back["sampling"])
    both["arrival_us"] = max(there["arrival_us"], back["arrival_us"])
    both["initiator"], both["two_way"], both["continued"] = how, 1, goes_on
    bt.cover(table, row, 1 - way, first, first_print)
    bt.cover(table, row, way, second, print_)


@unowned
def order_held(marks: Any, links: Any, order: Any) -> None:
    """List where the records held are, oldest first. order: (K,) int64, filled."""
    at = marks[OLDEST]
    for i in range(len(order)):
        order[i] = at
        at = links[at, NEWER]


@unowned
def restore(
    records: Any, about: Any, given: Any, marks: Any, rows: Any, links: Any, heads: Any, sets: Any, table: Any
) -> None:
    """Hold records and remember conversations again, each oldest first, in arrays without any.

    about: (K, 2) int64, when each record came and its print; given: (C, 17) int64, rows of `table`.
    """
    clock = marks[CLOCK]
    for i in range(len(records)):
        key, _ = bt.key_of(records[i])
        marks[CLOCK] = about[i, 0]
        bt.hold(marks, rows, links, heads, records[i], bt.hash_of(key), about[i, 1])
    marks[CLOCK] = clock
    for i in range(len(given)):
        at = bt.claim(marks, sets, given[i, GIVEN_HASH])
        for word in range(table.shape[1]):
            table[at, word] = given[i, word]
        bt.touch(marks, sets, at)
