"""What `thalweg exporters` says of sampling and templates, and the advice at its end."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from tests.ingest.netflow.messages import FLOW, TIMED, decode, flow, ipfix
from thalweg.cli.exporters import _report
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.decoder import Decoder

SWAPPED = (2_000).to_bytes(4, "little")
PROCESS = ((144, 4),)


def printed(decoder: Decoder) -> str:
    found: dict[str, Any] = {
        "as_of": 1_700_000_001.0, "seconds": 1.0, "sockets": [], "datagrams": 1, "counts": decoder.tally.as_dict(),
        "exporters": decoder.exporters.describe(),
    }  # fmt: skip
    text = StringIO()
    for part in _report(found):
        Console(file=text, width=400, highlight=False).print(part)
    return text.getvalue()


def options(domain: int, fields: Any, record: bytes) -> bytes:
    return ipfix(options={300: (PROCESS, fields)}, data={300: [bytes(4) + record]}, domain=domain)


def test_a_rate_in_records_is_shown() -> None:
    decoder = Decoder()
    decode(decoder, ipfix(templates={256: (*FLOW, (34, 4))}, data={256: [flow() + b"\0\0\0\x14"]}))
    assert "1 in 20 (records)" in printed(decoder)


def test_an_interval_in_the_wrong_byte_order_points_to_the_option() -> None:
    payload = ipfix(templates={256: (*FLOW, (34, 4))}, data={256: [flow() + SWAPPED]})
    for config, says in ((DecoderConfig(), True), (DecoderConfig(sampling={"10.0.0.1": 2_000}), False)):
        decoder = Decoder(config)
        decode(decoder, payload)
        text = printed(decoder)
        assert ("not reported" in text, "1 in 2,000 (--sampling)" in text) == (says, not says)
        assert ("give --sampling 10.0.0.1=N" in text) == says


def test_sampling_by_another_domain_is_shown_as_such_or_advised() -> None:
    decoder = Decoder()
    sampled = ipfix(templates={256: (*FLOW, (302, 1))}, data={256: [flow() + b"\7"]}, domain=1)
    decode(decoder, options(6, ((302, 1), (34, 4)), b"\7\0\0\3\xe8"), sampled)
    text = printed(decoder)
    assert "1 in 1,000 (options of domain 6)" in text
    assert "→" not in text
    other = Decoder()
    decode(other, options(6, ((34, 4),), b"\0\0\3\xe8"), sampled)
    assert "domain 6 reports 1 in 1,000, domain 1 sends flows and reports none" in printed(other)
    assert "give --sampling 10.0.0.1=1000" in printed(other)


def test_templates_that_change_are_shown_and_many_changes_are_advised() -> None:
    decoder = Decoder()
    for i in range(4):
        decode(decoder, ipfix(templates={256: (FLOW, TIMED)[i % 2]}))
    assert "256 (changed 3 times)" in printed(decoder)
    assert "→" not in printed(decoder)
    for i in range(20):
        decode(decoder, ipfix(templates={256: (FLOW, TIMED)[i % 2]}))
    assert "does somebody forge its datagrams?" in printed(decoder)
