"""Complete stacks, losses and costs on real programs: nginx with Lua under load, openssl, gzip, C++ and Rust."""

import re
import subprocess
import time

from cost_per_sample import sampler
from gateway import Gateway
from profilers import read_folded
from setting import bpf_statistics, folder, programs, spread, table, target

HZ = 999
SECONDS = 6
ROOT_FRAMES = re.compile(r"^(_start|_start_c|main|__libc_start.*|clone3?|__clone3?|start_thread|thread_start)$")


def quality(folded):
    """Samples, % complete, % of user frames without a name, % of samples with a mark of truncation."""
    total = complete = truncated = frames = unnamed = 0
    for stack, count in read_folded(folded):
        total += count
        cut = any(frame.startswith(("[truncated", "[Lua frames missing")) for frame in stack)
        truncated += count * cut
        complete += count * (not cut and any(ROOT_FRAMES.match(frame) for frame in stack[:4]))
        user = [frame for frame in stack if not frame.endswith("_[k]")]
        frames += count * len(user)
        unnamed += count * sum(frame.startswith("[") and "+0x" in frame for frame in user)
    if not total:
        return 0, 0, 0, 0
    return total, 100 * complete / total, 100 * unnamed / max(frames, 1), 100 * truncated / total


def record(moonscope, arguments):
    """Records with `moonscope`; the quality row and the accounting line."""
    with folder() as work:
        out = f"{work}/out.folded"
        done = subprocess.run(
            [moonscope, "record", "-F", str(HZ), "-d", str(SECONDS), "-o", out, *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        accounting = [line for line in done.stderr.splitlines() if "unexplained" in line]
        if done.returncode != 0:
            return None, (done.stderr.strip().splitlines() or ["no message"])[0]
        return quality(out), (accounting or ["no accounting line"])[-1].strip()


def one_target(moonscope, name, arguments, wait_ready=False):
    options = {} if wait_ready else {"stdout": subprocess.DEVNULL}
    with target(arguments, wait_ready=wait_ready, **options) as child:
        time.sleep(0.3)
        row, accounting = record(moonscope, ["-p", str(child.pid)])
    return name, row, accounting


def nginx_under_load(moonscope, profilers, rounds):
    """Ratios of microseconds for each request, with a profiler and without, interleaved."""
    ratios, bpf_costs = {}, {}
    with Gateway() as nginx, bpf_statistics():
        load = nginx.load(SECONDS + 2)
        time.sleep(0.5)
        row, accounting = record(moonscope, [f"--nginx={nginx.dir}/nginx.pid"])
        load.wait()
        nginx.us_per_request(2)
        for _ in range(rounds):
            for hz in (99, 999):
                for profiler in profilers:
                    alone = nginx.us_per_request(3)
                    watched, running, _ = nginx.us_per_request_under(profiler, hz)
                    if alone and watched:
                        ratios.setdefault((profiler.name, hz), []).append(watched / alone)
                    ns, runs, _ = sampler(running.bpf)
                    if runs and running.target_cpu:
                        cost = ns / 1000 / (hz * running.target_cpu)
                        bpf_costs.setdefault((profiler.name, hz), []).append(cost)
    print("### nginx with the Lua gateway under load\n")
    table(
        ["profiler", "Hz", "µs for each request, ratio to none", "BPF µs for each kept sample"],
        [[name, hz, spread(values), spread(bpf_costs.get((name, hz), []))] for (name, hz), values in sorted(ratios.items())],
    )
    return "nginx + Lua", row, accounting


def run(moonscope, profilers, rounds):
    rows = [nginx_under_load(moonscope, profilers, rounds)]
    built = programs("shares_cpp", "shares_rs", "threads")
    life = str(SECONDS + 4)
    rows.append(one_target(moonscope, "openssl rsa2048", ["openssl", "speed", "-seconds", life, "rsa2048"]))
    rows.append(
        one_target(moonscope, "openssl aes-256-gcm", ["openssl", "speed", "-seconds", life, "-evp", "aes-256-gcm"])
    )
    zero = ["sh", "-c", "exec gzip -9 -c /dev/zero >/dev/null"]
    rows.append(one_target(moonscope, "gzip", zero))
    for name in ("shares_cpp", "shares_rs", "threads"):
        rows.append(one_target(moonscope, name, [f"{built}/{name}", life], wait_ready=True))
    print(f"### Quality at {HZ} Hz, {SECONDS} s each\n")
    table(
        ["program", "samples", "complete, %", "user frames without a name, %", "truncated, %", "accounting"],
        [
            [name, row[0], f"{row[1]:.1f}", f"{row[2]:.1f}", f"{row[3]:.1f}", said] if row else [name, "-", "-", "-", "-", said]
            for name, row, said in rows
        ],
    )
