"""The scorer's process: what it loads, and that it restarts once if it had to compile."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.cli.process import ONE_THREAD
from tests.detect.test_hostile_models import WEIGHTS, ModelFile
from tests.live.score.test_restart import config, spool_of, written
from tests.live.senders import name_of
from thalweg.live.config import RunConfig, ScoringConfig
from thalweg.live.score.process import ScorerTask
from thalweg.live.score.scorer import Scorer
from thalweg.live.status import SCORER, read_status

# Stands for the first start on a machine; a scorer that runs without a restart exits with 9.
BEGIN: Final = """
import sys
from thalweg.runtime.jit import compiled
from thalweg.live.score import process, scorer

@compiled()
def doubled(number):
    return 2 * number

class Compiling:
    def __init__(self, config, sources, reload_asked):
        if "hangup" in sys.argv:
            reload_asked.set()
        doubled(1)

    def run(self):
        raise SystemExit(9)

scorer.Scorer = Compiling
sys.exit(process.score_spool(process.ScorerTask.from_json(sys.stdin.read()), is_first="first" in sys.argv))
"""

# Says which of some modules a scorer has in memory when it is ready.
LOADED: Final = """
import sys
from thalweg.live.score import process

process._leave_out_blas()
from thalweg.live.score.scorer import Scorer

Scorer(process.ScorerTask.from_json(sys.stdin.read()).config)
print(*(name for name in ("torch", "torch._dynamo", "sympy", "pyarrow", "scipy.linalg") if name in sys.modules))
"""


def begun(script: Path, config: RunConfig, *words: str) -> tuple[int, str, int]:
    """Run a script to its end. Returns: its exit code, what it printed, its process's number."""
    command = [sys.executable, str(script), *words]
    environment = {**os.environ, **ONE_THREAD}
    environment.pop("NUMBA_CACHE_DIR", None)  # what is compiled is kept beside the script
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        out, _ = process.communicate(ScorerTask(config=config, sources=config.addresses).to_json(), timeout=300)
    return process.returncode, out, process.pid


def test_a_scorer_that_had_to_compile_begins_once_more(tmp_path: Path) -> None:
    script = tmp_path / "begin.py"
    script.write_text(BEGIN)
    spool_of(tmp_path, 10)
    code, _, number = begun(script, config(tmp_path), "first")
    assert code == 0
    # The receiver knows its scorer by the process.
    status = read_status(tmp_path / "spool", SCORER)
    assert status is not None
    assert status["pid"] == number
    assert written(tmp_path) == Counter(name_of(flow) for flow in range(300))
    assert status["reloads"] == 0
    assert begun(script, config(tmp_path), "first")[0] == 9, "nothing was left to compile"
    shutil.rmtree(tmp_path / "__pycache__")
    assert begun(script, config(tmp_path))[0] == 9, "it had begun once more already"


def test_a_reload_that_was_asked_for_before_is_done_after(tmp_path: Path, model_file: Path) -> None:
    script = tmp_path / "begin.py"
    script.write_text(BEGIN)
    spool_of(tmp_path, 10)
    code, _, _ = begun(script, config(tmp_path, model=ScoringConfig(file=model_file)), "first", "hangup")
    status = read_status(tmp_path / "spool", SCORER)
    assert code == 0
    assert status is not None
    assert status["reloads"] == 1


def test_a_hostile_model_is_not_reloaded_and_a_message_says_so(
    tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "office.thalweg"
    whole = model_file.read_bytes()
    copy.write_bytes(whole)
    spool_of(tmp_path, 10)
    scorer = Scorer(config(tmp_path, model=ScoringConfig(file=copy)))
    running = scorer.detector
    broken = ModelFile(whole)
    broken.values(WEIGHTS)[3] = float("nan")
    copy.write_bytes(broken.whole())
    scorer.reload_asked.set()
    scorer.run()
    assert scorer.detector is running
    assert scorer.reloads == 0
    assert "holds NaN" in scorer.reload_error
    said = capsys.readouterr().err
    assert said.startswith(f"error: the model was not reloaded, and the running one stays: {copy}: tensor ")
    assert written(tmp_path) == Counter(name_of(flow) for flow in range(300))


@pytest.mark.parametrize("has_model", [True, False])
def test_a_scorer_loads_nothing_large_that_it_does_not_need(tmp_path: Path, model_file: Path, has_model: bool) -> None:
    script = tmp_path / "loaded.py"
    script.write_text(LOADED)
    spool_of(tmp_path, 1)
    code, out, _ = begun(script, config(tmp_path, model=ScoringConfig(file=model_file) if has_model else None))
    assert code == 0
    assert out.split() == ["torch"] * has_model
