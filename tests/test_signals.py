import os
import signal

import pytest

from pipeline_lib.runtime.signals import Interrupted, Signals


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def handler(request):
    """Signals that a handler of the program received, the number of a signal, and a function to send it."""
    received = []
    before = signal.signal(request.param, lambda number, _: received.append(number))
    yield received, request.param, lambda: os.kill(os.getpid(), request.param)
    signal.signal(request.param, before)


def test_a_signal_is_delivered_at_the_end(handler):
    received, number, send = handler
    with Signals() as signals:
        send()
        send()
        assert signals.received == number and received == []
    assert received == [number]
    send()
    assert received == [number, number]


def test_without_a_signal_nothing_happens(handler):
    received, _, _ = handler
    with Signals() as signals, signals.interruptible():
        assert signals.received is None
    assert received == []


@pytest.mark.parametrize("early", [True, False])
def test_interruptible_work_is_interrupted_but_its_cleanup_is_not(handler, early):
    received, number, send = handler
    done = []
    with pytest.raises(Interrupted), Signals() as signals:
        try:
            if early:
                send()
            with signals.interruptible():
                done.append("started")
                try:
                    send()
                    done.append("not reached")
                finally:
                    send()
                    done.append("cleaned up")
        except Interrupted:
            send()
            done.append("saved")
            assert received == []
            raise
    assert done == (["saved"] if early else ["started", "cleaned up", "saved"])
    assert received == [number]


def test_work_after_an_interruptible_part_is_not_interrupted(handler):
    received, number, send = handler
    with Signals() as signals:
        with signals.interruptible():
            pass
        send()
        assert received == []
    assert received == [number]


def test_an_error_takes_precedence_over_a_signal(handler):
    received, _, send = handler
    with pytest.raises(ZeroDivisionError), Signals():
        send()
        print(1 / 0)
    assert received == []


def test_a_signal_that_is_ignored_stays_ignored(handler):
    """For instance Ctrl-C in processes that a shell runs in the background."""
    _, number, send = handler
    signal.signal(number, signal.SIG_IGN)
    with Signals() as signals:
        send()
        assert signals.received is None
    assert signal.getsignal(number) == signal.SIG_IGN
