"""What a worker's process does before it scores."""

import pytest
import torch

from rlstep.verifiers.serving.worker import choose_device


@pytest.mark.parametrize(("index", "device"), [(0, "cuda:0"), (1, "cuda:1"), (2, "cuda:0"), (5, "cuda:1")])
def test_gpus_are_given_to_workers_in_turn_and_each_uses_its_own_alone(monkeypatch, index, device):
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device(index) == device
    assert current == [int(device[-1])]


def test_without_a_gpu_workers_are_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(3) == "cpu"
