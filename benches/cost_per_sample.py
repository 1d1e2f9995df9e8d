"""Kernel-side cost of one sample against the number of frames, warm, by the kernel's BPF run-time statistics."""

from profilers import read_folded
from setting import bpf_statistics, folder, programs, table, target

DEPTHS = [5, 25, 50, 100]
HZ = 999
SECONDS = 5


def sampler(bpf):
    """The program that ran for most samples: (ns, runs, instructions verified)."""
    return max(bpf.values(), key=lambda program: program[0], default=(0, 0, 0))


def measure(profiler, command, hz=HZ, seconds=SECONDS, **options):
    """Records this program: µs of BPF time for each kept sample (None: no BPF program ran), our own stacks, instructions
    verified, and how the profiler ended."""
    with folder() as work, target(command, **options) as child:
        running = profiler.run([child.pid], hz, seconds, work)
        running.watch()
        result = running.finish()
        ns, runs, verified = sampler(running.bpf)
        # What ran for other tasks and was filtered out is part of the cost of a kept sample.
        kept = max(hz * running.target_cpu, 1)
        stacks = []
        if profiler.name == "moonscope" and result["status"] == 0:
            stacks = read_folded(f"{work}/out.folded")
        return ns / 1000 / kept if runs else None, stacks, verified, result


def mean_frames(stacks, counts=lambda frame: True):
    """Frames in a stack, on the average, of those that count; the first of each is the name of the process."""
    total = sum(count for _, count in stacks)
    return sum(sum(map(counts, stack[1:])) * count for stack, count in stacks) / max(total, 1)


def fit(points):
    """Least squares: cost = a + b * frames."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    b = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return mean_y - b * mean_x, b


def run(profilers, rounds):
    binary = programs("deep") + "/deep"
    rows, points = [], []
    with bpf_statistics():
        for depth in DEPTHS:
            for profiler in [p for p in profilers if p.name in ("moonscope", "bpftrace")]:
                costs, frames, verified, result = [], None, 0, None
                for _ in range(rounds):
                    cost, stacks, verified, result = measure(profiler, [binary, str(SECONDS + 10), str(depth)])
                    frames = mean_frames(stacks)
                    if cost is not None:
                        costs.append(cost)
                if profiler.name == "moonscope" and costs and frames:
                    points.append((frames, min(costs)))
                rows.append(
                    [
                        profiler.name,
                        depth,
                        f"{frames:.1f}" if frames else "-",
                        f"{min(costs):.2f}" if costs else f"failed ({result['status']})",
                        f"{sorted(costs)[len(costs) // 2]:.2f}" if costs else "-",
                        verified or "-",
                    ]
                )
    print("### Cost of a sample in the kernel, warm\n")
    table(["profiler", "depth", "frames in the stack", "µs, best", "µs, median", "instructions verified"], rows)
    if len(points) > 1:
        a, b = fit(points)
        print(f"moonscope: {a:.2f} µs + {b:.3f} µs for each frame (bar: 1.0 µs + 0.25 µs)\n")
