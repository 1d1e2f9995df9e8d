"""What every measurement needs: the BPF run-time statistics switch, temporary folders, targets that end with us."""

import contextlib
import os
import random
import statistics
import subprocess
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
STATS = "/proc/sys/kernel/bpf_stats_enabled"


def bpf_statistics_are_on():
    with open(STATS) as f:
        return f.read().strip() == "1"


@contextlib.contextmanager
def bpf_statistics():
    """Run-time statistics on, and as they were before afterwards. They cost about 20 ns for each run."""
    with open(STATS) as f:
        before = f.read().strip()
    with open(STATS, "w") as f:
        f.write("1")
    try:
        yield
    finally:
        with open(STATS, "w") as f:
            f.write(before)


@contextlib.contextmanager
def folder():
    with tempfile.TemporaryDirectory(prefix="moonscope-bench-") as path:
        yield path


@contextlib.contextmanager
def target(arguments, wait_ready=True, **options):
    """A running program; killed at the end. Waits for its line `ready`."""
    child = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=options.pop("stdout", subprocess.PIPE), stderr=subprocess.DEVNULL,
        text=True, **options,
    )  # fmt: skip
    try:
        if wait_ready and child.stdout.readline().strip() != "ready":
            raise SystemExit(f"bench: {arguments[0]} did not get ready")
        yield child
    finally:
        child.kill()
        child.wait()


def programs(*names):
    """Path of the folder with these programs of tests/programs."""
    script = os.path.join(ROOT, "tests", "programs", "build")
    return subprocess.run([script, *names], check=True, capture_output=True, text=True).stdout.strip()


def luajit(variant):
    """Directory of this variant of LuaJIT (tests/luajit/README.md), or None, and why is on stderr."""
    script = os.path.join(ROOT, "tests", "luajit", "build")
    done = subprocess.run([script, variant], stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def lua_program(name):
    """Path of a program in benches/lua."""
    return os.path.join(HERE, "lua", name)


def compile_spin(into):
    path = os.path.join(into, "spin")
    source = os.path.join(HERE, "spin.c")
    subprocess.run(["gcc", "-O2", "-fomit-frame-pointer", "-o", path, source], check=True)
    return path


def spread(values):
    """`median [min-max]` of ratios or costs."""
    if not values:
        return "-"
    return f"{statistics.median(values):.3g} [{min(values):.3g}-{max(values):.3g}]"


def confidence(values, seed):
    """95 % confidence interval of the median, by drawing with replacement (the bootstrap's percentiles)."""
    draws = random.Random(seed)
    medians = sorted(statistics.median(draws.choices(values, k=len(values))) for _ in range(4000))
    return medians[100], medians[-101]


def spread_with_confidence(values, seed):
    """`median (95 %: from to to) [min-max]`."""
    if not values:
        return "-"
    low, high = confidence(values, seed)
    return (
        f"{statistics.median(values):.2f} (95 %: {low:.2f} to {high:.2f}) [{min(values):.2f} to {max(values):.2f}]"
    )


def table(headers, rows):
    """A Markdown table."""
    print("| " + " | ".join(headers) + " |")
    print("| " + " | ".join("---" for _ in headers) + " |")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)
    print()
