"""What the emulated device does in a training step: launches, bytes, operations, instructions."""
import json
import os
import re
import subprocess

from programs import MODELS, Failed
from roofline_model import COUNTS, FUNCTIONS


def run(program, model, batches, minibatch, genes, percent, *more):
    """Facts about a step, and its launches in their order. more: see tests/gpu/roofline/roofline.c"""
    name, _, latents = model.partition(", ")  # such as "30 latents"
    linear, likelihood = MODELS[name]
    argv = [program, "LDVAE" if linear else "scVI", likelihood, str(batches), str(minibatch),
            str(genes), str(percent), (latents or "10").split()[0], *map(str, more)]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    if done.returncode != 0:
        raise Failed("%s\nexit status %d\n%s" % (" ".join(argv), done.returncode,
                                                 done.stderr.decode("utf-8", "replace")[-4000:]))
    facts, *launches = [json.loads(line) for line in done.stdout.decode().splitlines()]
    if launches and "results" in launches[-1]:
        facts.update(launches.pop())
    return facts, launches


# --- operations ---------------------------------------------------------------------------------

ARITHMETIC = re.compile(r"(add|sub|mul|min|max|div|sqrt)(ss|sd)$")
IGNORED = ("__", "memcpy", "memset", "memmove", "abort")


def operation_of(instruction):
    """What an instruction of the host's computes, if anything: a name of FUNCTIONS."""
    word = instruction.split()[0]
    found = ARITHMETIC.match(word)
    if found:
        single = found.group(2) == "ss"
        if found.group(1) in ("div", "sqrt"):
            return found.group(1) + ("f" if single else "")
        return "single" if single else "double"
    if ARITHMETIC.match(word[:-2] + "ss") and word.endswith(("ps", "pd")):
        raise Failed("vectors in counted kernels: %s" % instruction)
    if word in ("call", "jmp") and "@plt" in instruction:
        name = re.search("<(.*)@plt", instruction).group(1)
        if name.startswith(IGNORED):
            return None
        return {"fmaf": "fused", "lgamma_r": "lgamma", "lgammaf_r": "lgammaf"}.get(name, name)
    if "av_emulated_warp_meet" in instruction:
        return "shuffle"
    return None


def operations_by_block(program):
    """{place: {operation: times}} of basic blocks, which begin with a call of trace_pc."""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", program], check=True,
                          stdout=subprocess.PIPE).stdout.decode()
    table, block, begins = {}, None, False
    for line in text.splitlines():
        found = re.match(r"\s*([0-9a-f]+):\s+(.*)", line)
        if not found:
            block, begins = None, False
            continue
        place, instruction = found.groups()
        if begins:
            block, begins = table.setdefault(place, {}), False
        if "__sanitizer_cov_trace_pc" in instruction and instruction.startswith("call"):
            block, begins = None, True
        elif block is not None:
            operation = operation_of(instruction)
            if operation:
                block[operation] = block.get(operation, 0) + 1
    return table


def operations(table, visits):
    total = {}
    for place, times in visits.items():
        for operation, n in table[place].items():
            total[operation] = total.get(operation, 0) + n * times
    unknown = sorted(set(total) - set(FUNCTIONS))
    if unknown:
        raise Failed("kernels call %s: say in roofline_model.py what they cost" % " ".join(unknown))
    return total


def same(one, other):
    """Of two compilers: to rounding, which the second step has taken along."""
    return all(abs(a - b) <= 1e-5 * abs(a) for a, b in zip(one, other))


def add_issue(launches, played, facts, its_facts):
    """To each launch of a kernel: "issue", instructions of warps from below, likely, from above, the
    most of one warp, requests; "holds", registers of a thread and static bytes of a block."""
    kernels = [launch for launch in launches if "kernel" in launch]
    names = lambda found: [(k["kernel"], k["grid"], k["block"], k["room"]) for k in found]
    if names(kernels) != names(played):
        raise Failed("the kernels as nvcc compiled them are launched otherwise: build both anew")
    if not same(facts["results"], its_facts["results"]):
        raise Failed("the kernels as nvcc compiled them compute %s, not %s" % (
            its_facts["results"], facts["results"]))
    for launch, its in zip(kernels, played):
        launch["issue"] = its["issued"] + [its["longest"], its["requests"]]
        launch["holds"] = [its["registers"], its["static"]]
    for launch in launches:
        launch.setdefault("issue", [0] * COUNTS["issue"])


def counted(program, played):
    """run(), with operations in the place of visits, and what the machine code issues."""
    table = operations_by_block(program)

    def one(*case):
        facts, launches = run(program, *case)
        its_facts, its = run(played, *case)
        for launch in launches:
            launch["operations"] = operations(table, launch.pop("visits", {}))
        add_issue(launches, its, facts, its_facts)
        facts.pop("results")
        return facts, launches
    return one
