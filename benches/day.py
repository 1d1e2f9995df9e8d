"""A recording that goes on: memory and files while processes come and go, at a hundred times the speed of `--interval 5s`.

    benches/day.py MOONSCOPE [SECONDS]      864 seconds are a day; prints a row for each tenth of the time
"""

import os
import re
import signal
import subprocess
import sys
import time

from setting import folder, programs, table

# a new file is run again and again: a process, an executable, threads, stacks
CHURN = 'echo ready; n=0; while :; do n=$((n + 1)); cp "$0" "$1/p$n"; echo $n >>"$1/p$n"; "$1/p$n" --child; rm "$1/p$n"; done'


def look(pid):
    """Anonymous memory in MB, and open files."""
    with open(f"/proc/{pid}/status") as f:
        kilobytes = int(re.search(r"RssAnon:\s+(\d+)", f.read()).group(1))
    return kilobytes / 1024, len(os.listdir(f"/proc/{pid}/fd"))


def main():
    moonscope, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 864
    short = programs("short") + "/short"
    rows = []
    with folder() as work:
        churn = subprocess.Popen(["sh", "-c", CHURN, short, work], stdout=subprocess.DEVNULL, start_new_session=True)
        child = subprocess.Popen(
            [moonscope, "record", "-p", str(churn.pid), "-e", "wall", "-e", "io", "-F", "999", "--interval", "50ms",
             "--keep", "3", "-o", f"{work}/x-%N.json"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            os.set_blocking(child.stderr.fileno(), True)
            begin, written, last = time.monotonic(), 0, ""
            for line in child.stderr:
                written += line.startswith("wrote")
                elapsed = time.monotonic() - begin
                if elapsed > (len(rows) + 1) * seconds / 10:
                    megabytes, files = look(child.pid)
                    rows.append([f"{elapsed:.0f}", str(written), f"{megabytes:.1f}", str(files)])
                if len(rows) == 10:
                    break
            child.send_signal(signal.SIGINT)
            last = child.stderr.read().splitlines()[-1]
            child.wait()
        finally:
            os.killpg(churn.pid, signal.SIGKILL)
            churn.wait()
    table(["seconds", "profiles", "RssAnon, MB", "open files"], rows)
    print(last)


main()
