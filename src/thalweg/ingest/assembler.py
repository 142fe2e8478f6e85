"""What was received -> paired records and flows: datagrams are decoded, pieces of feeds read, and records paired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from thalweg.errors import ConfigError, SourceError
from thalweg.ingest.feeds.feed import Piece, PieceReader, Position
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.datagrams import Datagrams, invented
from thalweg.ingest.netflow.decoder import Decoder
from thalweg.ingest.options import ReadOptions
from thalweg.ingest.pairing.config import PairingConfig
from thalweg.ingest.pairing.pairing import Pairing
from thalweg.ingest.records import Records, flows_of, no_records
from thalweg.ingest.sources import open_reader
from thalweg.tables import Flows
from thalweg.tally import MEANINGS, Tally


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AssemblerConfig:
    """What an assembler is made of.

    sources: addresses, by the number that pieces come with. read: how pieces that hold tables are read.
    """

    sources: tuple[str, ...] = ()
    read: ReadOptions = field(default_factory=ReadOptions)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    pairing: PairingConfig = field(default_factory=PairingConfig)


def warm_up() -> None:
    """Decode, pair and lay out a few invented records, so that all loops are compiled."""
    decoder, pairing = Decoder(), Pairing()
    records = decoder.decode(invented())
    paired = np.concatenate([pairing.feed(records, 1_000_000), pairing.flush()])
    flows_of([paired], decoder.names)


@final
class Assembler:
    """Makes records and flows of datagrams and pieces of feeds, in the order in which they came.

    What it gives depends only on what it is given: the same calls give the same runs, also if its state was restored in
    between. A run is valid until the next call. positions: of each feed after its latest piece, by its address.
    """

    def __init__(self, config: AssemblerConfig | None = None) -> None:
        self.config = AssemblerConfig() if config is None else config
        self.positions: dict[str, Position] = {}
        self._decoder = Decoder(self.config.decoder, reuse=True)  # pairing copies what it keeps
        self._pairing = Pairing(self.config.pairing)
        self._readers = [_reader(address, self.config.read) for address in self.config.sources]
        self._tally = Tally()

    @property
    def names(self) -> Sequence[str]:
        """The names that `exporter` of all records indexes. The object stays the same; names are added to it."""
        return self._decoder.names

    @property
    def num_held(self) -> int:
        """How many records wait for the other direction of their flow."""
        return self._pairing.num_held

    def decode(self, datagrams: Datagrams) -> Records:
        """Return the records that datagrams complete, of which there is at least one, in order of arrival."""
        return self._pairing.feed(self._decoder.decode(datagrams), int(datagrams.arrived["time_us"][-1]))

    def read(self, source: int, piece: Piece, arrival_us: int) -> Iterator[Records | Flows]:
        """Give what a piece of a feed completes: whole flows, or records.

        source: its number. arrival_us: when the piece was received, in microseconds since 1970.

        Raises SourceError, or as its reader does, if it cannot be read; its position is noted all the same.
        """
        address, reader = self.config.sources[source], self._readers[source]
        self.positions[address] = piece.position
        if reader is None:
            raise SourceError(f"{address}: nothing reads pieces of such a source")
        for run in reader.read(piece.payload, arrival_us):
            if isinstance(run, Flows):
                yield run
                continue
            if isinstance(run, Datagrams):
                records = self._decoder.decode(run, rationed=False)  # a file ends, and nobody waits for it
            else:
                records = run
                self._rename(records, reader.exporters)
            # They may have been captured long ago, or by another clock: for pairing, they arrive now.
            records["arrival_us"] = arrival_us
            yield self._pairing.feed(records, arrival_us)

    def split(self, source: int, piece: Piece) -> Sequence[Piece]:
        """Return the pieces that a piece of several files is made of, with its position; else the piece alone."""
        reader = self._readers[source]
        parts = [piece.payload] if reader is None else reader.split(piece.payload)
        return [Piece(part, piece.position) for part in parts]

    def release(self, now_us: int) -> Records:
        """Give the records whose time to wait for the other direction is over."""
        return self._pairing.feed(no_records(), now_us)

    def flush(self) -> Records:
        """Give all records that wait."""
        return self._pairing.flush()

    def set_clock_back(self, now_us: int) -> Records:
        """Give all records that wait, and continue at an earlier time: the clock of this machine was set back."""
        return self._pairing.set_clock_back(now_us)

    def _rename(self, records: Records, names: Sequence[str]) -> None:
        """Let `exporter` index the decoder's names instead of a reader's."""
        found, which = np.unique(records["exporter"], return_inverse=True)
        numbers = [self._decoder.exporters.names.number(names[one]) for one in found]
        records["exporter"] = np.array(numbers or [0], np.uint32)[which]

    def exporters(self) -> list[dict[str, Any]]:
        """Return what is known of each exporter, as JSON values."""
        return self._decoder.exporters.describe()

    def counts(self) -> Tally:
        """Return what all parts have counted, before the state was restored, too."""
        total = Tally()
        readers = (reader.tally for reader in self._readers if reader is not None)
        for part in (self._tally, self._decoder.tally, self._pairing.tally, *readers):
            total.merge(part)
        return total

    def state(self) -> dict[str, Any]:
        """Return all that later runs depend on, and the counts: JSON values and arrays, by name."""
        return {
            "decoder": {**self._decoder.state(), "counts": {}},
            "positions": dict(self.positions),
            "counts": self.counts().as_dict(),
            **{f"pairing.{name}": values for name, values in self._pairing.state().items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state, in a new assembler. Raises SourceError if it is of another version."""
        self._decoder.restore(dict(state["decoder"]))
        self._pairing.restore(
            {name.removeprefix("pairing."): values for name, values in state.items() if name.startswith("pairing.")}
        )
        self.positions = dict(state["positions"])
        for name, num in state["counts"].items():
            if name in MEANINGS:  # else it is of another version of the program
                self._tally.add(name, num)


def _reader(address: str, options: ReadOptions) -> PieceReader | None:
    """Return what reads a source's pieces. None if the source has no pieces, or is of a kind that is gone."""
    try:
        return open_reader(address, options)
    except ConfigError:
        return None
