"""What recording takes from nginx with Lua under saturating load: requests/s, latency, CPU time for each request.

Each round has one episode under each profiler and two without any, in random order. The profiler is there before the load
begins and until it has ended. A profiler's episode is compared with the mean of the two without; the two without are
compared with each other: that is the noise.
"""

import random
import time

from gateway import Gateway
from setting import folder, spread_with_confidence, table

HZ = 99
SECONDS = 5
START = 1.5  # start-up is not the steady state
FLOOR = ["first (none)", "second (none)"]


def episode(nginx, profiler):
    """requests/s, 99th percentile in seconds, µs of worker CPU for each request; and if the profiler failed"""
    if profiler is None:
        time.sleep(START)
        found, us = nginx.measure(SECONDS)
        return (found.rate, found.p99, us), False
    with folder() as work:
        running = profiler.run(nginx.workers, HZ, SECONDS + START + 1, work)
        time.sleep(START)
        found, us = nginx.measure(SECONDS)
        failed = running.child.poll() is not None or running.finish()["status"] != 0
    return (found.rate, found.p99, us), failed


def changes(values, reference):
    """requests/s lost, p99 added, CPU added, in per cent"""
    return [
        100 * (1 - values[0] / reference[0]), 100 * (values[1] / reference[1] - 1), 100 * (values[2] / reference[2] - 1),
    ]  # fmt: skip


def run(profilers, rounds):
    # an interval from fewer pairs says nothing
    rounds = max(2 * rounds, 10) if rounds > 1 else 2
    ours = [p for p in profilers if p.name in ("moonscope", "perf, no stacks")]
    settings = [*FLOOR, *(p.name for p in ours)]
    by_name = {p.name: p for p in ours}
    seed = random.randrange(1 << 32)
    order = random.Random(seed)
    found, levels, failed = {}, [], {}
    with Gateway() as nginx:
        nginx.measure(3)
        for _ in range(rounds):
            values = {}
            for name in order.sample(settings, len(settings)):
                values[name], bad = episode(nginx, by_name.get(name))
                failed[name] = failed.get(name, 0) + bad
            first, second = (values[name] for name in FLOOR)
            quiet = [(a + b) / 2 for a, b in zip(first, second)]
            levels.append(quiet)
            found.setdefault("(none)", []).append(changes(first, second))
            for profiler in ours:
                found.setdefault(profiler.name, []).append(changes(values[profiler.name], quiet))
    print(f"### nginx + ngx_lua under saturating load, {HZ} Hz, {rounds} rounds of {SECONDS} s, order by seed {seed}\n")
    rate, p99, us = (sorted(level[i] for level in levels)[rounds // 2] for i in range(3))
    print(f"Without a profiler: {rate:.0f} requests/s, 99th percentile {1000 * p99:.2f} ms, {us:.1f} µs of worker CPU for each request.\n")
    table(
        ["profiler", "requests/s lost, % (bar 0.5)", "p99 added, % (bar 1)", "worker CPU for each request added, %", "failed"],
        [
            [name, *(spread_with_confidence([row[i] for row in rows], seed) for i in range(3)), failed.get(name) or "-"]
            for name, rows in found.items()
        ],
    )
    print("Medians with the 95 % confidence interval of the median (bootstrap) and [smallest to largest].\n")
