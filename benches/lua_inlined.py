"""Functions and lines of a hot loop with three inlined calls: compiled against interpreted.

The program is made here, so that the costs are known. A line is a test that could leave the trace and eight
multiplications and additions, each of which needs the result of the one before: neither the processor nor the compiler can
do two at once, and all lines take equally long, compiled or interpreted. The functions have 15, 24 and 39 lines; so a call,
which only the interpreter has to do, is less than a hundredth of what it calls.
"""

import math
import random
import re

from profilers import read_folded
from setting import ROOT, folder, luajit, table, target

HZ = 999
SECONDS = 4
FUNCTIONS = {"small": 15, "medium": 24, "large": 39}
VARIANTS = ["upstream-gc64", "openresty-gc32"]
LINE_FRAME = re.compile(r"^(\w+)@\S*:(\d+)(_\[j\])?$")


def source():
    chain = "x"
    for _ in range(8):
        chain = f"({chain} * A + B)"
    lines = [f'local case = dofile "{ROOT}/tests/luajit/cases/common.lua"', "local A, B, LIMIT, sink = 0.75, 0.5, 1e9, 0"]
    for function, count in FUNCTIONS.items():
        lines.append(f"local function {function}(x)")
        lines += [f"    if x > LIMIT then return {n} end x = {chain}" for n in range(count)]
        lines += ["    return x", "end"]
    lines += [
        "local function outer(x)", "    x = large(x)", "    return x", "end",
        "local function hot_loop(deadline)",
        "    repeat",
        "        local x = sink",
        "        for _ = 1, 200 do", "            x = small(x)", "            x = medium(x)", "            x = outer(x)", "        end",
        "        sink = x",
        "    until case.clock() >= deadline",
        "end",
        "case.ready()",
        "while case.running() do hot_loop(case.part(1)) case.account 'hot_loop' end",
        "case.finish()",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def leaves(stacks):
    """Samples by (function, line) of the innermost Lua function; and those with compiled code there."""
    counts, compiled = {}, 0
    for stack, count in stacks:
        found = next((m for m in map(LINE_FRAME.match, reversed(stack)) if m), None)
        if found:
            key = found[1], int(found[2])
            counts[key] = counts.get(key, 0) + count
            compiled += count * bool(found[3])
    return counts, compiled


def one_run(moonscope, directory, script, jit):
    with folder() as work, target([f"{directory}/bin/host", f"-j{jit}", script, str(SECONDS + 10)]) as child:
        running = moonscope.run([child.pid], HZ, SECONDS, work)
        if running.finish()["status"] != 0:
            raise SystemExit(f"bench: moonscope: {running.output()}")
        return leaves(read_folded(f"{work}/out.folded"))


def by_function(counts):
    sums = dict.fromkeys(FUNCTIONS, 0)
    for (function, _), count in counts.items():
        if function in sums:
            sums[function] += count
    return sums


def lines_of(counts):
    """Lines seen, and how far the shares of single lines are from equal ones, in standard errors (root mean square)."""
    mine = [count for (function, _), count in counts.items() if function in FUNCTIONS]
    lines = sum(FUNCTIONS.values())
    expected = sum(mine) / lines
    mine += [0] * max(0, lines - len(mine))
    return sum(count > expected / 20 for count in mine), math.sqrt(sum((c - expected) ** 2 for c in mine) / lines / expected)


def run(profilers, rounds):
    moonscope = next(p for p in profilers if p.name == "moonscope")
    built = {variant: luajit(variant) for variant in VARIANTS}
    settings = [(variant, jit) for variant in VARIANTS if built[variant] for jit in ("on", "off")]
    seed = random.randrange(1 << 32)
    order = random.Random(seed)
    sums, compiled = {setting: {} for setting in settings}, dict.fromkeys(settings, 0)
    with folder() as work:
        script = f"{work}/inlined.lua"
        with open(script, "w") as f:
            f.write(source())
        for _ in range(rounds):
            for setting in order.sample(settings, len(settings)):
                counts, on_trace = one_run(moonscope, built[setting[0]], script, setting[1])
                compiled[setting] += on_trace
                for key, count in counts.items():
                    sums[setting][key] = sums[setting].get(key, 0) + count
    print(f"### A hot loop with three inlined calls, {rounds} rounds of {SECONDS} s at {HZ} Hz, order by seed {seed}\n")
    rows = []
    for variant in [v for v in VARIANTS if built[v]]:
        on, off = (by_function(sums[variant, jit]) for jit in ("on", "off"))
        n_on, n_off = (sum(sums[variant, jit].values()) for jit in ("on", "off"))
        for function, lines in FUNCTIONS.items():
            p, q = on[function] / max(n_on, 1), off[function] / max(n_off, 1)
            error = math.sqrt(p * (1 - p) / max(n_on, 1) + q * (1 - q) / max(n_off, 1))
            rows.append(
                [
                    variant, function, f"{100 * lines / sum(FUNCTIONS.values()):.1f}", f"{100 * p:.2f}", f"{100 * q:.2f}",
                    f"{100 * (p - q):+.2f}", f"{100 * error:.2f}",
                ]
            )  # fmt: skip
    table(
        ["LuaJIT", "function", "its part of the lines, %", "compiled, %", "interpreted, %", "difference, points", "standard error"],
        rows,
    )
    rows = []
    for setting in settings:
        seen, spread_of_lines = lines_of(sums[setting])
        total = sum(sums[setting].values())
        rows.append(
            [
                *setting, total, f"{100 * compiled[setting] / max(total, 1):.1f}", f"{seen} of {sum(FUNCTIONS.values())}",
                f"{spread_of_lines:.2f}",
            ]
        )  # fmt: skip
    table(["LuaJIT", "JIT", "samples", "compiled, %", "lines seen", "deviation of a line, standard errors"], rows)
