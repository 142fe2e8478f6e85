"""Measures the datagrams that cost most to decode: nobody may stop a run with a few KB/s of forged ones."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, Final, TypeAlias

from thalweg.benchmark.speed.progress import Report, StepProgress
from thalweg.errors import ConfigError
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder

Sent: TypeAlias = tuple[bytes, int]
"""A datagram, and the number of its sender."""
Kind: TypeAlias = Callable[[int], tuple[list[Sent], Iterator[Sent]]]
"""By the size of datagrams: those that prepare, which are not measured, and then those that are, without end."""

SIZES: Final = {"1,400": 1_400, "60,000": 60_000}
"""Bytes of a datagram: one that is not fragmented, and the largest."""
_HEADERS: Final = 28
"""Bytes of IP and UDP headers; a sender pays for them, too."""
_NOW: Final = 1_780_000_000
_FLOW: Final = ((8, 4), (12, 4), (1, 1))
"""The smallest template of flows: addresses and bytes."""
_RECORD: Final = bytes([10, 0, 0, 1, 10, 0, 0, 2, 9])
_OTHERS: Final = (4, 5, 6, 7, 10, 11, 14, 16, 17, 21, 22, 60, 61, 136, 148, 152, 153, 176, 177, 178, 179, 184, 225, 226)
"""Elements of one byte that make templates different."""

Field: TypeAlias = tuple[int, int]


def run_hostile(num_kb: int, rounds: int, report: Report = lambda _: None) -> list[dict[str, Any]]:
    """Decode datagrams of each known kind of costly ones: alone, and as many in a call as come in a quarter second.

    num_kb: how much of each is measured. A kilobyte includes the headers of IP and UDP.

    Returns: a row for each kind and size: alone_ms_per_kb, together_ms_per_kb, the medians of `rounds`.
    Raises ConfigError if a value is out of range.
    """
    if num_kb < 10 or rounds < 1:
        raise ConfigError("at least 10 kB of each kind, and one round")
    rows = []
    for done, (name, kind) in enumerate(KINDS.items()):
        report(StepProgress(done, len(KINDS), name, None))
        for label, size in SIZES.items():
            found = [measure(kind, size, num_kb, at_once) for at_once in (1, 25_000 // size + 1) for _ in range(rounds)]
            alone, together = sorted(found[:rounds]), sorted(found[rounds:])
            rows.append(
                {
                    "kind": name,
                    "bytes": label,
                    "alone_ms_per_kb": alone[rounds // 2],
                    "together_ms_per_kb": together[rounds // 2],
                }
            )
    return rows


def measure(kind: Kind, size: int, num_kb: int, at_once: int) -> float:
    """Decode datagrams of a kind in calls of `at_once`, and return the CPU time for a kilobyte, in milliseconds."""
    decoder = Decoder(reuse=True)  # as in `thalweg run`
    prepared, sent = kind(size)
    # Over a second, so that no budget is spent before the measurement begins.
    for i, one in enumerate(prepared):
        decoder.decode(_datagrams([one], count(i * 1_000)))
    spent, num_bytes = 0.0, 0
    while num_bytes < 1_000 * num_kb:
        part = [next(sent) for _ in range(at_once)]
        datagrams = _datagrams(part, count(2_000_000 + num_bytes * 10))  # 100 kB/s
        num_bytes += sum(len(payload) + _HEADERS for payload, _ in part)
        begun = time.thread_time()
        decoder.decode(datagrams)
        spent += time.thread_time() - begun
    return spent * 1e6 / num_bytes


def _datagrams(sent: Sequence[Sent], clock: Iterator[int]) -> Datagrams:
    rows = [(payload, _NOW * 1_000_000 + next(clock), 0, 0xFFFF_0A00_0000 + of) for payload, of in sent]
    return Datagrams.of(rows)


# Datagrams.


def message(*sets: bytes, domain: int = 1) -> bytes:
    """Return an IPFIX message."""
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), _NOW, 0, domain) + body


def set_of(id_: int, content: bytes) -> bytes:
    """Return a set."""
    return struct.pack(">HH", id_, 4 + len(content)) + content


def template(id_: int, fields: Sequence[Field]) -> bytes:
    """Return a template, without the set around it."""
    return struct.pack(">HH", id_, len(fields)) + b"".join(struct.pack(">HH", *field) for field in fields)


def options_template(id_: int, fields: Sequence[Field]) -> bytes:
    """Return an options template whose first field is the scope, without the set around it."""
    return struct.pack(">HHH", id_, len(fields), 1) + b"".join(struct.pack(">HH", *field) for field in fields)


def filled(parts: Iterator[bytes], size: int, *, domain: int = 1) -> bytes:
    """Return a message of about `size` bytes from the next parts."""
    found = [next(parts)]
    num = 16 + len(found[0])
    while num + len(found[-1]) <= size:  # parts are alike
        found.append(next(parts))
        num += len(found[-1])
    return message(*found, domain=domain)


def distinct(number: int, least: Sequence[Field] = _FLOW) -> tuple[Field, ...]:
    """Return the fields of a template that differs from those of all other numbers, in as few bytes as possible."""
    more = []
    while number:
        number, at = divmod(number, len(_OTHERS))
        more.append((_OTHERS[at], 1))
    return (*least, *more)


def _unprepared(parts: Callable[[], Iterator[bytes]]) -> Kind:
    """Return a kind whose datagrams are filled with these parts, all of one sender."""

    def kind(size: int) -> tuple[list[Sent], Iterator[Sent]]:
        endless = parts()
        return [], ((filled(endless, size), 1) for _ in count())

    return kind


def _prepared(sets: Callable[[int], list[bytes]], parts: Callable[[], Iterator[bytes]]) -> Kind:
    """Return a kind that sends these sets first, each in a datagram of its own."""

    def kind(size: int) -> tuple[list[Sent], Iterator[Sent]]:
        endless = parts()
        return [(message(one), 1) for one in sets(size)], ((filled(endless, size), 1) for _ in count())

    return kind


def _of_many(payload: Callable[[int], bytes], num_senders: int = 1 << 24) -> Kind:
    """Return a kind of small datagrams, each of another sender."""

    def kind(size: int) -> tuple[list[Sent], Iterator[Sent]]:
        del size
        return [], ((payload(i), i % num_senders) for i in count())

    return kind


def _samplers(begin: int) -> bytes:
    """Return options records of 400 samplers."""
    return b"".join(struct.pack(">HB", (begin + i) % 65_536, begin % 250 + 1) for i in range(400))


def _templates(begin: int) -> bytes:
    """Return a hundred templates of one field."""
    return b"".join(template(256 + (begin + i) % 1_000, [(begin % 400 + 1, 1)]) for i in range(100))


def _ids() -> Iterator[int]:
    """Yield the ids of data sets, over and over."""
    return (256 + i % 1_000 for i in count())


def _known(fields: Callable[[int], Sequence[Field]], record: Callable[[int], bytes], num: int = 1_000) -> Kind:
    """Return a kind that makes many templates known, and then sends a record of each."""

    def sets(size: int) -> list[bytes]:
        del size
        return [set_of(2, template(256 + i, fields(i))) for i in range(num)]

    return _prepared(sets, lambda: (set_of(256 + i % num, record(i % num)) for i in count()))


def _plus(record: bytes) -> Callable[[int], bytes]:
    return lambda i: record + bytes(len(distinct(i)) - len(_FLOW))


_EMPTY: Final = tuple((34, 0) for _ in range(1_022))
_OPTIONS: Final = ((149, 1), *_EMPTY, (34, 1))

KINDS: Final[Mapping[str, Kind]] = {
    "options of 1,022 empty fields": _prepared(
        lambda _: [set_of(3, options_template(300, _OPTIONS))], lambda: (set_of(300, b"\1\1" * 600) for _ in count())
    ),
    "options of 1,022 empty fields, small sets": _prepared(
        lambda _: [set_of(3, options_template(300, _OPTIONS))], lambda: (set_of(300, b"\1\1") for _ in count())
    ),
    "options of many samplers": _prepared(
        lambda _: [set_of(3, options_template(300, ((302, 2), (34, 1))))],
        lambda: (set_of(300, _samplers(i)) for i in count()),
    ),
    "options of fields of varying length": _prepared(
        lambda _: [set_of(3, options_template(300, ((149, 1), *[(34, 65_535)] * 400)))],
        lambda: (set_of(300, b"\1" + bytes(400)) for _ in count()),
    ),
    "sets of unknown ids": _unprepared(lambda: (set_of(id_, b"?") for id_ in _ids())),
    "sets of one unknown id": _unprepared(lambda: (set_of(999, b"?") for _ in count())),
    "sets without content": _unprepared(lambda: (set_of(id_, b"") for id_ in _ids())),
    "template sets without content": _unprepared(lambda: (set_of(2, b"") for _ in count())),
    "withdrawals": _unprepared(lambda: (set_of(2, struct.pack(">HH", 256 + i % 1_000, 0) * 8) for i in count())),
    "templates of one field": _unprepared(lambda: (set_of(2, _templates(i)) for i in count())),
    "templates of one field, a set each": _unprepared(
        lambda: (set_of(2, template(id_, [(i % 400 + 1, 1)])) for i, id_ in enumerate(_ids()))
    ),
    "the same template, a set each": _unprepared(lambda: (set_of(2, template(256, _FLOW)) for _ in count())),
    "templates of 1,024 empty fields": _unprepared(
        lambda: (set_of(2, template(256 + i % 1_000, [(i % 400, 1), *[(1, 0)] * 1_023])) for i in count())
    ),
    "new templates, each with a record": _unprepared(
        lambda: (set_of(2, template(id_, distinct(i))) + set_of(id_, _plus(_RECORD)(i)) for i, id_ in enumerate(_ids()))
    ),
    "records, each followed by its new template": _unprepared(
        lambda: (set_of(id_, _plus(_RECORD)(i)) + set_of(2, template(id_, distinct(i))) for i, id_ in enumerate(_ids()))
    ),
    "a template that changes, each time with a record": _unprepared(
        lambda: (set_of(2, template(256, distinct(i))) + set_of(256, _plus(_RECORD)(i)) for i in count())
    ),
    "a record of each of 1,000 templates": _known(distinct, _plus(_RECORD)),
    "a record of each of 1,000 templates that are no flows": _known(
        lambda i: distinct(i)[len(_FLOW) :] or [(1, 1)], lambda i: b"\1" * max(len(distinct(i)) - len(_FLOW), 1)
    ),
    "a record of each of 1,000 templates of varying length": _known(
        lambda i: (*distinct(i), (82, 65_535)), lambda i: _plus(_RECORD)(i) + b"\0"
    ),
    "a record of each of 1,000 templates of both directions": _known(
        lambda i: (*distinct(i), (231, 1), (232, 1), (239, 1), (233, 1)), lambda i: _plus(_RECORD)(i) + b"\1\1\1\2"
    ),
    "a record of each of 1,000 templates with the exporter's start": _known(
        lambda i: (*distinct(i), (160, 8), (22, 4), (21, 4)), lambda i: _plus(_RECORD)(i) + bytes(16)
    ),
    "a record of each of 1,000 templates with their own sampling": _known(
        lambda i: (*distinct(i), (34, 1)), lambda i: _plus(_RECORD)(i) + b"\2"
    ),
    "records of 1,022 empty fields and one of varying length": _prepared(
        lambda _: [set_of(2, template(256, (*_FLOW, *[(5, 0)] * 1_020, (82, 65_535))))],
        lambda: (set_of(256, (_RECORD + b"\0") * 100) for _ in count()),
    ),
    "no flows, of 1,023 empty fields and one of varying length": _prepared(
        lambda _: [set_of(2, template(256, ((82, 65_535), *[(5, 0)] * 1_023)))],
        lambda: (set_of(256, bytes(1_000)) for _ in count()),
    ),
    "a new domain each": _of_many(
        lambda i: message(set_of(2, template(256, _FLOW)), set_of(256, _RECORD), domain=i), num_senders=1
    ),
    "a new sender each": _of_many(lambda _: message(set_of(2, template(256, _FLOW)), set_of(256, _RECORD))),
    "a new sender each, nothing else": _of_many(lambda _: message()),
    "a new sender each, with a new template": _of_many(
        lambda i: message(set_of(2, template(256, distinct(i))), set_of(256, _plus(_RECORD)(i)))
    ),
    "a new sender each, with samplers": _of_many(
        lambda _: message(
            set_of(3, options_template(300, ((302, 1), (34, 1)))),
            set_of(300, b"\1\2\2\3"),
            set_of(2, template(256, (*_FLOW, (302, 1)))),
            set_of(256, _RECORD + b"\1"),
        )
    ),
}
"""The costliest kinds of datagrams that are known. `studies/fuzz_netflow.py --slow` looks for more."""
