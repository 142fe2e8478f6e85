"""The command line: what to type, what it does, an example of each."""

# Rooms are imported inside the commands: `thalweg --help` should not wait for torch.
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from thalweg import __version__
from thalweg.cli.benchmark import benchmark
from thalweg.cli.live import LIVE
from thalweg.cli.options import (
    Attributes,
    ConfigFile,
    Device,
    DeviceName,
    Dialect,
    DialectName,
    Effort,
    Inputs,
    Json,
    KeepWrapped,
    Map,
    Model,
    Preset,
    Restated,
    SiteName,
    Strict,
    load_detector,
    make_model,
    read_options,
    window_span,
)
from thalweg.cli.show.terminal import ERR, OUT, print_json
from thalweg.errors import ConfigError, ThalwegError
from thalweg.runtime.memory import pool_little

app = typer.Typer(
    name="thalweg",
    help="Learn, without labels, how the flows of a network normally run, and tell which flow left that line.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Start with `thalweg demo`: a minute, no data needed.",
)
app.add_typer(benchmark, name="benchmark")
for _command, _example in LIVE.items():
    app.command(epilog=_example)(_command)


def _version(shown: bool) -> None:
    if shown:
        OUT.print(f"thalweg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Flows fill a window, a window becomes a graph, a graph becomes scores."""


@app.command(epilog="Example: `thalweg demo --out demo`")
def demo(
    out: Annotated[Path, typer.Option(help="The folder to leave flows, model, scores and report in.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="All randomness comes from it.")] = 7,
) -> None:
    """A minute: simulate a small office, learn its quiet day, score a day with eight planted attacks, and report."""
    from thalweg.cli.demo import run_demo

    run_demo(out, seed, OUT, ERR)


@app.command(epilog="Example: `thalweg fit flows/*.parquet -o office.thalweg --budget 20/day`")
def fit(
    inputs: Inputs,
    output: Annotated[Path, typer.Option("-o", "--output", help="The model file to write.")],
    where: Annotated[
        str | None,
        typer.Option(help="SQL over the file's own and the declared columns: which flows to learn from."),
    ] = None,
    holdout: Annotated[
        float, typer.Option(help="Share of the chosen flows to leave out; `evaluate --unseen` finds them.")
    ] = 0.0,
    budget: Annotated[
        str, typer.Option(help="How many usual flows may be called anomalous: 0.01, 1% or 20/day.")
    ] = "0.01",
    preset: Annotated[
        Preset, typer.Option(help="thalweg, or the published graph autoencoder to compare with.")
    ] = Preset.thalweg,
    weights: Annotated[
        Path | None,
        typer.Option(help="With --preset published: take the weights from this state_dict, and do not train."),
    ] = None,
    attributes: Annotated[
        Attributes,
        typer.Option(help="standard: bytes and duration. extended: packets, protocol, ports and flags too."),
    ] = Attributes.standard,
    window: Annotated[
        str | None, typer.Option(help="A window's size: flows, as 200000, or a span of the clock, as 5m.")
    ] = None,
    effort: Annotated[
        Effort, typer.Option(help="standard, or high: train five times as long, where a few more finds are worth it.")
    ] = Effort.standard,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps at most, if not the preset's own.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="All randomness comes from it.")] = 0,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Keep the training's state in this file while it runs; after a crash or Ctrl-C, the same command goes "
            "on from it. Removed when the training is done."
        ),
    ] = None,
    device: Device = DeviceName.auto,
    dialect: Dialect = None,
    column_map: Map = None,
    config: ConfigFile = None,
    strict: Strict = False,
    keep_wrapped: KeepWrapped = False,
    as_json: Json = False,
) -> None:
    """Learn from unlabelled flows and write one model file. Ctrl-C keeps the best model so far."""
    from thalweg.batch import fit_files
    from thalweg.cli.show.console import (
        compiling_notes,
        counting_line,
        learned_in_words,
        say_counts,
        threshold_in_words,
        training_line,
    )
    from thalweg.detect.detector import Detector
    from thalweg.runtime.whole_file import check_folder
    from thalweg.selection import Selection

    check_folder(output)
    if checkpoint is not None:
        check_folder(checkpoint)
        if checkpoint.resolve() == output.resolve():
            raise ConfigError("--checkpoint and -o name one file: the model would be removed with the checkpoint")
        if checkpoint.exists():
            ERR.print(f"going on from the checkpoint {checkpoint}", soft_wrap=True)
    model = make_model(preset, attributes, window, steps, config, weights, effort, checkpoint)
    options = read_options(dialect, column_map, config, strict, keep_wrapped)
    selection = Selection(where=where, holdout=holdout, seed=seed)
    detector = Detector(model, seed=seed, device=device.value, budget=budget, span=window_span(window))
    with compiling_notes(ERR), counting_line(ERR, "reading") as reading, training_line(ERR) as learning:
        tally = fit_files(detector, inputs, options, selection, progress=learning, reading=reading)
    detector.save(output)
    if checkpoint is not None and detector.summary["stopped"] != "interrupted":
        checkpoint.unlink(missing_ok=True)
    say_counts(ERR, tally)
    assert detector.threshold is not None, "fit sets it"
    if as_json:
        print_json({"model": str(output), "summary": detector.summary, "threshold": detector.threshold.as_dict()})
        return
    OUT.print(
        f"{learned_in_words(detector.summary)}\n{threshold_in_words(detector.threshold)}\nwrote {output}",
        soft_wrap=True,
    )


@app.command(epilog="Example: `thalweg score office.thalweg today.parquet -o scores.parquet`")
def score(
    model: Model,
    inputs: Inputs,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Where to: .parquet, .csv or .jsonl; - is CSV on standard output."),
    ],
    budget: Restated = None,
    device: Device = DeviceName.auto,
    dialect: Dialect = None,
    column_map: Map = None,
    config: ConfigFile = None,
    strict: Strict = False,
    keep_wrapped: KeepWrapped = False,
    as_json: Json = False,
) -> None:
    """Rate every flow: all its columns, plus score (0 usual, 1 strange), logit and anomalous."""
    from thalweg.batch import score_files
    from thalweg.cli.show.console import say_counts, say_drift, seconds_in_words, slowest_in_words, stages_table
    from thalweg.sinks.table_file import STDOUT, check_output

    check_output(output)
    if as_json and output == STDOUT:
        raise ConfigError("--json and -o - both want standard output: write the scores to a file")
    detector = load_detector(model, device, budget)
    options = read_options(dialect, column_map, config, strict, keep_wrapped)
    with stages_table(ERR) as watch:
        scored = score_files(detector, inputs, options, output, watch=watch)
    say_counts(ERR, scored.tally)
    say_drift(ERR, scored.drift)
    if as_json:
        print_json({"output": str(output), **scored.as_dict()})
        return
    ERR.print(
        f"scored {scored.num_flows:,} flows in {seconds_in_words(scored.seconds)} "
        f"({scored.num_flows / max(scored.seconds, 1e-9):,.0f} flows/s); {scored.num_anomalous:,} anomalous; "
        f"wrote {output}\n{slowest_in_words(scored.stages)}",
        soft_wrap=True,
    )


@app.command(epilog="Example: `thalweg evaluate office.thalweg labelled.csv --unseen --html report.html`")
def evaluate(
    model: Model,
    inputs: Inputs,
    unseen: Annotated[bool, typer.Option("--unseen", help="Leave out the flows that the model was fitted on.")] = False,
    where: Annotated[
        str | None,
        typer.Option(help="SQL over the file's own and declared columns: what to judge."),
    ] = None,
    hosts: Annotated[
        bool, typer.Option("--hosts", help="Rank the hosts, and show where the labelled ones came.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a self-contained report with the curves.")] = None,
    budget: Restated = None,
    device: Device = DeviceName.auto,
    dialect: Dialect = None,
    column_map: Map = None,
    config: ConfigFile = None,
    strict: Strict = False,
    keep_wrapped: KeepWrapped = False,
    as_json: Json = False,
) -> None:
    """Judge a model by labels it never saw: TPR and FPR at its own threshold, AUROC, average precision, by attack."""
    from thalweg.alert.hosts import rank_hosts
    from thalweg.batch import score_labelled
    from thalweg.cli.show.console import counting_line, evaluation_tables, hosts_table, say_counts, say_drift
    from thalweg.evaluate import metrics
    from thalweg.runtime.whole_file import check_folder

    if html is not None:
        from thalweg.evaluate.report import write_report  # before any work: it needs an extra

        check_folder(html)
    detector = load_detector(model, device, budget)
    options = read_options(dialect, column_map, config, strict, keep_wrapped)
    with counting_line(ERR, "scoring") as count:
        found = score_labelled(detector, inputs, options, where=where, unseen=unseen, each=count)
    say_counts(ERR, found.tally)
    say_drift(ERR, found.drift)
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
        facts = {
            "model": str(model),
            "flows": ", ".join(map(str, inputs)),
            "left out": f"{found.num_skipped:,} flows",
        }
        write_report(
            html,
            f"{model.name} on {inputs[0].name}",
            result,
            found.logit,
            found.label,
            found.attack,
            threshold,
            facts,
            ranked,
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
    for table in evaluation_tables(result, kept):
        OUT.print(table, "")
    if ranked is not None:
        OUT.print(hosts_table(ranked), "")
    for note in result.notes:
        OUT.print(f"note: {note}", soft_wrap=True)
    if html is not None:
        OUT.print(f"wrote {html}", soft_wrap=True)


@app.command(epilog="Example: `thalweg info office.thalweg`")
def info(model: Model, as_json: Json = False) -> None:
    """Say what a model file holds: what it learned from, its threshold, its settings."""
    from thalweg.cli.show.console import threshold_in_words
    from thalweg.detect.model_file import read_header
    from thalweg.detect.threshold import Threshold

    header = read_header(model)
    if as_json:
        print_json(header)
        return
    summary = header["summary"]
    OUT.print(
        f"{model}: {header['kind']}, format version {header['format_version']}, seed {header['seed']}\n"
        f"{threshold_in_words(Threshold(**header['threshold']))}",
        soft_wrap=True,
    )
    for name, value in {**summary, **header["settings"]}.items():
        OUT.print(f"  {name}: {json.dumps(value)}", soft_wrap=True)


@app.command(epilog="Example: `thalweg simulate traffic.parquet --site campus --flows 1000000`")
def simulate(
    output: Annotated[Path, typer.Argument(help="Where to: .parquet, .csv or .jsonl; - is CSV on standard output.")],
    site: Annotated[
        SiteName,
        typer.Option(help="office: about 60 hosts. campus: thousands, and tens of thousands outside."),
    ] = SiteName.office,
    flows: Annotated[int, typer.Option(min=1, help="How many flows.")] = 100_000,
    days: Annotated[float, typer.Option(min=0.001, help="The span they fill; attacks come in its second half.")] = 2.0,
    attacks: Annotated[str, typer.Option(help="all, none, or names separated by commas.")] = "all",
    attack_share: Annotated[float, typer.Option(help="Share of all flows that the noisy attacks take.")] = 0.1,
    like: Annotated[DialectName, typer.Option("--as", help="Whose columns to write.")] = DialectName.thalweg,
    seed: Annotated[int, typer.Option(min=0, help="All randomness comes from it.")] = 0,
) -> None:
    """Make labelled traffic of a network that does not exist: roles, daily rhythm, IPv6, eight kinds of attack."""
    from datetime import timedelta

    from thalweg.cli.show.console import counting_line
    from thalweg.sinks.table_file import write_table
    from thalweg.synthetic import SimulationConfig, as_dialect, simulate_stream

    names: Any = attacks if attacks in ("all", "none") else tuple(name.strip() for name in attacks.split(","))
    config = SimulationConfig(
        site=site.value,
        flows=flows,
        duration=timedelta(days=days),
        attacks=names,
        attack_share=attack_share,
        seed=seed,
    )
    num = 0
    with counting_line(ERR, "simulating") as count:

        def each(frame: Any) -> None:
            nonlocal num
            num += frame.height
            count(num)

        runs = simulate_stream(config, chunk_flows=500_000)
        write_table(output, (as_dialect(run, like.value) for run in runs), each)
    ERR.print(f"wrote {num:,} flows to {output}", soft_wrap=True)


def main() -> None:
    """Run `thalweg`; an error of ours is one message and exit code 2."""
    pool_little()
    try:
        app()
    except ThalwegError as error:
        ERR.print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True)
        sys.exit(2)
    except BrokenPipeError:  # `thalweg score … -o - | head`
        sys.stderr.close()
        sys.exit(1)
