"""One HTML file that shows a detection benchmark to a reader who never saw one; it opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

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
from thalweg.benchmark.detection.datasets import DataSet, Found
from thalweg.benchmark.detection.methods import THALWEG, is_ablation
from thalweg.benchmark.detection.plan import DetectionPlan
from thalweg.benchmark.detection.rows import unpack
from thalweg.benchmark.detection.scenarios import CLEAN, SCENARIOS
from thalweg.benchmark.detection.summary import (
    Line,
    deltas,
    ranking,
    scenario_lines,
    standings,
    summarise,
)
from thalweg.benchmark.detection.tables import (
    METHOD_FIGURES,
    absent_table,
    beside_table,
    costs_table,
    failures_table,
    host_alerts_table,
    methods_table,
    protocols_table,
    scenarios_table,
    standings_table,
)
from thalweg.benchmark.detection.words import WORDS
from thalweg.evaluate.charts import Plot
from thalweg.evaluate.page import facts_list, figure, make_page, section, table_html, write_page


def write_detection_report(
    path: Path, rows: pl.DataFrame, found: Sequence[Found], absent: Sequence[DataSet], plan: DetectionPlan
) -> None:
    """Write the report of a benchmark as one HTML file, whole or not at all.

    rows: of ROW_COLUMNS. found: the files in --data; absent: the data sets without a file.

    Raises SinkError if the file cannot be written.
    """
    charts: dict[str, Plot] = {}
    lines = summarise(rows)
    names = list(dict.fromkeys(line.dataset for line in lines))
    body = [
        f"<p>{escape(WORDS['what'])}</p>",
        section(protocols_table(), WORDS["protocols"], wraps=True),
        section(beside_table(lines, [one for one in found if one.name in names]), WORDS["beside"]),
    ]
    if len(standings(lines)) > 1:
        body.append(section(standings_table(lines)))
    for place, name in enumerate(names):
        body += _of_data_set(place, name, lines, rows, charts)
    body += [_calibration(rows, charts), _ablations(lines, charts), _scenarios(lines, charts), _costs(lines, charts)]
    failed = rows.filter(pl.col("error").is_not_null())
    if failed.height:
        body.append(section(failures_table(failed), wraps=True))
    if absent:
        body.append(section(absent_table(absent), WORDS["absent"], wraps=True))
    facts = {
        "package": f"thalweg {__version__}",
        "seeds": str(rows["seed"].n_unique()),
        "training": ("quick" if plan.quick else "full") + ("" if plan.effort == 1 else f", effort {plan.effort:g}"),
        "files": ", ".join(f"{one.name}: {one.path.name}" for one in found),
        "how time and memory were measured": f"each job in its own process, {plan.workers} at a time in the last run",
    }
    body.append(facts_list(facts))
    write_page(Path(path), make_page("How well anomalous flows are found", [part for part in body if part], charts))


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
    table = table_html(methods_table(name, [*ranked, *tuned], METHOD_FIGURES))
    parts = [f"<section>{head}{table}<p>{escape(WORDS['methods'])}</p></section>"]
    if any("infected_rank" in line.metrics for line in ranked):
        parts.append(section(host_alerts_table(ranked), WORDS["hosts"], level=3))
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
        parts.append(figure("How the scores are distributed", [f"logits-{place}"], WORDS["histogram"], 3))
    return parts


def _attack_rows(clean: pl.DataFrame) -> list[dict[str, Any]]:
    """Average each class over seeds. Returns: method, attack, flows, found."""
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
    return figure("Are the stated probabilities right?", ["calibration"], WORDS["calibration"])


def _ablations(lines: Sequence[Line], charts: dict[str, Plot]) -> str:
    for metric, name in (("auroc", "auroc"), ("tpr_at_fpr_1", "tpr")):
        if found := deltas(lines, metric):
            title = (
                "AUROC without the part − AUROC of the whole model" if name == "auroc" else "the same, TPR at 1 % FPR"
            )
            charts[f"without-{name}"] = delta_bars(found, title)
    names = [name for name in ("without-auroc", "without-tpr") if name in charts]
    return figure("What each part is worth", names, WORDS["ablations"]) if names else ""


def _scenarios(lines: Sequence[Line], charts: dict[str, Plot]) -> str:
    more = scenario_lines(lines)
    if not more:
        return ""
    if any("auroc" in line.metrics for line in more):
        charts["scenarios"] = scenario_dots([line for line in more if line.family == THALWEG] or more)
    meanings = {name: one.meaning for name, one in SCENARIOS.items()}
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in meanings.items())
    picture = figure("Other conditions", [name for name in ("scenarios",) if name in charts], WORDS["scenarios"])
    figures = ("AUROC", "AP", "TPR at 1 % FPR", "TPR / FPR, 1 % budget")
    return f"{picture}<dl>{items}</dl>{table_html(scenarios_table(more, figures, notes=True))}"


def _costs(lines: Sequence[Line], charts: dict[str, Plot]) -> str:
    there = [
        line for line in lines if line.scenario == CLEAN and not is_ablation(line.family) and "fit_s" in line.metrics
    ]
    if not there:
        return ""
    there = [line for line in there if not line.is_tuned]
    charts["costs"] = costs(there, list(dict.fromkeys(line.method for line in there)))
    return figure("Time and memory", ["costs"], WORDS["costs"]) + table_html(costs_table(there))
