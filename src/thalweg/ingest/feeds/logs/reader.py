"""Lines of logs and tables -> flows, or records to be paired if a row is one direction of a flow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import polars as pl

from thalweg.errors import SourceError, ThalwegError
from thalweg.ingest.files import read_bytes
from thalweg.ingest.options import ReadOptions
from thalweg.ingest.records import Records, records_of
from thalweg.ingest.tabular.dialects.recognition import Recognition
from thalweg.ingest.tabular.json_lines import warm_up
from thalweg.tables import Flows
from thalweg.tally import Tally

MAX_ROWS: Final = 200_000
"""The most rows in a run of a `PieceReader`."""

# Suricata writes many kinds of events: a piece may hold none of a flow, by which the dialect is recognised.
_EVE: Final = re.compile(rb'\{"timestamp":"[^"]*",[^\n]*"event_type":"')


class LogReader:
    """Reads pieces of lines, header included. Readers of other pieces with tables are derived from it.

    subject: what messages call a piece.
    """

    def __init__(self, options: ReadOptions | None = None, *, subject: str = "a piece of the log") -> None:
        warm_up()
        self.tally = Tally()
        self.exporters = [subject]
        options = options or ReadOptions()
        self._options = replace(options, strict=False, chunk_rows=min(options.chunk_rows, MAX_ROWS))
        self._subject = subject

    def read(self, piece: bytes, arrival_us: int) -> Iterator[Records | Flows]:
        """Yield the content of a piece. Raises ThalwegError if it cannot be read."""
        try:
            yield from self._runs(self._rows(piece), arrival_us)
        except (Exception, pl.exceptions.PanicException) as error:  # a panic of Polars is no Exception
            if isinstance(error, ThalwegError):
                raise
            raise SourceError(f"{self._subject}: {str(error).partition(chr(10))[0]}") from error

    def split(self, piece: bytes) -> Sequence[bytes]:
        """Return the piece: its lines stay together."""
        return [piece]

    def _rows(self, piece: bytes) -> Iterator[tuple[Recognition, Flows]]:
        options = self._options
        if options.dialect is None and not options.mapping and _EVE.match(piece):
            options = replace(options, dialect="suricata")
        return read_bytes(piece, options, self._subject, self.tally)

    def _runs(self, rows: Iterable[tuple[Recognition, Flows]], arrival_us: int) -> Iterator[Records | Flows]:
        for recognition, flows in rows:
            if len(flows):
                yield records_of(flows, self.exporters, arrival_us) if recognition.one_way else Flows(flows.frame)
