"""The nginx of the demo, with its Lua gateway, and load for it."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request

from profilers import on_cpu_seconds, read_folded
from setting import ROOT, folder

DEMO = f"{ROOT}/demo"
LATENCY_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def workers_of(server):
    with open(f"{server}/nginx.pid") as f:
        master = f.read().strip()
    return [int(pid) for pid in subprocess.run(["pgrep", "-P", master], capture_output=True, text=True).stdout.split()]


def without_compiler(into):
    """A copy of the demo whose first Lua turns the compiler off; a copy, as workers may not be able to read ours."""
    os.mkdir(into)
    shutil.copytree(f"{DEMO}/gateway", f"{into}/gateway")
    with open(f"{DEMO}/nginx.conf.in") as f:
        before = f.read()
    after = before.replace("init_by_lua_block {", "init_by_lua_block { jit.off()", 1)
    if after == before:
        raise SystemExit("bench: the demo's nginx.conf.in has no init_by_lua_block")
    with open(f"{into}/nginx.conf.in", "w") as f:
        f.write(after)
    return into


class Load:
    """What one run of wrk found: requests, requests/s, 99th percentile of the latency in seconds."""

    def __init__(self, output):
        self.requests = int(re.search(r"(\d+) requests in", output)[1])
        self.rate = float(re.search(r"Requests/sec:\s*([\d.]+)", output)[1])
        number, unit = re.search(r"^\s*99%\s+([\d.]+)(us|ms|s|m)\s*$", output, re.M).groups()
        self.p99 = float(number) * LATENCY_UNITS[unit]


class Gateway:
    """A running nginx; `jit=False`: with LuaJIT's compiler turned off before anything is loaded."""

    def __init__(self, jit=True):
        self.jit = jit

    def __enter__(self):
        self.folder = folder()
        outer = self.folder.__enter__()
        os.chmod(outer, 0o755)  # the workers are of another user
        self.dir = f"{outer}/nginx"
        os.mkdir(self.dir)
        command = [f"{DEMO}/server", self.dir]
        if not self.jit:
            command.append(without_compiler(f"{outer}/demo"))
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.server.stdout.readline().split()
        if not line or line[0] != "ready":
            raise SystemExit("bench: the demo's nginx did not start")
        self.url = line[1]
        self.token = self._log_in()
        self.workers = workers_of(self.dir)
        return self

    def __exit__(self, *_):
        self.server.stdin.close()
        self.server.wait()
        self.folder.__exit__(None, None, None)

    def _log_in(self):
        request = urllib.request.Request(
            f"{self.url}/api/login", data=b'{"name":"alice","password":"wonderland"}', method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)["token"]

    def load(self, seconds):
        return subprocess.Popen(
            ["wrk", "--latency", "-t1", "-c16", f"-d{seconds}s", "-s", f"{DEMO}/load.lua", self.url, "--", self.token],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def measure(self, seconds, meanwhile=None):
        """Load for so long: what wrk says, and on-CPU microseconds of the workers for each request, which are steadier
        than requests/s. `meanwhile()` runs beside it."""
        before = on_cpu_seconds(self.workers)
        load = self.load(seconds)
        if meanwhile:
            meanwhile()
        found = Load(load.communicate()[0])
        return found, 1e6 * (on_cpu_seconds(self.workers) - before) / found.requests

    def us_per_request(self, seconds):
        return self.measure(seconds)[1]

    def us_per_request_under(self, profiler, hz):
        """The same while this profiler runs; the run; its stacks, if it is moonscope."""
        with folder() as work:
            running = profiler.run(self.workers, hz, 5, work)
            time.sleep(0.7)
            us = self.measure(3, running.watch)[1]
            running.finish()
            folded = f"{work}/out.folded"
            return us, running, read_folded(folded) if os.path.exists(folded) else []
