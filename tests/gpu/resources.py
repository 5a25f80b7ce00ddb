#!/usr/bin/env python3
"""What each kernel takes of a GPU, as ptxas said when it was compiled (gpu/keep_ptxas.sh).

usage: resources.py [--arch sm_90] [--steps roofline.json] OBJECT...

Prints registers, static shared memory, stack and spills of every kernel, for one architecture (the
last one up to sm_90, unless named), and the blocks of 256 threads that a multiprocessor of 65,536
registers can hold; --steps: and the dynamic shared memory, which sizes decide, at most, of a block
in the steps that tests/bench/roofline.py has listed, whatever the template's arguments. Fails if a
kernel spills registers on any architecture, or if there is no kernel.
"""
import json
import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\d+)\w*'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def read(path):
    """[(architecture, name, stack, spilled, registers, shared)] of one object."""
    found = []
    entry = stack = None
    with open(path) as file:
        for line in file:
            if match := ENTRY.search(line):
                entry, stack = match.groups(), None
            elif (match := STACK.search(line)) and entry and stack is None:
                stack = (int(match[1]), int(match[2]) + int(match[3]))
            elif (match := USED.search(line)) and entry:
                shared = SHARED.search(line)
                found.append((entry[1], entry[0], *stack, int(match[1]), int(shared[1]) if shared else 0))
                entry = None
    return found


def names_of(symbols):
    """Kernels' names with template arguments, without parameters."""
    plain = subprocess.run(["c++filt"], input="\n".join(symbols), capture_output=True, text=True).stdout
    return {symbol: re.sub(r"\(.*\)$", "", name.replace("(anonymous namespace)::", "")).replace("void ", "")
            for symbol, name in zip(symbols, plain.splitlines())}


def dynamic(path):
    """{kernel without template arguments: most bytes that a launch asks for}"""
    found = {}
    with open(path) as file:
        launches = [launch for case in json.load(file)["cases"] for launch in case["launches"]]
    for launch in launches:
        if "kernel" in launch:
            name = launch["kernel"].strip("()").split("<")[0]
            found[name] = max(found.get(name, 0), launch["room"])
    return found


def number(architecture):
    return int(architecture[3:])


def main():
    arguments = sys.argv[1:]
    options = {"--arch": None, "--steps": None}
    while arguments and arguments[0] in options:
        options[arguments[0]], arguments = arguments[1], arguments[2:]
    wanted = options["--arch"]
    asked = dynamic(options["--steps"]) if options["--steps"] else {}
    arguments = [path for argument in arguments for path in argument.split(";")]  # a list of CMake
    kernels = [(path.split("/")[-1].removesuffix(".o"), *kernel)
               for path in arguments for kernel in read(path + ".ptxas")]
    if not kernels:
        sys.exit("no kernel found: were they compiled by gpu/keep_ptxas.sh?")
    known = sorted({kernel[1] for kernel in kernels}, key=number)
    shown = wanted or ([a for a in known if number(a) <= 90] or known)[-1]
    names = names_of([kernel[2] for kernel in kernels])
    print(f"{shown}, of {', '.join(known)}\n")
    print(f"{'file':20} {'kernel':42} {'registers':>9} {'shared':>7} {'dynamic':>8} {'stack':>6} "
          f"{'spilled':>8} {'blocks':>7}")
    for file, architecture, symbol, stack, spilled, registers, shared in kernels:
        if architecture == shown:
            blocks = min(8, 65536 // (256 * max(8, (registers + 7) // 8 * 8)))
            room = asked.get(names[symbol].split("<")[0], "-")  # "-": of no step
            print(f"{file:20} {names[symbol]:42} {registers:9} {shared:7} {room:>8} {stack:6} {spilled:8} {blocks:7}")
    spilling = [kernel for kernel in kernels if kernel[4] > 0]
    for file, architecture, symbol, _, spilled, *_ in spilling:
        print(f"error: {names[symbol]} in {file} spills {spilled} bytes on {architecture}", file=sys.stderr)
    sys.exit(1 if spilling else 0)


main()
