#!/usr/bin/env python3
"""peak.py FILE COMMAND...: runs the command, writes its largest resident size (KiB) to FILE.

The size is that of the largest process: with a launcher, of the largest rank.
"""
import resource
import subprocess
import sys

code = subprocess.call(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code if code >= 0 else 128 - code)
