"""Kafka brokers inside librdkafka, and messages for them."""

from __future__ import annotations

import ctypes
import json
from io import BytesIO
from typing import Any, Final

import polars as pl

from thalweg.ingest import ReadOptions
from thalweg.ingest.feeds.kafka.reader import KafkaReader
from thalweg.tables import Flows

DEADLINE_S: Final = 30.0
"""For what takes a moment; a test that reaches it fails."""


class Brokers:
    """A cluster inside librdkafka, with what its C interface alone can do: partitions, and brokers that go away."""

    def __init__(self) -> None:
        import confluent_kafka as kafka

        self._kafka = kafka
        self._library = ctypes.CDLL(kafka.cimpl.__file__)
        for name in ("rd_kafka_new", "rd_kafka_conf_new", "rd_kafka_mock_cluster_new"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        conf = self._pointer("rd_kafka_conf_new")
        self._library.rd_kafka_conf_set(conf, b"log_level", b"0", None, ctypes.c_size_t(0))
        self._client = self._pointer("rd_kafka_new", 0, conf, None, ctypes.c_size_t(0))
        self._cluster = self._pointer("rd_kafka_mock_cluster_new", self._client, 1)
        self._call("rd_kafka_mock_group_initial_rebalance_delay_ms", self._cluster, 0)
        self.address = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        self.producer = kafka.Producer({"bootstrap.servers": self.address, "log_level": 0})

    def _pointer(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        pointer = getattr(self._library, name)(*arguments)
        assert pointer, name
        return ctypes.c_void_p(pointer)

    def _call(self, name: str, *arguments: Any) -> None:
        assert getattr(self._library, name)(*arguments) == 0, name

    def create(self, topic: str, num_partitions: int) -> None:
        self._call("rd_kafka_mock_topic_create", self._cluster, topic.encode(), num_partitions, 1)

    def go_away(self) -> None:
        self._call("rd_kafka_mock_broker_set_down", self._cluster, 1)

    def come_back(self) -> None:
        self._call("rd_kafka_mock_broker_set_up", self._cluster, 1)

    def send(self, topic: str, *values: bytes | None, partition: int = 0) -> None:
        for value in values:
            self.producer.produce(topic, value, partition=partition)
        assert not self.producer.flush(DEADLINE_S)

    def stored(self, topic: str, group: str = "thalweg", partition: int = 0) -> int:
        """Return what a group has stored, below 0 where nothing."""
        asking = self._kafka.Consumer({"bootstrap.servers": self.address, "group.id": group, "log_level": 0})
        try:
            (found,) = asking.committed([self._kafka.TopicPartition(topic, partition)], timeout=DEADLINE_S)
        finally:
            asking.close()
        return int(found.offset)

    def close(self) -> None:
        del self.producer
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


def numbered(*numbers: int) -> list[bytes]:
    return [b'{"n":%d}' % n for n in numbers]


def goflow2(n: int) -> bytes:
    return json.dumps(
        {
            "type": "NETFLOW_V9", "time_received_ns": 1_700_000_009_000_000_000, "sequence_num": n,
            "sampling_rate": 10, "sampler_address": "192.0.2.1", "time_flow_start_ns": 1_700_000_000_000_000_000,
            "time_flow_end_ns": 1_700_000_001_500_000_000, "bytes": 100, "packets": 2, "src_addr": "10.0.0.1",
            "dst_addr": "10.0.0.2", "etype": "IPv4", "proto": "TCP", "src_port": n, "dst_port": 443, "tcp_flags": 24,
        }
    ).encode()  # fmt: skip


def pmacct(n: int) -> bytes:
    return json.dumps(
        {
            "event_type": "purge", "ip_src": "10.0.0.1", "ip_dst": "10.0.0.2", "port_src": n, "port_dst": 53,
            "ip_proto": "udp", "peer_ip_src": "192.0.2.7", "timestamp_start": "2023-11-14T22:13:20.000000Z",
            "timestamp_end": "2023-11-14T22:13:21.500000Z", "packets": 1, "bytes": 60, "writer_id": "default/1",
        }
    ).encode()  # fmt: skip


def arrow(*numbers: int) -> bytes:
    stream = BytesIO()
    pl.DataFrame(
        {
            "start": pl.Series([1_700_000_000_000_000] * len(numbers)).cast(pl.Datetime("us", "UTC")),
            "duration_ms": [1.5] * len(numbers),
            "src_addr": ["10.0.0.1"] * len(numbers),
            "dst_addr": ["10.0.0.2"] * len(numbers),
            "fwd_bytes": [100] * len(numbers),
            "bwd_bytes": [200] * len(numbers),
            "src_port": list(numbers),
        }
    ).write_ipc_stream(stream)
    return stream.getvalue()


def reader_of(query: str = "", options: ReadOptions | None = None) -> KafkaReader:
    return KafkaReader(options, subject=f"kafka://broker/flows{query}")


def ports(reader: KafkaReader, *pieces: bytes) -> list[int]:
    """Read pieces; rows are known by their port."""
    found: list[int] = []
    for piece in pieces:
        for run in reader.read(piece, 1):
            found += (run.frame["src_port"].to_list()) if isinstance(run, Flows) else run["src_port"].tolist()
    return found
