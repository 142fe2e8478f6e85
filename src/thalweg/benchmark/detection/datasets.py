"""The data sets of the benchmark: how each is recognised, where it comes from, and published results on it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

from thalweg.errors import ConfigError, SourceError

Family = Literal["netflow", "binetflow"]

_ENDINGS: Final = (".csv", ".binetflow", ".parquet")
_PACKINGS: Final = (".gz", ".zst")


@final
@dataclass(frozen=True, slots=True)
class Rates:
    """Rates as published, in [0, 1]."""

    tpr: float
    fpr: float


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """One published data set, in any of its versions.

    mark: what its files' names contain, letters and digits only, in lower case. published: the graph autoencoder
    as published; anomal_e: Anomal-E as its authors' figures were reported beside it; both with Youden's J on the
    test labels, both on the v1 files. source: who publishes it.
    """

    name: str
    title: str
    family: Family
    mark: str
    published: Rates | None = None
    anomal_e: Rates | None = None
    source: str


_QUEENSLAND: Final = (
    "published by the University of Queensland under 'NIDS datasets' as {}, in versions v1, v2 and v3 (CSV); "
    "unpack it and keep the file's name"
)

DATA_SETS: Final[Mapping[str, DataSet]] = {
    one.name: one
    for one in (
        DataSet(
            name="cicids2018",
            title="NF-CSE-CIC-IDS2018",
            family="netflow",
            mark="cicids2018",
            published=Rates(0.87, 0.15),
            anomal_e=Rates(0.88, 0.29),
            source=_QUEENSLAND.format("NF-CSE-CIC-IDS2018"),
        ),
        DataSet(
            name="unsw-nb15",
            title="NF-UNSW-NB15",
            family="netflow",
            mark="unswnb15",
            published=Rates(0.98, 0.02),
            anomal_e=Rates(0.79, 0.002),
            source=_QUEENSLAND.format("NF-UNSW-NB15"),
        ),
        DataSet(
            name="ton-iot",
            title="NF-ToN-IoT",
            family="netflow",
            mark="toniot",
            published=Rates(0.78, 0.04),
            anomal_e=Rates(0.74, 0.57),
            source=_QUEENSLAND.format("NF-ToN-IoT"),
        ),
        DataSet(
            name="bot-iot",
            title="NF-BoT-IoT",
            family="netflow",
            mark="botiot",
            published=Rates(0.40, 0.02),
            anomal_e=Rates(0.46, 0.60),
            source=_QUEENSLAND.format("NF-BoT-IoT"),
        ),
        DataSet(
            name="ctu13-20110816",
            title="CTU-13, capture of 2011-08-16",
            family="binetflow",
            mark="20110816",
            source="published by the Stratosphere Laboratory, Czech Technical University in Prague, as CTU-13: the "
            "bidirectional flow file capture20110816.binetflow",
        ),
    )
}
"""Every data set by name. Add one here."""


@final
@dataclass(frozen=True, slots=True)
class Found:
    """A file of a data set in the folder; `name` includes its version, as in cicids2018-v2-sample."""

    name: str
    data_set: DataSet
    path: Path


def recognise(path: Path) -> Found | None:
    """Recognise by a file's name which data set it holds; None if it holds none of DATA_SETS.

    >>> recognise(Path("NF-CSE-CIC-IDS2018-v2.csv")).name, recognise(Path("nf-toniot-v2-sample.csv.gz")).name
    ('cicids2018-v2', 'ton-iot-v2-sample')
    >>> recognise(Path("NF-UNSW-NB15.csv.zst")).name, recognise(Path("notes.csv"))
    ('unsw-nb15-v1', None)
    """
    name = path.name.lower()
    for packing in _PACKINGS:
        name = name.removesuffix(packing)
    if not name.endswith(_ENDINGS) or name.startswith("."):
        return None
    letters = re.sub(r"[^a-z0-9]", "", name)
    for one in DATA_SETS.values():
        if one.mark not in letters:
            continue
        if one.family == "binetflow":
            return Found(one.name, one, path)
        if letters.startswith("nf"):
            version = re.search(r"v([123])(?![0-9])", letters.split(one.mark, 1)[1])
            sample = "-sample" if "sample" in letters else ""
            return Found(f"{one.name}-v{version[1] if version else 1}{sample}", one, path)
    return None


def find_data_sets(folder: Path) -> tuple[Found, ...]:
    """Find the data sets' files in a folder and the folders in it, in the order of DATA_SETS.

    Raises SourceError if there is no such folder or nothing in it is recognised; ConfigError if two
    files are one data set.
    """
    if not folder.is_dir():
        raise SourceError(f"--data {folder}: there is no such folder; give the one that holds the data sets")
    found: dict[str, Found] = {}
    for path in sorted(folder.rglob("*")):
        one = recognise(path) if path.is_file() else None
        if one is None:
            continue
        if one.name in found:
            raise ConfigError(f"{found[one.name].path} and {path} are both {one.name}: leave one of them in --data")
        found[one.name] = one
    if not found:
        raise SourceError(f"--data {folder}: no data set is recognised there. Known: {how_to_get(DATA_SETS.values())}")
    order = list(DATA_SETS)
    return tuple(sorted(found.values(), key=lambda one: (order.index(one.data_set.name), one.name)))


def choose(found: Sequence[Found], names: Sequence[str] | None) -> tuple[Found, ...]:
    """Choose files by their name or by their data set's; all if no name is given.

    Raises ConfigError if a name is no data set's; SourceError if no file of the named ones was found.
    """
    if names is None:
        return tuple(found)
    known = {*DATA_SETS, *(one.name for one in found)}
    for name in names:
        if name not in known:
            raise ConfigError(f"--datasets {name}: no data set has that name. Known: {', '.join(sorted(known))}")
    chosen = tuple(one for one in found if one.name in names or one.data_set.name in names)
    if not chosen:
        absent = how_to_get([DATA_SETS[name] for name in names if name in DATA_SETS])
        raise SourceError(f"none of the chosen data sets is in --data: {absent}")
    return chosen


def not_given(found: Collection[Found]) -> tuple[DataSet, ...]:
    """Return the data sets of which no file was found."""
    there = {one.data_set.name for one in found}
    return tuple(one for one in DATA_SETS.values() if one.name not in there)


def how_to_get(sets: Collection[DataSet]) -> str:
    """List who publishes each of these data sets."""
    return "; ".join(f"{one.title} ({one.source})" for one in sets)
