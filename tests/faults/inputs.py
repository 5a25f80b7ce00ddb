#!/usr/bin/env python3
"""Faults of the input that users meet first: exit status, the one line, nothing left behind."""

import numpy as np
from scene import Scene, ar, lay


def main():
    scene = Scene()
    whole = open(scene.input, "rb").read()
    files = {"text.h5ad": b"cell,gene\n", "truncated.h5ad": whole[:-1], "empty.h5ad": b"",
             "cut.h5ad": whole[:3000]}
    for name, content in files.items():
        with open(scene.path(name), "wb") as file:
            file.write(content)
    logged = np.log1p(lay.COUNTS / lay.COUNTS.sum(1, keepdims=True) * 1e4)
    normalised = scene.write_input("normalised.h5ad", logged, layer=lay.COUNTS)
    only_normalised = scene.write_input("only_normalised.h5ad", logged)
    fractions = lay.COUNTS.astype(float)
    fractions[40, 7] = 2.5  # on the last rank only
    late = scene.write_input("late.h5ad", fractions)
    empty_cell = lay.COUNTS.copy()
    empty_cell[46] = 0
    empty = scene.write_input("empty_cell.h5ad", empty_cell)
    refused = scene.refused
    file = "data.input"
    scene.together([
        (refused, "no such file", {file: scene.path("absent.h5ad")}, 66,
         r"absent\.h5ad: no such file"),
        (refused, "no such folder", {file: scene.path("none", "absent.h5ad")}, 66,
         r"none/absent\.h5ad: no such file"),
        (refused, "a folder", {file: scene.folder}, 66, r"directory"),
        (refused, "not HDF5", {file: scene.path("text.h5ad")}, 65,
         r"text\.h5ad: not an HDF5 file"),
        (refused, "empty file", {file: scene.path("empty.h5ad")}, 65, r"empty\.h5ad:.*empty"),
        (refused, "truncated", {file: scene.path("truncated.h5ad")}, 65,
         r"truncated\.h5ad: truncated"),
        (refused, "cut off", {file: scene.path("cut.h5ad")}, 65, r"cut\.h5ad: truncated"),
        (refused, "no such layer", {"data.counts": "layers/counts"}, 78,
         r"counts\.h5ad: no layers/counts; the file has X\b"),
        (refused, "no raw", {"data.counts": "raw/X"}, 78, r"counts\.h5ad: no raw/X"),
        (refused, "not a matrix", {"data.counts": "obs"}, [65, 78], r"counts\.h5ad: obs"),
        (refused, "missing batch column", {"data.batch_key": "btch"}, 78,
         r"\.ini:\d+: \[data\] batch_key.*btch.*\bbatch\b"),
        (refused, "missing label column", {"data.labels_key": "cell_typ"}, 78,
         r"\.ini:\d+: \[data\] labels_key.*cell_typ.*\bcell_type\b"),
        (refused, "missing split column", {"train.split_key": "split", "train.train_size": ""}, 78,
         r"\.ini:\d+: \[train\] split_key.*split"),
        (refused, "split column of other words", {"train.split_key": "cell_type",
                                                  "train.train_size": ""}, 65,
         r"cell_type.*(alpha|beta).*train"),
        (refused, "missing gene", {"data.subset_genes": "gene_001, gene_0O2"}, 78,
         r"subset_genes.*gene_0O2"),
        (refused, "normalised, counts in a layer", {file: normalised}, 65,
         r"normalised\.h5ad: X\b.*cell_0\d\d.*gene_0\d\d.*layers/counts"),
        (refused, "normalised, no counts", {file: only_normalised}, 65,
         r"only_normalised\.h5ad: X\b.*cell_0\d\d.*gene_0\d\d"),
        (refused, "one fraction on one rank", {file: late}, 65,
         r"late\.h5ad: X\b.*cell_040.*gene_007.*2\.5"),
        (refused, "an empty cell", {file: empty}, 65,
         r"empty_cell\.h5ad: X\b.*\b46\b.*empty_cells"),
        (refused, "no training cells", {"train.train_size": "2"}, 78, r"train_size"),
        (refused, "more training cells than cells", {"train.train_size": "49"}, [65, 78],
         r"train_size.*4[89]"),
    ])

    # A file is judged in the same way whichever command looks at it.
    for command, name, code in (("inspect", "absent.h5ad", 66), ("inspect", "text.h5ad", 65),
                                ("inspect", "truncated.h5ad", 65)):
        result = ar.run([command, scene.path(name)])
        scene.judge("%s %s" % (command, name), ar.fault_of(result, code, name), result)
    for problem in ({file: scene.path("absent.h5ad")}, {file: scene.path("truncated.h5ad")}):
        place = scene.new_folder()
        result = ar.run(["check", scene.ini(place, problem)])
        scene.judge("check of %s" % problem, ar.fault_of(
            result, 66 if "absent" in str(problem) else 65, "h5ad"), result)
    # `check` reads a sample of the values: what a run would refuse is warned of, counts are not.
    for name, wanted in (("counts.h5ad", 0), ("normalised.h5ad", 1)):
        result = ar.run(["check", scene.ini(scene.new_folder(), {file: scene.path(name)})])
        found = [line for line in result.lines("warning") if "X does not look like counts" in line]
        scene.judge("check of the values of %s" % name, None if result.code == 0 and len(found) == wanted
                    else "%d warnings" % len(found), result)
    scene.finish()


if __name__ == "__main__":
    main()
