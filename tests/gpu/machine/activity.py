"""What a GPU did in a run, from the records of ../activity/activity.h: time per kernel, share of the
time in which it did anything, bytes that were taken."""
import ctypes
import re

import numpy as np

RECORD = np.dtype([("kind", "<u4"), ("detail", "<u4"), ("begin", "<u8"), ("end", "<u8"),
                   ("bytes", "<u8")])
NAME, KERNEL, COPY, SET, TAKEN, RETURNED, LOST = range(1, 8)
COPIES = {1: "copy host to GPU", 2: "copy GPU to host", 8: "copy GPU to GPU"}
LAST_OF_STEP = "update_all"  # gpu/kernels/adam.cu


class Unusable(Exception):
    pass


def plain(symbol):
    """Name of a kernel with its template's arguments, without its own."""
    try:
        demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
        demangle.restype = ctypes.c_void_p
        status = ctypes.c_int()
        made = demangle(symbol.encode(), None, None, ctypes.byref(status))
        if status.value == 0 and made:
            symbol = ctypes.string_at(made).decode()
    except OSError:
        pass
    symbol = re.sub(r"\(anonymous namespace\)::|^void ", "", symbol)
    depth, end = 0, len(symbol)
    for i, c in enumerate(symbol):  # its own arguments begin at the first ( outside < >
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            end = i
            break
    return symbol[:end]


def read(path):
    """(records, names); a last record that was cut off is left out."""
    with open(path, "rb") as file:
        data = file.read()
    slots = np.frombuffer(data[:len(data) // RECORD.itemsize * RECORD.itemsize], RECORD)
    keep, names = np.ones(len(slots), bool), {}
    heads = np.flatnonzero(slots["kind"] == NAME)
    for i in heads:
        if not keep[i]:
            continue  # within a name
        length = int(slots["bytes"][i])
        taken = -(-length // RECORD.itemsize)
        begin = (i + 1) * RECORD.itemsize
        names[int(slots["detail"][i])] = plain(data[begin:begin + length].decode("ascii", "replace"))
        keep[i:i + 1 + taken] = False
    return slots[keep], names


def most_bytes(records):
    moves = records[np.isin(records["kind"], (TAKEN, RETURNED))]
    moves = moves[np.argsort(moves["begin"], kind="stable")]
    signed = moves["bytes"].astype(np.int64) * np.where(moves["kind"] == TAKEN, 1, -1)
    return int(max(0, np.cumsum(signed).max())) if len(signed) else None


def busy(begins, ends):
    """ns that the intervals cover."""
    order = np.argsort(begins, kind="stable")
    begins, ends = begins[order], np.maximum.accumulate(ends[order])
    before = np.concatenate(([begins[0]], ends[:-1])) if len(begins) else ends
    return int(np.maximum(0, ends - np.maximum(begins, before)).sum())


def window_of(work, names, epochs):
    """From the end of the first epoch's last step to that of the last epoch's, and the steps in it."""
    last = [number for number, name in names.items() if LAST_OF_STEP in name]
    ends = np.sort(work["end"][(work["kind"] == KERNEL) & np.isin(work["detail"], last)])
    if len(ends) == 0 or len(ends) % epochs != 0:
        raise Unusable("%d kernels %s in %d epochs" % (len(ends), LAST_OF_STEP, epochs))
    each = len(ends) // epochs
    return int(ends[each - 1]), int(ends[-1]), each * (epochs - 1)


def analyse(path, epochs):
    """Of the epochs after the first."""
    records, names = read(path)
    work = records[np.isin(records["kind"], (KERNEL, COPY, SET))]
    work = work[(work["end"] > work["begin"])]
    work = work.copy()
    for key in ("begin", "end"):
        work[key] = work[key].astype(np.int64)
    begin, end, steps = window_of(work, names, epochs)
    inside = work[(work["begin"] >= begin) & (work["end"] <= end)]
    begins, ends = inside["begin"].astype(np.int64), inside["end"].astype(np.int64)
    groups = {}
    for kind, detail in {(int(k), int(d)) for k, d in zip(inside["kind"], inside["detail"])}:
        mine = (inside["kind"] == kind) & (inside["detail"] == detail)
        name = names.get(detail, "unknown") if kind == KERNEL else \
            COPIES.get(detail, "copy") if kind == COPY else "set memory"
        calls, ns = groups.get(name, (0, 0))
        groups[name] = (calls + int(mine.sum()), ns + int((ends[mine] - begins[mine]).sum()))
    kernels = [{"name": name, "calls_a_step": calls / steps, "us_a_step": ns / steps / 1000}
               for name, (calls, ns) in groups.items()]
    return {"steps": steps, "seconds": (end - begin) / 1e9, "busy_seconds": busy(begins, ends) / 1e9,
            "gpu_bytes": most_bytes(records), "lost": int(records["bytes"][records["kind"] == LOST].sum()),
            "kernels": sorted(kernels, key=lambda k: -k["us_a_step"])}
