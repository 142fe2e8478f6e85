"""`thalweg demo`: simulate a network, fit a model on a quiet day, and score the next day, which has attacks."""

# Packages are imported inside the functions: `thalweg --help` should not wait for torch.
from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from thalweg.cli.show.terminal import ERR, OUT
from thalweg.errors import MissingExtraError, SinkError

if TYPE_CHECKING:
    import polars as pl

    from thalweg.evaluate.tables import Table

NUM_FLOWS: Final = 80_000
NUM_SHOWN: Final = 4_000_000


def demo(
    *,
    out: Annotated[Path, typer.Option(help="The folder for flows, model, scores and report.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="The seed of all randomness.")] = 7,
) -> None:
    """In a minute: simulate a small office, learn its quiet day, score a day with eight planted attacks, and report."""
    import polars as pl

    from thalweg.alert.hosts import rank_hosts
    from thalweg.cli.show.notes import compiling_notes
    from thalweg.cli.show.progress import progress, training
    from thalweg.cli.show.tables import print_tables
    from thalweg.cli.show.words import seconds_in_words, threshold_in_words
    from thalweg.detect import Detector
    from thalweg.evaluate.metrics import evaluate
    from thalweg.evaluate.tables import Share, evaluation_tables, hosts_table
    from thalweg.model.learning.training import TrainingConfig
    from thalweg.model.thalweg import ThalwegModel
    from thalweg.sinks.table_file import write_table
    from thalweg.synthetic import SimulationConfig, simulate

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
    OUT.print(
        f"simulated an office: {len(quiet):,} flows on a quiet day, then {len(busy):,} on a day with "
        f"{label.sum():,} flows of eight attacks",
        soft_wrap=True,
    )
    write_table(out / "quiet.parquet", [quiet.output()])
    write_table(out / "busy.parquet", [busy.output()])
    detector = Detector(ThalwegModel(training=TrainingConfig(num_flows=NUM_SHOWN, epochs=10)), seed=seed)
    with compiling_notes(ERR), progress(ERR) as line:
        detector.fit(quiet, progress=training(line))
    detector.save(out / "office.thalweg")
    assert detector.threshold is not None, "fit sets it"
    OUT.print(
        f"learned the quiet day in {seconds_in_words(detector.summary['seconds'])}, without labels\n"
        f"{threshold_in_words(detector.threshold)}\n",
        soft_wrap=True,
    )
    scores = detector.score(busy)
    write_table(out / "scores.parquet", [scores.output()])
    frame = busy.frame
    is_attack = frame["label"].to_numpy()
    threshold = detector.threshold.logit
    result = evaluate(scores.logit, scores.anomalous, is_attack, frame["attack"], frame["start"])
    hosts = rank_hosts(frame["src_addr"], scores.logit, scores.anomalous, threshold_logit=threshold, label=is_attack)
    print_tables(OUT, [_strangest_table(frame.with_columns(logit=pl.Series(scores.logit))), *evaluation_tables(result)])
    print_tables(OUT, [hosts_table(hosts, 5)], emphasis="bold red")
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
            logit=scores.logit,
            label=is_attack,
            attack=frame["attack"],
            threshold_logit=threshold,
            facts={
                "network": "simulated office, two days",
                "learned from": f"{len(quiet):,} unlabelled flows",
                "budget": detector.threshold.budget,
                "seed": str(seed),
            },
            hosts=hosts,
        )
        page = f"open {report.resolve().as_uri()}"
    OUT.print(
        f"caught {Share(result.tpr)} of the attack flows with {Share(result.fpr)} false alarms, "
        f"in {seconds_in_words(time.perf_counter() - begun)}",
        style="bold",
        soft_wrap=True,
    )
    OUT.print(
        f"{page}\nnext: thalweg fit YOUR_FLOWS -o my.thalweg",
        soft_wrap=True,
    )


def _strangest_table(rated: pl.DataFrame) -> Table:
    """List the strangest flow of each attack and the strangest benign flow, strangest first."""
    import math

    from thalweg.evaluate.tables import Column, Table

    headings = ("attack", "score", "from", "to", "port", "sent", "received")
    strangest = rated.sort("logit").group_by("attack", maintain_order=True).first()
    return Table(
        title="The strangest flow of each attack",
        columns=tuple(Column(name, "left" if name in ("attack", "from", "to") else "right") for name in headings),
        rows=tuple(
            (
                row["attack"],
                f"{1 / (1 + math.exp(row['logit'])):.4f}",
                row["src_addr"],
                row["dst_addr"],
                "-" if row["dst_port"] is None else str(row["dst_port"]),
                f"{row['fwd_bytes']:,} B",
                f"{row['bwd_bytes']:,} B",
            )
            for row in strangest.iter_rows(named=True)
        ),
    )
