"""`thalweg evaluate`."""

# Packages are imported inside the command: `thalweg --help` should not wait for torch.
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from thalweg.cli.options import (
    Budget,
    ConfigFile,
    Device,
    DeviceName,
    Dialect,
    Inputs,
    Json,
    KeepWrapped,
    Map,
    Model,
    Strict,
    load_detector,
    read_options,
)
from thalweg.cli.show.terminal import ERR, OUT, print_json

_FLOWS: Final = "Which flows are judged"
_SHOWN: Final = "What is shown"


def evaluate(
    model: Model,
    inputs: Inputs,
    *,
    unseen: Annotated[
        bool,
        typer.Option("--unseen", help="Leave out the flows that the model was fitted on.", rich_help_panel=_FLOWS),
    ] = False,
    where: Annotated[
        str | None,
        typer.Option(
            help="Judge only flows that meet this SQL condition on the file's own or the declared columns.",
            rich_help_panel=_FLOWS,
        ),
    ] = None,
    hosts: Annotated[
        bool,
        typer.Option(
            "--hosts", help="Also rank the hosts, and mark those that opened attack flows.", rich_help_panel=_SHOWN
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write a report with charts: one HTML page that opens without a network.", rich_help_panel=_SHOWN
        ),
    ] = None,
    as_json: Json = False,
    budget: Budget = None,
    device: Device = DeviceName.auto,
    dialect: Dialect = None,
    column_map: Map = None,
    config: ConfigFile = None,
    strict: Strict = False,
    keep_wrapped: KeepWrapped = False,
) -> None:
    """Judge a model by labels it never saw: TPR and FPR at its own threshold, AUROC, average precision, by attack."""
    from thalweg.alert.hosts import rank_hosts
    from thalweg.batch import score_labelled
    from thalweg.cli.show.notes import print_counts, print_drift
    from thalweg.cli.show.progress import counting, progress
    from thalweg.cli.show.tables import print_tables
    from thalweg.evaluate import metrics
    from thalweg.evaluate.tables import evaluation_tables, hosts_table
    from thalweg.runtime.whole_file import check_folder

    if html is not None:
        from thalweg.evaluate.report import write_report  # before any work: it needs an extra

        check_folder(html)
    detector = load_detector(model, device, budget)
    options = read_options(dialect, column_map, config, strict=strict, keep_wrapped=keep_wrapped)
    with progress(ERR) as line:
        found = score_labelled(detector, inputs, options, where=where, unseen=unseen, each=counting(line, "scoring"))
    print_counts(ERR, found.tally)
    print_drift(ERR, found.drift)
    assert detector.threshold is not None, "a loaded detector has one"
    threshold = detector.threshold.logit
    result = metrics.evaluate(found.logit, found.anomalous, found.label, found.attack, found.start)
    kept = metrics.check_budget(result, detector.threshold)
    ranked = (
        rank_hosts(found.src_addr, found.logit, found.anomalous, threshold_logit=threshold, label=found.label)
        if hosts
        else None
    )
    if html is not None:
        write_report(
            html,
            f"{model.name} on {inputs[0].name}",
            result,
            logit=found.logit,
            label=found.label,
            attack=found.attack,
            threshold_logit=threshold,
            facts={
                "model": str(model),
                "flows": ", ".join(map(str, inputs)),
                "left out": f"{found.num_skipped:,} flows",
            },
            hosts=ranked,
        )
    if as_json:
        infected = [] if ranked is None else ranked.filter(ranked["attacks"] > 0).to_dicts()
        extra = {} if ranked is None else {"num_hosts": ranked.height, "attacking_hosts": infected}
        print_json(
            {
                **result.as_dict(),
                "num_skipped": found.num_skipped,
                "seconds": round(found.seconds, 3),
                "threshold": detector.threshold.as_dict(),
                "budget_check": None if kept is None else kept.as_dict(),
                "drift": found.drift.as_dict(),
                **extra,
            }
        )
        return
    print_tables(OUT, evaluation_tables(result, kept))
    if ranked is not None:
        print_tables(OUT, [hosts_table(ranked)], emphasis="bold red")
    for note in result.notes:
        OUT.print(f"note: {note}", soft_wrap=True)
    if html is not None:
        OUT.print(f"wrote {html}", soft_wrap=True)
