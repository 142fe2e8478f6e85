"""The loops of `biflow`, compiled: who opened a flow, which records wait for a partner, what has been given out.

A conversation is what all records of a 5-tuple share, either way; `way` is 0 or 1, by which end has the lower address.
A pairing's memory is two tuples of arrays. `held`: the records that wait, in a list by age and in chains by hash.
`given`: what was given out, one row a conversation, in sets of WAYS of which the one given out longest ago goes first.
All words are int64, as numba makes float64 of int64 with uint64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np

from thalweg.runtime.jit import kept_on_disk

# Of an int64 array of what is true of all that is held.
CLOCK, NUM_HELD, OLDEST, NEWEST, FREE, NUM_USED, NUM_GIVEN, NUM_OUT, WARMED = range(9)
# Behind them the settings, and the counts.
HOLD, MAX_HELD, TOLERANCE, IDLE, PAIR, DEDUPLICATE = range(9, 15)
EARLY, ALONE, JOINED, DUPLICATE, REPEATED, CONTINUED, TURNED = range(15, 22)
NUM_MARKS: Final = 22
# Columns of a held record's links: by age, in its chain, the chain's bucket, when it came, `print_of` its last piece.
OLDER, NEWER, BEFORE, AFTER, BUCKET, SINCE, PRINT, HASH = range(8)
NUM_LINKS: Final = 8
# Columns of what was given out. The conversation, then for each way: the time that its records cover, `print_of` the
# last of them, who reported it (NOBODY: no record went that way); then the hash, the flags, who opened it and how.
START, END, LAST_PRINT, OWNER, GIVEN_HASH, GIVEN_FLAGS, OPENER, HOW = 5, 7, 9, 11, 13, 14, 15, 16
NUM_GIVEN_WORDS: Final = 17
WAYS: Final = 8

NOBODY: Final = -1
LONGEST_WALK: Final = 64  # of a chain: only records made to collide, or a flood of parallel flows, have longer ones
FAR: Final = 1 << 60  # microseconds; 36,000 years, of which twice still fits in 64 bits

_FIN_RST, _SYN = 0x05, 0x02
_MOST: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

_F = TypeVar("_F", bound=Callable[..., Any])


def unowned(function: _F) -> _F:
    """Compile as `jit.compiled` does, without counting who uses an array: that took half of the time.

    Such a loop cannot make arrays, which it says when it is compiled; it only writes to those that it is given.
    """
    made: _F = kept_on_disk(function, {"nogil": True, "error_model": "numpy", "_nrt": False})  # type: ignore[assignment]
    return made


@unowned
def time_of(given: Any) -> Any:
    """Return a time in microseconds that can be subtracted from any other."""
    return min(max(np.int64(given), -FAR), FAR)


@unowned
def span_of(record: Any) -> Any:
    """Return a record's start and end, in order."""
    start = time_of(record["start_us"])
    return start, max(start, time_of(record["end_us"]))


@unowned
def add(a: Any, b: Any) -> Any:
    """Add two uint64; what is too much stays at the most that fits."""
    total = np.uint64(a) + np.uint64(b)
    return total if total >= np.uint64(a) else _MOST


@unowned
def has_ports(protocol: Any) -> Any:
    """Tell whether ports belong to the key: TCP, UDP, DCCP, SCTP, UDP-Lite. There, an observer sees one flow a key."""
    return protocol == 6 or protocol == 17 or protocol == 33 or protocol == 132 or protocol == 136


@unowned
def is_to_many(record: Any) -> Any:
    """Tell whether the destination is a group: 224.0.0.0/4, 255.255.255.255, ff00::/8. Nobody answers from there."""
    hi, lo = np.int64(record["dst_hi"]), np.int64(record["dst_lo"])
    if hi == 0 and lo >> 32 == 0xFFFF:
        return (lo >> 28) & 0xF == 0xE or lo & 0xFFFFFFFF == 0xFFFFFFFF
    return (hi >> 56) & 0xFF == 0xFF


@unowned
def observer_of(record: Any) -> Any:
    """Return who saw it: the exporter, and whether coming in or going out."""
    return np.int64(record["exporter"]) * 2 + np.int64(record["egress"] != 0)


@unowned
def mix(hash_: Any, word: Any) -> Any:
    """Scatter another word into a hash. Returns: uint64."""
    mixed = (hash_ ^ np.uint64(word)) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


@unowned
def key_of(record: Any) -> Any:
    """Return the conversation, five words, and the way that the record goes in it."""
    src_hi, src_lo = np.int64(record["src_hi"]), np.int64(record["src_lo"])
    dst_hi, dst_lo = np.int64(record["dst_hi"]), np.int64(record["dst_lo"])
    protocol = np.int64(record["protocol"])
    src_port, dst_port = np.int64(0), np.int64(0)
    if has_ports(protocol):
        src_port, dst_port = np.int64(record["src_port"]), np.int64(record["dst_port"])
    back = src_port > dst_port
    if src_lo != dst_lo:
        back = src_lo > dst_lo
    if src_hi != dst_hi:
        back = src_hi > dst_hi
    if back:
        return (dst_hi, dst_lo, src_hi, src_lo, protocol << 32 | dst_port << 16 | src_port), 1
    return (src_hi, src_lo, dst_hi, dst_lo, protocol << 32 | src_port << 16 | dst_port), 0


@unowned
def hash_of(key: Any) -> Any:
    """Scatter a conversation over 64 bits."""
    return np.int64(mix(mix(mix(mix(mix(np.uint64(0), key[0]), key[1]), key[2]), key[3]), key[4]))


@unowned
def print_of(record: Any) -> Any:
    """Return what tells a record that came twice from another one of the same conversation; never 0."""
    about = np.int64(record["src_port"]) << 48 | np.int64(record["dst_port"]) << 32
    about |= np.int64(record["tcp_flags"]) << 8 | np.int64(record["two_way"])
    mixed = mix(mix(mix(np.uint64(1), record["start_us"]), record["end_us"]), about)
    mixed = mix(mix(mix(mixed, record["fwd_bytes"]), record["fwd_packets"]), observer_of(record))
    mixed = mix(mix(mixed, record["bwd_bytes"]), record["bwd_packets"])
    return np.int64(mixed | np.uint64(1))


@unowned
def covers(start: Any, end: Any, of_start: Any, of_end: Any, tolerance: Any) -> Any:
    """Tell whether at least half of a time is covered by another one, which is widened by a tolerance."""
    both = min(end, of_end + tolerance) - max(start, of_start - tolerance)
    return both >= 0 and both >= end - start - both


@unowned
def is_reopened(protocol: Any, end: Any, flags: Any, start: Any, new_flags: Any) -> Any:
    """Tell whether what starts later is a new connection of the same ports: SYN after FIN or RST."""
    return protocol == 6 and flags & _FIN_RST != 0 and new_flags & _SYN != 0 and start > end


@unowned
def are_apart(protocol: Any, start: Any, end: Any, flags: Any, other: Any, slack: Any) -> Any:
    """Tell whether a record is of another connection than a held one, whichever came first. slack: microseconds."""
    other_start, other_end = span_of(other)
    other_flags = np.int64(other["tcp_flags"])
    return is_reopened(protocol, end + slack, flags, other_start, other_flags) or is_reopened(
        protocol, other_end + slack, other_flags, start, flags
    )


@unowned
def join(whole: Any, piece: Any) -> None:
    """Add a later piece of a flow to an earlier one."""
    start, end = span_of(whole)
    piece_start, piece_end = span_of(piece)
    whole["start_us"], whole["end_us"] = min(start, piece_start), max(end, piece_end)
    whole["fwd_bytes"] = add(whole["fwd_bytes"], piece["fwd_bytes"])
    whole["fwd_packets"] = add(whole["fwd_packets"], piece["fwd_packets"])
    whole["bwd_bytes"] = add(whole["bwd_bytes"], piece["bwd_bytes"])
    whole["bwd_packets"] = add(whole["bwd_packets"], piece["bwd_packets"])
    whole["tcp_flags"] |= piece["tcp_flags"]
    whole["sampling"] = max(whole["sampling"], piece["sampling"])
    whole["arrival_us"] = max(whole["arrival_us"], piece["arrival_us"])


@unowned
def turn_round(record: Any) -> None:
    """Change over source and destination."""
    record["src_hi"], record["dst_hi"] = record["dst_hi"], record["src_hi"]
    record["src_lo"], record["dst_lo"] = record["dst_lo"], record["src_lo"]
    record["fwd_bytes"], record["bwd_bytes"] = record["bwd_bytes"], record["fwd_bytes"]
    record["fwd_packets"], record["bwd_packets"] = record["bwd_packets"], record["fwd_packets"]
    if has_ports(record["protocol"]):  # of ICMP, dst_port is the type and code
        record["src_port"], record["dst_port"] = record["dst_port"], record["src_port"]


# What waits for a partner.


@unowned
def hold(marks: Any, rows: Any, links: Any, heads: Any, record: Any, hash_: Any, print_: Any) -> None:
    """Keep a record as the newest. There is room."""
    if marks[FREE] >= 0:
        at = marks[FREE]
        marks[FREE] = links[at, NEWER]
    else:
        at = marks[NUM_USED]
        marks[NUM_USED] += 1
    rows[at] = record
    bucket = hash_ & (len(heads) - 1)
    newest, next_ = marks[NEWEST], heads[bucket]
    links[at, OLDER], links[at, NEWER] = newest, -1
    links[at, BEFORE], links[at, AFTER], links[at, BUCKET] = -1, next_, bucket
    links[at, SINCE], links[at, PRINT], links[at, HASH] = marks[CLOCK], print_, hash_
    if newest >= 0:
        links[newest, NEWER] = at
    else:
        marks[OLDEST] = at
    if next_ >= 0:
        links[next_, BEFORE] = at
    marks[NEWEST] = at
    heads[bucket] = at
    marks[NUM_HELD] += 1


@unowned
def let_go(marks: Any, links: Any, heads: Any, at: Any) -> None:
    """Take a record out of the list and its chain; its row stays as it is until the next is held."""
    older, newer, before, after = links[at, OLDER], links[at, NEWER], links[at, BEFORE], links[at, AFTER]
    if older >= 0:
        links[older, NEWER] = newer
    else:
        marks[OLDEST] = newer
    if newer >= 0:
        links[newer, OLDER] = older
    else:
        marks[NEWEST] = older
    if before >= 0:
        links[before, AFTER] = after
    else:
        heads[links[at, BUCKET]] = after
    if after >= 0:
        links[after, BEFORE] = before
    links[at, NEWER] = marks[FREE]
    marks[FREE] = at
    marks[NUM_HELD] -= 1


# What has been given out.


@unowned
def find(sets: Any, table: Any, key: Any, hash_: Any) -> Any:
    """Return the row of a conversation, or −1."""
    at = (hash_ >> 16) & (len(sets) - 1)
    tag = np.uint32(hash_ >> 32) | np.uint32(1)
    for way in range(WAYS):
        if sets[at, way] == tag:
            row = at * WAYS + way
            same = table[row, GIVEN_HASH] == hash_
            for word in range(5):
                same = same and table[row, word] == key[word]
            if same:
                return row
    return np.int64(-1)


@unowned
def set_of(sets: Any, hash_: Any) -> Any:
    """Return in which set a conversation is, if anywhere."""
    return (hash_ >> 16) & (len(sets) - 1)


@unowned
def row_for(marks: Any, sets: Any, hash_: Any) -> Any:
    """Return the row that is most likely a conversation's; else an empty one, or the one not given out for longest."""
    at = set_of(sets, hash_)
    tag = np.uint32(hash_ >> 32) | np.uint32(1)
    best, longest = 0, np.int64(-1)
    for way in range(WAYS):
        age = (marks[NUM_GIVEN] - np.int64(sets[at, WAYS + way])) & 0xFFFFFFFF
        if sets[at, way] == 0:
            age = np.int64(1) << 32
        if sets[at, way] == tag:
            age = np.int64(1) << 33
        if age > longest:
            best, longest = way, age
    return at * WAYS + best


@unowned
def claim(marks: Any, sets: Any, hash_: Any) -> Any:
    """Take a row for a conversation that has none."""
    row = row_for(marks, sets, hash_)
    sets[row // WAYS, row % WAYS] = np.uint32(hash_ >> 32) | np.uint32(1)
    return row


@unowned
def touch(marks: Any, sets: Any, row: Any) -> None:
    """Note that a conversation is the last one given out."""
    sets[row // WAYS, WAYS + row % WAYS] = np.uint32(marks[NUM_GIVEN])
    marks[NUM_GIVEN] += 1


@unowned
def is_covered(table: Any, row: Any, way: Any, start: Any, end: Any, tolerance: Any) -> Any:
    """Tell whether what a conversation had one way covers a time; see `covers`."""
    return table[row, OWNER + way] != NOBODY and covers(
        start, end, table[row, START + way], table[row, END + way], tolerance
    )


@unowned
def all_time_of(table: Any, row: Any) -> Any:
    """Return from when to when a conversation was seen, either way."""
    if table[row, OWNER] == NOBODY:
        return table[row, START + 1], table[row, END + 1]
    if table[row, OWNER + 1] == NOBODY:
        return table[row, START], table[row, END]
    return min(table[row, START], table[row, START + 1]), max(table[row, END], table[row, END + 1])


@unowned
def goes_on(table: Any, row: Any, protocol: Any, start: Any, end: Any, flags: Any, idle: Any) -> Any:
    """Tell whether what comes after a conversation is of the same flow. idle: microseconds."""
    first, last = all_time_of(table, row)
    near = max(start, first) - min(end, last) <= idle
    given_flags = table[row, GIVEN_FLAGS]
    return near and not (
        is_reopened(protocol, last, given_flags, start, flags) or is_reopened(protocol, end, flags, first, given_flags)
    )


@unowned
def cover(table: Any, row: Any, way: Any, record: Any, print_: Any) -> None:
    """Note that a record of this way has been given out."""
    start, end = span_of(record)
    if table[row, OWNER + way] != NOBODY:
        start, end = min(start, table[row, START + way]), max(end, table[row, END + way])
    table[row, START + way], table[row, END + way], table[row, LAST_PRINT + way] = start, end, print_
    table[row, OWNER + way] = observer_of(record)
