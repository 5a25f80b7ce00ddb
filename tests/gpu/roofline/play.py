#!/usr/bin/env python3
"""C++ of a file's kernels, from what nvcc makes of it for an H100 (sm_90): see played.h.

usage: play.py PTX PTXAS OUT.cpp

A basic block of PTX weighs as many instructions as the machine code has from its lines. Where ptxas
has copied a block (loops that it unrolls, tails, functions put in their caller's place), each copy
runs for its share of the times: the weight is that over the number of copies, the median of how many
machine instructions the lines have that become exactly one. Weights from below divide by the largest
such number, from above by none.
"""
import os
import re
import statistics
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
import ptx
import sass

ARCHITECTURE = "sm_90"
ONE = re.compile(r"(@!?%\w+ )?(fma\.rn|(ld|st)\.(shared|global)|shfl|bar|ex2|mul\.f32|add\.f64)")
NEARLY_ONE = re.compile(r"(@!?%\w+ )?(setp|selp|(add|sub|and|min|max|mad\.lo)\.[a-z]*32)")
REQUEST = re.compile(r"(@!?%\w+ )?(shfl|atom|red|(ld|st)\.(?!param|const))")
INTERNAL = "__cuda_"  # of divisions and roots: what their short ways leave to longer ones


def assembled(text, ptxas):
    """What ptxas makes of it, and {entry: (registers, static bytes of shared memory)}."""
    with tempfile.TemporaryDirectory(prefix="atlasvi-play-") as folder:
        source, made = os.path.join(folder, "kernels.ptx"), os.path.join(folder, "kernels.cubin")
        with open(source, "w") as file:
            file.write(ptx.with_lines(text))
        done = subprocess.run([ptxas, "-arch=" + ARCHITECTURE, "-lineinfo", "-v", source, "-o", made],
                              stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        with open(made, "rb") as file:
            content = file.read()
    used = {}
    for entry, rest in re.findall(r"entry function '([^']*)'(.*?)(?=Compiling|\Z)", done.stderr, re.S):
        shared = re.search(r"(\d+) bytes smem", rest)
        used[entry] = (int(re.search(r"Used (\d+) registers", rest).group(1)),
                       int(shared.group(1)) if shared else 0)
    return content, used


def copies(block, per_line):
    """Of a block in the machine code: (most, median, 1)."""
    for kind in (ONE, NEARLY_ONE):
        found = [per_line[line] for line, words in block if kind.match(words) and line in per_line]
        if found:
            return max(found), max(1, statistics.median(found)), 1
    return 1, 1, 1


def weights_of(entry, functions, parts):
    """[(instructions from below, likely, from above, requests)] of all blocks that a kernel may
    enter."""
    per_line = {}
    for name, lines in parts.items():
        for line in lines if not name.startswith(INTERNAL) else ():
            per_line[line] = per_line.get(line, 0) + 1
    weights = []
    for function in [f for f in functions if f.kind == "func"] + [entry]:
        for block in function.blocks:
            n = sum(per_line.get(line, 0) for line in {line for line, _ in block})
            weights.append((*[n / times for times in copies(block, per_line)],
                            sum(1 for _, words in block if REQUEST.match(words))))
    return weights


def kernel(entry, functions, parts, used):
    """C++ lines that make a kernel known."""
    name, weights = ptx.c_name(entry.name), weights_of(entry, functions, parts)
    registers, shared = used
    return ["static const played_weight weights_%s[] = {%s};" % (
                name, ", ".join("{{%.3ff, %.3ff, %.3ff}, %d}" % one for one in weights)),
            'static const played_kernel kernel_%s = {"%s", %s, %d, weights_%s, %d, %d};' % (
                name, entry.name, name, len(weights), name, registers, shared),
            "static const bool known_%s = played_add(&kernel_%s);" % (name, name)]


def main(source, ptxas, out):
    with open(source) as file:
        text = file.read()
    functions, outside = ptx.parse(text)
    content, used = assembled(text, ptxas)
    lines = ptx.bodies(functions)
    calls = {line for f in functions for line, words in f.statements if re.match(r"(@.* )?call", words)}
    parts = sass.instructions(content, lambda line: line in calls)
    with open(out, "w") as file:
        file.write("\n".join(
            ['#include "roofline/played.h"'] + ptx.variables(outside) +
            [ptx.heading(f) + ";" for f in functions] +
            [line for f in functions if f.kind == "entry"
             for line in kernel(f, functions, parts[f.name], used[f.name])] + lines) + "\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ptx.Unknown as fault:
        sys.exit("%s: %s" % (sys.argv[1], fault))
