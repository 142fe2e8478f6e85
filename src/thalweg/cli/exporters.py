"""`thalweg exporters`."""

# Packages are imported inside the functions: `thalweg --help` should not wait for them.
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thalweg.cli.options import Json
from thalweg.cli.show.terminal import ERR, print_json, wide_out
from thalweg.cli.stream import From

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_MANY_CHANGES = 10
"""Changes of templates that are more than a change of settings."""


def exporters(
    *,
    sources: From = None,
    seconds: Annotated[float, typer.Option(help="Seconds to listen.")] = 15.0,
    spool: Annotated[
        Path | None,
        typer.Option(
            help="The --spool folder of a run that already uses the port: query the run instead of listening."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show who is sending: versions, templates, sampling, gaps, clock errors, rates. Look here if nothing arrives.

    With --from, it listens at a port that no other program uses, or reads a pcap; without, it queries the run in
    --spool.
    """
    from rich.text import Text

    from thalweg.cli.show.notes import compiling_notes
    from thalweg.cli.show.progress import progress
    from thalweg.live.survey import ask_run, look

    if sources:
        with compiling_notes(ERR), progress(ERR) as line:

            def listening(num: int, seconds_left: float) -> None:
                words = f"listening for {seconds_left:.0f} s more: {num:,} datagrams"
                line.show(lambda: Text(words))

            found = look(tuple(sources), seconds, listening)
    else:
        found = ask_run(spool or Path("thalweg-spool"))
    if as_json:
        print_json(found)
        return
    wide = wide_out()
    for part in _report(found):
        wide.print(part)


def _report(found: dict[str, Any]) -> list[RenderableType]:
    """Return what to print: sockets, exporters, counts, and advice if something is wrong."""
    from thalweg.tally import MEANINGS

    parts: list[RenderableType] = [
        f"{one['address']}, buffer {one['buffer_bytes'] / (1 << 20):,.1f} MiB" for one in found["sockets"]
    ]
    parts.append(f"{found['datagrams']:,} datagrams in {found['seconds']:,.0f} s")
    if found["exporters"]:
        parts.append(_exporters_table(found))
    parts += [f"note: {num:,} {MEANINGS.get(name, name)}" for name, num in found["counts"].items()]
    parts += [f"→ {advice}" for advice in _advice(found)]
    return parts


def _exporters_table(found: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("exporter", "version", "domain"):
        table.add_column(name)
    for name in ("flows", "flows/s", "datagrams", "lost", "malformed"):
        table.add_column(name, justify="right")
    for name in ("templates", "sampling", "clock", "last seen"):
        table.add_column(name)
    for one in sorted(found["exporters"], key=lambda one: -one["flows"]):
        lasted = max(one["last_seen"] - one["first_seen"], 1.0)
        table.add_row(
            one["exporter"],
            {5: "v5", 9: "v9", 10: "IPFIX"}.get(one["version"], str(one["version"])),
            str(one["domain"]),
            f"{one['flows']:,}",
            f"{one['flows'] / lasted:,.1f}",
            f"{one['datagrams']:,}",
            f"{one['lost']:,}",
            f"{one['malformed']:,}",
            _templates(one),
            _sampling(one),
            f"{one['clock_error_s']:+.1f} s",
            f"{max(found['as_of'] - one['last_seen'], 0):,.0f} s ago",
        )
    return table


def _few(ids: list[int]) -> str:
    return " ".join(map(str, ids[:4])) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")


def _templates(one: dict[str, Any]) -> str:
    options = f" options {_few(one['options_templates'])}" if one["options_templates"] else ""
    changed = f" (changed {one['changed_templates']:,} times)" if one["changed_templates"] else ""
    return _few(one["templates"]) + options + changed


def _sampling(one: dict[str, Any]) -> str:
    if one["samplers"] and not one["sampling"]:
        return "by sampler: " + ", ".join(f"1 in {interval}" for interval in sorted(set(one["samplers"].values()))[:3])
    if not one["sampling"]:
        return "not reported"
    return f"1 in {one['sampling']:,} ({one['sampled_by']})" if one["sampling"] > 1 else "none"


def _sampling_elsewhere(one: dict[str, Any], exporters: list[dict[str, Any]]) -> str:
    """Say which other domain of an exporter reports a sampling, if this one reports none."""
    if one["sampling"] or one["samplers"]:
        return ""
    for other in exporters:
        intervals = {other["sampling"], *other["samplers"].values()} - {0}
        is_same = all(other[name] == one[name] for name in ("exporter", "version"))
        if is_same and other["sampled_by"] in ("options", "nobody") and max(intervals, default=1) > 1:
            return (
                f"{one['exporter']}: domain {other['domain']} reports 1 in {max(intervals):,}, domain {one['domain']} "
                f"sends flows and reports none: if it holds for these, give --sampling {one['exporter']}="
                f"{max(intervals)}"
            )
    return ""


def _advice(found: dict[str, Any]) -> list[str]:
    """List advice for every problem that a person can fix."""
    said = []
    if not found["datagrams"]:
        port = found["sockets"][0]["address"].rpartition(":")[2] if found["sockets"] else "2055"
        said.append(
            "nothing arrived. Is the exporter's destination this machine and port? Does a firewall let UDP through? "
            f"Check with `tcpdump -ni any udp port {port}`."
        )
    counts = found["counts"]
    if counts.get("kernel_drops"):
        said.append("the kernel dropped datagrams: raise net.core.rmem_max by sysctl, and --buffer-mb")
    for one in found["exporters"]:
        who = f"{one['exporter']} (domain {one['domain']})"
        if one["held_sets"] and not one["templates"] and one["version"] > 5:
            said.append(
                f"{who} has sent no template yet: its flows wait for it. Let it send templates every minute "
                "(Cisco: `template data timeout 60`)."
            )
        if abs(one["clock_error_s"]) > 60:
            said.append(f"{who} has a clock that is {one['clock_error_s']:+,.0f} s off: let it use NTP")
        if one["datagrams"] > 100 and one["lost"] > 0.01 * max(one["flows"], one["datagrams"]):
            said.append(
                f"{who}: {one['lost']:,} are missing by its sequence numbers: lost on the way or before listening began"
            )
        if one["changed_templates"] > _MANY_CHANGES:
            said.append(
                f"{who}: {one['changed_templates']:,} times a template changed while in use: do several exporters or "
                "processes send from one address, or does somebody forge its datagrams?"
            )
        if one["skipped_sets"]:
            said.append(
                f"{who}: {one['skipped_sets']:,} sets were skipped, as it took more than its share of the decoder's "
                "time: does somebody forge its datagrams?"
            )
        if one["disbelieved_intervals"] and one["sampled_by"] != "--sampling":
            said.append(
                f"{who} reports a sampling interval that is too large, as in the wrong byte order (MikroTik), so that "
                f"none is used: give --sampling {one['exporter']}=N, for one packet in N"
            )
        if one["flows"] and (hint := _sampling_elsewhere(one, found["exporters"])):
            said.append(hint)
        if one["other_records"] and not one["flows"]:
            said.append(
                f"{who} sends records without addresses or bytes: see `thalweg decode`, and its flow record's fields"
            )
    return said
