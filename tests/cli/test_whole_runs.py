"""`run.toml`: a whole run in a file, overridden by options, printed with comments and read back."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.cli.process import succeed, thalweg
from thalweg.cli.config_file import config_in_toml
from thalweg.cli.stream import run_config
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.options import ReadOptions
from thalweg.ingest.sources import source_at
from thalweg.live.config import LogConfig, MetricsConfig, RunConfig, ScoringConfig, SinkConfig, WindowConfig
from thalweg.runtime.settings import field_notes, make_settings

WHOLE = """
[model]
file = "office.thalweg"
budget = "20/day"

[[source]]
address = "udp://:2055"
allow = ["10.0.0.0/8"]

[[source]]
address = "kafka://broker/flows"
[source.client]
"security.protocol" = "SSL"

[[sink]]
address = "scores/"
keep = "anomalous"

[window]
flows = 1000

[decoder.sampling]
"10.0.0.1" = 100

[map]
src_addr = "Source IP"
"""

NOTHING: dict[str, Any] = {
    "sources": None, "from_start": False, "allow": None, "buffer_mb": None, "dialect": None, "column_map": None,
    "config": None, "keep_wrapped": False, "window": None, "hold": None, "sampling": None, "sinks": None, "spool": None,
    "spool_gb": None, "metrics": None, "json_log": False, "tunnel_header": None,
}  # fmt: skip


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the current folder, and the model that it names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "office.thalweg").touch()
    (tmp_path / "run.toml").write_text(WHOLE)
    return Path("run.toml")


def test_a_file_is_a_whole_run(whole: Path) -> None:
    made = run_config(whole, **NOTHING)
    assert made == RunConfig(
        model=ScoringConfig(file=Path("office.thalweg"), budget="20/day"),
        source=(
            source_at("udp://:2055", allow=["10.0.0.0/8"]),
            source_at("kafka://broker/flows", client={"security.protocol": "SSL"}),
        ),
        sink=(SinkConfig(address="scores/", keep="anomalous"),),
        window=WindowConfig(flows=1000),
        decoder=DecoderConfig(sampling={"10.0.0.1": 100}),
        read=ReadOptions(mapping={"src_addr": "Source IP"}),
    )
    assert run_config(Path("office.thalweg"), **{**NOTHING, "config": whole}) == made
    assert run_config(whole, is_scored=False, **NOTHING).model is None


def test_what_is_typed_wins_over_the_file(whole: Path) -> None:
    typed = {
        **NOTHING, "budget": "1%", "window": "30s", "hold": 0.0, "sampling": ["*=7"], "metrics": ":9", "json_log": True,
        "column_map": ["dst_addr=To"], "buffer_mb": 1.0, "spool_gb": 1.0, "allow": ["192.0.2.0/24"],
    }  # fmt: skip
    made = run_config(whole, **typed)
    assert made.model == ScoringConfig(file=Path("office.thalweg"), budget="1%")
    assert made.window == WindowConfig(flows=1000, span_s=30.0)
    assert not made.pairing.pair
    assert made.decoder.sampling == {"*": 7}
    assert (made.metrics, made.log) == (MetricsConfig(address=":9"), LogConfig(json=True))
    assert made.read.mapping == {"src_addr": "Source IP", "dst_addr": "To"}
    assert made.spool.max_bytes == 1 << 30
    assert made.source[0] == source_at("udp://:2055", allow=["192.0.2.0/24"], buffer_bytes=1 << 20)
    made = run_config(whole, **{**NOTHING, "sources": ["zeek:/x"], "from_start": True, "sinks": ["-", "a.jsonl"]})
    assert made.source == (source_at("zeek:/x", from_start=True),)
    assert [sink.address for sink in made.sink] == ["-", "a.jsonl"]


def test_a_printed_configuration_reads_back_as_it_was_and_explains_every_setting(whole: Path) -> None:
    made = run_config(whole, **NOTHING)
    text = config_in_toml(made)
    Path("again.toml").write_text(text)
    assert run_config(Path("again.toml"), **NOTHING) == made
    assert make_settings(RunConfig, tomllib.loads(text), "again:") == made
    kinds: list[type] = [RunConfig, ScoringConfig, type(made.source[0]), SinkConfig, WindowConfig, type(made.spool)]
    for kind in kinds:
        for note in field_notes(kind).values():
            assert f"# {note.splitlines()[0]}" in text


@pytest.mark.parametrize("hard", ['"', "\\", "\n", "\x7f", "\x01", "é", "😀", "#", "]"])
def test_hard_text_is_read_back(hard: str, whole: Path) -> None:
    (whole.parent / "office.thalweg").touch()
    made = RunConfig(
        source=(source_at("kafka://b/t", client={f"a{hard}": f"b{hard}"}),),
        sink=(SinkConfig(address=f"s{hard}/"),),
    )
    assert make_settings(RunConfig, tomllib.loads(config_in_toml(made)), "x:") == made


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[windw]\nflows = 3", "bad.toml: has no section [windw]: did you mean [window]? Known: [model], [[source]]"),
        ("[window]\nflow = 3", "bad.toml: [window] has no setting 'flow': did you mean 'flows'? Known: flows, span_s"),
        ("[window]\nflows = 0", "a window holds at least one flow"),
        ("[window]\nflows = \"x\"", "bad.toml: [window] flows is a whole number, not 'x'"),
        ("[[source]]\nallow = []", "bad.toml: [[source]] 1 lacks an address"),
        ("[[source]]\naddress = 'zeek:/x'\nallow = []", "bad.toml: [[source]] 1 zeek:/x: has no setting 'allow'"),
        ("[[source]]\naddress = 'tcp://:1'", "--from tcp://:1: no such kind of source"),
        ("[model", "bad.toml is not TOML"),
        ("[source]\naddress = 'udp://:1'", "bad.toml: [[source]] is the title of one or more sections, not {'address': 'udp://:1'}"),
        ("[[source]]\naddress = 3", "bad.toml: [[source]] 1 lacks an address"),
        ("read = 1", "bad.toml: [read] is a section of its own, not 1"),
        ("[map]\nsrc = 1\n[read]\nmapping = 1", "[read] [mapping] is a section of its own, not 1"),
        ("window = 3", "bad.toml: [window] is a section of its own, not 3"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_says_where_it_is(tmp_path: Path, more: str, message: str) -> None:
    (tmp_path / "bad.toml").write_text(more)
    done = thalweg("run", "bad.toml", folder=tmp_path)
    assert done.code == 2
    assert message in done.err


def test_without_anything_an_example_is_printed(tmp_path: Path) -> None:
    for command in ("run", "collect"):
        text = succeed(command, "--print-config", folder=tmp_path).out
        (tmp_path / "example.toml").write_text(text)
        assert succeed(command, "example.toml", "--print-config", folder=tmp_path).out == text
    done = thalweg("run", "--from", "udp://:0", "--to", "x/", folder=tmp_path)
    assert (done.code, "no model: name the file" in done.err) == (2, True)
