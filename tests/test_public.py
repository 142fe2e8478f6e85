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
from thalweg import ingest
from thalweg.model.autoencoder import ModelConfig
from thalweg.model.learning.training import TrainingConfig
from thalweg.model.thalweg import ThalwegModel


def homes_in(stub: Path) -> dict[str, str]:
    """Return where each name of a stub lives, as "package.module"."""
    package = ".".join(stub.parent.relative_to(Path(tw.__file__).parents[1]).parts)
    found = {}
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 1
            for name in node.names:
                assert name.asname == name.name, "only so a type checker takes it for a public name"
                found[name.name] = f"{package}.{node.module}"
    return found


HOMES = homes_in(Path(tw.__file__).with_suffix(".pyi"))


def test_what_is_public_at_run_time_is_what_the_stub_says() -> None:
    assert tw.__all__ == sorted(set(tw.__all__))
    assert tw.__all__ == sorted(HOMES)
    assert dir(tw) == tw.__all__
    assert sorted(homes_in(Path(ingest.__file__).with_suffix(".pyi"))) == ingest.__all__


@pytest.mark.parametrize("name", sorted(HOMES))
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(tw, name)
    home = import_module(HOMES[name])
    assert value is getattr(home, name)
    assert name in getattr(home, "__all__", [name])
    doc = inspect.getdoc(value)
    assert doc
    # Python makes the signature the docstring of a dataclass that has none.
    assert not doc.startswith(f"{name}(")


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="attribute Detecter"):
        _ = tw.Detecter  # type: ignore[attr-defined]  # it is not there


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
