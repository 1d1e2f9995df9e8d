"""The profilers that are compared: how each is started on one pid, stopped, and what it cost itself."""

import contextlib
import glob
import os
import re
import shutil
import signal
import subprocess
import time

from setting import bpf_statistics_are_on


WITH_BPF = ["moonscope", "bpftrace"]
# BPF_PROG_TYPE_PERF_EVENT (include/uapi/linux/bpf.h)
PERF_EVENT = "7"


def perf():
    """The perf of this machine: Ubuntu's /usr/bin/perf is a script that wants the kernel's own version."""
    for candidate in [shutil.which("perf"), *sorted(_ubuntu_perfs(), reverse=True)]:
        if candidate and subprocess.run([candidate, "version"], capture_output=True).returncode == 0:
            return candidate
    return None


def _ubuntu_perfs():
    root = "/usr/lib/linux-tools"
    return [f"{root}/{d}/perf" for d in os.listdir(root)] if os.path.isdir(root) else []


class Profiler:
    """How one profiler is started and, where that is another step, how its report is made."""

    def __init__(self, name, start, report=None):
        self.name, self.start, self.report = name, start, report

    def run(self, pids, hz, seconds, folder):
        return Running(self, pids, hz, seconds, folder)


class Running:
    """One run of one profiler. Its files lie in `folder`."""

    def __init__(self, profiler, pids, hz, seconds, folder):
        self.profiler, self.folder, self.seconds = profiler, folder, seconds
        self.pids = pids
        self.log = open(os.path.join(folder, "stderr"), "w+")
        self.began = time.monotonic()
        self.child = subprocess.Popen(
            profiler.start(pids, hz, seconds, folder), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=folder
        )
        self.bpf = {}
        self.steady_cpu = None

    def watch(self):
        """Until shortly before its end: its steady CPU use, that of the target (its main threads), and the run-time
        statistics of its BPF programs."""
        settle, margin = min(1.5, self.seconds / 3), min(0.4, self.seconds / 8)
        time.sleep(max(0, self.began + settle - time.monotonic()))
        # on a busy machine its start may take longer, and its time counts from then
        while self.profiler.name in WITH_BPF and bpf_statistics_are_on() and not runs_of_sampler(self.child.pid):
            if self.child.poll() is not None or time.monotonic() > self.began + 60:
                break
            time.sleep(0.02)
        cpu, at, early, target = self._cpu(), time.monotonic(), self._bpf_programs(), on_cpu_seconds(self.pids)
        time.sleep(max(0, at + self.seconds - settle - margin - time.monotonic()))
        span = time.monotonic() - at
        late = self._bpf_programs()
        self.target_cpu = on_cpu_seconds(self.pids) - target
        self.bpf = {
            key: (late[key][0] - early.get(key, (0, 0, 0))[0], late[key][1] - early.get(key, (0, 0, 0))[1], late[key][2])
            for key in late
        }
        self.steady_cpu = (self._cpu() - cpu) / span

    def finish(self, timeout=120):
        """Waits for it, or ends it: CPU seconds (with its report), peak memory in MB, seconds from its end of
        recording to its exit, exit status (None: it had to be killed)."""
        deadline = self.began + self.seconds + timeout
        status = None
        while time.monotonic() < deadline:
            pid, wait_status, usage = os.wait4(self.child.pid, os.WNOHANG)
            if pid:
                status = os.waitstatus_to_exitcode(wait_status)
                break
            time.sleep(0.005)
        else:
            os.kill(self.child.pid, signal.SIGKILL)
            _, _, usage = os.wait4(self.child.pid, 0)
        self.child.returncode = status if status is not None else -9
        after = time.monotonic() - self.began - self.seconds
        cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
        if self.profiler.report and status == 0:
            begin = time.monotonic()
            with open(os.path.join(self.folder, "report"), "w") as out:
                child = subprocess.Popen(
                    self.profiler.report(self.folder), stdout=out, stderr=subprocess.DEVNULL, cwd=self.folder
                )
                _, _, usage = os.wait4(child.pid, 0)
                child.returncode = 0
            cpu += usage.ru_utime + usage.ru_stime
            memory = max(memory, usage.ru_maxrss / 1024)
            after += time.monotonic() - begin
        return {"cpu": cpu, "memory": memory, "after": after, "status": status}

    def output(self):
        self.log.seek(0)
        return self.log.read()

    def _cpu(self):
        """CPU seconds of its threads so far, by the scheduler's own clock (nanoseconds, not ticks)."""
        total = 0
        for path in glob.glob(f"/proc/{self.child.pid}/task/*/schedstat"):
            with contextlib.suppress(OSError), open(path) as f:
                total += int(f.read().split()[0])
        return total / 1e9

    def _bpf_programs(self):
        """Program id -> (nanoseconds, runs, instructions verified)."""
        return {
            info["prog_id"]: tuple(int(info.get(key, 0)) for key in ("run_time_ns", "run_cnt", "verified_insns"))
            for info in bpf_programs(self.child.pid)
        }


def bpf_programs(pid):
    """What the kernel tells of each BPF program that this process holds a descriptor of."""
    for path in glob.glob(f"/proc/{pid}/fdinfo/*"):
        try:
            with open(path) as f:
                info = dict(re.findall(r"^(\w+):\s*(\d+)", f.read(), re.M))
        except OSError:
            continue
        if "prog_id" in info and "run_time_ns" in info:  # a link has the first only
            yield info


def runs_of_sampler(pid):
    """Runs of its programs for perf events (BPF statistics are on). Others run for every fork and exit on the machine."""
    return sum(int(info.get("run_cnt", 0)) for info in bpf_programs(pid) if info.get("prog_type") == PERF_EVENT)


def on_cpu_seconds(pids):
    """CPU time of the main threads of these processes."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/schedstat") as f:
            total += int(f.read().split()[0])
    return total / 1e9


def all_profilers(moonscope):
    """Those that are installed, ours first."""
    perf_path, bpftrace = perf(), shutil.which("bpftrace")

    def perf_record(*how):
        return lambda pids, hz, seconds, folder: [
            perf_path, "record", "-q", "-e", "cpu-clock", "-F", str(hz), *how, "-p", ",".join(map(str, pids)), "-o", f"{folder}/perf.data",
            "--", "sleep", str(seconds),
        ]  # fmt: skip

    def script(folder):
        return [perf_path, "script", "-i", f"{folder}/perf.data"]

    found = [
        Profiler(
            "moonscope",
            lambda pids, hz, seconds, folder: [
                moonscope, "record", "-p", ",".join(map(str, pids)), "-F", str(hz), "-d", str(seconds), "-o", f"{folder}/out.folded",
            ],
        )
    ]  # fmt: skip
    if perf_path:
        # what the ticks themselves cost on this machine
        found.append(Profiler("perf, no stacks", perf_record(), script))
        found.append(Profiler("perf -g", perf_record("-g"), script))
        found.append(Profiler("perf dwarf", perf_record("--call-graph", "dwarf"), script))
    if bpftrace:
        found.append(
            Profiler(
                "bpftrace",
                lambda pids, hz, seconds, folder: [
                    bpftrace, "-e",
                    f"profile:hz:{hz} /{' || '.join(f'pid == {pid}' for pid in pids)}/ {{ @[kstack, ustack] = count(); }} interval:s:{seconds} {{ exit(); }}",
                ],
            )
        )  # fmt: skip
    return found


def read_folded(path):
    """(stack as a list of frames, count) for each line."""
    stacks = []
    with open(path, errors="replace") as f:
        for line in f:
            stack, _, count = line.rstrip("\n").rpartition(" ")
            stacks.append((stack.split(";"), int(count)))
    return stacks
