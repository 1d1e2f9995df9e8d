"""Shares of Lua functions: ours against LuaJIT's own profiler in the same run, and against the program's own CPU clock."""

import os
import random
import time

from profilers import read_folded
from setting import folder, lua_program, luajit, table, target

HZ = 999
SECONDS = 3
VARIANTS = ["upstream-gc64", "openresty-gc32"]


def inclusive(stacks, functions):
    """Part of the samples that have each of these functions in the stack, of those that have any of them."""
    counts = dict.fromkeys(functions, 0)
    for stack, count in stacks:
        names = {frame.split("@")[0] for frame in stack}
        for function in functions:
            counts[function] += count * (function in names)
    return counts


def one_run(moonscope, directory, jit, observed):
    """The clock's seconds for each function, samples of jit.p, samples of ours."""
    with folder() as work:
        environment = dict(os.environ)
        if observed:
            environment |= {"JIT_P": f"{work}/jit.p", "JIT_PATH": f"{directory}/share/?.lua"}
        command = [f"{directory}/bin/host", f"-j{jit}", lua_program("shares.lua"), str(SECONDS + 1.5)]
        with target(command, env=environment) as child:
            running = moonscope.run([child.pid], HZ, SECONDS, work)
            result = running.finish()
            said = child.stdout.read()
            child.wait()
        if result["status"] != 0:
            raise SystemExit(f"bench: moonscope: {running.output()}")
        clock = {line.split()[1]: float(line.split()[3]) for line in said.splitlines() if line.startswith("truth ")}
        theirs = inclusive(read_folded(f"{work}/jit.p"), clock) if observed else {}
        return clock, theirs, inclusive(read_folded(f"{work}/out.folded"), clock)


def add(into, counts):
    for name, count in counts.items():
        into[name] = into.get(name, 0) + count


def shares(counts):
    total = sum(counts.values())
    return {name: 100 * count / max(total, 1e-9) for name, count in counts.items()}


def run(profilers, rounds):
    moonscope = next(p for p in profilers if p.name == "moonscope")
    built = {variant: luajit(variant) for variant in VARIANTS}
    settings = [(v, jit, observed) for v in VARIANTS if built[v] for jit in ("on", "off") for observed in (True, False)]
    seed = random.randrange(1 << 32)
    order = random.Random(seed)
    sums = {setting: ({}, {}, {}) for setting in settings}
    for _ in range(rounds):
        for setting in order.sample(settings, len(settings)):
            variant, jit, observed = setting
            for into, counts in zip(sums[setting], one_run(moonscope, built[variant], jit, observed)):
                add(into, counts)
            time.sleep(0.1)
    print(f"### Shares of Lua functions, {rounds} rounds of {SECONDS} s at {HZ} Hz, order by seed {seed}\n")
    rows, worst = [], {}
    for variant, jit, observed in settings:
        clock, theirs, ours = map(shares, sums[variant, jit, observed])
        for name in clock:
            rows.append(
                [
                    variant, jit, "with jit.p" if observed else "alone", name, f"{ours[name]:.1f}", f"{clock[name]:.1f}",
                    f"{theirs[name]:.1f}" if observed else "-",
                ]
            )  # fmt: skip
            compared = [("moonscope", ours, "its clock", clock)]
            if observed:
                compared += [("moonscope", ours, "jit.p", theirs), ("jit.p", theirs, "its clock", clock)]
            for who, found, witness, truth in compared:
                key = who, witness, variant, jit
                worst[key] = max(worst.get(key, 0), abs(found[name] - truth[name]))
    table(["LuaJIT", "JIT", "run", "function", "moonscope, %", "its clock, %", "jit.p, %"], rows)
    print("Largest difference in points (bar for moonscope: 3):\n")
    rows = [[*key, f"{points:.2f}"] for key, points in sorted(worst.items(), reverse=True)]
    table(["of", "against", "LuaJIT", "JIT", "points"], rows)
