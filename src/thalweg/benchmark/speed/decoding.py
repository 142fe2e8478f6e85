"""Measures how fast export packets in memory are decoded, on one thread, beside PyPI's `netflow`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from thalweg.benchmark.speed.cases import CASES, Traffic
from thalweg.benchmark.speed.exporting import PER_DATAGRAM, one_way, template_datagrams, v5_datagrams
from thalweg.benchmark.speed.progress import Report, StepProgress
from thalweg.errors import ConfigError
from thalweg.ingest.netflow.datagrams import Datagrams
from thalweg.ingest.netflow.decoder import Decoder

VERSIONS: Final = {"NetFlow v5": 5, "NetFlow v9": 9, "IPFIX": 10}
_AT_ONCE: Final = 4_096
"""Datagrams in a call, as in `thalweg run` at high rates: 122,880 records."""
_RIVALS_DATAGRAMS: Final = 600
"""Enough for a rate of the slower side; its time is proportional."""
_NOW: Final = 1_780_000_000


def run_decode(num_records: int, rounds: int, seed: int, report: Report = lambda _: None) -> list[dict[str, Any]]:
    """Decode the same records as v5, v9 and IPFIX (templates of ten fields of fixed length).

    The sides take turns; the first round, which compiles, is not counted. Rates are per CPU second of this thread, so
    that other load on the machine disturbs little.

    Returns: a row for each version: records, records per CPU second of both sides, medians; ratio, the median of each
    round's. The figures of `netflow` are None if the package is not installed.
    Raises ConfigError if a value is out of range.
    """
    if num_records < 1_000 or rounds < 1:
        raise ConfigError("--records is at least 1,000, and --rounds at least 1")
    traffic = Traffic(CASES["d200"], seed)
    parts: list[npt.NDArray[np.void]] = []
    while sum(len(part) for part in parts) < num_records:
        parts.append(one_way(traffic.window(len(parts))))
    records = np.concatenate(parts)[: num_records // PER_DATAGRAM * PER_DATAGRAM]
    rows = []
    for done, (name, version) in enumerate(VERSIONS.items()):
        report(StepProgress(done, len(VERSIONS), name, None))
        if version == 5:
            payloads = [row.tobytes() for row in v5_datagrams(records)]
        else:
            payloads = template_datagrams(records, version, _NOW)
        rows.append({"kind": name, "records": len(records), **_measure(payloads, len(records), rounds)})
    return rows


def _measure(payloads: list[bytes], num_records: int, rounds: int) -> dict[str, Any]:
    batches = [
        Datagrams.of((payload, _NOW * 1_000_000, 0, 0xFFFF_0A00_0001) for payload in payloads[at : at + _AT_ONCE])
        for at in range(0, len(payloads), _AT_ONCE)
    ]
    decoder = Decoder(reuse=True)  # as in `thalweg run`

    def ours() -> int:
        return sum(len(decoder.decode(batch)) for batch in batches)

    rival = _rival(payloads[:_RIVALS_DATAGRAMS])
    rates: dict[str, list[float]] = {"thalweg": [], "netflow": []}
    for turn in range(rounds + 1):
        for name, side in (("thalweg", ours), ("netflow", rival)):
            if side is None:
                continue
            begun = time.thread_time()
            found = side()
            seconds = time.thread_time() - begun
            assert name != "thalweg" or found == num_records, f"{found} of {num_records} records decoded"
            if turn:
                rates[name].append(found / seconds)
    return {
        "records_per_cpu_s": float(np.median(rates["thalweg"])),
        "netflow_records_per_cpu_s": float(np.median(rates["netflow"])) if rival else None,
        "ratio": float(np.median(np.divide(rates["thalweg"], rates["netflow"]))) if rival else None,
    }


def _rival(payloads: list[bytes]) -> Callable[[], int] | None:
    try:
        from netflow import parse_packet
    except ImportError:
        return None

    def decode() -> int:
        templates: dict[str, dict[int, Any]] = {"netflow": {}, "ipfix": {}}
        return sum(len(parse_packet(payload, templates).flows) for payload in payloads)

    return decode
