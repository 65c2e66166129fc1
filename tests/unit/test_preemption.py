"""A wish to stop: SIGTERM, SIGUSR1 or a STOP file."""

import os
import signal

import pytest

from prm.training.preemption import SIGNALS, STOP_FILE, StopRequest


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_signal(tmp_path, number):
    stop = StopRequest(tmp_path)
    stop.install()
    assert not stop
    os.kill(os.getpid(), number)
    assert stop


def test_stop_file_counts_once(tmp_path):
    stop = StopRequest(tmp_path)
    stop.install()
    (tmp_path / STOP_FILE).touch()
    assert stop
    StopRequest(tmp_path).install()  # the run that continues
    assert not stop
