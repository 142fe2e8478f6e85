"""Decodes damaged NetFlow datagrams: the decoder must never raise, and its memory must stay bounded.

    python studies/fuzz_netflow.py [CAPTURE ...] [-- ATHERIS OPTIONS]
    python studies/fuzz_netflow.py --random 1000000 [--seed 1] [CAPTURE ...]
    python studies/fuzz_netflow.py --slow 20000 [--seed 1] [CAPTURE ...]

The first form searches for new code paths with atheris until it is stopped; `-- -max_total_time=180` stops it after
three minutes. The second form needs no atheris: it decodes that many randomly damaged datagrams, and describes some of
them, too. CAPTURE: a file of one datagram, to be damaged in addition to the built-in ones. If anything raises, the
program prints the datagrams that led to it, and the exit code is 1.

The third form looks for datagrams that cost much time: of that many sequences of datagrams it keeps those that took the
most CPU time for a kilobyte, damages and repeats parts of them, and prints the slowest ones. The kinds of them that are
known are in `thalweg.benchmark.speed.hostile`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.ingest.netflow.seeds import SEEDS

from thalweg.benchmark.speed.hostile import KINDS
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.netflow.values import Describer

NOW_US: Final = 1_700_000_000_000_000
CONFIG: Final = DecoderConfig(max_exporters=256, max_templates=64, max_fields=20_000, max_samplers=2_000)
AT_ONCE: Final = 64
"""Datagrams per call; every so many calls, the datagrams are also described, and the state is saved and restored."""
POOL: Final = 200
"""Sequences that the search for slow ones keeps."""
SHOWN: Final = 10
EMPTY: Final = bytes.fromhex("000a0010 6553f100 00000000 00000000")
EDGES: Final = (b"\0\0", b"\0\1", b"\0\2", b"\0\3", b"\0\4", b"\1\0", b"\xff\xff", b"\x7f\xff", b"\0\x08", b"\0\x0c")


def main(words: list[str]) -> int:
    """Fuzz, print what was found, and return the exit code."""
    at = words.index("--") if "--" in words else len(words)
    ours, theirs = words[:at], words[at + 1 :]
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("captures", nargs="*", type=Path, help="files of one datagram each")
    options.add_argument("--random", type=int, metavar="N", help="decode N random datagrams, without atheris")
    options.add_argument("--slow", type=int, metavar="N", help="look for slow datagrams among N sequences")
    options.add_argument("--seed", type=int, default=0, help="seed of the random datagrams")
    given = options.parse_args(ours)
    seeds = [*SEEDS, *(path.read_bytes() for path in given.captures)]
    if given.slow is not None:
        return search_slow(seeds, given.slow, given.seed)
    if given.random is not None:
        return draw(seeds, given.random, given.seed)
    return search(seeds, theirs)


def search(seeds: list[bytes], words: list[str]) -> int:
    """Let atheris search for datagrams that make the decoder raise; if it finds one, it ends the process."""
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: pip install atheris, or use random datagrams with --random 1000000")
        return 1
    folder = Path(tempfile.mkdtemp(prefix="fuzz-netflow-"))
    for i, seed in enumerate(seeds):
        (folder / f"seed{i:03}").write_bytes(len(seed).to_bytes(2, "big") + seed)
    from thalweg.ingest.netflow import data_sets, datagrams, decoder, exporters, held, options, plan, templates, values

    for module in (data_sets, datagrams, decoder, exporters, held, options, plan, templates, values):
        for value in vars(module).values():
            if getattr(value, "__module__", "") == module.__name__ and isinstance(value, type):
                _instrument(atheris, value)
    for function in (templates.read_templates, templates._fields):
        setattr(templates, function.__name__, atheris.instrument_func(function))
    atheris.Setup([sys.argv[0], str(folder), "-max_len=4096", *words], one_input)
    atheris.Fuzz()
    return 0


def _instrument(atheris: Any, kind: type) -> None:
    for name, value in list(vars(kind).items()):
        if callable(value) and hasattr(value, "__code__"):
            setattr(kind, name, atheris.instrument_func(value))


def one_input(octets: bytes) -> None:
    """Decode and describe a sequence of datagrams, each preceded by its length in two octets."""
    datagrams = list(split(octets))
    decoder, describer = Decoder(CONFIG), Describer()
    for part in (datagrams[:2], datagrams[2:]):
        decoder.decode(Datagrams.of([(one, NOW_US, 0, len(one) % 3) for one in part]))
    again = Decoder(CONFIG)
    again.restore(json.loads(json.dumps(decoder.state())))
    again.decode(Datagrams.of([(one, NOW_US + 1, 0, len(one) % 3) for one in datagrams]))
    for one in datagrams:
        json.dumps(list(describer.describe(one, time_us=NOW_US, lo=len(one) % 3)), allow_nan=False)


def split(octets: bytes) -> Iterator[bytes]:
    """Split an input of atheris into datagrams."""
    at = 0
    while at + 2 <= len(octets):
        length = int.from_bytes(octets[at : at + 2], "big") % 2_048
        yield octets[at + 2 : at + 2 + length]
        at += 2 + length


def draw(seeds: list[bytes], num: int, seed: int) -> int:
    """Decode `num` damaged datagrams from ten thousand senders, and print rate, counts and memory."""
    chance = random.Random(seed)
    decoder, describer = Decoder(CONFIG), Describer()
    decoder.decode(Datagrams.of([(one, NOW_US, 0, 1) for one in seeds]))  # compiles
    before, begun, in_decoder, num_records = resident_mb(), time.perf_counter(), 0.0, 0
    for call in range(-(-num // AT_ONCE)):
        time_us = NOW_US + call * 10_000
        sent = [
            (damaged(seeds, chance), time_us + i, 0, chance.choice((chance.randrange(10_000), chance.randrange(20))))
            for i in range(min(AT_ONCE, num - call * AT_ONCE))
        ]
        mark = time.perf_counter()
        try:
            num_records += len(decoder.decode(Datagrams.of(sent)))
            in_decoder += time.perf_counter() - mark
            if call % AT_ONCE == 0:
                for one, at_us, hi, lo in sent:
                    json.dumps(list(describer.describe(one, time_us=at_us, hi=hi, lo=lo)), allow_nan=False)
                state = json.loads(json.dumps(decoder.state()))
                decoder = Decoder(CONFIG)
                decoder.restore(state)
        except Exception:  # any exception is a finding
            traceback.print_exc()
            print("datagrams of this call:", *(one.hex() for one, *_ in sent), sep="\n")
            return 1
    seconds = time.perf_counter() - begun
    print(f"{num:,} datagrams in {seconds:.0f} s, {num / in_decoder:,.0f}/s in the decoder; {num_records:,} records")
    print(f"memory {before:.0f} MB before, {resident_mb():.0f} MB after; {len(decoder.exporters.rows)} exporters,")
    print(f"{decoder.exporters.num_templates} templates, {len(decoder.held)} sets held")
    print(*decoder.tally.lines(), sep="\n")
    return 0


def search_slow(seeds: list[bytes], num: int, seed: int) -> int:
    """Look for the sequences of datagrams that take longest for a kilobyte, and print them."""
    chance = random.Random(seed)
    pool = sorted((cost_ms_per_kb(one), one) for one in starts(seeds))[-POOL:]
    begun = time.perf_counter()
    for done in range(num):
        sequence = [grown(one, seeds, chance) for one in chance.choice(pool)[1]]
        if chance.randrange(8) == 0:
            sequence.insert(chance.randrange(len(sequence) + 1), chance.choice(chance.choice(pool)[1]))
        found = cost_ms_per_kb(sequence[-4:])
        if found > pool[0][0]:
            found = min(found, cost_ms_per_kb(sequence[-4:]))  # something else may have run meanwhile
            pool = sorted([*pool, (found, sequence[-4:])])[-POOL:]
        if done % 1_000 == 999:
            print(
                f"{done + 1:,} in {time.perf_counter() - begun:.0f} s; the slowest: {pool[-1][0]:.2f} ms/kB", flush=True
            )
    for _, sequence in pool[-SHOWN:]:
        again = min(cost_ms_per_kb(sequence) for _ in range(5))
        print(f"{again:.2f} ms/kB: {', '.join(f'{len(one)} bytes {one[:200].hex()}' for one in sequence)}")
    return 0


def starts(seeds: list[bytes]) -> Iterator[list[bytes]]:
    """Yield the sequences that the search begins with."""
    yield from ([one] for one in seeds)
    for kind in KINDS.values():
        prepared, sent = kind(1_400)
        yield [*(payload for payload, _ in prepared[:3]), next(sent)[0]]


def cost_ms_per_kb(sequence: list[bytes]) -> float:
    """Decode datagrams of one sender one by one, beyond what an empty message costs, in milliseconds of CPU time.

    A kilobyte includes the headers of IP and UDP.
    """
    decoder = Decoder(CONFIG)
    calls = [Datagrams.of([(one, NOW_US + i, 0, 1)]) for i, one in enumerate([EMPTY, *sequence])]
    marks = [time.thread_time()]
    for call in calls:
        decoder.decode(call)
        marks.append(time.thread_time())
    num_bytes = sum(len(one) + 28 for one in sequence)
    empty_s = marks[1] - marks[0]
    return (marks[-1] - marks[1] - len(sequence) * empty_s) * 1e6 / num_bytes


def grown(octets: bytes, seeds: list[bytes], chance: random.Random) -> bytes:
    """Return a datagram that is damaged, or has a part of it many times over, with the right length."""
    found = bytearray(damaged([octets], chance) if chance.randrange(3) else octets)
    if chance.randrange(2) and len(found) > 20:
        begin = chance.randrange(16, len(found))
        end = min(begin + chance.choice((1, 2, 4, 8, 9, 12, 16, 20, 24, 36, 48, 100)), len(found))
        found[end:end] = found[begin:end] * chance.choice((1, 2, 8, 64, 500))
    if chance.randrange(16) == 0:
        found += chance.choice(seeds)[16:]
    del found[chance.choice((1_400, 1_400, 60_000)) :]
    if found[:2] == b"\0\x0a" and len(found) >= 4:
        found[2:4] = len(found).to_bytes(2, "big")
    return bytes(found) or octets


def damaged(seeds: list[bytes], chance: random.Random) -> bytes:
    """Return a datagram with flipped bits, extreme numbers, pieces of other datagrams, or a missing part."""
    octets = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((0, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(octets))
        match chance.randrange(5):
            case 0:
                octets[at] ^= 1 << chance.randrange(8)
            case 1:
                octets[at : at + 2] = chance.choice(EDGES)
            case 2:
                octets[at:at] = chance.randbytes(chance.choice((1, 4, 40)))
            case 3:
                other = chance.choice(seeds)
                octets[at:] = other[chance.randrange(len(other)) :]
            case _:
                del octets[at : at + chance.choice((1, 2, 4, len(octets)))]
        if not octets:
            break
    return bytes(octets)


def resident_mb() -> float:
    """Return the resident memory of this process, 0 if the system does not report it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
