"""What recording takes from a CPU-bound program, and what the profilers use themselves.

One long run of benches/spin.c; the profilers come and go in random order, with pauses between them. The program's own
speed in slots of 100 ms tells the loss: the median of the slots with a profiler, divided by the median of the slots of the
pauses before and after it. So slow drifts of the machine cancel out.
"""

import random
import statistics
import time

from setting import compile_spin, folder, spread, table, target

SECONDS = 4
PAUSE = 2
SETTLE = 0.7  # at both ends of a recording: start-up and report are not the steady state


def slots(lines):
    parsed = []
    for line in lines:
        begin, end, speed = line.split()
        parsed.append((int(begin) / 1e9, int(end) / 1e9, float(speed)))
    return parsed


def median_speed(all_slots, begin, end):
    speeds = [speed for b, e, speed in all_slots if b >= begin and e <= end]
    return statistics.median(speeds) if speeds else None


def run(profilers, rounds):
    settings = [(p, hz) for p in profilers for hz in (99, 999)] + [(None, 0)]
    seed = random.randrange(1 << 32)
    order = random.Random(seed)
    episodes = []
    with folder() as work:
        spin, log = compile_spin(work), open(f"{work}/slots", "w+")
        total = rounds * len(settings) * (SECONDS + PAUSE + 8) + 60
        with target([spin, "40", str(total)], wait_ready=False, stdout=log) as child:
            for _ in range(rounds):
                for profiler, hz in order.sample(settings, len(settings)):
                    time.sleep(PAUSE)
                    begin = time.monotonic()
                    result, running = None, None
                    if profiler:
                        with folder() as files:
                            running = profiler.run([child.pid], hz, SECONDS, files)
                            running.watch()
                            time.sleep(max(0, begin + SECONDS - time.monotonic()))
                            result = running.finish()
                    else:
                        time.sleep(SECONDS)
                    episodes.append((profiler.name if profiler else "(none)", hz, begin, time.monotonic(), result, running))
            time.sleep(PAUSE)
        log.seek(0)
        all_slots = slots(line for line in log.read().splitlines() if line != "ready")
        log.close()

    rows = []
    for name, hz in sorted({(e[0], e[1]) for e in episodes}):
        losses, cpus, steady, memory, after, failed = [], [], [], [], [], 0
        for _, _, begin, end, result, running in [e for e in episodes if e[:2] == (name, hz)]:
            during = median_speed(all_slots, begin + SETTLE, begin + SECONDS)
            quiet = [median_speed(all_slots, begin - PAUSE + 0.2, begin), median_speed(all_slots, end, end + PAUSE)]
            quiet = [speed for speed in quiet if speed]
            if during and quiet:
                losses.append(100 * (1 - during / statistics.mean(quiet)))
            if result:
                failed += result["status"] != 0
                cpus.append(100 * result["cpu"] / SECONDS)
                memory.append(result["memory"])
                after.append(result["after"])
                if running.steady_cpu is not None:
                    steady.append(100 * running.steady_cpu)
        rows.append(
            [name, hz or "-", spread(losses), spread(steady), spread(cpus), spread(memory), spread(after), failed or "-"]
        )
    print(f"### A CPU-bound program, {rounds} rounds of {SECONDS} s, order by seed {seed}\n")
    table(
        ["profiler", "Hz", "target slower, %", "own CPU, steady, %", "own CPU, all, %", "memory, MB",
         "end to files, s", "failed"],
        rows,
    )  # fmt: skip
    print("`own CPU, all`: start-up and report included, of one core, over the recorded time. Line `(none)`: the noise.\n")
