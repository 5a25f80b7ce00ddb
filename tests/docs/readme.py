#!/usr/bin/env python3
"""README says what the program says.

usage: readme.py check|write

The settings reference is `atlasvi help --markdown`, word for word; the benchmark table is that of
tests/quality/benchmark_real.md, those of speed are from tests/bench/bench.md, bench_10000.md,
reading.md, memory.md, inference.md, host.md, packing.md, roofline.md and gpu.md (which may not be
there yet), that of ranks is tests/bench/ranks.md; every path, option and INI key that README names exists; every argument of the
originals (arguments.txt) has its row, and every row an answer. `write` puts the tables in.
"""
import os
import re
import subprocess
import sys

SOURCE = os.environ.get("SOURCE", os.path.join(os.path.dirname(__file__), "..", ".."))
ATLASVI = os.environ["ATLASVI"]
# sections of README, reports of tests/bench, and what of these stands there
REPORTS = [("speed", "bench.md", ["Training speed", "Share of the floor", "Time to quality"]),
           ("genes", "bench_10000.md", ["Training speed", "Share of the floor"]),
           ("reading", "reading.md", ["Reading"]),
           ("memory", "memory.md", ["Memory"]),
           ("gpu", "gpu.md", ["Training on a GPU", "Precision", "Checks on the device"]),
           ("inference", "inference.md", ["Inference and writing"]),
           ("packing", "packing.md", ["Packing for a GPU"]),
           ("host", "host.md", ["What scvi-tools takes of its host"]),
           ("roofline", "roofline.md", ["Least and expected time of an epoch", "Beside scvi-tools on such a GPU"])]
# where it stands until there is the report
MISSING = {"gpu": "Not measured on a GPU yet.\n"}


def between(name, text):
    match = re.search(rf"<!-- {name}: begin -->\n(.*?)<!-- {name}: end -->", text, re.S)
    if match is None:
        sys.exit(f"README.md has no {name} section")
    return match


def replaced(name, text, body):
    match = between(name, text)
    return text[:match.start(1)] + body + text[match.end(1):]


def paths_named(text):
    """File names of this project in back-quotes or commands."""
    found = set(re.findall(r"(?<![\w/.])((?:src|tests|jobs|config|gpu)/[\w./-]*\w)", text))
    return {path for path in found if not path.startswith("tests/run.sh/")}


def table_sections(text):
    """The mapping table's first column by the functions that its bold headings name: (names, words in
    back-quotes) of each."""
    sections = []
    for line in text.splitlines():
        cells = line.split("|")
        if len(cells) < 3:
            continue
        headings = re.findall(r"\*\*`([\w.]+)`\*\*", cells[1])
        if headings:
            sections.append((headings, set()))
        elif sections:
            sections[-1][1].update(re.findall(r"`(\w+)`", cells[1]))
    return sections


def arguments_missing(text):
    """What tests/docs/arguments.txt lists and the table does not."""
    table = text[text.index("## From scanpy and scvi-tools"):text.index("## Promises")]
    sections = table_sections(table)
    missing = []
    with open(os.path.join(SOURCE, "tests", "docs", "arguments.txt")) as file:
        for line in file:
            if line.startswith("#"):
                continue
            function, names = line.split(":")
            listed = [words for headings, words in sections if function in headings]
            if not listed:
                sys.exit(f"README.md's table has no heading for {function}")
            missing += [f"{function}({name})" for name in names.split() if name not in listed[0]]
    return missing


def rows_without_answer(text):
    """Rows of the mapping table that name neither a key, a section or a file of ours, nor say why there is none."""
    table = text[text.index("## From scanpy and scvi-tools"):text.index("## Promises")]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `") or line.startswith("| ELBO")]
    answer = r"`(?:data|model|train|output|runtime)\.\w+`|`\[\w+\]`|`uns/|^ ?(?:none|not yet)\b"
    return [row[1].strip() for row in rows if not re.search(answer, row[2])]


def sections(text, names):
    """What a report says before its first section, and its sections with these headings, one level down."""
    head, found = [], {}
    for line in text.splitlines():
        if line.startswith("## "):
            name = line[3:].split(",")[0]
            found[name] = []
        if found:
            found[name].append("#" + line if line.startswith("#") else line)
        else:
            head.append(line)
    missing = [name for name in names if name not in found]
    if missing:
        sys.exit("a report of tests/bench has no section " + ", ".join(missing))
    return "\n".join(head + sum((found[name] for name in names), [])) + "\n"


def report_path(name):
    return os.path.join(SOURCE, "tests", "bench", name)


def report(name):
    with open(report_path(name)) as file:
        return file.read()


def main():
    path = os.path.join(SOURCE, "README.md")
    with open(path) as file:
        text = file.read()
    settings = subprocess.run([ATLASVI, "help", "--markdown"], capture_output=True, text=True, check=True).stdout
    with open(os.path.join(SOURCE, "tests", "quality", "benchmark_real.md")) as file:
        benchmark = file.read()
    wanted = replaced("benchmark", replaced("settings", text, settings), benchmark)
    wanted = replaced("ranks", wanted, report("ranks.md"))
    for name, file, headings in REPORTS:
        there = name not in MISSING or os.path.exists(report_path(file))
        wanted = replaced(name, wanted, sections(report(file), headings) if there else MISSING[name])
    if sys.argv[1] == "write":
        with open(path, "w") as file:
            file.write(wanted)
        return
    if text != wanted:
        sys.exit("README.md's tables are out of date: run ATLASVI=... tests/docs/readme.py write")
    missing = [name for name in sorted(paths_named(text)) if not os.path.exists(os.path.join(SOURCE, name))]
    if missing:
        sys.exit(f"README.md names what is not there: {', '.join(missing)}")
    keys = set(re.findall(r"`((?:data|model|train|output|runtime)\.\w+)`", text))
    unknown = [key for key in sorted(keys)
               if subprocess.run([ATLASVI, "help", key], capture_output=True).returncode != 0]
    if unknown:
        sys.exit(f"README.md names unknown keys: {', '.join(unknown)}")
    silent = rows_without_answer(text)
    if silent:
        sys.exit(f"README.md's table answers nothing for: {'; '.join(silent)}")
    unlisted = arguments_missing(text)
    if unlisted:
        sys.exit(f"README.md's table lacks: {', '.join(unlisted)}")
    print(f"README.md agrees: {settings.count(chr(10))} lines of settings, {len(keys)} keys named, "
          f"{len(paths_named(text))} paths")


main()
