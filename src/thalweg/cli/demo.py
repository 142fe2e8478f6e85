"""The first minute: a network that does not exist, a model of its quiet day, and what it finds in the next."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.console import Console
from rich.table import Table

from thalweg.alert.hosts import rank_hosts
from thalweg.cli.show.console import (
    compiling_notes,
    evaluation_tables,
    hosts_table,
    percent,
    seconds_in_words,
    threshold_in_words,
    training_line,
)
from thalweg.detect import Detector
from thalweg.errors import MissingExtraError, SinkError
from thalweg.evaluate.metrics import evaluate
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel
from thalweg.sinks.table_file import write_table
from thalweg.synthetic import SimulationConfig, simulate

NUM_FLOWS: Final = 80_000
NUM_SHOWN: Final = 4_000_000


def run_demo(out: Path, seed: int, console: Console, err: Console) -> None:
    """Simulate, fit, score, print what was caught, and leave flows, model, scores and report in `out`.

    Raises: SinkError, where the folder cannot be made.
    """
    begun = time.perf_counter()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"cannot make the folder {out}: {error.strerror}. Choose another with --out") from error
    config = SimulationConfig(flows=NUM_FLOWS, seed=seed)
    flows = simulate(config)
    label = flows.frame["label"].to_numpy()
    first_day = (flows.frame["start"] < config.start + config.duration / 2).to_numpy()
    quiet, busy = flows.filter(first_day), flows.filter(~first_day)
    console.print(
        f"simulated an office: {len(quiet):,} flows on a quiet day, then {len(busy):,} on a day with "
        f"{label.sum():,} flows of eight attacks",
        soft_wrap=True,
    )
    write_table(out / "quiet.parquet", [quiet.output()])
    write_table(out / "busy.parquet", [busy.output()])
    detector = Detector(ThalwegModel(training=TrainingConfig(num_flows=NUM_SHOWN, epochs=10)), seed=seed)
    with compiling_notes(err), training_line(err) as learning:
        detector.fit(quiet, progress=learning)
    detector.save(out / "office.thalweg")
    assert detector.threshold is not None, "fit sets it"
    console.print(
        f"learned the quiet day in {seconds_in_words(detector.summary['seconds'])}, without labels\n"
        f"{threshold_in_words(detector.threshold)}\n",
        soft_wrap=True,
    )
    scores = detector.score(busy)
    write_table(out / "scores.parquet", [scores.output()])
    frame = busy.frame
    is_attack = frame["label"].to_numpy()
    result = evaluate(scores.logit, scores.anomalous, is_attack, frame["attack"], frame["start"])
    hosts = rank_hosts(
        frame["src_addr"],
        scores.logit,
        scores.anomalous,
        threshold_logit=detector.threshold.logit,
        label=is_attack,
    )
    console.print(_strangest(frame["attack"], frame, scores.logit), "")
    for table in evaluation_tables(result):
        console.print(table, "")
    console.print(hosts_table(hosts, 5), "")
    facts = {
        "network": "simulated office, two days",
        "learned from": f"{len(quiet):,} unlabelled flows",
        "budget": detector.threshold.budget,
        "seed": str(seed),
    }
    try:
        from thalweg.evaluate.report import write_report
    except MissingExtraError as error:
        page = f"no page with the curves: {error}"
    else:
        report = out / "report.html"
        write_report(
            report,
            "Thalweg demo",
            result,
            scores.logit,
            is_attack,
            frame["attack"],
            detector.threshold.logit,
            facts,
            hosts,
        )
        page = f"open {report.resolve().as_uri()}"
    console.print(
        f"caught {percent(result.tpr)} of the attack flows with {percent(result.fpr)} false alarms, "
        f"in {seconds_in_words(time.perf_counter() - begun)}",
        style="bold",
        soft_wrap=True,
    )
    console.print(
        f"{page}\nnext: thalweg fit YOUR_FLOWS -o my.thalweg",
        soft_wrap=True,
    )


def _strangest(attack: pl.Series, frame: pl.DataFrame, logit: npt.NDArray[np.float32]) -> Table:
    """Show the strangest flow of each attack, and the strangest one of none, strangest first."""
    table = Table(title="The strangest flow of each attack", title_justify="left", box=None, pad_edge=False)
    for name in ("attack", "score", "from", "to", "port", "sent", "received"):
        table.add_column(name, justify="left" if name in ("attack", "from", "to") else "right")
    rated = frame.with_columns(attack=attack, logit=pl.Series(logit))
    strangest = rated.sort("logit").group_by("attack", maintain_order=True).first()
    for row in strangest.iter_rows(named=True):
        table.add_row(
            row["attack"],
            f"{1 / (1 + np.exp(row['logit'])):.4f}",
            row["src_addr"],
            row["dst_addr"],
            "-" if row["dst_port"] is None else str(row["dst_port"]),
            f"{row['fwd_bytes']:,} B",
            f"{row['bwd_bytes']:,} B",
        )
    return table
