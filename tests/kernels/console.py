"""What a guest said on its console (tests/kernels/init and events), for tests/kernels/judge."""

import base64
import gzip
import json
import re


class Log:
    """The console: a line `@@status PART STATUS` for each part, and what was shown between two marks."""

    def __init__(self, path):
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
        self.sections, self.statuses, self.pids, name = {}, {}, {}, None
        self.release = next((line.split()[1] for line in lines if line.startswith("@@kernel ")), "")
        self.has_all_events = "@@some" not in lines
        for line in lines:
            words = line.split(" ")
            if words[0] == "@@begin":
                name = words[1]
                self.sections[name] = []
            elif words[0] == "@@end":
                name = None
            elif words[0] == "@@status":
                self.statuses[words[1]] = int(words[2])
            elif words[:2] == ["@@pid", "lua-events"]:
                self.pids[words[2]] = int(words[3])
            elif name and line.startswith("|"):
                self.sections[name].append(line[1:])

    def said(self, name):
        return "\n".join(self.sections.get(name, []))

    def truth(self, name, key):
        """The numbers of the first line that begins with these words."""
        for line in self.sections.get(name, []):
            if line.startswith(key + " "):
                return [float(word) for word in line[len(key) :].split()]
        return None

    def profile(self, name):
        packed = "".join(self.sections.get(name + ".json.gz", []))
        return Profile(json.loads(gzip.decompress(base64.b64decode(packed)))) if packed else None

    def is_at_least(self, major, minor):
        return tuple(int(number) for number in re.findall(r"\d+", self.release)[:2]) >= (major, minor)


class Sample:
    def __init__(self, functions, labels, values):
        self.functions, self.labels, self.values = functions, labels, values

    def has(self, function):
        return function in self.functions


class Profile:
    """A .json of moonscope (docs/formats.md)."""

    def __init__(self, data):
        names = [frame.get("function", "") for frame in data["frames"]]
        stacks = []
        for parent, frame in data["stacks"]:
            stacks.append((stacks[parent] if parent is not None else ()) + (names[frame],))
        self.lost = sum(data["accounting"]["lost"].values())
        self.kinds = [kind["kind"] for kind in data["value_types"]]
        self.samples = [
            Sample(stacks[stack] if stack is not None else (), dict(data["labels"][labels]), dict(zip(self.kinds, values)))
            for stack, labels, values in data["samples"]
        ]

    def sum(self, kind, *functions, **labels):
        """Of the samples with these functions in their stacks and these labels (`io_op` is `io-op`)."""
        wanted = {key.replace("_", "-"): value for key, value in labels.items()}
        return sum(
            sample.values.get(kind, 0)
            for sample in self.samples
            if all(sample.has(function) for function in functions)
            and all(sample.labels.get(key) == value for key, value in wanted.items())
        )
