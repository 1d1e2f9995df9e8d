"""What the live view takes: CPU time and memory of `moonscope top` in a terminal of 80 by 24, on one busy process at 99 Hz."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time

from setting import programs, spread, table, target

SECONDS = 20


def cpu_ns(pid):
    """CPU time of all threads that are there, by /proc/PID/task/TID/schedstat."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as file:
            total += int(file.read().split()[0])
    return total


def peak_memory(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) / 1024


def start(moonscope, pid):
    """The process, and the terminal's other end, which is read so that it never fills up."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def take_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    child = subprocess.Popen([moonscope, "top", "-p", str(pid)], stdin=its, stdout=its, stderr=its, preexec_fn=take_terminal)
    os.close(its)
    return child, ours


def read_all(end, drawn):
    """Counts what comes until the other end is closed, which is an error here."""
    try:
        while data := os.read(end, 65536):
            drawn[0] += len(data)
    except OSError:
        pass


def measure(moonscope, pid):
    """Per cent of a CPU, MB at most, and KB drawn in a second."""
    child, end = start(moonscope, pid)
    drawn = [0]
    reader = threading.Thread(target=read_all, args=(end, drawn))
    reader.start()
    try:
        # it has found names and drawn a few times
        time.sleep(5)
        before, bytes_before, since = cpu_ns(child.pid), drawn[0], time.monotonic()
        time.sleep(SECONDS)
        took = time.monotonic() - since
        used, came = cpu_ns(child.pid) - before, drawn[0] - bytes_before
        memory = peak_memory(child.pid)
        os.write(end, b"q")
        if child.wait(10):
            raise SystemExit("bench: moonscope top failed")
        return used / took / 1e7, memory, came / took / 1024
    finally:
        child.kill()
        child.wait()
        reader.join()
        os.close(end)


def run(moonscope, rounds):
    binary = programs("shares") + "/shares"
    with target([binary, str(60 * rounds)]) as busy:
        measured = [measure(moonscope, busy.pid) for _ in range(rounds)]
    cpu, memory, drawn = zip(*measured)
    rows = [
        ["own CPU time, per cent of one", spread(cpu)],
        ["own peak memory, MB", spread(memory)],
        ["sent to the terminal, KB a second", spread(drawn)],
    ]
    table([f"`moonscope top` on one busy process, {SECONDS} s", "moonscope"], rows)
