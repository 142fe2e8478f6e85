"""What an installation carries: the lock agrees with pyproject.toml, and the core alone does all that it promises."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path
from typing import Final, final

import polars as pl
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cli.process import ONE_THREAD
from tests.live.conftest import free_port, until
from tests.live.senders import Exporter
from thalweg.published.network import PublishedNetwork

ROOT: Final = Path(__file__).parents[1]
LOCKED: Final = re.compile(r"([a-z0-9-]+)==(\S+)( ; [^\\]+)? \\")
NOT_CORE: Final = ("altair", "confluent_kafka", "netflow", "pyod", "scipy", "sklearn", "vl_convert")
TINY: Final = "[model]\nwidth = 8\nmax_pool = 16\n\n[training]\nmin_window = 50\nepochs = 2\n"
QUICKLY: Final = ("--steps", "4", "--config", "tiny.toml", "--window", "300", "--device", "cpu")
OFFLINE: Final = ("--quiet", "--no-deps", "--no-index")
SMALL_DEMO: Final = """
from thalweg.cli import demo
from thalweg.cli.app import main

demo.NUM_FLOWS, demo.NUM_SHOWN = 6_000, 20_000
main()
"""


def declared() -> list[Requirement]:
    """Every direct dependency: of the core, of each extra, and to build."""
    given = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = given["project"]
    lines = [
        *project["dependencies"], *given["build-system"]["requires"],
        *(line for lines in project["optional-dependencies"].values() for line in lines),
    ]  # fmt: skip
    return [one for one in map(Requirement, lines) if one.name != "thalweg"]


def locked() -> dict[str, str]:
    """The version of each package in the lock."""
    found = LOCKED.findall((ROOT / "requirements.lock").read_text())
    return {name: version for name, version, _ in found}


def test_every_direct_dependency_is_locked_within_its_tested_range() -> None:
    pins = locked() | {"torch": (ROOT / "constraints.txt").read_text().rpartition("torch==")[2].strip()}
    for one in declared():
        assert {part.operator for part in one.specifier} == {">=", "<"}, f"{one}: say the range it is tested in"
        assert one.specifier.contains(pins[canonicalize_name(one.name)]), f"{one}: run `make lock`"


def test_the_lock_has_a_hash_for_every_file_and_nothing_of_the_machine_it_was_made_on() -> None:
    packages = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())
    for package in packages:
        if not package.startswith("#"):
            first, *hashes = package.splitlines()
            assert LOCKED.fullmatch(first), first
            assert hashes
            assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes), package


def test_torch_is_not_locked_and_what_all_its_builds_need_is() -> None:
    pins = locked()
    assert not [name for name in pins if name == "torch" or name.startswith(("nvidia", "cuda"))]
    for line in distribution("torch").requires or ():
        one = Requirement(line)
        if one.marker is None:  # a build for CUDA needs more, each with a marker
            assert one.specifier.contains(pins[canonicalize_name(one.name)]), line


@final
@dataclass(frozen=True, slots=True)
class Bare:
    """A virtual environment with the wheel and the core's dependencies, and a folder to work in."""

    bin: Path
    folder: Path

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """Begin a command."""
        return subprocess.Popen(
            [self.bin / words[0], *words[1:]], cwd=self.folder, env={**os.environ, **ONE_THREAD}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        """Run a command to its end. Returns: its exit code, what it printed, what it said on standard error."""
        with self.start(*words) as process:
            out, err = process.communicate(timeout=300)
        assert "Traceback" not in err, err
        return process.returncode, out, err

    def succeed(self, *words: str | Path) -> str:
        """Run a command that should go well."""
        code, out, err = self.run(*words)
        assert code == 0, err
        return out

    def refuses(self, *words: str | Path) -> str:
        """Run a command that should end with code 2. Returns: what it said."""
        code, out, err = self.run(*words)
        assert (code, out) == (2, ""), err
        return err


def brought(by: Distribution, found: dict[str, Path], extra: str = "") -> None:
    """Find what installing a distribution brings besides: each file or folder of site-packages, and where it is now."""
    for line in by.requires or ():
        one = Requirement(line)
        if one.marker is not None and not one.marker.evaluate({"extra": extra}):
            continue
        it = distribution(one.name)
        site = Path(str(it.locate_file("")))
        tops = {file.parts[0] for file in it.files or () if file.parts[0] not in ("..", "__pycache__")}
        if not tops <= found.keys():
            found |= {top: site / top for top in tops}
            for inner in one.extras or {""}:
                brought(it, found, inner)


def pip(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words], check=True)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    """The wheel, installed without anything that the core does not declare; traffic and a model in the folder."""
    folder = tmp_path_factory.mktemp("bare")
    build = ("--no-build-isolation", "--wheel-dir", folder, ROOT)
    pip("wheel", *OFFLINE, *build)
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    (wheel,) = folder.glob("thalweg-*.whl")
    pip("--python", environment / "bin" / "python", "install", "--no-compile", *OFFLINE, wheel)
    (site,) = environment.glob("lib/python*/site-packages")
    (core,) = distributions(name="thalweg", path=[str(site)])
    found: dict[str, Path] = {}
    brought(core, found)
    for name, path in found.items():
        (site / name).symlink_to(path)
    take_compiled(ROOT / "src", site)
    made = Bare(environment / "bin", folder)
    (folder / "tiny.toml").write_text(TINY)
    made.succeed("thalweg", "simulate", "traffic.csv", "--flows", "1200", "--seed", "3")
    made.succeed("thalweg", "fit", "traffic.csv", "-o", "office.thalweg", *QUICKLY)
    yield made
    shutil.rmtree(environment)


def take_compiled(source: Path, site: Path) -> None:
    """Take along the loops that were compiled here: compiling all of them again takes minutes."""
    for path in source.rglob("*.py"):
        copy, stat = site / path.relative_to(source), path.stat()
        os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.nb[ic]"):
            (copy.parent / "__pycache__").mkdir(exist_ok=True)
            shutil.copy2(compiled, copy.parent / "__pycache__")


def test_a_bare_installation_can_import_the_core_alone(bare: Bare) -> None:
    code = f"from importlib.util import find_spec; print([name for name in {NOT_CORE} if find_spec(name)])"
    assert bare.succeed("python", "-c", code) == "[]\n"
    where = bare.succeed("python", "-c", "import thalweg; print(thalweg.__file__)")
    assert Path(where.strip()).is_relative_to(bare.bin.parent)


def test_the_core_scores_and_evaluates(bare: Bare) -> None:
    bare.succeed("thalweg", "score", "office.thalweg", "traffic.csv", "-o", "scores.parquet")
    assert pl.read_parquet(bare.folder / "scores.parquet")["score"].len() == 1200
    out = bare.succeed("thalweg", "evaluate", "office.thalweg", "traffic.csv", "--hosts")
    assert "AUROC" in out


def test_the_core_has_the_published_preset(bare: Bare) -> None:
    torch.save(PublishedNetwork().state_dict(), bare.folder / "weights.pt")
    preset = ("--preset", "published", "--weights", "weights.pt", "--device", "cpu")
    bare.succeed("thalweg", "fit", "traffic.csv", "-o", "published.thalweg", *preset)
    bare.succeed("thalweg", "score", "published.thalweg", "traffic.csv", "-o", "published.parquet")


def test_the_core_listens(bare: Bare) -> None:
    port = free_port()
    source = ("--from", f"udp://127.0.0.1:{port}", "--allow", "127.0.0.0/8")
    words = ("office.thalweg", *source, "--to", "out/", "--window", "300", "--hold", "0", "--spool", "spool")
    with bare.start("thalweg", "run", *words) as run, Exporter(port, 100):
        try:
            until(lambda: run.poll() is not None or list(bare.folder.glob("out/**/*.parquet")), "a window is written")
            run.send_signal(signal.SIGTERM)
            _, err = run.communicate(timeout=120)
        finally:
            run.kill()
    assert run.returncode == 0, err
    written = pl.concat([pl.read_parquet(path) for path in bare.folder.glob("out/**/*.parquet")])
    assert written["score"].is_between(0, 1).all()


def test_the_demo_without_the_extra_prints_all_but_the_page_and_says_how_to_get_it(bare: Bare) -> None:
    out = bare.succeed("python", "-c", SMALL_DEMO, "demo", "--out", "here")
    for said in ("simulated an office", "learned the quiet day", "strangest flow of each attack", "AUROC", "caught "):
        assert said in out
    assert "pip install 'thalweg[report]'" in out
    assert out.endswith("next: thalweg fit YOUR_FLOWS -o my.thalweg\n")
    names = ["busy.parquet", "office.thalweg", "quiet.parquet", "scores.parquet"]
    assert sorted(path.name for path in (bare.folder / "here").iterdir()) == names


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("report", "evaluate office.thalweg traffic.csv --html report.html"),
        ("benchmark", "benchmark detection --data ."),
        ("benchmark", "benchmark throughput"),
        ("kafka", "run office.thalweg --from kafka://broker/topic --to out/"),
    ],
)
def test_a_command_without_its_extra_says_at_once_what_to_type(bare: Bare, extra: str, words: str) -> None:
    said = bare.refuses("thalweg", *words.split())
    assert re.fullmatch(rf"error: this needs \w+, which is not installed: pip install 'thalweg\[{extra}\]'\n", said)
