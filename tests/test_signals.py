"""Signals are deferred, raised once, and their handlers restored."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from thinlens.errors import RunError
from thinlens.signals import SIGNALS, Interrupted, deferred_signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_waits_for_the_check(number: signal.Signals, status: int) -> None:
    reached = False
    with pytest.raises(Interrupted) as stopped, deferred_signals() as stop:
        stop.check()  # nothing has come: nothing happens
        os.kill(os.getpid(), number)
        reached = True
        assert stop.number == number
        stop.check()
    assert reached
    assert stopped.value.exit_status == status
    assert str(stopped.value) == number.name


def test_a_second_signal_is_not_waited_for() -> None:
    with pytest.raises(Interrupted), deferred_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on after the second signal")


def test_an_unchecked_signal_is_not_lost() -> None:
    reached = False
    with pytest.raises(Interrupted), deferred_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        reached = True
    assert reached


def test_an_error_is_not_hidden_by_a_signal() -> None:
    with pytest.raises(KeyError), deferred_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise KeyError


def test_a_failure_that_would_be_listed_does_not_swallow_a_signal() -> None:
    with pytest.raises(Interrupted) as stopped, deferred_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        raise RunError("the disk is full")
    assert str(stopped.value.__cause__) == "the disk is full"
    with pytest.raises(RunError), deferred_signals():
        raise RunError("the disk is full")


def test_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with deferred_signals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_other_threads_are_not_affected() -> None:
    numbers: list[int | None] = [0]

    def work() -> None:
        with deferred_signals() as stop:
            numbers[0] = stop.number

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert numbers == [None]
