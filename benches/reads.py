"""What recording `io`, `block` and `readahead` takes from a program that does nothing but read 4 KiB at random places.

benches/reads.c runs on, once from the page cache and once past it; recordings come and go in random order, with pauses
between them. The program's own speed in slots of 100 ms tells the loss, as in part `slowdown`. Then a recording with the
kernel's BPF statistics on says what the programs take for each event.
"""

import os
import random
import re
import statistics
import subprocess
import time

from setting import HERE, folder, spread, table, target
from slowdown import SETTLE, median_speed, slots

SECONDS = 4
PAUSE = 2
EVENTS = [None, "io", "io --paths", "block", "readahead"]


def record(moonscope, pid, event, seconds, work, *more):
    """A recording to its end: what it said."""
    arguments = [moonscope, "record", "-p", str(pid), "-d", str(seconds), "-f", "-o", f"{work}/x.json", *more]
    for word in event.split():
        arguments += [word] if word.startswith("-") else ["-e", word]
    done = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return done.stderr


def costs(words):
    """Microseconds for each kept event and for each run of a program."""
    found = re.search(r"cost of \w+: ([0-9.]+) µs per kept .* ([0-9.]+) µs each", words)
    return (float(found[1]), float(found[2])) if found else (None, None)


def compile_reads(into):
    path = os.path.join(into, "reads")
    subprocess.run(["gcc", "-O2", "-o", path, os.path.join(HERE, "reads.c")], check=True)
    return path


def run(moonscope, rounds):
    seed = random.randrange(1 << 32)
    order = random.Random(seed)
    print(f"### Random reads of 4 KiB, {rounds} rounds of {SECONDS} s, order by seed {seed}\n")
    for kind in ("cached", "direct"):
        episodes, measured = [], {}
        # not /tmp, which may be no disk
        with folder() as work, open(f"{work}/slots", "w+") as log:
            total = rounds * len(EVENTS) * (SECONDS + PAUSE + 4) + 60
            arguments = [compile_reads(work), kind, str(total), f"/var/tmp/moonscope-reads-{os.getpid()}"]
            with target(arguments, wait_ready=False, stdout=log) as child:
                time.sleep(PAUSE)
                for _ in range(rounds):
                    for event in order.sample(EVENTS, len(EVENTS)):
                        time.sleep(PAUSE)
                        begin = time.monotonic()
                        if event:
                            record(moonscope, child.pid, event, SECONDS, work)
                        else:
                            time.sleep(SECONDS)
                        episodes.append((event, begin, time.monotonic()))
                time.sleep(PAUSE)
                for event in EVENTS[1:]:
                    measured[event] = costs(record(moonscope, child.pid, event, 2, work, "--measure-cost"))
            log.seek(0)
            speeds = slots(line for line in log.read().splitlines() if line != "ready")
        rows = []
        for event in EVENTS:
            losses = []
            for _, begin, end in [episode for episode in episodes if episode[0] == event]:
                during = median_speed(speeds, begin + SETTLE, begin + SECONDS)
                quiet = [median_speed(speeds, begin - PAUSE + 0.2, begin), median_speed(speeds, end, end + PAUSE)]
                quiet = [speed for speed in quiet if speed]
                if during and quiet:
                    losses.append(100 * (1 - during / statistics.mean(quiet)))
            kept, each = measured.get(event, (None, None))
            rows.append([event or "(none)", spread(losses), kept or "-", each or "-"])
        alone = statistics.median(speed for _, _, speed in speeds)
        print(f"{kind}: a read takes {1e6 / alone:.2f} µs\n")
        table(["event", "target slower, %", "µs per event", "µs per run of a program"], rows)
