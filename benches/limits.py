"""Start, end and size of a recording: first sample, time to write 100,000 samples, memory, losses on all CPUs."""

import glob
import os
import signal
import subprocess
import time

from profilers import runs_of_sampler
from setting import bpf_statistics, compile_spin, folder, programs, spread, table, target


def launch(moonscope, arguments):
    return subprocess.Popen(
        [moonscope, "record", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def end(child):
    """SIGINT; seconds until it has exited, peak memory in MB, exit status, the accounting line."""
    begin = time.monotonic()
    child.send_signal(signal.SIGINT)
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    accounting = [line.strip() for line in said.splitlines() if "unexplained" in line]
    return time.monotonic() - begin, usage.ru_maxrss / 1024, child.returncode, (accounting or ["-"])[-1]


# Looking at all files of the recorder without a pause takes CPU time from it.
LOOK = 0.01


def first_sample(moonscope, target_command, environment):
    with folder() as work, target(target_command, env={**os.environ, **environment}) as busy:
        begin = time.monotonic()
        child = launch(moonscope, ["-p", str(busy.pid), "-F", "999", "-o", f"{work}/out.folded"])
        while child.poll() is None and not runs_of_sampler(child.pid) and time.monotonic() - begin < 20:
            time.sleep(LOOK)
        took = time.monotonic() - begin
        time.sleep(0.3)
        end(child)
        return 1000 * took


def run(moonscope, rounds):
    rows = []
    llvm = sorted(glob.glob("/usr/lib/*/libLLVM*.so*"))
    with folder() as work, bpf_statistics():
        spin = compile_spin(work)
        plain = [first_sample(moonscope, [spin, "10", "60"], {}) for _ in range(rounds)]
        rows.append(["first BPF run after start, ms (bar 300)", spread(plain)])
        if llvm:
            big = [first_sample(moonscope, [spin, "10", "60"], {"LD_PRELOAD": llvm[0]}) for _ in range(rounds)]
            rows.append([f"the same, target maps {os.path.basename(llvm[0])}, ms", spread(big)])

    with folder() as work:
        binary = programs("shares") + "/shares"
        written, memory, lost = [], [], []
        for _ in range(rounds):
            with target([binary, "60"]) as one, target([binary, "60"]) as two:
                arguments = ["-p", str(one.pid), "-p", str(two.pid), "-F", "4999", "--force"]
                outputs = ["-o", f"{work}/out.svg", "-o", f"{work}/out.pb.gz", "-o", f"{work}/out.json"]
                child = launch(moonscope, arguments + outputs)
                time.sleep(10.5)
                seconds, megabytes, _, said = end(child)
                written.append(seconds)
                memory.append(megabytes)
                lost.append(said)
        rows.append(["end of recording to svg + pprof + json, 100,000 samples, s (bar 1)", spread(written)])
        rows.append(["memory, two processes at 4999 Hz, MB (bar 80)", spread(memory)])
        rows.append(["its accounting", lost[-1]])

        memory, lost = [], []
        for _ in range(rounds):
            with target([binary, "60"]), target([binary, "60"]):
                child = launch(moonscope, ["-a", "-F", "999", "-o", f"{work}/all.folded", "--force"])
                time.sleep(6)
                _, megabytes, _, said = end(child)
                memory.append(megabytes)
                lost.append(said)
        rows.append(["memory, whole machine at 999 Hz, MB (bar 150)", spread(memory)])
        rows.append(["its accounting", lost[-1]])
    print("### Start, end and size\n")
    table(["what", "moonscope"], rows)
