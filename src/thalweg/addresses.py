"""Parses textual addresses into sixteen bytes each, a whole column at a time."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

NOT_IP: Final = 0
IPV4: Final = 4
IPV6: Final = 6

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_V4 = rf"^{_OCTET}(?:\.{_OCTET}){{3}}$"
# What is an address as it stands, give or take a field too long.
_GROUP = "[0-9A-Fa-f]{1,4}"
_USUAL = (
    rf"^(?:{_OCTET}(?:\.{_OCTET}){{3}}"
    rf"|(?:[0-9A-Fa-f:]*::[0-9A-Fa-f:]*(?:{_OCTET}(?:\.{_OCTET}){{3}})?"
    rf"|(?:{_GROUP}:){{7}}{_GROUP}|(?:{_GROUP}:){{6}}[0-9.]+)(?:%.*)?)$"
)
_NEARLY = r"(?i)^['\"`\[]|['\"`\]]$|/(?:32|128)$|^[0-9.:-]+$|^[0-9a-f:]*:[0-9.]+$|^(?:\?|\(empty\)|n/a|nan|none|null)$"
_MISSING = ("-", "?", "(empty)", "n/a", "nan", "none", "null")
_V6_SHAPE = r"^[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,8}$"


def parse_addresses(
    texts: pl.Series,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Parse textual addresses, without a Python loop.

    An IPv4 address becomes its IPv4-mapped form, ::ffff:a.b.c.d. Text that is no address becomes sixteen bytes of its
    hash, of kind `NOT_IP`, so that different texts stay different hosts. A zone (fe80::1%eth0) is dropped, since it
    names an interface of the machine that wrote it.

    Returns: (N, 16) uint8 in network order; (N,) uint8 kind, one of `NOT_IP`, `IPV4`, `IPV6`.
    Source: RFC 4291 sections 2.2 and 2.5.5.2.

    >>> import polars as pl
    >>> octets, kind = parse_addresses(pl.Series(["10.0.0.7", "2001:db8::1", "printer"]))
    >>> octets[0, 12:].tolist(), kind.tolist()
    ([10, 0, 0, 7], [4, 6, 0])
    """
    num = len(texts)
    octets = np.zeros((num, 16), np.uint8)
    kind = np.full(num, NOT_IP, np.uint8)
    text = texts.cast(pl.String).fill_null("")
    is_v4 = text.str.contains(_V4)
    v4_rows = is_v4.arg_true().to_numpy()
    if len(v4_rows):
        octets[v4_rows, 10:12] = 0xFF
        octets[v4_rows, 12:] = _v4_octets(text.filter(is_v4))
        kind[v4_rows] = IPV4
    rest = (~is_v4).arg_true()
    if len(rest):
        _parse_v6(text.gather(rest), rest.to_numpy(), octets, kind)
        names = np.flatnonzero(kind == NOT_IP)
        if len(names):
            name = text.gather(pl.Series(names))
            octets[names] = _name_bytes(name)
    return octets, kind


def in_usual_spelling(texts: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Write addresses as parsers expect them: without quotes, brackets, /32, zeros in front; not as integers.

    Returns: the texts, null if they stand for no address, as - does; (N,) bool, true for names.

    >>> import polars as pl
    >>> texts, is_name = in_usual_spelling(pl.Series(["[2001:db8::1]", "192.000.002.001/32", "3221225985", "-", "nas"]))
    >>> texts.to_list(), is_name.to_list()
    (['2001:db8::1', '192.0.2.1', '192.0.2.1', None, 'nas'], [False, False, False, False, True])
    """
    # Hosts are far fewer than flows.
    if texts.unique().str.contains(_USUAL).all():
        return texts, pl.repeat(value=False, n=len(texts), dtype=pl.Boolean, eager=True)
    is_name = ~texts.str.contains(_USUAL).fill_null(value=True)
    at = is_name.arg_true()
    at = at.filter(texts.gather(at).str.contains(_NEARLY))
    if not len(at):
        return texts, is_name
    text = pl.col("text").str.strip_chars(" \t\"'`")
    text = text.str.replace(r"^\[([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[^\]]*)?)\]$", "$1")
    text = text.str.replace(r"^([0-9.]+)/32$", "$1").str.replace(r"^([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)/128$", "$1")
    is_padded = text.str.contains(r"^(?:[0-9A-Fa-f:]*:)?[0-9]{1,3}(?:\.[0-9]{1,3}){3}$")
    unpadded = text.str.replace(r"[0-9.]+$", "").add(
        text.str.extract(r"([0-9.]+)$").str.replace_all(r"\b0+([0-9])", "$1")
    )
    text = pl.when(is_padded).then(unpadded).otherwise(text)
    number = text.str.extract(r"^(-?[0-9]{8,10})(?:\.0)?$").cast(pl.Int64)
    number = pl.when(number.is_between(-(1 << 31), -1)).then(number + (1 << 32)).otherwise(number)
    octets = [((number // (1 << shift)) % 256).cast(pl.String) for shift in (24, 16, 8, 0)]
    # Below 1.0.0.0 a number is rather that of a host in a data set.
    text = pl.when(number.is_between(1 << 24, (1 << 32) - 1)).then(pl.concat_str(octets, separator=".")).otherwise(text)
    text = pl.when((text != "") & ~text.str.to_lowercase().is_in(_MISSING)).then(text)
    respelled = texts.gather(at).to_frame("text").select(text).to_series()
    is_name = is_name.scatter(at, ~respelled.str.contains(_USUAL).fill_null(value=True))
    return texts.clone().scatter(at, respelled), is_name


def _name_bytes(name: pl.Series) -> npt.NDArray[np.uint8]:
    # A Python loop, but only over texts that are no address. Not Polars' hash: model files hold these bytes, and its
    # hash may change with its version.
    digests = [blake2b(text.encode(), digest_size=16).digest() for text in name]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def _v4_octets(text: pl.Series) -> npt.NDArray[np.uint8]:
    fields = text.str.split_exact(".", 3).struct.unnest()
    return fields.select(pl.all().cast(pl.UInt8)).to_numpy()


def _parse_v6(
    text: pl.Series,
    rows: npt.NDArray[np.integer],
    octets: npt.NDArray[np.uint8],
    kind: npt.NDArray[np.uint8],
) -> None:
    frame = pl.DataFrame({"row": rows, "text": text.str.to_lowercase().str.replace(r"%[^%]*$", "")})
    # A dotted tail (::ffff:10.0.0.7) stands for two groups; its octets are written at the end.
    tail = pl.col("text").str.extract(r":(\d+\.\d+\.\d+\.\d+)$", 1)
    frame = frame.with_columns(tail=pl.when(tail.str.contains(_V4)).then(tail))
    frame = frame.with_columns(
        text=pl.when(pl.col("tail").is_null())
        .then("text")
        .otherwise(pl.col("text").str.replace(r"\d+\.\d+\.\d+\.\d+$", "0:0"))
    )
    num_gaps = pl.col("text").str.count_matches("::")
    frame = frame.filter(
        pl.col("text").str.contains(_V6_SHAPE)
        & (num_gaps <= 1)
        & ~pl.col("text").str.contains(":::")
        & ~pl.col("text").str.contains(r"^:[^:]|[^:]:$")
    )
    # "::" stands for the missing groups, at least one; without it, all eight must be there.
    frame = frame.with_columns(
        halves=pl.col("text").str.splitn("::", 2).struct.rename_fields(["left", "right"]),
        gap=num_gaps == 1,
    ).unnest("halves")
    left = pl.col("left").fill_null("")
    right = pl.col("right").fill_null("")
    num_left = pl.when(left == "").then(0).otherwise(left.str.count_matches(":") + 1).cast(pl.Int32)
    num_right = pl.when(right == "").then(0).otherwise(right.str.count_matches(":") + 1).cast(pl.Int32)
    frame = frame.with_columns(left=left, right=right, num_left=num_left, num_right=num_right)
    total = pl.col("num_left") + pl.col("num_right")
    frame = frame.filter(pl.when("gap").then(total <= 7).otherwise(total == 8))
    if not frame.height:
        return
    zeros = pl.lit("0:").repeat_by(8 - pl.col("num_left") - pl.col("num_right")).list.join("")
    full = pl.concat_str(
        pl.when(pl.col("num_left") > 0).then(pl.col("left") + ":").otherwise(pl.lit("")), zeros, "right"
    ).str.strip_suffix(":")
    fields = frame.select(full.str.split_exact(":", 7).alias("f")).unnest("f")
    words = fields.select(pl.all().str.to_integer(base=16, dtype=pl.UInt32)).to_numpy()
    at = frame["row"].to_numpy()
    octets[at] = np.ascontiguousarray(words, dtype=">u2").view(np.uint8)
    dotted = frame["tail"].is_not_null()
    if dotted.any():
        octets[frame["row"].filter(dotted).to_numpy(), 12:] = _v4_octets(frame["tail"].filter(dotted))
    mapped = (octets[at, :10] == 0).all(axis=1) & (octets[at, 10:12] == 0xFF).all(axis=1)
    kind[at] = np.where(mapped, IPV4, IPV6)
