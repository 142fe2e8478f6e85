"""The rows of the benchmark, and their files: one for each job, whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from thalweg.errors import SinkError
from thalweg.runtime.whole_file import whole_file

_TEXT, _WHOLE, _REAL, _FLAG = pl.String(), pl.Int64(), pl.Float64(), pl.Boolean()

ROW_COLUMNS: Final[Mapping[str, tuple[pl.DataType, str]]] = {
    "dataset": (_TEXT, "the file's data set, version and kind, as in cicids2018-v2-sample"),
    "scenario": (_TEXT, "the conditions; see SCENARIOS"),
    "family": (_TEXT, "methods that run together; see RIVALS"),
    "method": (_TEXT, "the method that is judged"),
    "seed": (_WHOLE, "all randomness of split and training comes from it"),
    "quick": (_FLAG, "with the small budgets of --quick"),
    "effort": (_REAL, "factor on the number of flows that Thalweg trains on"),
    "version": (_TEXT, "of the package"),
    "digest": (_TEXT, "of the files and settings; a row of another digest is stale"),
    "error": (_TEXT, "why there is no result; null if there is one"),
    "note": (_TEXT, "what a reader of the figures should know"),
    "timed": (_FLAG, "split by time"),
    "num_train": (_WHOLE, "flows learned from, including held-out ones"),
    "num_test": (_WHOLE, "flows judged"),
    "num_attacks": (_WHOLE, "attack flows among those judged"),
    "auroc": (_REAL, "area under the ROC curve"),
    "average_precision": (_REAL, "area under the precision-recall curve"),
    "tpr_budget_1": (_REAL, "honest: attack flows found at the threshold of a 1 % budget"),
    "fpr_budget_1": (_REAL, "honest: benign flows flagged there"),
    "precision_budget_1": (_REAL, "honest: alarms that are real there"),
    "macro_f1_budget_1": (_REAL, "honest: macro-F1 there"),
    "false_per_day_budget_1": (_REAL, "honest: benign flows flagged a day there, at the data's own rate"),
    "tpr_budget_01": (_REAL, "honest: attack flows found at the threshold of a 0.1 % budget"),
    "fpr_budget_01": (_REAL, "honest: benign flows flagged there"),
    "false_per_day_budget_01": (_REAL, "honest: benign flows flagged a day there, at the data's own rate"),
    "threshold_1": (_REAL, "the logit of the 1 % budget"),
    "threshold_01": (_REAL, "the logit of the 0.1 % budget"),
    "tpr_at_fpr_01": (_REAL, "largest TPR whose FPR is at most 0.1 %"),
    "tpr_at_fpr_1": (_REAL, "largest TPR whose FPR is at most 1 %"),
    "tpr_at_fpr_2": (_REAL, "largest TPR whose FPR is at most 2 %"),
    "tpr_at_fpr_5": (_REAL, "largest TPR whose FPR is at most 5 %"),
    "youden_tpr": (_REAL, "published protocol: at the largest TPR - FPR on the test labels"),
    "youden_fpr": (_REAL, "published protocol: the same"),
    "tuned_macro_f1": (_REAL, "test-tuned: the largest macro-F1 on the test labels"),
    "tuned_tpr": (_REAL, "test-tuned: at that threshold"),
    "tuned_fpr": (_REAL, "test-tuned: at that threshold"),
    "num_hosts": (_WHOLE, "timed: hosts that open flows in the test"),
    "infected_hosts": (_WHOLE, "timed: hosts that open attack flows"),
    "infected_rank": (_WHOLE, "timed: rank of the best-ranked infected host"),
    "minutes_to_alert": (_REAL, "timed: from the start of the test to its first alert"),
    "false_host_alerts_per_hour": (_REAL, "timed: alerts of hosts that are not infected"),
    "fit_s": (_REAL, "seconds to fit, threshold included"),
    "score_s": (_REAL, "seconds to score the test flows"),
    "flows_per_s": (_REAL, "test flows scored a second"),
    "peak_memory_mb": (_REAL, "largest resident memory of the job's process, up to the end of this method"),
    "data_memory_mb": (_REAL, "the part of it that was needed to read the data"),
    "per_attack": (_TEXT, "JSON: attack, flows, tpr at the 1 % budget, tpr_at_fpr_1, auroc, for each class"),
    "curve": (_TEXT, "JSON: [FPR, TPR, precision], at most 200 points"),
    "histogram": (_TEXT, "JSON: edges of 40 bins of the logit; benign, attack: flows in each"),
    "reliability": (_TEXT, "JSON: [mean predicted, observed share, count] of each bin of probability"),
}
"""The columns of a row; null if a figure is undefined for it."""

_SCHEMA: Final = pl.Schema({name: dtype for name, (dtype, _) in ROW_COLUMNS.items()})


def row_file(folder: Path, dataset: str, scenario: str, family: str, seed: int, quick: bool) -> Path:
    """Name the file that keeps a job's rows.

    >>> row_file(Path("rows"), "ton-iot-v2", "from:bot-iot-v2", "thalweg/no-unet", 3, True).name
    'ton-iot-v2~from=bot-iot-v2~thalweg+no-unet~3~quick.parquet'
    """
    words = [dataset, scenario, family, str(seed), *(["quick"] if quick else [])]
    name = "~".join(words).replace(":", "=").replace("/", "+")
    return folder / f"{re.sub(r'[^A-Za-z0-9~=+._-]', '_', name)}.parquet"


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a job's rows, whole or not at all; a column that a row lacks is null.

    Raises SinkError if the file cannot be written.
    """
    unknown = {name for row in rows for name in row} - set(ROW_COLUMNS)
    assert not unknown, f"undeclared columns: {unknown}"
    frame = pl.DataFrame([{name: row.get(name) for name in ROW_COLUMNS} for row in rows], schema=_SCHEMA)
    try:
        with whole_file(path) as partial, partial.open("wb") as stream:
            frame.write_parquet(stream)
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror}. Make room, or choose another --out") from error


def read_rows(path: Path) -> pl.DataFrame | None:
    """Read a job's rows; None if there are none, or they are from a version with other columns."""
    try:
        frame = pl.read_parquet(path.read_bytes())
    except (OSError, pl.exceptions.PolarsError):
        return None
    return frame if frame.schema == _SCHEMA else None


def join_rows(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Concatenate rows; a table without rows if there is none."""
    return pl.concat([pl.DataFrame(schema=_SCHEMA), *frames])


def unpack(text: str | None) -> Any:
    """Read one of the JSON columns; None if there is none."""
    return None if text is None else json.loads(text)
