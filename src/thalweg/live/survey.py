"""Which exporters send, and what: at a port, in a file, or by the status of a run."""

from __future__ import annotations

import select
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from thalweg.errors import ConfigError, SourceError
from thalweg.ingest.captures.ipfix import read_messages
from thalweg.ingest.captures.pcap import read_datagrams
from thalweg.ingest.feeds.exports import datagrams_of, export_kind
from thalweg.ingest.netflow.datagrams import Datagrams, invented
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.netflow.values import Describer
from thalweg.ingest.sources import UdpConfig, source_at
from thalweg.ingest.streams import peek, pieces_of
from thalweg.live.receive.udp import UdpListener
from thalweg.live.spool.folder import SpoolPosition
from thalweg.live.spool.layout import MARK
from thalweg.live.spool.reader import SpoolReader, remove_before
from thalweg.live.spool.writer import SpoolWriter
from thalweg.live.status import RECEIVER, SCORER, read_status
from thalweg.tally import Tally

_TURN_S: Final = 0.25


def ask_run(folder: Path) -> dict[str, Any]:
    """Return what a run knows. Raises SourceError if no run uses this spool."""
    scorer, receiver = read_status(folder, SCORER), read_status(folder, RECEIVER)
    if scorer is None or receiver is None:
        raise SourceError(
            f"{folder}: no run has written its status there. Give the --spool of one that listens, or listen yourself "
            "with --from udp://:2055"
        )
    counts = Tally()
    for part in (receiver["counts"], scorer["counts"]):
        for name, num in part.items():
            counts.add(name, num)
    return {
        "as_of": scorer["time"],
        "seconds": scorer["time"] - scorer["since"],
        "sockets": receiver["sockets"],
        "datagrams": receiver["datagrams"],
        "counts": counts.as_dict(),
        "exporters": scorer["exporters"],
    }


def look(sources: tuple[str, ...], seconds: float, each: Callable[[int, float], None]) -> dict[str, Any]:
    """Listen for some seconds, or read files of export packets to their end, and return what came.

    each: called while it listens, a few times a second, with the datagrams so far and the seconds left.

    Raises ConfigError if a source is neither; SourceError if it cannot be opened or read.
    """
    opened = [source_at(address) for address in sources]
    ports = [source for source in opened if isinstance(source, UdpConfig)]
    if ports:
        Decoder().decode(invented())  # compiling can take longer than `seconds`
    decoder, tally, sockets, begun = Decoder(), Tally(), [], time.time()
    listeners = [UdpListener(port) for port in ports]
    num_datagrams = 0
    for source in opened:
        if not isinstance(source, UdpConfig):
            for batch in _export_packets(Path(source.address.partition(":")[2] or source.address), tally):
                decoder.decode(batch, rationed=False)
                num_datagrams += len(batch)
    if listeners:
        num_datagrams += _listen(listeners, seconds, decoder, each)
        sockets = [{"address": f"udp://:{one.port}", "buffer_bytes": one.buffer_bytes} for one in listeners]
        for one in listeners:
            tally.add("kernel_drops", one.kernel_drops)
            one.close()
    tally.merge(decoder.tally)
    return {
        "as_of": time.time(),
        "seconds": time.time() - begun,
        "sockets": sockets,
        "datagrams": num_datagrams,
        "counts": tally.as_dict(),
        "exporters": decoder.exporters.describe(),
    }


def _listen(listeners: list[UdpListener], seconds: float, decoder: Decoder, each: Callable[[int, float], None]) -> int:
    num = 0
    with tempfile.TemporaryDirectory(prefix="thalweg-") as name:
        folder = Path(name)
        spool, reader = SpoolWriter(folder), SpoolReader(folder, SpoolPosition(0, 0))
        waiting = select.poll()
        by_file = {listener.fileno(): listener for listener in listeners}
        for file in by_file:
            waiting.register(file, select.POLLIN)
        until = time.monotonic() + seconds
        is_over = False
        while not is_over:
            rest = max(until - time.monotonic(), 0.0)
            is_over = not rest
            for file, _ in waiting.poll(min(rest, _TURN_S) * 1000):
                by_file[file].drain(spool, _TURN_S)
            spool.add(MARK, time.time_ns() // 1000)
            while (batch := reader.next()) is not None:
                datagrams = batch.datagrams()
                decoder.decode(datagrams)
                num += len(datagrams)
                remove_before(folder, batch.after)
            each(num, max(until - time.monotonic(), 0.0))
        spool.close()
    return num


def describe_file(path: Path) -> Iterator[dict[str, Any]]:
    """Describe everything in a file of export packets, in order. Raises SourceError if it cannot be read."""
    describer, tally = Describer(), Tally()
    for batch in _read(path, tally):
        for one in batch:
            yield from describer.describe(bytes(one.payload), time_us=one.time_us, hi=one.address_hi, lo=one.address_lo)


def _export_packets(path: Path, tally: Tally) -> Iterator[Datagrams]:
    return (datagrams_of(batch) for batch in _read(path, tally))


def _read(path: Path, tally: Tally) -> Iterator[Any]:
    try:
        with path.open("rb") as stream:
            first, _ = peek(pieces_of(stream.read(1 << 12), stream), 8)
    except OSError as error:
        raise SourceError(f"{path}: cannot be opened ({error.strerror}); check the path") from error
    kind = export_kind(first)
    if kind == "pcap":
        return read_datagrams(path, tally=tally)
    if kind == "ipfix":
        return read_messages(path, tally=tally)
    raise ConfigError(f"{path}: neither a pcap nor an IPFIX file; nfcapd's own files are for `thalweg collect`")
