"""The public interface: the names of `import thalweg as tw`, and the example of the documentation."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest

import thalweg as tw
from tests.conftest import make_flows
from thalweg.model.autoencoder import ModelConfig
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel


def test_all_is_sorted_and_holds_every_public_name() -> None:
    assert tw.__all__ == sorted(set(tw.__all__))
    assert set(tw.__all__) == {*tw._HOMES, "__version__"}
    assert dir(tw) == tw.__all__


def test_a_type_checker_sees_the_same_names_from_the_same_homes() -> None:
    source = Path(tw.__file__).read_text()
    found = {
        name.name: node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("thalweg.")
        for name in node.names
    }
    assert found == {name: f"thalweg.{home}" for name, home in tw._HOMES.items()}


@pytest.mark.parametrize("name", sorted(tw._HOMES))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(tw, name)
    home = import_module(f"thalweg.{tw._HOMES[name]}")
    assert value is getattr(home, name)
    assert name in getattr(home, "__all__", [name])
    doc = inspect.getdoc(value)
    assert doc
    # Python makes the signature the docstring of a dataclass that has none.
    assert not doc.startswith(f"{name}(")


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Detecter'"):
        _ = tw.Detecter


def test_import_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = "import sys, thalweg; print({'torch', 'polars', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_the_example_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_flows(400, seed=6).output().write_parquet("june.parquet")
    july = make_flows(300, seed=7).output()
    july.write_parquet("july.parquet")

    flows = tw.read("june.parquet")
    # As in the documentation, but with a model that trains in a second.
    quick = ThalwegModel(ModelConfig(width=8, max_pool=16), TrainingConfig(steps=4, epochs=2, min_window=50))
    detector = tw.Detector(quick, seed=7).fit(flows)
    detector.save("office.thalweg")

    detector = tw.Detector.load("office.thalweg")
    scores = detector.score(tw.read("july.parquet"))

    assert detector.seed == 7
    out = scores.output()
    assert out.select(july.columns).equals(july)
    assert out.columns == [*july.columns, "score", "logit", "anomalous"]
    assert out["anomalous"].to_list() == [bool(a) for a in scores.anomalous]
    assert out.schema["score"] == pl.Float32


def test_every_error_is_a_thalweg_error() -> None:
    errors = [name for name in tw.__all__ if name.endswith("Error")]
    assert len(errors) == 8
    assert all(issubclass(getattr(tw, name), tw.ThalwegError) for name in errors)
