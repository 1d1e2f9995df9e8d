"""Attaching to a worker with 1 GB of Lua heap: time to the first sample, our memory, and the worker's own pauses.

The worker (benches/lua/heap.lua) writes down its longest pause in each slot of 20 ms. Recordings and equally long times
without any come in random order; the pause of an episode is the longest of its slots.
"""

import os
import random
import statistics
import time

from limits import end, launch
from profilers import read_folded, runs_of_sampler
from setting import bpf_statistics, folder, lua_program, luajit, spread, table, target

HEAP_MB = 1024
HZ = 999
EPISODE = 2.0
PAUSE = 0.5


def stopped(pid):
    """Is it stopped, or being traced?"""
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rpartition(")")[2].split()[0] in "Tt"


def resident_mb(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def attach(moonscope, pid, work):
    """ms to the first BPF run, ms of samples without Lua before the first with, peak memory in MB, times seen stopped"""
    begin = time.monotonic()
    # written to a file of its own each time
    out = f"{work}/{begin}.folded"
    child = launch(moonscope, ["-p", str(pid), "-F", str(HZ), "-o", out])
    seen_stopped, first = 0, None
    while time.monotonic() - begin < EPISODE or (first is None and child.poll() is None):
        seen_stopped += stopped(pid)
        if first is None and runs_of_sampler(child.pid):
            first = 1000 * (time.monotonic() - begin)
        time.sleep(0.001)
    time.sleep(0.2)  # on a busy machine the first run may have been for another task
    _, megabytes, status, said = end(child)
    if status != 0 or first is None:
        raise SystemExit(f"bench: moonscope ended with {status}: {said}")
    without = sum(count for stack, count in read_folded(out) if not any("@" in frame for frame in stack))
    return first, 1000 * without / HZ, megabytes, seen_stopped


def longest_pause(slots, begin, finish):
    return max((pause for b, e, pause in slots if e >= begin and b <= finish), default=None)


def run(moonscope, rounds):
    directory = luajit("upstream-gc64")
    if not directory:
        return
    rounds = max(rounds, 2)
    seed = random.randrange(1 << 32)
    order = random.Random(seed)
    firsts, withouts, memory, stops, episodes = [], [], [], 0, []
    with folder() as work, open(f"{work}/slots", "w+") as log, bpf_statistics():
        life = str(int(rounds * 2 * (EPISODE + PAUSE + 3) + 60))
        environment = {**os.environ, "HEAP_MB": str(HEAP_MB)}
        command = [f"{directory}/bin/host", lua_program("heap.lua"), life]
        with target(command, wait_ready=False, stdout=log, env=environment) as worker:
            while not os.path.getsize(f"{work}/slots"):
                time.sleep(0.05)
                if worker.poll() is not None:
                    raise SystemExit("bench: heap.lua ended early")
            time.sleep(1)
            resident = resident_mb(worker.pid)
            for _ in range(rounds):
                for attached in order.sample([True, False], 2):
                    time.sleep(PAUSE)
                    begin = time.monotonic()
                    if attached:
                        first, without, megabytes, seen = attach(moonscope, worker.pid, work)
                        firsts.append(first)
                        withouts.append(without)
                        memory.append(megabytes)
                        stops += seen
                    else:
                        time.sleep(EPISODE)
                    episodes.append((attached, begin, begin + EPISODE))
        log.seek(0)
        slots = [tuple(map(float, line.split())) for line in log.read().splitlines() if line.count(" ") == 2]
    pauses = {
        attached: [longest_pause(slots, b, e) for kind, b, e in episodes if kind == attached] for attached in (True, False)
    }
    # The longest pause is one event; how long pauses usually are says more.
    usual = {
        attached: [
            statistics.median(pause for b, e, pause in slots if b >= begin and e <= finish)
            for kind, begin, finish in episodes
            if kind == attached
        ]
        for attached in (True, False)
    }
    print(f"### A worker with {HEAP_MB} MB of Lua heap ({resident:.0f} MB resident), {rounds} rounds, order by seed {seed}\n")
    rows = [
        ["first BPF run after start, ms (bar 1000)", spread(firsts)],
        ["samples without Lua frames before those with, ms", spread(withouts)],
        ["own peak memory, MB", spread(memory)],
        ["looks at the worker's state, once in a millisecond, that found it stopped", stops],
        [f"longest pause of the worker in {EPISODE:.0f} s, ms, attached", spread([p / 1000 for p in pauses[True]])],
        ["the same, (none)", spread([p / 1000 for p in pauses[False]])],
        ["median over slots of 20 ms of the longest pause in each, µs, attached", spread(usual[True])],
        ["the same, (none)", spread(usual[False])],
    ]
    table(["what", "moonscope"], rows)
