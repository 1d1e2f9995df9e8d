"""Kernel-side cost of one Lua frame, and of a sample of a loaded nginx with Lua, by the kernel's BPF run-time statistics."""

import os
import random
import re
import statistics

from cost_per_sample import fit, mean_frames, measure, sampler
from gateway import Gateway
from setting import bpf_statistics, folder, lua_program, luajit, spread, table

DEPTHS = [5, 50, 100]
SECONDS = 3
# JIT off is what the bar is about; compiled, only the leaf differs.
SETTINGS = [("upstream-gc64", "off"), ("openresty-gc32", "off"), ("upstream-gc64", "on")]
LUA_FRAME = re.compile(r"@\S*:\d+(_\[j\])?$|_\[b\]$")


def is_lua(frame):
    return bool(LUA_FRAME.search(frame))


def is_kernel(frame):
    return frame.endswith("_[k]")


def is_native(frame):
    return not is_lua(frame) and not is_kernel(frame)


def below_lua_frames(moonscope, rounds):
    """Straight lines through the costs below 5 to 100 Lua functions. All of this is at the same native depth."""
    built = {variant: luajit(variant) for variant, _ in SETTINGS}
    settings = [(variant, jit, depth) for variant, jit in SETTINGS if built[variant] for depth in DEPTHS]
    seed = random.randrange(1 << 32)
    order = random.Random(seed)
    costs, frames = {}, {}
    for _ in range(rounds):
        for setting in order.sample(settings, len(settings)):
            variant, jit, depth = setting
            command = [f"{built[variant]}/bin/host", f"-j{jit}", lua_program("depth.lua"), str(SECONDS + 10)]
            environment = {**os.environ, "DEPTH": str(depth)}
            cost, stacks, _, _ = measure(moonscope, command, seconds=SECONDS, env=environment)
            if cost is not None and stacks:
                costs.setdefault(setting, []).append(cost)
                frames[setting] = mean_frames(stacks, is_lua), mean_frames(stacks)
    print(f"### Cost of a Lua frame in the kernel, {rounds} rounds of {SECONDS} s, order by seed {seed}\n")
    table(
        ["LuaJIT", "JIT", "Lua frames in the stack", "all frames", "µs for each sample", "best"],
        [
            [v, jit, f"{frames[v, jit, d][0]:.1f}", f"{frames[v, jit, d][1]:.1f}", spread(c), f"{min(c):.2f}"]
            for (v, jit, d), c in sorted(costs.items(), key=lambda item: settings.index(item[0]))
        ],
    )
    for variant, jit in SETTINGS:
        mine = [s for s in costs if s[:2] == (variant, jit)]
        if len(mine) < 2:
            continue
        best = fit([(frames[s][0], min(costs[s])) for s in mine])
        median = fit([(frames[s][0], statistics.median(costs[s])) for s in mine])
        print(
            f"{variant}, JIT {jit}: {best[0]:.2f} µs for each sample and {best[1]:.3f} µs for each Lua frame through the best, "
            f"{median[0]:.2f} µs and {median[1]:.3f} µs through the medians (bar: 0.3 µs for each Lua frame)"
        )
    print()


def on_loaded_workers(moonscope, rounds):
    """µs for each kept sample of both workers of the demo's nginx, and what their stacks consist of."""
    costs, frames = {}, {}
    with Gateway() as nginx:
        nginx.measure(2)
        for _ in range(rounds):
            for hz in (99, 999):
                _, running, stacks = nginx.us_per_request_under(moonscope, hz)
                ns, runs, _ = sampler(running.bpf)
                if runs and running.target_cpu:
                    costs.setdefault(hz, []).append(ns / 1000 / (hz * running.target_cpu))
                    frames[hz] = [mean_frames(stacks, kind) for kind in (is_kernel, is_native, is_lua)]
    print("### Cost of a sample of loaded nginx workers with Lua, all stacks\n")
    table(
        ["Hz", "BPF µs for each kept sample (bar 8)", "kernel frames in a stack", "native", "Lua"],
        [[hz, spread(values), *(f"{mean:.1f}" for mean in frames[hz])] for hz, values in sorted(costs.items())],
    )


def run(profilers, rounds):
    moonscope = next(p for p in profilers if p.name == "moonscope")
    with bpf_statistics():
        below_lua_frames(moonscope, rounds)
        on_loaded_workers(moonscope, rounds)
