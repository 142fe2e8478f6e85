"""Kafka's addresses, and reading what was taken: dialects, Arrow, and everything that holds no flows."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ingest.feeds.kafka.brokers import arrow, goflow2, pmacct, ports, reader_of
from thalweg.errors import ConfigError, ThalwegError
from thalweg.ingest import ReadOptions
from thalweg.ingest.feeds.kafka.reader import KafkaConfig, json_lines
from thalweg.tables import Flows


def test_an_address_says_brokers_topic_group_format_and_start() -> None:
    assert KafkaConfig.of("kafka://a:9092,[::1]:9093/my.flows?group=g&format=pmacct&start=earliest") == KafkaConfig(
        brokers="a:9092,[::1]:9093", topic="my.flows", group="g", format="pmacct", from_start=True
    )
    assert KafkaConfig.of("kafka://a/flows") == KafkaConfig(brokers="a", topic="flows")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("kafka:///flows", "names a broker"),
        ("kafka://a,/flows", "names a broker"),
        ("kafka://a", "names no topic"),
        ("kafka://a/^flows", "names no topic"),
        ("kafka://me:secret@a/flows", "configuration file"),
        ("kafka://a/flows?start=now", "latest or earliest"),
        ("kafka://a/flows?format=protobuf", "format=protobuf is none of"),
        ("kafka://a/flows?group=", "a group has a name"),
        ("kafka://a/flows?topic=b", "not topic"),
        ("kafka://a/flows?group=b&group=c", "twice"),
        ("kafka://a/flows?earliest", "name=value"),
    ],
)
def test_an_address_that_is_invalid_is_refused(address: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        KafkaConfig.of(address)


def test_goflow2_and_pmacct_give_records_with_their_exporters() -> None:
    for message, exporter, num_bytes in ((goflow2, "192.0.2.1", 1000), (pmacct, "192.0.2.7", 60)):
        reader = reader_of()
        (records,) = reader.read(message(5) + b"\n" + message(6) + b"\n", 7)
        assert isinstance(records, np.ndarray)
        assert records["src_port"].tolist() == [5, 6]
        assert records["fwd_bytes"].tolist() == [num_bytes] * 2
        assert records["end_us"].tolist() == [1_700_000_001_500_000] * 2
        assert records["arrival_us"].tolist() == [7, 7]
        assert [reader.exporters[i] for i in records["exporter"]] == [exporter] * 2
        assert not reader.tally


def test_names_of_exporters_are_those_of_one_run_and_do_not_pile_up() -> None:
    reader = reader_of()
    own = list(reader.exporters)
    for i in range(50):
        lines = [goflow2(n).replace(b"192.0.2.1", b"192.0.2.%d" % (i + n)) for n in (2, 1, 2)]
        (records,) = reader.read(b"\n".join(lines) + b"\n", 7)
        assert isinstance(records, np.ndarray)
        assert [reader.exporters[at] for at in records["exporter"]] == [f"192.0.2.{i + n}" for n in (2, 1, 2)]
        assert len(reader.exporters) == 3
    nameless = pmacct(3).replace(b'"peer_ip_src": "192.0.2.7", ', b"")
    (records,) = reader.read(nameless + b"\n", 7)
    assert isinstance(records, np.ndarray)
    assert [[reader.exporters[at] for at in records["exporter"]], list(reader.exporters)] == [own, own]


def test_arrow_gives_flows_and_damaged_arrow_is_counted() -> None:
    reader = reader_of()
    assert ports(reader, arrow(1, 2)) == [1, 2]
    assert not reader.tally
    with pytest.raises(ThalwegError):
        ports(reader, arrow(1, 2)[:200])
    assert not reader.tally


def test_names_of_ones_own_are_read_by_a_mapping() -> None:
    names = {"src_addr": "a", "dst_addr": "b", "fwd_bytes": "out", "bwd_bytes": "in", "duration_ms": "ms"}
    line = b'{"a":"10.0.0.1","b":"10.0.0.2","out":1,"in":2,"ms":3}\n'
    (flows,) = reader_of(options=ReadOptions(mapping=names)).read(line, 0)
    assert isinstance(flows, Flows)
    assert flows.frame["bwd_bytes"].to_list() == [2]


def test_damaged_lines_are_counted_and_cost_no_others() -> None:
    reader = reader_of()
    assert ports(reader, b"\n".join([b'{"src_addr":', goflow2(1), b"{nonsense}", goflow2(2), b""])) == [1, 2]
    assert reader.tally.as_dict() == {"malformed_rows": 2}
    with pytest.raises(ThalwegError):
        ports(reader, b'{"temperature": 21}\n')


@pytest.mark.parametrize("query", ["", "?format=pmacct"])
def test_a_piece_of_marks_alone_holds_no_flows(query: str) -> None:
    reader = reader_of(query)
    marks = b'{"event_type": "purge_init", "writer_id": "default/1"}\n'
    assert ports(reader, marks, marks + pmacct(3) + b"\n") == [3]
    assert reader.tally.as_dict() == {"other_events": 2}


def test_lists_and_objects_over_several_lines_become_a_line_each() -> None:
    assert json_lines(b' {"a": 1}\n') == b'{"a": 1}'
    assert json_lines(b'[{"a": 1},\n {"b": "x\\ny"}]') == b'{"a": 1}\n{"b": "x\\ny"}'
    assert json_lines(b'{\n "a": 1\n}') == b'{"a": 1}'
    assert json_lines(b'{"a": 1}\n{"a": 2}\n') == b'{"a": 1}\n{"a": 2}'
    assert json_lines(b"[" * 100_000) == b"[" * 100_000
    assert json_lines(b"\x00\x01") is None
