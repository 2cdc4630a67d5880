import os
import signal

import pytest

from pipeline_lib.runtime.signals import Interrupted, Signals


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def heard(request):
    """What a handler of the surrounding program hears; `send` sends the signal to this process."""
    heard = []
    before = signal.signal(request.param, lambda number, _: heard.append(number))
    heard_number = request.param
    yield heard, heard_number, lambda: os.kill(os.getpid(), heard_number)
    signal.signal(heard_number, before)


def test_a_signal_is_kept_until_the_end(heard):
    heard, number, send = heard
    with Signals() as signals:
        send()
        send()
        assert signals.received == number and heard == []
    assert heard == [number]
    send()
    assert heard == [number, number]


def test_without_a_signal_nothing_happens(heard):
    heard, _, _ = heard
    with Signals() as signals, signals.interruptible():
        assert signals.received is None
    assert heard == []


@pytest.mark.parametrize("early", [True, False])
def test_what_may_be_broken_off_is_at_once_and_what_is_done_then_is_not(heard, early):
    heard, number, send = heard
    done = []
    with pytest.raises(Interrupted), Signals() as signals:
        try:
            if early:
                send()
            with signals.interruptible():
                done.append("begun")
                try:
                    send()
                    done.append("not reached")
                finally:
                    send()
                    done.append("tidied up")
        except Interrupted:
            send()
            done.append("saved")
            assert heard == []
            raise
    assert done == (["saved"] if early else ["begun", "tidied up", "saved"])
    assert heard == [number]


def test_what_was_broken_off_in_time_no_longer_is(heard):
    heard, number, send = heard
    with Signals() as signals:
        with signals.interruptible():
            pass
        send()
        assert heard == []
    assert heard == [number]


def test_an_error_goes_before_a_signal(heard):
    heard, _, send = heard
    with pytest.raises(ZeroDivisionError), Signals():
        send()
        print(1 / 0)
    assert heard == []


def test_a_signal_that_is_ignored_stays_ignored(heard):
    """As Ctrl-C is by what a shell runs in the background."""
    _, number, send = heard
    signal.signal(number, signal.SIG_IGN)
    with Signals() as signals:
        send()
        assert signals.received is None
    assert signal.getsignal(number) == signal.SIG_IGN
