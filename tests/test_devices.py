"""Tests of the choice of GPUs, with simulated GPUs and real processes."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_lib.runtime import devices
from pipeline_lib.runtime.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


class Job:
    """A process that sees `cards` (name -> free memory) and claims some of them until it is ended."""

    def __init__(self, folder, cards, number=1):
        code = f"""
import logging, sys
from pathlib import Path
from pipeline_lib.runtime import devices
logging.basicConfig(format="%(message)s", stream=sys.stdout)
cards = {cards!r}
devices.SECONDS_BETWEEN_TRIES = 0.02
found = devices.claim([*cards], [*cards.values()].__getitem__, {number}, Path({str(folder)!r}))
print(*([*cards][index] for index in found), flush=True)
input()
"""
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def read_line(self):
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.communicate("\n")


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a job. All jobs are ended at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start(*arguments, **settings):
            job = Job(tmp_path / "locks", *arguments, **settings)
            stack.callback(job.process.wait)
            stack.callback(job.process.kill)
            return job

        yield start


def test_two_jobs_take_different_cards_and_a_third_waits_until_one_is_free(start):
    cards = {"A": 10, "B": 20}
    one, two = start(cards), start(cards)
    assert {one.read_line(), two.read_line()} == {"A", "B"}
    third = start(cards)
    assert third.read_line().startswith("waiting for 1 of 2 GPUs, which other processes have claimed")
    one.end()
    assert third.read_line() in cards


def test_the_card_of_a_killed_job_is_released(start):
    holder = start({"A": 0})
    assert holder.read_line() == "A"
    other = start({"A": 0})
    assert other.read_line().startswith("waiting")
    holder.process.send_signal(signal.SIGKILL)
    assert other.read_line() == "A"


def test_the_free_card_with_the_most_memory_is_chosen(start):
    cards = {"A": 10, "B": 30, "C": 20}
    found = []
    for _ in cards:
        job = start(cards)
        found.append(job.read_line())
    assert found == ["B", "C", "A"]


def test_cards_are_recognised_when_processes_see_different_ones(start):
    """The indices of cards depend on CUDA_VISIBLE_DEVICES of each process."""
    one, two = start({"A": 0, "B": 10}), start({"B": 10})
    if (first := one.read_line()) == "A":  # the second came first
        assert two.read_line() == "B"
    else:
        assert first == "B" and two.read_line().startswith("waiting")


def test_several_cards_are_claimed_together_or_not_at_all(start):
    """Otherwise two jobs that each hold half of the cards they need would wait for each other forever."""
    cards = dict.fromkeys("ABCD", 0)
    single = start(cards)
    taken = single.read_line()
    pair = start(cards, number=2)
    assert len(set(pair.read_line().split()) - {taken}) == 2
    every = start(cards, number=4)
    assert every.read_line().startswith("waiting for 4 of 4")
    last = start(cards)  # a waiting job claims no card
    assert last.read_line() not in {taken}
    for job in (single, pair, last):
        job.end()
    assert set(every.read_line().split()) == set(cards)


def test_jobs_that_start_together_get_different_cards(start):
    cards = dict.fromkeys("ABCDEF", 0)
    jobs = [start(cards, number=2) for _ in range(3)]
    assert sorted("".join(job.read_line().replace(" ", "") for job in jobs)) == [*cards]


def test_a_process_reuses_the_cards_that_it_has_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_held", {})
    free = [10, 20]
    assert devices.claim(["A", "B"], free.__getitem__, 1, tmp_path) == [1]
    free.reverse()
    assert devices.claim(["A", "B"], free.__getitem__, 1, tmp_path) == [1]
    assert devices.claim(["B", "A"], free.__getitem__, 2, tmp_path) == [0, 1]
    for file in devices._held.values():
        os.close(file)


def test_free_memory_is_read_only_if_there_is_a_choice(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_held", {})
    assert devices.claim(["A", "B"], lambda _: 1 / 0, 2, tmp_path) == [0, 1]
    for file in devices._held.values():
        os.close(file)


def test_every_user_can_use_the_lock_files(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_held", {})
    before = os.umask(0o077)
    try:
        devices.claim(["A"], [0].__getitem__, 1, tmp_path / "locks")
    finally:
        os.umask(before)
    assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in (tmp_path / "locks").iterdir())
    os.close(devices._held["A"])


def test_too_many_requested_cards_are_reported_with_a_remedy(tmp_path):
    with pytest.raises(InputError, match=r"3 GPUs .* 2 are visible. Request fewer"):
        devices.claim(["A", "B"], [0, 0].__getitem__, 3, tmp_path)


class Cards:
    """Replacement of torch.cuda with the functions needed for the choice."""

    def __init__(self, *cards):
        self.cards = cards

    def is_available(self):
        return bool(self.cards)

    def device_count(self):
        return len(self.cards)

    def get_device_properties(self, index):
        return type("Properties", (), {"uuid": self.cards[index][0]})

    def mem_get_info(self, index):
        return self.cards[index][1], 100

    def set_device(self, device):
        self.current = device.index


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that simulates a machine with the given unclaimed cards (name, free memory)."""
    import torch

    def machine(*cards):
        monkeypatch.setattr(torch, "cuda", Cards(*cards))
        monkeypatch.setattr(devices, "_held", {})
        monkeypatch.setattr(devices.claim, "__defaults__", (1, tmp_path / "locks"))
        return torch.cuda

    yield machine
    for file in devices._held.values():
        os.close(file)


def test_a_gpu_is_chosen_if_it_exists_and_is_requested(machine):
    assert str(devices.choose_device("cpu")) == "cpu"
    cards = machine(("A", 10), ("B", 20))
    assert str(devices.choose_device("cpu")) == "cpu" and not devices._held
    assert str(devices.choose_device("auto")) == str(devices.choose_device("cuda")) == "cuda:1"
    assert [*devices._held] == ["B"] and cards.current == 1


def test_a_requested_gpu_that_does_not_exist_is_reported_with_a_remedy(machine):
    machine()
    assert str(devices.choose_device("auto")) == "cpu"
    with pytest.raises(InputError, match="device: auto"):
        devices.choose_device("cuda")


def test_child_processes_see_only_the_claimed_cards_and_use_one_each(machine, monkeypatch):
    machine(("A", 10), ("B", 20), ("C", 30))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.claim_for_children(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,2" and {*devices._held} == {"B", "C"}
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(devices.choose_device("cuda")) == "cuda:1"


def test_claimed_cards_are_named_as_in_cuda_visible_devices(machine, monkeypatch):
    machine(("A", 10), ("B", 20), ("C", 30))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-b,GPU-c")
    devices.claim_for_children(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-c"
