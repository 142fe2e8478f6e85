"""The report: one file that fetches nothing, holds the figures and is written whole or not at all."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from thalweg.alert.hosts import rank_hosts
from thalweg.errors import SinkError
from thalweg.evaluate import evaluate
from thalweg.evaluate.report import write_report

NUM = 20_000
FACTS = {"model": "a <b>bold</b> one", "seed": "7"}


def scored(attacks: float) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    label = rng.random(NUM) < attacks
    logit = (rng.normal(3, 1, NUM) - 4 * label).astype(np.float32)
    attack = pl.Series(np.where(label, rng.choice(["flood", "scan</script>"], NUM), "Benign"))
    return {"logit": logit, "label": label, "attack": attack}


def write(path: Path, given: dict[str, Any], hosts: pl.DataFrame | None = None) -> str:
    threshold = 0.5
    evaluation = evaluate(given["logit"], given["logit"] < threshold, given["label"], given["attack"])
    write_report(path, "June & July", evaluation, **given, threshold_logit=threshold, facts=FACTS, hosts=hosts)
    return path.read_text(encoding="utf-8")


def specs(page: str) -> dict[str, Any]:
    found = re.search(r"const specs=(\{.*?\});\nconst dark", page, re.DOTALL)
    assert found is not None
    parsed: dict[str, Any] = json.loads(found[1])
    return parsed


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    given = scored(0.1)
    sources = pl.Series(np.resize(["10.0.0.1", "10.0.0.2"], NUM))
    hosts = rank_hosts(sources, given["logit"], given["logit"] < 0.5, threshold_logit=0.5, label=given["label"])
    return write(tmp_path_factory.mktemp("report") / "report.html", given, hosts)


def test_it_fetches_nothing(page: str) -> None:
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"\bsrc=|\bhref=|@import|url\(|https?:", markup)
    assert not re.search(r"<(script|link)[^>]*(src|href)=", page)
    assert "default-src 'none'" in page
    assert "$schema" not in json.dumps(specs(page))


def test_it_holds_the_figures(page: str) -> None:
    given = scored(0.1)
    e = evaluate(given["logit"], given["logit"] < 0.5, given["label"], given["attack"])
    for value in (
        f"{NUM:,}",
        f"{e.auroc:.3f}",
        f"{e.average_precision:.3f}",
        f"{e.tpr:.1%}",
        f"{e.precision:.1%}",
    ):
        assert value in page
    assert all(f"{tpr:.1%}" in page for tpr in e.tpr_at_fpr.values())
    assert "10.0.0.1" in page
    assert "only to compare with published tables" in page


def test_what_is_given_is_text_not_markup(page: str) -> None:
    assert "June &amp; July" in page
    assert "a &lt;b&gt;bold&lt;/b&gt; one" in page
    assert "scan&lt;/script&gt;" in page
    assert page.count("</script>") == 2


def test_no_label_reaches_the_script_as_it_is(tmp_path: Path) -> None:
    given = scored(0.5)
    labels = ["<!--<script>", "</script><script>alert(1)</script>", "]]>&amp;", "\u2028\u2029", "</sCRipt >", "-->"]
    given["attack"] = pl.Series([labels[i % len(labels)] for i in range(NUM)])
    page = write(tmp_path / "r.html", given)
    script = page[page.index("const specs=") : page.rindex("</script>")]
    data = script[: script.index(";\nconst dark")]
    assert not set(data) & set("<>&\u2028\u2029")
    assert page.count("</script>") == 2
    names = {row["class"] for rows in specs(page)["spread"]["datasets"].values() for row in rows if "class" in row}
    assert set(labels) - {"</script><script>alert(1)</script>"} <= names


def test_charts_are_thin_and_finite(page: str) -> None:
    drawn = specs(page)
    assert set(drawn) == {"spread", "roc", "edge", "pr"}
    for spec in drawn.values():
        for rows in spec["datasets"].values():
            assert 0 < len(rows) <= 3_000
    spread = drawn["spread"]["datasets"].values()
    flows = sum(row["flows"] for rows in spread for row in rows if "flows" in row)
    assert flows == NUM


@pytest.mark.parametrize("attacks", [0.0, 1.0])
def test_one_class_says_why_there_is_no_curve(tmp_path: Path, attacks: float) -> None:
    page = write(tmp_path / "r.html", scored(attacks))
    assert set(specs(page)) == {"spread"}
    assert "they are undefined" in page


def test_infinite_logits_and_no_classes(tmp_path: Path) -> None:
    given = scored(0.1)
    given["logit"][:3] = [np.inf, -np.inf, -np.inf]
    given["attack"] = None
    assert set(specs(write(tmp_path / "r.html", given))) == {"spread", "roc", "edge", "pr"}


def test_no_flows(tmp_path: Path) -> None:
    given = {"logit": np.zeros(0, np.float32), "label": np.zeros(0, bool), "attack": None}
    page = write(tmp_path / "r.html", given)
    assert "nothing to measure" in page
    assert "<script>" not in page


def test_many_classes_are_joined(tmp_path: Path) -> None:
    given = scored(0.5)
    given["attack"] = pl.Series([f"kind {i % 40}" for i in range(NUM)])
    spread = specs(write(tmp_path / "r.html", given))["spread"]
    names = {row["class"] for rows in spread["datasets"].values() for row in rows if "class" in row}
    assert len(names) == 14
    assert {"benign", "other attacks"} < names


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_text("an older page")
    write(path, scored(0.1))
    assert "an older page" not in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(SinkError, match="cannot write the report"):
        write(tmp_path / "nowhere" / "r.html", scored(0.1))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(SinkError):
        write(folder, scored(0.1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "r.html"]
