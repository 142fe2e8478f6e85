"""The memory of `Pairing` as compiled loops over arrays: the records that wait, and the conversations already emitted.

A conversation is all records of one 5-tuple, in both directions. `direction` is 0 if a record goes from the lower
address (then the lower port) to the higher one, else 1.

- Held records wait for a partner. `rows` has the records and `links` chains them twice: in a list by age, and in one
  chain per hash bucket, which `heads` begins. `scalars` has the ends of the list, the clock and the settings.
- Emitted conversations have one row each in `table`, a set-associative cache: `sets` has the tags and the time stamps
  of WAYS rows per set, of which the least recently emitted is replaced.

All words are int64, as numba turns int64 with uint64 into float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np

from thalweg.runtime.jit import kept_on_disk

# Indices into `scalars`, an int64 array: the state...
CLOCK, NUM_HELD, OLDEST, NEWEST, FREE, NUM_USED, NUM_EMITTED, NUM_OUT, PREFETCHED = range(9)
# ...the settings, with times in microseconds, and the counts of the latest call.
HOLD, MAX_HELD, TOLERANCE, IDLE, PAIR, DEDUPLICATE = range(9, 15)
EARLY_UNPAIRED, UNPAIRED, JOINED, DUPLICATE, REPEATED, CONTINUED, SWAPPED = range(15, 22)
NUM_SCALARS: Final = 22
# Columns of `links`: neighbours by age, neighbours in the chain, the chain's bucket, the clock when the record was
# held, the fingerprint of its last piece, and its hash.
OLDER, NEWER, BEFORE, AFTER, BUCKET, HELD_SINCE, FINGERPRINT, HASH = range(8)
NUM_LINKS: Final = 8
# Columns of `table`. The conversation's key, 5 words; for each direction the start and end that its records cover, the
# fingerprint of the last one and its observer (NO_OBSERVER: none went that way); then the hash, the TCP flags, the
# initiator's direction and the evidence for it, an index into `records.INITIATOR`.
START, END, LAST_FINGERPRINT, OBSERVER, EMITTED_HASH, EMITTED_FLAGS, INITIATOR, EVIDENCE = 5, 7, 9, 11, 13, 14, 15, 16
NUM_COLUMNS: Final = 17
WAYS: Final = 8

NO_OBSERVER: Final = -1
MAX_CHAIN_STEPS: Final = 64  # a longer chain comes only of crafted collisions or a flood of parallel flows
FAR: Final = 1 << 60  # microseconds, 36,000 years; twice as much still fits in 64 bits

_FIN_RST, _SYN = 0x05, 0x02
_MAX_UINT64: Final = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled_without_refcounts(function: _F) -> _F:
    """Compile as `jit.compiled` does, but without reference counting of arrays, which took half of the time.

    Such a function can only write to arrays that it is given; compiling one that makes an array fails.
    """
    made: _F = kept_on_disk(function, {"nogil": True, "error_model": "numpy", "_nrt": False})  # type: ignore[assignment]
    return made


@compiled_without_refcounts
def clamped_time(time_us: Any) -> Any:
    """Return a time, microseconds, clamped so that the difference of any two fits in 64 bits."""
    return min(max(np.int64(time_us), -FAR), FAR)


@compiled_without_refcounts
def span_of(record: Any) -> Any:
    """Return the start and end of a record, microseconds; the end is never before the start."""
    start = clamped_time(record["start_us"])
    return start, max(start, clamped_time(record["end_us"]))


@compiled_without_refcounts
def saturating_add(a: Any, b: Any) -> Any:
    """Add two uint64; a sum that does not fit becomes the largest uint64."""
    total = np.uint64(a) + np.uint64(b)
    return total if total >= np.uint64(a) else _MAX_UINT64


@compiled_without_refcounts
def has_ports(protocol: Any) -> Any:
    """Return whether ports are part of the key (TCP, UDP, DCCP, SCTP, UDP-Lite): one key is one flow at a time then."""
    return protocol == 6 or protocol == 17 or protocol == 33 or protocol == 132 or protocol == 136


@compiled_without_refcounts
def is_to_group(record: Any) -> Any:
    """Return whether the destination is multicast (224.0.0.0/4, ff00::/8) or broadcast, which never responds."""
    hi, lo = np.int64(record["dst_hi"]), np.int64(record["dst_lo"])
    if hi == 0 and lo >> 32 == 0xFFFF:
        return (lo >> 28) & 0xF == 0xE or lo & 0xFFFFFFFF == 0xFFFFFFFF
    return (hi >> 56) & 0xFF == 0xFF


@compiled_without_refcounts
def observer_of(record: Any) -> Any:
    """Return the observer of a record: its exporter, and whether it was seen at ingress or egress."""
    return np.int64(record["exporter"]) * 2 + np.int64(record["egress"] != 0)


@compiled_without_refcounts
def mix(hash_: Any, word: Any) -> Any:
    """Mix another word into a hash, uint64."""
    mixed = (hash_ ^ np.uint64(word)) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


@compiled_without_refcounts
def key_of(record: Any) -> Any:
    """Return the key of the record's conversation, 5 words, and the record's direction in it."""
    src_hi, src_lo = np.int64(record["src_hi"]), np.int64(record["src_lo"])
    dst_hi, dst_lo = np.int64(record["dst_hi"]), np.int64(record["dst_lo"])
    protocol = np.int64(record["protocol"])
    src_port, dst_port = np.int64(0), np.int64(0)
    if has_ports(protocol):
        src_port, dst_port = np.int64(record["src_port"]), np.int64(record["dst_port"])
    backward = src_port > dst_port
    if src_lo != dst_lo:
        backward = src_lo > dst_lo
    if src_hi != dst_hi:
        backward = src_hi > dst_hi
    if backward:
        return (dst_hi, dst_lo, src_hi, src_lo, protocol << 32 | dst_port << 16 | src_port), 1
    return (src_hi, src_lo, dst_hi, dst_lo, protocol << 32 | src_port << 16 | dst_port), 0


@compiled_without_refcounts
def hash_of(key: Any) -> Any:
    """Hash the key of a conversation to 64 bits."""
    return np.int64(mix(mix(mix(mix(mix(np.uint64(0), key[0]), key[1]), key[2]), key[3]), key[4]))


@compiled_without_refcounts
def fingerprint_of(record: Any) -> Any:
    """Return a fingerprint for finding duplicate records of a conversation; never 0."""
    about = np.int64(record["src_port"]) << 48 | np.int64(record["dst_port"]) << 32
    about |= np.int64(record["tcp_flags"]) << 8 | np.int64(record["two_way"])
    mixed = mix(mix(mix(np.uint64(1), record["start_us"]), record["end_us"]), about)
    mixed = mix(mix(mix(mixed, record["fwd_bytes"]), record["fwd_packets"]), observer_of(record))
    mixed = mix(mix(mixed, record["bwd_bytes"]), record["bwd_packets"])
    return np.int64(mixed | np.uint64(1))


@compiled_without_refcounts
def covers(start: Any, end: Any, of_start: Any, of_end: Any, tolerance: Any) -> Any:
    """Return whether another time span, widened by the tolerance on both sides, covers at least half of this one."""
    shared = min(end, of_end + tolerance) - max(start, of_start - tolerance)
    return shared >= 0 and shared >= end - start - shared


@compiled_without_refcounts
def is_reopened(protocol: Any, end: Any, flags: Any, start: Any, new_flags: Any) -> Any:
    """Return whether a later record is a new connection on the same ports: a SYN after a FIN or RST."""
    return protocol == 6 and flags & _FIN_RST != 0 and new_flags & _SYN != 0 and start > end


@compiled_without_refcounts
def are_separate(protocol: Any, start: Any, end: Any, flags: Any, other: Any, slack: Any) -> Any:
    """Return whether a record and a held one are separate connections, in either order. slack: microseconds."""
    other_start, other_end = span_of(other)
    other_flags = np.int64(other["tcp_flags"])
    return is_reopened(protocol, end + slack, flags, other_start, other_flags) or is_reopened(
        protocol, other_end + slack, other_flags, start, flags
    )


@compiled_without_refcounts
def merge(whole: Any, piece: Any) -> None:
    """Merge another piece of a flow into the record `whole`."""
    start, end = span_of(whole)
    piece_start, piece_end = span_of(piece)
    whole["start_us"], whole["end_us"] = min(start, piece_start), max(end, piece_end)
    whole["fwd_bytes"] = saturating_add(whole["fwd_bytes"], piece["fwd_bytes"])
    whole["fwd_packets"] = saturating_add(whole["fwd_packets"], piece["fwd_packets"])
    whole["bwd_bytes"] = saturating_add(whole["bwd_bytes"], piece["bwd_bytes"])
    whole["bwd_packets"] = saturating_add(whole["bwd_packets"], piece["bwd_packets"])
    whole["tcp_flags"] |= piece["tcp_flags"]
    whole["sampling"] = max(whole["sampling"], piece["sampling"])
    whole["arrival_us"] = max(whole["arrival_us"], piece["arrival_us"])


@compiled_without_refcounts
def swap(record: Any) -> None:
    """Swap the source and destination of a record."""
    record["src_hi"], record["dst_hi"] = record["dst_hi"], record["src_hi"]
    record["src_lo"], record["dst_lo"] = record["dst_lo"], record["src_lo"]
    record["fwd_bytes"], record["bwd_bytes"] = record["bwd_bytes"], record["fwd_bytes"]
    record["fwd_packets"], record["bwd_packets"] = record["bwd_packets"], record["fwd_packets"]
    if has_ports(record["protocol"]):  # dst_port of ICMP is the type and code
        record["src_port"], record["dst_port"] = record["dst_port"], record["src_port"]


# Records that wait for a partner.


@compiled_without_refcounts
def hold(scalars: Any, rows: Any, links: Any, heads: Any, record: Any, hash_: Any, fingerprint: Any) -> None:
    """Hold a record as the newest one; the caller has made room for it."""
    if scalars[FREE] >= 0:
        at = scalars[FREE]
        scalars[FREE] = links[at, NEWER]
    else:
        at = scalars[NUM_USED]
        scalars[NUM_USED] += 1
    rows[at] = record
    bucket = hash_ & (len(heads) - 1)
    newest, next_ = scalars[NEWEST], heads[bucket]
    links[at, OLDER], links[at, NEWER] = newest, -1
    links[at, BEFORE], links[at, AFTER], links[at, BUCKET] = -1, next_, bucket
    links[at, HELD_SINCE], links[at, FINGERPRINT], links[at, HASH] = scalars[CLOCK], fingerprint, hash_
    if newest >= 0:
        links[newest, NEWER] = at
    else:
        scalars[OLDEST] = at
    if next_ >= 0:
        links[next_, BEFORE] = at
    scalars[NEWEST] = at
    heads[bucket] = at
    scalars[NUM_HELD] += 1


@compiled_without_refcounts
def unlink(scalars: Any, links: Any, heads: Any, at: Any) -> None:
    """Remove a record from the list and its chain; its row stays valid until another record is held."""
    older, newer, before, after = links[at, OLDER], links[at, NEWER], links[at, BEFORE], links[at, AFTER]
    if older >= 0:
        links[older, NEWER] = newer
    else:
        scalars[OLDEST] = newer
    if newer >= 0:
        links[newer, OLDER] = older
    else:
        scalars[NEWEST] = older
    if before >= 0:
        links[before, AFTER] = after
    else:
        heads[links[at, BUCKET]] = after
    if after >= 0:
        links[after, BEFORE] = before
    links[at, NEWER] = scalars[FREE]
    scalars[FREE] = at
    scalars[NUM_HELD] -= 1


# Conversations already emitted.


@compiled_without_refcounts
def find(sets: Any, table: Any, key: Any, hash_: Any) -> Any:
    """Return the row of a conversation, or −1 if it has none."""
    at = (hash_ >> 16) & (len(sets) - 1)
    tag = np.uint32(hash_ >> 32) | np.uint32(1)
    for way in range(WAYS):
        if sets[at, way] == tag:
            row = at * WAYS + way
            same = table[row, EMITTED_HASH] == hash_
            for word in range(5):
                same = same and table[row, word] == key[word]
            if same:
                return row
    return np.int64(-1)


@compiled_without_refcounts
def set_of(sets: Any, hash_: Any) -> Any:
    """Return the set that a conversation belongs to."""
    return (hash_ >> 16) & (len(sets) - 1)


@compiled_without_refcounts
def row_for(scalars: Any, sets: Any, hash_: Any) -> Any:
    """Return the row with the conversation's tag, else an empty row, else the least recently emitted of its set."""
    at = set_of(sets, hash_)
    tag = np.uint32(hash_ >> 32) | np.uint32(1)
    best, longest = 0, np.int64(-1)
    for way in range(WAYS):
        age = (scalars[NUM_EMITTED] - np.int64(sets[at, WAYS + way])) & 0xFFFFFFFF
        if sets[at, way] == 0:
            age = np.int64(1) << 32
        if sets[at, way] == tag:
            age = np.int64(1) << 33
        if age > longest:
            best, longest = way, age
    return at * WAYS + best


@compiled_without_refcounts
def claim(scalars: Any, sets: Any, hash_: Any) -> Any:
    """Take over a row for a conversation that has none."""
    row = row_for(scalars, sets, hash_)
    sets[row // WAYS, row % WAYS] = np.uint32(hash_ >> 32) | np.uint32(1)
    return row


@compiled_without_refcounts
def touch(scalars: Any, sets: Any, row: Any) -> None:
    """Mark a conversation as the most recently emitted one."""
    sets[row // WAYS, WAYS + row % WAYS] = np.uint32(scalars[NUM_EMITTED])
    scalars[NUM_EMITTED] += 1


@compiled_without_refcounts
def is_covered(table: Any, row: Any, direction: Any, start: Any, end: Any, tolerance: Any) -> Any:
    """Return whether the records of one direction of a conversation cover a time span, see `covers`."""
    return table[row, OBSERVER + direction] != NO_OBSERVER and covers(
        start, end, table[row, START + direction], table[row, END + direction], tolerance
    )


@compiled_without_refcounts
def emitted_span(table: Any, row: Any) -> Any:
    """Return the start and end of all emitted records of a conversation, in both directions."""
    if table[row, OBSERVER] == NO_OBSERVER:
        return table[row, START + 1], table[row, END + 1]
    if table[row, OBSERVER + 1] == NO_OBSERVER:
        return table[row, START], table[row, END]
    return min(table[row, START], table[row, START + 1]), max(table[row, END], table[row, END + 1])


@compiled_without_refcounts
def continues(table: Any, row: Any, protocol: Any, start: Any, end: Any, flags: Any, idle: Any) -> Any:
    """Return whether a later record continues the flow that was emitted last. idle: microseconds."""
    first, last = emitted_span(table, row)
    near = max(start, first) - min(end, last) <= idle
    emitted_flags = table[row, EMITTED_FLAGS]
    return near and not (
        is_reopened(protocol, last, emitted_flags, start, flags)
        or is_reopened(protocol, end, flags, first, emitted_flags)
    )


@compiled_without_refcounts
def extend(table: Any, row: Any, direction: Any, record: Any, fingerprint: Any) -> None:
    """Extend the time that the emitted records of one direction cover by another record."""
    start, end = span_of(record)
    if table[row, OBSERVER + direction] != NO_OBSERVER:
        start, end = min(start, table[row, START + direction]), max(end, table[row, END + direction])
    table[row, START + direction], table[row, END + direction], table[row, LAST_FINGERPRINT + direction] = (
        start,
        end,
        fingerprint,
    )
    table[row, OBSERVER + direction] = observer_of(record)
