from __future__ import annotations

import pytest
import torch

from thalweg.runtime.device import on_device, send

CPU = torch.device("cpu")


def test_on_the_cpu_there_is_no_copy_and_no_wait() -> None:
    tensor = torch.arange(3)
    sent = send(lambda: on_device(tensor, CPU), CPU)
    assert sent.copied is None
    assert sent.arrived() is tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_what_arrives_is_what_was_sent() -> None:
    gpu = torch.device("cuda")
    for number in range(20):
        tensor = torch.full((1 << 20,), number)
        sent = send(lambda tensor=tensor: on_device(tensor, gpu), gpu)  # type: ignore[misc]  # binds this iteration's tensor
        assert sent.copied is not None
        assert int(sent.arrived().sum()) == number << 20
