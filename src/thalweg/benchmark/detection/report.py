"""One HTML file that shows a detection benchmark to a reader who never saw one; it opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import polars as pl

from thalweg import __version__
from thalweg.benchmark.detection.charts import (
    attack_map,
    costs,
    delta_bars,
    histograms,
    precision_curves,
    reliability,
    roc_curves,
    scenario_dots,
)
from thalweg.benchmark.detection.datasets import DataSet, Found, Rates
from thalweg.benchmark.detection.methods import THALWEG, is_ablation
from thalweg.benchmark.detection.plan import Plan
from thalweg.benchmark.detection.rows import unpack
from thalweg.benchmark.detection.scenarios import CLEAN, SCENARIOS
from thalweg.benchmark.detection.summary import (
    Line,
    beside_published,
    deltas,
    ranking,
    scenario_lines,
    standings,
    summarise,
)
from thalweg.benchmark.detection.words import WORDS
from thalweg.evaluate.charts import Plot
from thalweg.evaluate.page import facts_list, figure, make_page, number, table_of, write_page

_TABLES_ONLY: Final = "only to stand beside published tables"


def write_detection_report(
    path: Path, rows: pl.DataFrame, found: Sequence[Found], absent: Sequence[DataSet], plan: Plan
) -> None:
    """Write the report of a benchmark as one HTML file, whole or not at all.

    rows: of ROW_COLUMNS. found: the files that are at hand; absent: the data sets that are not.

    Raises: SinkError, where the file cannot be written.
    """
    charts: dict[str, Plot] = {}
    lines = summarise(rows)
    names = list(dict.fromkeys(line.dataset for line in lines))
    body = [
        f"<p>{WORDS['what']}</p>",
        _protocols(),
        _beside(lines, [one for one in found if one.name in names]),
        _standings(lines),
    ]
    for place, name in enumerate(names):
        body += _of_data_set(place, name, lines, rows, charts)
    body += [_calibration(rows, charts), _ablations(lines, charts), _scenarios(lines, charts), _costs(lines, charts)]
    body += [_failures(rows), _absent(absent)]
    facts = {
        "package": f"thalweg {__version__}",
        "seeds": str(rows["seed"].n_unique()),
        "budget of training": ("quick" if plan.quick else "full")
        + ("" if plan.effort == 1 else f", effort {plan.effort:g}"),
        "files": ", ".join(f"{one.name}: {one.path.name}" for one in found),
        "how time and memory were taken": f"each job in a process of its own, {plan.workers} at a time in the last run",
    }
    body.append(facts_list(facts))
    write_page(Path(path), make_page("How well anomalous flows are found", [part for part in body if part], charts))


def _protocols() -> str:
    rows = [
        [
            "<b>honest</b>",
            "from flows held out of training, for a budget of 1 % or 0.1 % of usual flows",
            "none",
            "what you would see on your own network",
        ],
        ["<b>published</b>", "Youden's J: where TPR − FPR is largest", "the test's own", _TABLES_ONLY],
        ["<b>test-tuned</b>", "where macro-F1 is largest", "the test's own", _TABLES_ONLY],
    ]
    table = table_of(["protocol", "the threshold comes", "labels used", "read it as"], rows, wraps=True)
    return f"<section><h2>How the threshold is set</h2>{table}<p>{WORDS['protocols']}</p></section>"


def _rates(rates: Rates | None) -> str:
    return "–" if rates is None else f"{100 * rates.tpr:g} / {100 * rates.fpr:g}"


def _both(line: Line | None, tpr: str, fpr: str) -> str:
    return "–" if line is None or tpr not in line.metrics else f"{line.get(tpr, 1, 100)} / {line.get(fpr, 1, 100)}"


def _beside(lines: Sequence[Line], found: Sequence[Found]) -> str:
    rows = []
    for one in beside_published(lines, found):
        reported, anomal_e = one.reported
        rows.append(
            [
                escape(one.found.name),
                _rates(reported),
                _rates(anomal_e),
                _both(one.published, "youden_tpr", "youden_fpr"),
                _both(one.anomal_e, "tuned_tpr", "tuned_fpr"),
                _both(one.thalweg, "youden_tpr", "youden_fpr"),
                f"<b>{_both(one.thalweg, 'tpr_budget_1', 'fpr_budget_1')}</b>",
            ]
        )
    header = [
        "file",
        "published GAE",
        "Anomal-E, reported",
        "GAE, rebuilt*",
        "Anomal-E, test-tuned*",
        "Thalweg*",
        "Thalweg, honest 1 %",
    ]
    return f"<section><h2>Beside the published table</h2>{table_of(header, rows)}<p>{WORDS['beside']}</p></section>"


def _standings(lines: Sequence[Line]) -> str:
    found = standings(lines)
    if len(found) < 2:
        return ""
    rows = [
        [escape(one.method), f"{one.mean_place:.1f}", str(one.num), escape(", ".join(one.firsts)) or "–"]
        for one in found
    ]
    table = table_of(["method", "mean place by AUROC", "data sets", "first on"], rows)
    return f"<section><h2>Who is first</h2>{table}</section>"


def _of_data_set(
    place: int, name: str, lines: Sequence[Line], rows: pl.DataFrame, charts: dict[str, Plot]
) -> list[str]:
    """Lay out one data set: the methods in order, curves, attacks, histograms."""
    ranked = ranking(lines, name)
    tuned = [line for line in lines if line.dataset == name and line.scenario == CLEAN and line.is_tuned]
    clean = rows.filter((pl.col("dataset") == name) & (pl.col("scenario") == CLEAN) & pl.col("error").is_null())
    if not clean.height:
        return []
    first = clean.row(0, named=True)
    how = WORDS["by time" if first["timed"] else "at random"]
    share = first["num_attacks"] / max(first["num_test"], 1)
    head = (
        f"<h2>{escape(name)}</h2><p>Split {how}. {first['num_train']:,} flows to learn from, {first['num_test']:,} to "
        f"judge, {first['num_attacks']:,} of them attacks ({share:.1%}).</p>"
    )
    parts = [f"<section>{head}{_methods_table([*ranked, *tuned])}<p>{WORDS['methods']}</p></section>"]
    if any("infected_rank" in line.metrics for line in ranked):
        parts.append(_hosts(ranked))
    methods = [line.method for line in ranked if line.metrics]
    if not methods:
        return parts
    one_seed = clean.filter(pl.col("method").is_in(methods)).unique("method", keep="first", maintain_order=True)
    points = {row["method"]: curve for row in one_seed.iter_rows(named=True) if (curve := unpack(row["curve"]))}
    if points:
        charts[f"roc-{place}"] = roc_curves(points, methods)
        charts[f"pr-{place}"] = precision_curves(points, methods)
        parts.append(figure("Found against falsely flagged", [f"roc-{place}", f"pr-{place}"], WORDS["curves"], 3))
    if attacks := _attack_rows(clean.filter(pl.col("method").is_in(methods))):
        charts[f"attacks-{place}"] = attack_map(attacks, methods)
        parts.append(figure("Attack by attack", [f"attacks-{place}"], WORDS["attacks"], 3))
    shown = {
        row["method"]: bins
        for row in one_seed.iter_rows(named=True)
        if (bins := unpack(row["histogram"])) and bins["edges"]
    }
    if shown:
        charts[f"logits-{place}"] = histograms(shown, methods)
        parts.append(figure("Where the scores lie", [f"logits-{place}"], WORDS["histogram"], 3))
    return parts


def _methods_table(lines: Sequence[Line]) -> str:
    rows = []
    for place, line in enumerate(lines, 1):
        if not line.metrics:
            rows.append(["–", escape(line.method), "failed", *["–"] * 7])
            continue
        rows.append(
            [
                "*" if line.is_tuned else str(place),
                escape(line.method),
                line.get("auroc"),
                line.get("average_precision"),
                line.get("tpr_at_fpr_01", 1, 100),
                line.get("tpr_at_fpr_1", 1, 100),
                _both(line, "tpr_budget_1", "fpr_budget_1"),
                _both(line, "tpr_budget_01", "fpr_budget_01"),
                line.get("macro_f1_budget_1"),
                f"{line.get('tuned_macro_f1')}*",
            ]
        )
    header = [
        "",
        "method",
        "AUROC",
        "average precision",
        "TPR at 0.1 % FPR",
        "TPR at 1 % FPR",
        "TPR / FPR, 1 % budget",
        "TPR / FPR, 0.1 % budget",
        "macro-F1, 1 % budget",
        "best macro-F1*",
    ]
    return table_of(header, rows)


def _hosts(lines: Sequence[Line]) -> str:
    rows = [
        [
            escape(line.method),
            line.get("infected_rank", 1),
            line.get("num_hosts", 0),
            line.get("minutes_to_alert", 1),
            line.get("false_host_alerts_per_hour", 1),
            line.get("false_per_day_budget_1", 0),
        ]
        for line in lines
    ]
    header = [
        "method",
        "rank of the infected host",
        "of hosts",
        "minutes to its first alert",
        "false host alerts an hour",
        "false flow alarms a day",
    ]
    return f"<section><h3>Host by host</h3>{table_of(header, rows)}<p>{WORDS['hosts']}</p></section>"


def _attack_rows(clean: pl.DataFrame) -> list[dict[str, Any]]:
    """Average each class over seeds: method, attack, flows, found."""
    rows = [
        {"method": row["method"], "attack": one["attack"], "flows": one["flows"], "found": one["tpr_at_fpr_1"]}
        for row in clean.iter_rows(named=True)
        for one in unpack(row["per_attack"]) or []
        if one["tpr_at_fpr_1"] is not None
    ]
    if not rows:
        return []
    frame = (
        pl.DataFrame(rows)
        .group_by("method", "attack", maintain_order=True)
        .agg(pl.col("flows").max(), pl.col("found").mean())
    )
    return frame.to_dicts()


def _calibration(rows: pl.DataFrame, charts: dict[str, Plot]) -> str:
    there = rows.filter(
        (pl.col("method") == THALWEG) & (pl.col("scenario") == CLEAN) & pl.col("reliability").is_not_null()
    )
    one_seed = there.unique("dataset", keep="first", maintain_order=True)
    bins = {row["dataset"]: points for row in one_seed.iter_rows(named=True) if (points := unpack(row["reliability"]))}
    if not bins:
        return ""
    charts["calibration"] = reliability(bins)
    return figure("Is the probability a probability?", ["calibration"], WORDS["calibration"])


def _ablations(lines: Sequence[Line], charts: dict[str, Plot]) -> str:
    for metric, name in (("auroc", "auroc"), ("tpr_at_fpr_1", "tpr")):
        if found := deltas(lines, metric):
            title = "AUROC without it − AUROC of the whole" if name == "auroc" else "the same, TPR at 1 % FPR"
            charts[f"without-{name}"] = delta_bars(found, title)
    names = [name for name in ("without-auroc", "without-tpr") if name in charts]
    return figure("What each part is worth", names, WORDS["ablations"]) if names else ""


def _scenarios(lines: Sequence[Line], charts: dict[str, Plot]) -> str:
    more = scenario_lines(lines)
    if not more:
        return ""
    if any("auroc" in line.metrics for line in more):
        charts["scenarios"] = scenario_dots([line for line in more if line.family == THALWEG] or more)
    rows = [
        [
            escape(line.dataset),
            escape(line.method),
            escape(line.scenario),
            line.get("auroc"),
            line.get("average_precision"),
            line.get("tpr_at_fpr_1", 1, 100),
            _both(line, "tpr_budget_1", "fpr_budget_1"),
            escape("; ".join(line.notes[:1])),
        ]
        for line in more
    ]
    header = [
        "data set",
        "method",
        "scenario",
        "AUROC",
        "average precision",
        "TPR at 1 % FPR",
        "TPR / FPR, 1 % budget",
        "note",
    ]
    meanings = {name: one.meaning for name, one in SCENARIOS.items()}
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in meanings.items())
    picture = figure("Other conditions", [name for name in ("scenarios",) if name in charts], WORDS["scenarios"])
    return f"{picture}<dl>{items}</dl>{table_of(header, rows)}"


def _costs(lines: Sequence[Line], charts: dict[str, Plot]) -> str:
    there = [
        line for line in lines if line.scenario == CLEAN and not is_ablation(line.family) and "fit_s" in line.metrics
    ]
    if not there:
        return ""
    methods = list(dict.fromkeys(line.method for line in there if not line.is_tuned))
    charts["costs"] = costs([line for line in there if not line.is_tuned], methods)
    rows = []
    for method in methods:
        of = [line for line in there if line.method == method]
        rows.append(
            [
                escape(method),
                *(number(_most(of, name), 1) for name in ("fit_s", "score_s")),
                number(-_most(of, "flows_per_s", -1), 0),
                *(number(_most(of, name), 0) for name in ("peak_memory_mb", "data_memory_mb")),
            ]
        )
    header = ["method", "seconds to fit", "seconds to score", "flows/s", "peak memory, MB", "of it for the data"]
    return f"{figure('Time and memory', ['costs'], WORDS['costs'])}{table_of(header, rows)}"


def _most(lines: Sequence[Line], name: str, sign: int = 1) -> float:
    """Return the largest mean of a metric, times `sign`; 0 where no line has it."""
    return max((sign * value for line in lines if (value := line.mean(name)) is not None), default=0.0)


def _failures(rows: pl.DataFrame) -> str:
    failed = rows.filter(pl.col("error").is_not_null())
    if not failed.height:
        return ""
    cells = [
        [escape(str(row[name])) for name in ("dataset", "scenario", "method", "seed", "error")]
        for row in failed.iter_rows(named=True)
    ]
    return (
        f"<section><h2>What failed</h2>{table_of(['data set', 'scenario', 'method', 'seed', 'why'], cells)}</section>"
    )


def _absent(absent: Sequence[DataSet]) -> str:
    if not absent:
        return ""
    rows = [[escape(one.title), escape(one.name), escape(one.source)] for one in absent]
    table = table_of(["data set", "name", "how to get it"], rows, wraps=True)
    return f'<section class="absent"><h2>Data sets that were not given</h2>{table}<p>{WORDS["absent"]}</p></section>'
