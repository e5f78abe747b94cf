#!/usr/bin/env python3
"""Checks that includes point down the layers only, and that folders form no circle.

Layers, top to bottom: server, router, engine, cache. A folder may include its
own layer and those below. `engine/` and `cache/` include nothing of gRPC, HTTP
or protobuf, so that they build without. proto/ is generated code's home and is
used by server/ alone.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["cache", "engine", "router", "server"]
SERVER_ONLY = re.compile(r"^(grpc|grpcpp|google/protobuf|boost|prometheus|yaml-cpp|CLI)/|\.pb\.h$")
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)


def main():
    problems = []
    uses = defaultdict(set)  # folder -> folders it includes
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*")):
            if path.suffix not in {".h", ".cc", ".inc", ".cu", ".cuh"}:
                continue
            name = path.relative_to(ROOT)
            test = path.stem.endswith("_test") or path.stem.startswith("test")
            for included in INCLUDE.findall(path.read_text()):
                top = included.split("/")[0]
                if top in LAYERS and LAYERS.index(top) > LAYERS.index(layer):
                    problems.append(f"{name}: includes {included}, which is a layer above")
                if layer in ("cache", "engine") and SERVER_ONLY.search(included):
                    problems.append(f"{name}: includes {included}, which only server/ may")
                if (ROOT / included).exists() and not test:
                    source, target = str(name.parent), str(Path(included).parent)
                    if source != target:
                        uses[source].add(target)
    problems += [f"folders form a circle: {' -> '.join(c)}" for c in circles(uses)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"layers: {len(problems)} problems in {len(uses)} folders")
    return 1 if problems else 0


def circles(uses):
    """Each circle once, found by depth-first search."""
    state, stack, found = {}, [], []

    def visit(folder):
        state[folder] = "open"
        stack.append(folder)
        for other in sorted(uses[folder]):
            if state.get(other) == "open":
                found.append(stack[stack.index(other):] + [other])
            elif other not in state:
                visit(other)
        stack.pop()
        state[folder] = "done"

    for folder in sorted(uses.copy()):
        if folder not in state:
            visit(folder)
    return found


if __name__ == "__main__":
    sys.exit(main())
