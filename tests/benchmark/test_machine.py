"""The description of the machine, and memory limits, in a separate process since a limit cannot be lifted."""

import subprocess
import sys

import pytest

from thalweg.benchmark.machine import describe_machine, free_memory, machine_in_words, memory_errors, peak_memory_mb

LIMITED = """
import numpy as np
from thalweg.benchmark.machine import reset_peak, limit_memory, peak_memory_mb
begun = peak_memory_mb()
held = np.ones(25_000_000)
assert peak_memory_mb() > begun + 150, "200 MB do not show"
del held
if reset_peak():
    assert peak_memory_mb() < begun + 100, "the peak was not forgotten"
limit_memory(100_000_000)
np.ones(2_000_000)
try:
    np.ones(50_000_000)
except MemoryError:
    print("refused")
"""


@pytest.mark.skipif(not free_memory(), reason="needs Linux's /proc")
def test_peaks_are_seen_and_limits_kept() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("refused\n", 0), done.stderr


def test_libraries_that_find_no_memory_say_so_in_one_way() -> None:
    for words in (
        "DefaultCPUAllocator: can't allocate memory: you tried",
        "CUDA out of memory.",
        "std::bad_alloc",
        "can't start new thread",
    ):
        with pytest.raises(MemoryError), memory_errors():
            raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="sizes differ"), memory_errors():
        raise RuntimeError("sizes differ")


def test_a_machine_is_described() -> None:
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert peak_memory_mb() > 10
    words = machine_in_words({**machine, "gpu": None, "load_before": 3.0})
    assert f"{machine['cores']} cores" in words
    assert "no GPU" in words
    assert "busy" in words
    assert "busy" not in machine_in_words({**machine, "load_before": 0.1})
