"""Starts so many runs of one recipe at once, which differ in how they sample, and prints each one's exit code. For
tests: a program of its own, whose children are forked before torch has threads."""

from __future__ import annotations

import os
import sys

import gaekit.pipeline.run  # noqa: F401  (imported once, not in every child)
from gaekit.cli import main

count, recipe = int(sys.argv[1]), sys.argv[2]
children = []
for number in range(count):
    if (child := os.fork()) == 0:
        sys.stderr = open(f"said-{number}.log", "w", buffering=1)  # noqa: SIM115
        code = main(["run", recipe, "--name", f"run-{number}", "--set", f"sample.guidance.scale={1 + number / 10}"])
        sys.stderr.close()
        os._exit(code)
    children.append(child)
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
