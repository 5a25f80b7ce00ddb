#!/usr/bin/env python3
"""machine/activity.py on records written here, in the form of activity/activity.h. Expected: figures
that follow from the intervals below by hand."""
import os
import struct
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "machine"))
import activity

US = 1000


def record(kind, detail=0, begin=0, end=0, size=0):
    return struct.pack("<IIQQQ", kind, detail, begin * US, end * US, size)


def name(number, text):
    text = text.encode()
    head = struct.pack("<IIQQQ", activity.NAME, number, 0, 0, len(text))
    return head + text + b"\0" * (-len(text) % 32)


def memory(kind, begin, size):
    return struct.pack("<IIQQQ", kind, 0, begin * US, 4711, size)


def epochs(n, steps, length=100):
    """Steps of `length` us: 40 of a kernel, 20 of a copy of which 10 lie within it, 5 of Adam at the
    end, and nothing else."""
    made = b""
    for step in range(n * steps):
        begin = 1000 + step * length
        made += record(activity.KERNEL, 0, begin, begin + 40)
        made += record(activity.COPY, 1, begin + 30, begin + 50, 64)
        made += record(activity.KERNEL, 1, begin + length - 5, begin + length)
    return made


def close(found, wanted, what):
    if abs(found - wanted) > 1e-9 * max(1, abs(wanted)):
        sys.exit("%s: %r, not %r" % (what, found, wanted))


def main():
    forward = "_Z7forwardILi4EEvPKf"
    eight = "_ZL10update_all16av_gpu_adam_planb"  # ends within a slot, and holds every kind of byte
    data = memory(activity.TAKEN, 1, 1000) + memory(activity.TAKEN, 2, 500)
    data += name(0, forward) + name(1, eight) + name(2, "_Z" + "32" + "a" * 32 + "v")
    data += memory(activity.RETURNED, 3, 1000) + memory(activity.TAKEN, 4, 700)
    data += epochs(3, 4) + record(activity.KERNEL, 2, 9000, 9500)  # evaluation, after all epochs
    data += record(activity.LOST, size=3) + b"half a record"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "activity")
        with open(path, "wb") as file:
            file.write(data)
        found = activity.analyse(path, 3)
        try:
            activity.analyse(path, 5)
            sys.exit("12 steps were made 5 epochs")
        except activity.Unusable as fault:
            print("refused:", fault)
    print(found)
    close(found["steps"], 8, "steps after the first epoch")
    close(found["seconds"], 800e-6, "from end to end")
    close(found["busy_seconds"], 8 * 55e-6, "busy")
    close(found["gpu_bytes"], 1500, "most bytes")
    close(found["lost"], 3, "lost")
    kernels = {k["name"]: k for k in found["kernels"]}
    if [k["name"] for k in found["kernels"]] != ["forward<4>", "copy host to GPU", "update_all"]:
        sys.exit("names: %s" % sorted(kernels))
    close(kernels["forward<4>"]["us_a_step"], 40, "forward")
    close(kernels["copy host to GPU"]["us_a_step"], 20, "copy")
    close(kernels["update_all"]["calls_a_step"], 1, "calls")


main()
