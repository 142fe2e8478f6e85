"""A model file that anyone may have made is refused, with its name and what is wrong, before it costs anything."""

from __future__ import annotations

import json
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.conftest import make_flows
from thalweg.detect import Detector
from thalweg.errors import ModelError, ModelFormatError
from thalweg.model.autoencoder import ModelConfig
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel
from thalweg.published.model import PublishedConfig, PublishedGAE

MOST_S: Final = 1.0
MOST_BYTES: Final = 300 << 20
"""Of memory above what the imported packages take, some 300 MB."""
INF, NAN = float("inf"), float("nan")


class ModelFile:
    """A model file in its parts, to be changed and put together again."""

    def __init__(self, whole: bytes) -> None:
        length = int.from_bytes(whole[:8], "little")
        self.tensors: dict[str, Any] = json.loads(whole[8 : 8 + length])
        self.header: dict[str, Any] = json.loads(self.tensors.pop("__metadata__")["thalweg"])
        self.data = bytearray(whole[8 + length :])
        self.header_text = ""
        """In place of the header."""
        self.start_text = ""
        """In place of the JSON at the beginning of the file."""

    def of(self, path: str) -> tuple[Any, Any]:
        """Return what holds a field, and the field's key. path: the keys to it, such as settings.shape.width."""
        *holders, last = path.split(".")
        place: Any = self.header
        for key in holders:
            place = place[key] if isinstance(place, dict) else place[int(key)]
        return place, last if isinstance(place, dict) else int(last)

    def values(self, name: str) -> Any:
        """Return a tensor of the file, which can be written."""
        begin, end = self.tensors[name]["data_offsets"]
        dtype = {"F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}[self.tensors[name]["dtype"]]
        return np.frombuffer(memoryview(self.data)[begin:end], dtype)

    def whole(self) -> bytes:
        header = self.header_text or json.dumps(self.header)
        start = (self.start_text or json.dumps({"__metadata__": {"thalweg": header}, **self.tensors})).encode()
        return len(start).to_bytes(8, "little") + start + bytes(self.data)


Change = Callable[[ModelFile], None]


def field(path: str, value: Any) -> Change:
    """Set a field of the header."""

    def change(file: ModelFile) -> None:
        place, key = file.of(path)
        place[key] = value

    return change


def without(path: str) -> Change:
    def change(file: ModelFile) -> None:
        place, key = file.of(path)
        del place[key]

    return change


def value(name: str, number: float, at: int = 0) -> Change:
    """Set a value of a tensor."""

    def change(file: ModelFile) -> None:
        file.values(name)[at] = number

    return change


def entry(name: str, key: str, given: Any) -> Change:
    """Set what the file says about a tensor."""

    def change(file: ModelFile) -> None:
        file.tensors[name][key] = given

    return change


def text(made: Callable[[str], str]) -> Change:
    """Replace the text of the header."""

    def change(file: ModelFile) -> None:
        file.header_text = made(json.dumps(file.header))

    return change


def start(made: Callable[[str], str]) -> Change:
    """Replace the JSON at the beginning of the file."""

    def change(file: ModelFile) -> None:
        header = json.dumps(file.header)
        file.start_text = made(json.dumps({"__metadata__": {"thalweg": header}, **file.tensors}))

    return change


def where(condition: str) -> Change:
    fitted_on = {
        "selection": {"where": condition, "holdout": 0.0, "seed": 0},
        "origins": [{"name": "a", "digest": "b"}],
    }
    return field("summary.fitted_on", fitted_on)


def renamed(name: str, new: str) -> Change:
    def change(file: ModelFile) -> None:
        file.tensors[new] = file.tensors.pop(name)

    return change


def longer(file: ModelFile) -> None:
    file.data += b"\0" * 8


WEIGHTS: Final = "network.decoder.of_src.weight"
HOSTILE: Final[dict[str, tuple[Change, str]]] = {
    # Settings.
    "pool depth": (field("settings.shape.pool_depth", 10**9), "pool_depth is at most 16"),
    "width": (field("settings.shape.width", 10**9), "width is at most 1,024"),
    "negative width": (field("settings.shape.width", -8), "width must be even and positive"),
    "width of another network": (field("settings.shape.width", 1024), r"no weights have the shape \(1024, 1024\)"),
    "prefix width": (field("settings.shape.prefix_width", 10**6), "prefix_width is at most 1,024"),
    "width of prefixes": (field("settings.shape.prefix_width", 1024), "no weights have the shape"),
    "max pool": (field("settings.shape.max_pool", 10**12), "max_pool is at most"),
    "waves": (field("settings.shape.num_waves", 10**7), "num_waves is at most"),
    "negative waves": (field("settings.shape.num_waves", -1), "num_waves is not negative"),
    "prefix levels": (field("settings.shape.prefix_levels", 10**6), "prefix_levels lies in 0 to 4"),
    "pool ratio NaN": (field("settings.shape.pool_ratio", NAN), "pool_ratio is a number, not nan"),
    "dropout infinite": (field("settings.shape.dropout", INF), "dropout is a number, not inf"),
    "huge integer": (field("settings.shape.dropout", 10**400), "dropout is a number, not 1000"),
    "width as text": (field("settings.shape.width", "8"), "width is a whole number, not '8'"),
    "width as a float": (field("settings.shape.width", 8.0), "width is a whole number, not 8.0"),
    "switch as a number": (field("settings.shape.use_unet", 1), "use_unet is true or false, not 1"),
    "unknown setting": (field("settings.shape.depth", 3), "no setting 'depth'"),
    "shape as a list": (field("settings.shape", [1, 2]), "settings: "),
    "shape as a number": (field("settings.shape", 3), "settings: "),
    "settings as text": (field("settings", "all"), "settings: "),
    "window size": (field("settings.window_size", 10**12), "a window holds at least one flow and at most"),
    "window of nothing": (field("settings.window_size", 0), "a window holds at least one flow"),
    "window as a float": (field("settings.window_size", 1e300), "window_size is a whole number"),
    "learning rate NaN": (field("settings.training.learning_rate", NAN), "learning_rate is a number, not nan"),
    "noise": (field("settings.training.noise.shapes", [1e308] * 3), "noise needs 7 odds"),
    "attributes": (field("settings.attributes", "all"), "attributes is one of"),
    "counting": (field("settings.counting", [3]), "counts flows in another way"),
    "counted": (field("settings.num_counted", -5), "is not negative: -5"),
    "no scaling": (without("settings.scaling"), "no 'scaling'"),
    "scaling NaN": (field("settings.scaling.center.0", NAN), "scaling center is a list of numbers"),
    "scaling infinite": (field("settings.scaling.scale.1", INF), "scaling scale is a list of numbers"),
    "scaling zero": (field("settings.scaling.scale.1", 0.0), "scaling lies beyond"),
    "scaling huge": (field("settings.scaling.center.2", 1e300), "scaling lies beyond"),
    "scaling of others": (field("settings.scaling.names", ["row", "start", "label"]), "scaling names are"),
    "scaling of fewer": (field("settings.scaling.center", [1.0]), "scaling has a center and a scale for each name"),
    "amounts": (field("settings.scaling.num_amounts", 10**9), "scaling has a center|whole"),
    "negative amounts": (field("settings.scaling.num_amounts", -1), "scaling names are"),
    "whole": (field("settings.scaling.whole", ["yes"]), "scaling whole is a list of"),
    # Threshold, calibration, profile.
    "threshold NaN": (field("threshold.logit", NAN), "threshold: header logit is a number, not nan"),
    "threshold infinite": (field("threshold.logit", -INF), "threshold: header logit is a number, not -inf"),
    "threshold beyond float32": (field("threshold.logit", -1e308), "a threshold is a number"),
    "share": (field("threshold.share", 7.0), "threshold: shares lie in"),
    "budget": (field("threshold.budget", "1e999/day"), "'1e999/day' is no budget"),
    "budget as a number": (field("threshold.budget", 0.01), "budget is text in quotes"),
    "method": (field("threshold.method", "guess"), "threshold: .*guess"),
    "threshold as a list": (field("threshold", [1]), "threshold: "),
    "more of the threshold": (field("threshold.code", "import os"), "threshold: header has no setting 'code'"),
    "blocks": (field("calibration.num_blocks", 10**12), "calibration: impossible"),
    "held out": (field("calibration.num_flows", 10**15), "calibration: "),
    "rate": (field("calibration.flows_per_day", INF), "flows_per_day is a number, not inf"),
    "block": (value("calibration.block", 10**6), "block names blocks beyond"),
    "negative block": (value("calibration.block", -1), "block names blocks beyond"),
    "order of logits": (value("calibration.logit", 1e30), "not in order"),
    "bins": (field("profile.bins.fwd_bytes.edges", [0.0] * 10**5), "bins fwd_bytes has 100000 edges"),
    "edges": (field("profile.bins.fwd_bytes.edges", [3.0, 2.0, 1.0]), "profile: "),
    "counts": (field("profile.bins.duration_ms.count", [-1]), "profile: "),
    "bins of another": (field("profile.bins.__class__", {"edges": [], "count": [1, 2]}), "no attribute '__class__'"),
    "unseen": (field("profile.num_unseen.src_addr", 10**30), "profile: impossible"),
    "spread": (field("profile.logit_spread", 0.0), "profile: impossible"),
    "mean": (field("profile.logit_mean", NAN), "logit_mean is a number"),
    "usual": (field("profile.usual", {}), "usual has up to"),
    "profile as null": (field("profile", None), "profile: "),
    "hosts": (value("profile.hosts", -1), "hosts are not in order"),
    # The rest of the header.
    "span": (field("span_s", 1e300), "span_s: "),
    "span of nothing": (field("span_s", 0), "span_s: a window spans"),
    "seed": (field("seed", -1), "seed: it lies in"),
    "seed as text": (field("seed", "1"), "seed: it is a whole number"),
    "kind": (field("kind", "os.system"), "kind: no preset 'os.system'"),
    "kind as a list": (field("kind", ["thalweg"]), "kind: "),
    "summary": (field("summary", 5), "summary: "),
    "nothing but a version": (text(lambda _: '{"format_version": 4}'), "no kind, settings"),
    "version": (field("format_version", "4"), "format version 4"),
    "origins": (field("summary.fitted_on", {"selection": {}, "origins": [[]]}), "summary: an origin"),
    "SQL that reads a file": (where("a IN (FROM read_csv('/etc/hostname'))"), "summary: --where .* contains a query"),
    "SQL in another place": (where("a IN (SELECT a FROM read_parquet('http://192.0.2.1/a'))"), "contains a query"),
    "SQL in quotes": (where("a = '\\' OR a IN (SELECT 1) OR '' = ''"), "contains a query"),
    "SQL by a function": (where("read_csv('/etc/hostname') = 1"), "has no function read_csv"),
    "SQL nested": (where("(" * 100_000), "is nested more than|has 100,000 characters|operators"),
    "SQL of many operators": (where("a" + " OR a" * 20_000), "operators|characters"),
    "SQL with a costly pattern": (where("a ~ b"), "needs a text in quotes after ~"),
    "condition as a number": (where(7), "where is text in quotes"),  # type: ignore[arg-type]  # on purpose
    # JSON.
    "nesting": (text(lambda _: "[" * 100_000 + "]" * 100_000), "nested too deeply"),
    "nested objects": (text(lambda _: '{"a":' * 100_000 + "1" + "}" * 100_000), "nested too deeply"),
    "nesting at the start": (start(lambda _: '{"a":' + "[" * 100_000), "nested too deeply"),
    "many values": (text(lambda _: '{"a": [' + "0," * 2_000_000 + "0]}"), "more than 1,000,000 values"),
    "many digits": (text(lambda _: '{"format_version": ' + "9" * 100_000 + "}"), "is not JSON that a model has"),
    "a key twice": (text(lambda whole: whole[:-1] + ', "seed": 2}'), "the key 'seed' occurs twice"),
    "a list": (text(lambda _: "[4]"), "it is no object"),
    "not UTF-8": (text(lambda _: "\ud800"), "is not JSON|does not hold"),
    "header as a list": (start(lambda _: '{"__metadata__": {"thalweg": ["x"]}}'), "it is not text"),
    "metadata as a list": (start(lambda _: '{"__metadata__": []}'), "not one of Thalweg's"),
    "huge header": (text(lambda _: " " * (33 << 20)), "its header has"),
    # Tensors.
    "weights NaN": (value(WEIGHTS, NAN), f"tensor '{WEIGHTS}' holds NaN"),
    "weights infinite": (value(WEIGHTS, -INF, -1), f"tensor '{WEIGHTS}' holds NaN"),
    "calibration NaN": (value("calibration.logit", NAN), "tensor 'calibration.logit' holds NaN"),
    "shape": (entry(WEIGHTS, "shape", [4, 16]), "the weights decoder.of_src.weight"),
    "shape without end": (entry(WEIGHTS, "shape", [10**9, 10**9]), f"tensor '{WEIGHTS}': its shape"),
    "negative shape": (entry(WEIGHTS, "shape", [-8, -8]), f"tensor '{WEIGHTS}': its shape is impossible"),
    "shape that overflows": (entry(WEIGHTS, "shape", [2**32, 2**32, 4]), f"tensor '{WEIGHTS}': its shape"),
    "many dimensions": (entry(WEIGHTS, "shape", [1] * 10**5), f"tensor '{WEIGHTS}': its shape is impossible"),
    "shape as text": (entry(WEIGHTS, "shape", "8x8"), f"tensor '{WEIGHTS}': shape is a list"),
    "type": (entry(WEIGHTS, "dtype", "O"), f"tensor '{WEIGHTS}': its type is none of"),
    "type of another": (entry(WEIGHTS, "dtype", "I32"), "the weights decoder.of_src.weight are torch.int32"),
    "overlap": (entry(WEIGHTS, "data_offsets", [0, 256]), "begins at byte 0"),
    "beyond the end": (entry(WEIGHTS, "data_offsets", [10**7, 10**7 + 256]), "begins at byte"),
    "far beyond the end": (entry(WEIGHTS, "data_offsets", [2**63, 2**63 + 256]), f"tensor '{WEIGHTS}': its shape"),
    "backwards": (entry(WEIGHTS, "data_offsets", [256, 0]), f"tensor '{WEIGHTS}': its shape"),
    "offsets as text": (entry(WEIGHTS, "data_offsets", ["0", "256"]), f"tensor '{WEIGHTS}': data_offsets is a list"),
    "no type": (lambda file: file.tensors[WEIGHTS].pop("dtype"), f"tensor '{WEIGHTS}': no 'dtype'"),
    "bytes behind the last": (longer, "8 bytes follow its last tensor"),
    "missing weights": (renamed(WEIGHTS, "x"), "no weights decoder.of_src.weight"),
    "unknown weights": (renamed("profile.hosts", "network.x"), "profile: no 'hosts'"),
    "order of keys": (value("familiarity.keys.4", 2**62), "the keys of familiarity.keys.4 are not in order"),
    "count": (value("familiarity.counts.0", 1e30), "familiarity.counts.0 holds what is no logarithm"),
    "negative count": (value("familiarity.counts.4", -1.0), "familiarity.counts.4 holds what is no logarithm"),
    "order of prefixes": (value("vocabulary.2", 2**62), "the keys of vocabulary.2 are not in order"),
}  # fmt: skip


@pytest.fixture(scope="module")
def detector() -> Detector:
    shape = ModelConfig(width=8, prefix_width=4, max_pool=16)
    model = ThalwegModel(shape=shape, training=TrainingConfig(steps=2, epochs=1, min_window=50), window_size=150)
    return Detector(model, seed=1, device="cpu").fit(make_flows(400))


@pytest.fixture(scope="module")
def whole(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "m.thalweg"
    detector.save(path)
    return path.read_bytes()


def refused(path: Path) -> str:
    """Load a file that must be refused quickly and at little cost. Returns: the message."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.process_time()
    with pytest.raises(ModelFormatError) as caught:
        Detector.load(path, device="cpu")
    assert time.process_time() - begun < MOST_S
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES
    said = str(caught.value)
    assert said.startswith(str(path))
    assert len(said) < 2_000
    return said


def test_the_file_that_is_changed_loads(whole: bytes, tmp_path: Path) -> None:
    assert len(HOSTILE) >= 80
    (tmp_path / "m.thalweg").write_bytes(ModelFile(whole).whole())
    Detector.load(tmp_path / "m.thalweg", device="cpu").warm_up()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_file_is_refused(whole: bytes, tmp_path: Path, name: str) -> None:
    change, said = HOSTILE[name]
    file = ModelFile(whole)
    change(file)
    path = tmp_path / "m.thalweg"
    path.write_bytes(file.whole())
    found = refused(path)
    assert re.search(said, found), found


def test_a_sparse_file_is_refused_before_it_is_read(whole: bytes, tmp_path: Path) -> None:
    file = ModelFile(whole)
    size = 1 << 40
    file.tensors["more"] = {
        "dtype": "F32",
        "shape": [size // 4],
        "data_offsets": [len(file.data), len(file.data) + size],
    }
    path = tmp_path / "m.thalweg"
    path.write_bytes(file.whole())
    with path.open("r+b") as written:
        written.truncate(len(file.whole()) + size)
    assert "its shape is impossible" in refused(path)


def test_weights_that_overflow_are_refused_when_the_model_warms_up(whole: bytes, tmp_path: Path) -> None:
    file = ModelFile(whole)
    file.values(WEIGHTS)[:] = 3e38
    (tmp_path / "m.thalweg").write_bytes(file.whole())
    with pytest.raises(ModelError, match="weights are out of range"):
        Detector.load(tmp_path / "m.thalweg", device="cpu").warm_up()


@pytest.mark.parametrize("size", [0, 100, 5_000])
def test_a_file_that_is_overwritten_in_place_changes_nothing(
    detector: Detector, whole: bytes, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "m.thalweg"
    path.write_bytes(whole)
    loaded = Detector.load(path, device="cpu")
    with path.open("r+b") as file:  # as `cp` does
        file.truncate(size)
        file.write(b"\xff" * size)
    flows = make_flows(200)
    assert loaded.score(flows).logit.tobytes() == detector.score(flows).logit.tobytes()
    assert loaded.threshold_for("0.1") == detector.threshold_for("0.1")
    assert loaded.drift(loaded.score(flows)) == detector.drift(detector.score(flows))


def test_a_published_model_is_checked_too(tmp_path: Path) -> None:
    published = Detector(PublishedGAE(PublishedConfig(window_size=50, num_epochs=1)), device="cpu").fit(make_flows(100))
    published.save(tmp_path / "m.thalweg")
    whole = (tmp_path / "m.thalweg").read_bytes()
    changes: dict[str, Change] = {
        "window holds at least": field("settings.window_size", 10**12),
        "window_size is a whole number": field("settings.window_size", 10.5),
        "learning_rate is a number": field("settings.learning_rate", NAN),
        "no setting 'x'": field("settings.x", 1),
        "tensor 'mean' holds NaN": value("mean", NAN),
        "std is not positive": value("std", 0.0),
        "projection is": entry("projection", "shape", [32, 4]),
        "the weights decoder.fc_edge.bias": entry("network.decoder.fc_edge.bias", "shape", [2, 128]),
    }
    for said, change in changes.items():
        file = ModelFile(whole)
        change(file)
        path = tmp_path / "hostile.thalweg"
        path.write_bytes(file.whole())
        assert said in refused(path)
