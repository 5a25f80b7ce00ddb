#!/usr/bin/env python3
"""Faults of the configuration and the command line: all at once, with line, section and key."""
import os

from scene import Scene, ar

MANY = """; every line below but the first key is wrong in a way of its own
[data]
input = %s
cuonts = X

[modle]
n_latent = 4

[model]
n_latent = four
n_hidden = 0
gene_likelihood = gaussian
linear_decoder = maybe
dropout_rate = 1.5
n_latent = 5
this line says nothing

[train]
train_size = 1
n_epochs_kl_warmup = 10
n_steps_kl_warmup = 100
"""


def text_ini(scene, text):
    path = os.path.join(scene.new_folder(), "run.ini")
    with open(path, "w") as file:
        file.write(text)
    return path


def main():
    scene = Scene()
    expected = [r"run\.ini:4: \[data\] cuonts: unknown key; did you mean counts\?",
                r"run\.ini:6: \[modle\].*unknown section; did you mean \[model\]\?",
                r"run\.ini:10: \[model\] n_latent: .*four",
                r"run\.ini:11: \[model\] n_hidden: .*\b0\b",
                r"run\.ini:12: \[model\] gene_likelihood: .*gaussian.*zinb",
                r"run\.ini:13: \[model\] linear_decoder: .*maybe",
                r"run\.ini:14: \[model\] dropout_rate: .*1\.5",
                r"run\.ini:15: \[model\] n_latent: given again.*line 10",
                r"run\.ini:16: ",
                r"run\.ini:19: \[train\] train_size: .*1\.0",
                r"run\.ini:21: \[train\] n_steps_kl_warmup: .*n_epochs_kl_warmup"]
    ini = text_ini(scene, MANY % scene.input)
    for command, ranks in (([ini], 0), ([ini], 2), ([ini], 3), (["check", ini], 0)):
        result = ar.run(command, ranks=ranks)
        errors = result.lines("error")
        problem = None if result.code == 78 else "exit status %d" % result.code
        for message in expected:
            found = [e for e in errors if ar.re.search(message, e)]
            if len(found) != 1 and not problem:
                problem = "%d lines match %r" % (len(found), message)
        # A key given twice may be named by one more check; what is not expected is a new fault.
        if not problem and len(errors) > len(expected) + 1:
            problem = "%d lines" % len(errors)
        scene.judge("all faults at once, %s on %d" % (command[0][-7:], ranks), problem, result)

    refused = scene.refused
    scene.together([
        (refused, "both warm-ups", {"train.n_epochs_kl_warmup": "3",
                                    "train.n_steps_kl_warmup": "9"}, 78,
         r"n_steps_kl_warmup.*n_epochs_kl_warmup", (0, 2)),
        (refused, "shares over 1", {"train.validation_size": "0.2"}, 78,
         r"validation_size.*train_size", (0,)),
        (refused, "no input", {"data.input": ""}, 78, r"\[data\] input: missing", (0, 2)),
        (refused, "no output", {"output.path": ""}, 78, r"\[output\] path: missing", (0,)),
        (refused, "output is the input", {"output.path": scene.input}, 78,
         r"\[output\] path: is the input", (0,)),
        (refused, "append with a path", {"output.mode": "append"}, 78, r"append.*path", (0,)),
        (refused, "list in an absent file", {"data.subset_genes": "@" + scene.path("none.txt")}, 78,
         r"subset_genes.*none\.txt", (0, 2)),
        (refused, "unknown feature", {"model.n_experts": "3"}, 78, r"n_experts: unknown key", (0,)),
        (refused, "cuda not in this build or no device", {"runtime.backend": "cuda"}, 69,
         r"cuda", (0, 2)),
    ])

    def override(title, words, code, message, ranks=(0,)):
        scene.refused(title, {}, code, message, ranks=ranks, overrides=words)
    override("override of an unknown key", ["model.n_latnt=3"], 78,
             r"command line: \[model\] n_latnt: unknown key; did you mean n_latent\?", (0, 2, 3))
    override("override given twice", ["model.n_latent=3", "model.n_latent=4"], 78,
             r"command line: \[model\] n_latent: given twice")
    override("several bad overrides", ["model.n_latent=x", "train.lr=-1", "nosuch.key=1"], 78,
             [r"n_latent.*x", r"lr.*-1", r"nosuch"], (0, 2))
    override("override without a section", ["n_latent=3"], 78, r"n_latent")
    override("override without a value sign", ["model.n_latent"], [64, 78], r"model\.n_latent")

    place = scene.new_folder()
    words = ["model.n_latent=3", "train.max_epochs=2", "data.batch_key=",
             "output.path=" + os.path.join(place, "other.h5ad")]
    result = ar.run([scene.ini(place, {}), *words], ranks=2)
    problem = None if result.code == 0 else "exit status %d" % result.code
    if not problem and ar.latent(os.path.join(place, "other.h5ad")).shape != (48, 3):
        problem = "the overrides did not win"
    scene.judge("several good overrides", problem or scene.left_in(
        place, ["other.h5ad", "other.model.h5"]), result)

    absent = scene.path("absent.ini")
    for ranks in (0, 2):
        result = ar.run([absent], ranks=ranks)
        scene.judge("absent INI", ar.fault_of(result, [66, 78], r"absent\.ini"), result)
    result = ar.run([scene.folder])
    scene.judge("a folder as INI", ar.fault_of(result, [66, 74], "directory"), result)
    genes = ", ".join("gene_%03d" % (i % 30) for i in range(2000))
    text = "[data]\ninput = %s\nsubset_genes = %s\n[output]\npath = x.h5ad\n"
    result = ar.run([text_ini(scene, text % (scene.input, genes))])
    scene.judge("2,000 genes on one line", ar.fault_of(result, 78, r"subset_genes.*gene_000"),
                result)
    scene.finish()


if __name__ == "__main__":
    main()
