"""Cards here are names; the processes that contend for them are real."""

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
    """A process that sees `cards` (name -> free memory) and holds some until it is told to end."""

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

    def says(self):
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.communicate("\n")


@pytest.fixture
def start(tmp_path):
    """Start a job; all are ended with the test."""
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
    assert {one.says(), two.says()} == {"A", "B"}
    third = start(cards)
    assert third.says().startswith("waiting for 1 of 2 GPUs, which other processes have claimed")
    one.end()
    assert third.says() in cards


def test_the_card_of_a_killed_job_is_free(start):
    holder = start({"A": 0})
    assert holder.says() == "A"
    other = start({"A": 0})
    assert other.says().startswith("waiting")
    holder.process.send_signal(signal.SIGKILL)
    assert other.says() == "A"


def test_of_free_cards_the_one_with_most_memory_is_taken(start):
    cards = {"A": 10, "B": 30, "C": 20}
    found = []
    for _ in cards:
        job = start(cards)
        found.append(job.says())
    assert found == ["B", "C", "A"]


def test_cards_are_the_same_whatever_else_a_process_sees(start):
    """CUDA_VISIBLE_DEVICES numbers them anew for each process."""
    one, two = start({"A": 0, "B": 10}), start({"B": 10})
    if (first := one.says()) == "A":  # the second came first
        assert two.says() == "B"
    else:
        assert first == "B" and two.says().startswith("waiting")


def test_who_wants_several_takes_all_at_once_or_none(start):
    """Two that each held half of what they want would wait for each other for ever."""
    cards = dict.fromkeys("ABCD", 0)
    single = start(cards)
    taken = single.says()
    pair = start(cards, number=2)
    assert len(set(pair.says().split()) - {taken}) == 2
    every = start(cards, number=4)
    assert every.says().startswith("waiting for 4 of 4")
    last = start(cards)  # what the waiting one does not hold
    assert last.says() not in {taken}
    for job in (single, pair, last):
        job.end()
    assert set(every.says().split()) == set(cards)


def test_many_that_start_at_once_share_the_cards_out(start):
    cards = dict.fromkeys("ABCDEF", 0)
    jobs = [start(cards, number=2) for _ in range(3)]
    assert sorted("".join(job.says().replace(" ", "") for job in jobs)) == [*cards]


def test_a_process_keeps_what_it_has_claimed_and_does_not_wait_for_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_held", {})
    free = [10, 20]
    assert devices.claim(["A", "B"], free.__getitem__, 1, tmp_path) == [1]
    free.reverse()
    assert devices.claim(["A", "B"], free.__getitem__, 1, tmp_path) == [1]
    assert devices.claim(["B", "A"], free.__getitem__, 2, tmp_path) == [0, 1]
    for file in devices._held.values():
        os.close(file)


def test_memory_is_asked_for_only_where_there_is_a_choice(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_held", {})
    assert devices.claim(["A", "B"], lambda _: 1 / 0, 2, tmp_path) == [0, 1]
    for file in devices._held.values():
        os.close(file)


def test_lock_files_are_every_users(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_held", {})
    before = os.umask(0o077)
    try:
        devices.claim(["A"], [0].__getitem__, 1, tmp_path / "locks")
    finally:
        os.umask(before)
    assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in (tmp_path / "locks").iterdir())
    os.close(devices._held["A"])


def test_more_cards_than_there_are_say_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"3 GPUs .* 2 are visible. Request fewer"):
        devices.claim(["A", "B"], [0, 0].__getitem__, 3, tmp_path)


class Cards:
    """torch.cuda as far as a choice needs it."""

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
    """A machine with the given cards (name, free memory), on which nobody has claimed any."""
    import torch

    def machine(*cards):
        monkeypatch.setattr(torch, "cuda", Cards(*cards))
        monkeypatch.setattr(devices, "_held", {})
        monkeypatch.setattr(devices.claim, "__defaults__", (1, tmp_path / "locks"))
        return torch.cuda

    yield machine
    for file in devices._held.values():
        os.close(file)


def test_a_gpu_is_chosen_where_there_is_one_and_it_is_asked_for(machine):
    assert str(devices.choose_device("cpu")) == "cpu"
    cards = machine(("A", 10), ("B", 20))
    assert str(devices.choose_device("cpu")) == "cpu" and not devices._held
    assert str(devices.choose_device("auto")) == str(devices.choose_device("cuda")) == "cuda:1"
    assert [*devices._held] == ["B"] and cards.current == 1


def test_asking_for_a_gpu_that_is_not_there_says_what_to_do(machine):
    machine()
    assert str(devices.choose_device("auto")) == "cpu"
    with pytest.raises(InputError, match="device: auto"):
        devices.choose_device("cuda")


def test_children_see_the_claimed_cards_alone_and_take_one_each(machine, monkeypatch):
    machine(("A", 10), ("B", 20), ("C", 30))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.claim_for_children(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,2" and {*devices._held} == {"B", "C"}
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(devices.choose_device("cuda")) == "cuda:1"


def test_children_see_cards_by_the_names_that_this_process_sees_them_by(machine, monkeypatch):
    machine(("A", 10), ("B", 20), ("C", 30))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-b,GPU-c")
    devices.claim_for_children(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-c"
