"""Signals and deadlines in real processes, also where the main thread is inside C code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from psych_ray.ending import INTERRUPTED_LINE, PATIENCE_S, Ending, ends_within

LINE = f"psych-ray: {INTERRUPTED_LINE}\n"
STUCK = """
import ctypes
from psych_ray import ending
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
def never_returns():
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""
IN_C = f"""{STUCK}
ending.CLEAN_UP_S = 0.5
with ending.ENDING.signals():
    print("ready", flush=True)
    never_returns()
"""
DEADLINE = f"""{STUCK}
with ending.ends_within(0.5, "too late", 1):
    print("ready", flush=True)
    never_returns()
"""
COMMAND = """
import sys, time
from psych_ray.cli import main
def run(command, overrides):
    with main.ENDING.patiently():
        print("ready", flush=True)
        while not main.ENDING.is_asked or PATIENT:
            time.sleep(0.01)
    try:
        main.ENDING.interrupt()
    finally:
        print("cleaning", flush=True)
        time.sleep(0.6)
        print("clean", flush=True)
main._run = run
sys.exit(main.main(["sweep"]))
"""


def start(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", list(PATIENCE_S))
def test_a_signal_ends_a_process_whose_main_thread_is_in_c_code(number):
    process = start(IN_C)
    time.sleep(0.3)
    process.send_signal(number)
    assert process.communicate(timeout=20) == ("", LINE)
    assert process.returncode == 130


def test_a_deadline_ends_a_process_whose_main_thread_is_in_c_code():
    process = start(DEADLINE)
    assert process.communicate(timeout=20) == ("", "psych-ray: too late\n")
    assert process.returncode == 1


def test_a_deadline_that_is_kept_ends_nothing():
    with ends_within(0.05, "too late"):
        pass
    time.sleep(0.1)


@pytest.mark.parametrize("number", list(PATIENCE_S))
def test_signals_during_clean_up_interrupt_neither_it_nor_change_the_exit_code(number):
    process = start(COMMAND.replace("PATIENT", "False"))
    process.send_signal(number)
    assert process.stdout.readline() == "cleaning\n"
    for again in (number, signal.SIGTERM, signal.SIGINT):
        time.sleep(0.1)
        process.send_signal(again)
    assert process.communicate(timeout=20) == ("clean\n", LINE)
    assert process.returncode == 130


def test_the_first_signal_waits_for_work_in_flight_and_the_second_does_not():
    process = start(COMMAND.replace("PATIENT", "True"))
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, LINE)
    assert out == ""  # the signal is raised in the wait, before the block that cleans up


def test_the_handlers_are_restored():
    before = {number: signal.getsignal(number) for number in PATIENCE_S}
    ending = Ending()
    with ending.signals():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ending.take_back()
        assert all(signal.getsignal(number) != before[number] for number in PATIENCE_S)
    assert {number: signal.getsignal(number) for number in PATIENCE_S} == before
    assert not ending.is_asked
    ending.take_back()
    assert {number: signal.getsignal(number) for number in PATIENCE_S} == before


def test_nohup_is_respected():
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + IN_C
    process = start(code)
    process.send_signal(signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("", LINE)
