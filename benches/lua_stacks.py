"""Stacks and names of the demo's gateway under load: whole from nginx's main through Lua to the leaf, right names and lines.

What functions there are, and from which line to which, is asked of LuaJIT's own bytecode listing (`luajit -bl FILE`); what
they are called stands in the line of their definition.
"""

import json
import os
import re
import subprocess
import time

from gateway import Gateway
from setting import folder, luajit, table

HZ = 999
SECONDS = 8
ROOTS = re.compile(r"^(_start|main|__libc_start.*)$")
INLINE = re.compile(r"^(\w+)\(nginx\.conf:(\d+)\)$")
LISTED = re.compile(r"^-- BYTECODE -- .*:(\d+)-(\d+)$", re.M)
DEFINITION = re.compile(r"function\s+[\w.:]*?(\w+)\s*\(|(\w+)[\"'\]]*\s*=\s*function\b")


class Sources:
    """The functions of Lua files, as LuaJIT itself lists them."""

    def __init__(self, luajit_directory, nginx_conf):
        self.program, self.known, self.conf = f"{luajit_directory}/bin/luajit", {}, nginx_conf
        self.environment = {**os.environ, "LUA_PATH": f"{luajit_directory}/share/?.lua"}

    def _functions(self, path):
        if path not in self.known:
            try:
                with open(path) as f:
                    lines = f.read().splitlines()
                command = [self.program, "-bl", path]
                listing = subprocess.run(command, capture_output=True, text=True, env=self.environment, check=True).stdout
            except OSError:
                lines, listing = [], ""
            self.known[path] = lines, {(int(a), int(b)) for a, b in LISTED.findall(listing)}
        return self.known[path]

    def judge(self, frame):
        """`right`, `no source`, or what is wrong with this Lua frame of the .json"""
        name, line, defined = frame.get("function", ""), frame.get("line", 0), frame.get("defined_at", 0)
        if frame.get("file") and not line:
            return "no line"
        if inline := INLINE.match(frame.get("file", "")):
            # a block of one line each, in the demo
            stands_there = f"{inline[1]}_block" in self.conf[int(inline[2]) - 1]
            return "right" if name == "main chunk" and line == 1 and stands_there else "wrong inline code"
        lines, ranges = self._functions(frame.get("file", ""))
        if not ranges:
            return "no source"
        if not name:
            return "no name"
        if name.startswith("main chunk"):
            return "right" if 0 < line <= len(lines) else "wrong line"
        mine = [(a, b) for a, b in ranges if a == defined and a > 0]
        if not any(a <= line <= b for a, b in mine):
            return "wrong line"
        # a function that lies inside and has this line would have to be the one that is shown
        inner = [r for r in ranges for a, b in mine if a < r[0] and r[1] <= b and r[0] < line < r[1]]
        if inner:
            return "wrong line"
        names = [left or right for left, right in DEFINITION.findall(lines[defined - 1])]
        if not names:
            return "named by its call"
        return "right" if re.split(r"[.:]", name)[-1] in names else "wrong name"


def stacks_of(profile):
    """(frames from root to leaf, count) of each sample with a stack."""
    for stack, _, values in profile["samples"]:
        frames = []
        while stack is not None:
            stack, frame = profile["stacks"][stack]
            frames.append(profile["frames"][frame])
        yield frames[::-1], values[0]


def quality(profile):
    """Samples with Lua, and how many of them are whole, cut, with a gap, of unknown inlined frames."""
    found = dict.fromkeys(["all", "lua", "whole", "whole_lua", "gap", "inlined"], 0)
    for frames, count in stacks_of(profile):
        markers = {f["function"] for f in frames if f["kind"] == "marker"}
        has_lua = any(f["kind"].startswith("lua") for f in frames)
        whole = not markers & {"[truncated]", "[Lua frames missing]"} and any(
            f["kind"] == "native" and ROOTS.match(f.get("function", "")) for f in frames[:2]
        )
        found["all"] += count
        found["whole"] += count * whole
        found["lua"] += count * has_lua
        found["whole_lua"] += count * (has_lua and whole)
        found["gap"] += count * (has_lua and "[no unwind info]" in markers)
        found["inlined"] += count * (has_lua and "[inlined frames unknown]" in markers)
    return found


def names(profile, sources):
    """Lua frames, each as often as samples have it, by what is to be said of their names."""
    weights, verdicts = {}, {}
    for stack, _, values in profile["samples"]:
        while stack is not None:
            stack, frame = profile["stacks"][stack]
            weights[frame] = weights.get(frame, 0) + values[0]
    for index, count in weights.items():
        frame = profile["frames"][index]
        if frame["kind"] in ("lua-interpreted", "lua-compiled"):
            verdict = sources.judge(frame)
            verdicts[verdict] = verdicts.get(verdict, 0) + count
    return verdicts


def record(moonscope, jit, directory):
    """Quality, names, and the accounting line of a recording."""
    with Gateway(jit) as nginx, folder() as work:
        nginx.measure(2)
        load = nginx.load(SECONDS + 2)
        time.sleep(1)
        out = f"{work}/out.json"
        command = [moonscope, "record", f"--nginx={nginx.dir}/nginx.pid", "-F", str(HZ), "-d", str(SECONDS), "-o", out]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        load.communicate()
        if done.returncode != 0:
            raise SystemExit(f"bench: moonscope: {done.stderr}")
        accounting = [line.strip() for line in done.stderr.splitlines() if "unexplained" in line]
        with open(out) as f, open(f"{nginx.dir}/nginx.conf") as conf:
            profile, conf = json.load(f), conf.read().splitlines()
        named = names(profile, Sources(directory, conf)) if directory else {}
        return quality(profile), named, (accounting or ["-"])[-1]


def run(moonscope):
    directory = luajit("upstream-gc64")
    stacks, named, accounts = [], [], []
    for jit, bar in ((True, 99), (False, 99.5)):
        found, verdicts, accounting = record(moonscope, jit, directory)
        part = {key: f"{100 * found[key] / max(found['lua'], 1):.2f}" for key in ("whole_lua", "gap", "inlined")}
        label = "on" if jit else "off"
        stacks.append(
            [label, found["all"], found["lua"], part["whole_lua"], bar, f"{100 * found['whole'] / max(found['all'], 1):.2f}",
             part["gap"], part["inlined"]]
        )  # fmt: skip
        accounts.append(f"JIT {label}: {accounting}")
        total = sum(verdicts.values())
        with_source = max(total - verdicts.get("no source", 0), 1)
        others = ", ".join(f"{what}: {count}" for what, count in sorted(verdicts.items()) if what != "right")
        named.append([label, total, f"{100 * verdicts.get('right', 0) / with_source:.2f}", others or "-"])
    print(f"### nginx with the Lua gateway: stacks and names, {SECONDS} s at {HZ} Hz\n")
    table(
        ["JIT", "samples", "with Lua", "of these from main to the leaf, %", "bar", "of all samples, %", "with Lua and a gap, %",
         "inlined frames unknown, %"],
        stacks,
    )  # fmt: skip
    table(["JIT", "Lua frames", "right function and line where there is a source, % (bar 99)", "others"], named)
    print("\n".join(accounts) + "\n")
