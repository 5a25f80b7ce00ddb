#!/usr/bin/env python3
"""The program itself with the cuda backend, on two ranks: the GPUs are the emulation's (emulation/, which
pretends to have two), NCCL is a stand-in on MPI (nccl/nccl_mpi.c).

usage: program.py [ends]
  ends  runs that a rank ends, within seconds
"""
import json
import os
import re
import subprocess
import sys
import tempfile

import anndata
import h5py
import numpy as np
import pandas as pd

ENVIRONMENT = dict(os.environ, AV_EMULATED_DEVICES="2")


def run(folder, settings, environment=None, status=0, check=False, backend="cuda"):
    """Two ranks (`atlasvi check`: one); what they print, and their errors."""
    two = [os.environ["MPIRUN"], "--bind-to", "none", "-n", "2"]
    command = [*([] if check else two), os.environ["ATLASVI"], *(["check"] if check else []),
               os.path.join(folder, "run.ini"), f"runtime.backend={backend}", *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120,
                          env=dict(ENVIRONMENT, **(environment or {})))
    if done.returncode != status:
        sys.exit(f"{' '.join(command)}\nstatus {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout, done.stderr


def simulate(path, cells, genes):
    subprocess.run([os.environ["ATLASVI"], "simulate", path, f"cells={cells}", f"genes={genes}", "factors=2"],
                   check=True, capture_output=True)


def told(folder, sums, settings=()):
    """What a run says of its communication: the event, and all that it printed."""
    log = os.path.join(folder, sums + ".jsonl")
    text = run(folder, [f"runtime.gpu_sums={sums}", f"runtime.log={log}", *settings])[0]
    with open(log) as lines:
        events = [json.loads(line) for line in lines]
    return [e for e in events if e["event"] == "communication"][-1], text


def communication(folder):
    """Through NCCL the host knows what it takes to queue sums, and claims no more; through MPI it waits."""
    event, text = told(folder, "nccl")
    assert event["timed"] == "queueing" and event["operations"] > 2 and event["seconds_min"] > 0, event
    assert event["ahead_seconds"] is None and event["waited_seconds"] is None, event
    assert "of the host; what the GPUs take is not measured" in text and "overlapped" not in text, text
    event, text = told(folder, "mpi")
    assert event["timed"] == "operations" and event["waited_seconds"] > 0, event
    assert "overlapped" in text and "is not measured" not in text, text


def averages(folder):
    """Draws are averaged on the GPU, of fewer cells at a time than a minibatch has, as on the CPU."""
    data = os.path.join(folder, "20000.h5ad")
    simulate(data, cells=90, genes=20000)
    made = []
    for backend in ("cuda", "cpu"):
        run(folder, [f"data.input={data}", "train.max_epochs=1", "output.n_samples=3", "output.denoised=yes",
                     "output.sample_rate=yes"], backend=backend)
        made.append(obsm(folder))
    for name in ("X_scvi_denoised", "X_scvi_sample_rate"):
        assert made[0][name].shape == (90, 20000), made[0][name].shape
        np.testing.assert_allclose(made[0][name], made[1][name], rtol=1e-4, err_msg=name)


def codes(folder):
    """Codes on a simplex are means of draws that the GPU makes: the CPU's."""
    made = {}
    for backend, samples in (("cuda", 301), ("cpu", 301), ("cuda", 300)):
        run(folder, ["model.latent_distribution=ln", "train.max_epochs=1", f"output.latent_samples={samples}"],
            backend=backend)
        with h5py.File(os.path.join(folder, "out.h5ad")) as file:
            made[backend, samples] = file["obsm/X_scvi"][()]
    np.testing.assert_allclose(made["cuda", 301], made["cpu", 301], rtol=1e-4)
    np.testing.assert_allclose(made["cuda", 301].sum(axis=1), 1, rtol=1e-6)
    assert np.abs(made["cuda", 300] - made["cuda", 301]).max() > 1e-4


def obsm(folder):
    with h5py.File(os.path.join(folder, "out.h5ad")) as file:
        return {name: item[()] for name, item in file["obsm"].items()}


def model(folder):
    """Every array of numbers of the model file, as bytes."""
    arrays = {}
    with h5py.File(os.path.join(folder, "out.model.h5")) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()].tobytes()})
                        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu" else None)
    assert len(arrays) > 5, sorted(arrays)
    return arrays


def parts(folder, settings):
    """Of a step, through NCCL and MPI: operations; and the model, which is the same."""
    operations, models = [], []
    for sums in ("nccl", "mpi"):
        event = told(folder, sums, [*settings, "train.max_epochs=1", "train.train_size=1.0"])[0]
        operations += [round(event["operations"] * event["steps"]) - 1]  # one is of the epoch's losses
        models += [model(folder)]
        assert operations[-1] % event["steps"] == 0, event
        operations[-1] //= event["steps"]
    same_bits(*models)
    return operations


def default_sizes(folder):
    """With default sizes either decoder's gradient travels by itself through NCCL, and the parameters together: two
    sums by shares and one gathering beside those of BatchNorm. Through MPI, where nothing runs beside a sum, one
    of each. In graphs, too."""
    data = os.path.join(folder, "2000.h5ad")
    simulate(data, cells=100, genes=2000)
    for linear in ("yes", "no"):
        settings = [f"data.input={data}", "model.n_hidden=128", f"model.linear_decoder={linear}"]
        found = parts(folder, settings)
        assert found == [4 + 3, 4 + 2], (linear, found)
        graphs(folder, settings)


def same_bits(one, other):
    assert one.keys() == other.keys()
    differ = [name for name in other if other[name] != one[name]]
    assert not differ, differ


def graphs(folder, settings=()):
    """Passes that are played from graphs, NCCL's sums in them, give the bits of those that are queued; also
    where branches of the graphs run in another order."""
    models, played = [], []
    for keep, order in (("no", "ascending"), ("yes", "ascending"), ("yes", "descending")):
        errors = run(folder, ["train.batch_size=16", "train.max_epochs=3", *settings, f"runtime.cuda_graphs={keep}"],
                     {"AV_EMULATED_REPORT": "1", "AV_EMULATED_ORDER": order})[1]
        assert "standin:" not in errors, errors  # communicators end by themselves: after their graphs
        played += [[int(n) for n in re.findall(r"emulation: .* kernels, (\d+) of graphs", errors)]]
        models += [model(folder)]
    assert played[0] == [0, 0] and len(played[1]) == 2 and min(played[1]) > 10, played
    assert played[2] == played[1], played
    for other in models[1:]:
        same_bits(models[0], other)


def report(errors):
    """Of each rank: how often the host waited for all of a stream, for new events, for the last work."""
    line = r"the host waited (\d+) times, for new events (\d+) times, for the last work (\d+) times"
    found = [tuple(int(n) for n in one) for one in re.findall(line, errors)]
    assert len(found) == 2, errors
    return found


def waits(folder):
    """The host waits for nothing within an epoch but for minibatches that it has queued some steps ago: as often
    with twice as many steps, and where a linear decoder's ways are timed, whose times are there when asked for; nor
    in an evaluation: as often with one pass as with three, of both decoders; nor where counts are streamed."""
    def counted(size, epochs, rows, settings=()):
        errors = run(folder, [f"train.max_epochs={epochs}", f"train.batch_size={size}", f"runtime.gpu_rows={rows}",
                              "runtime.reproducible=off", *settings], {"AV_EMULATED_REPORT": "1"})[1]
        found = report(errors)
        assert found[0][0] > epochs, errors
        return found

    for epochs, asked in ((4, [(36, "never"), (18, "never"), (9, "never")]), (8, [(9, "never"), (9, "measured")])):
        found = [counted(size, epochs, rows) for size, rows in asked]
        assert all(one == found[0] for one in found), found
    found = [counted(size, 4, "never", ["runtime.gpu_memory=1e-9"]) for size in (36, 9)]
    assert found[0] == found[1], found
    data = os.path.join(folder, "many.h5ad")
    simulate(data, cells=30000, genes=20)
    for linear in ("yes", "no"):
        settings = [f"data.input={data}", "train.train_size=400", f"model.linear_decoder={linear}"]
        found = [counted(100, 2, "never", [*settings, f"train.validation_size={cells}"]) for cells in (3000, 24000)]
        assert found[0] == found[1], found


def works_on(folder):
    """While the host takes codes and decoded matrices, and writes them, the GPU makes the rows that follow, in the next
    block, too: it is left without work as often with more passes and blocks, and nobody waits for all of it, but where
    slots for codes grow (two waits each); of means and of draws. What is written is the CPU's."""
    for genes, sizes, settings in ((4000, (1600, 4800), ["output.sample_rate=yes"]),
                                   (4000, (1600, 4800), ["output.sample_rate=no", "output.compression=1"]),
                                   (4000, (1600, 4800), ["output.n_samples=2", "model.linear_decoder=no"]),
                                   (20, (18000, 60000), [])):
        found = []
        for cells in sizes:
            data = os.path.join(folder, f"of{cells}.h5ad")
            if not os.path.exists(data):
                simulate(data, cells=cells, genes=genes)
            told = [f"data.input={data}", "train.max_epochs=1", "train.train_size=100", "train.validation_size=100",
                    f"output.denoised={'yes' if genes == 4000 else 'no'}", *settings]
            found += [report(run(folder, told, {"AV_EMULATED_REPORT": "1"})[1])]
        for few, many in zip(*found):
            assert few[2] == many[2] > 0 and abs(many[0] - few[0]) <= 4, (settings, found)
        made = obsm(folder)
        run(folder, told, backend="cpu")
        expected = obsm(folder)
        assert made.keys() == expected.keys() and len(made) > (genes == 4000), made.keys()
        for name, values in made.items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def old_gpus(folder):
    """GPUs that have no tf32 compute in float32, which is said once; those that have it are asked for it."""
    models = {}
    for major, precision in (("7", "float32"), ("7", "tf32"), ("7", "bf16"), ("8", "tf32")):
        errors = run(folder, ["model.linear_decoder=no", "model.n_hidden=48", "runtime.gpu_sums=mpi",
                              f"runtime.precision={precision}"], {"AV_EMULATED_MAJOR": major})[1]
        models[major, precision] = model(folder)
        expected = [f"atlasvi: warning: [runtime] precision = {precision} has no effect: it needs GPUs of compute "
                    "capability 8.0 or later, and 2 of 2 ranks have an older one; all compute in float32"]
        found = [line for line in errors.splitlines() if "precision" in line]
        assert found == (expected if major == "7" and precision != "float32" else []), errors
    exact = models["7", "float32"]
    assert models["7", "tf32"] == exact and models["7", "bf16"] == exact and models["8", "tf32"] != exact
    line = "  dense products    tf32, if every GPU is of compute capability 8.0 or later; else float32"
    assert line in run(folder, ["runtime.precision=tf32"], check=True)[0].splitlines()
    assert "dense products" not in run(folder, [], check=True)[0]


def late_rank(folder):
    """A rank that does not come ends the run after runtime.gpu_timeout seconds."""
    for seconds in ("1", "1.5"):
        errors = run(folder, [f"runtime.gpu_timeout={seconds}"], {"AV_STANDIN_ABSENT": "1"}, 74)[1]
        expected = f"starting NCCL: NCCL has waited {seconds} s ([runtime] gpu_timeout) for the other GPUs: "
        assert expected in errors, errors


def broken(folder):
    """A GPU that fails at any time ends the run in one line: who waits for another GPU, or for cells to be written,
    aborts its communicator, as the rank does that has failed, and no unfinished file stays."""
    settings = ["train.batch_size=16", "output.denoised=yes", "runtime.gpu_rows=always"]
    errors = run(folder, settings, {"AV_EMULATED_REPORT": "1"})[1]
    launches = {int(rank): int(n) for n, rank in re.findall(r"emulation: (\d+) launches.*; rank (\d)", errors)}
    assert len(launches) == 2 and min(launches.values()) > 200, errors
    for rank in (0, 1):
        for last in (0, launches[rank] // 2, launches[rank] - 8, launches[rank] - 2):
            with tempfile.TemporaryDirectory() as aborts:
                errors = run(folder, settings, {"AV_EMULATED_BREAKS": f"{rank}:{last}", "AV_STANDIN_ABORTS": aborts},
                             70)[1]
            said = [line for line in errors.splitlines() if line.startswith("atlasvi: error")]
            assert len(said) == 1 and "cudaErrorIllegalAddress" in said[0], (last, errors)
            assert not [name for name in os.listdir(folder) if name.endswith(".tmp")], os.listdir(folder)
            assert sorted(re.findall(r"standin: rank (\d) aborts", errors)) == ["0", "1"], (rank, last, errors)


def ways(folder):
    """The ways of a linear decoder are timed where that was not ruled out, in every restart, and the log says which
    is taken; by the emulation's clock, which counts kernels, the one without rows, and with that backwards the
    other: then graphs of both have played, NCCL's sums in them. The model is the same but for rounding."""
    losses = []
    for number, (settings, clock, taken) in enumerate((
            (["train.n_restarts=3"], {}, "no rows"), ([], {"AV_EMULATED_CLOCK": "backwards"}, "rows"),
            (["runtime.gpu_rows=always"], {}, None), (["runtime.reproducible=run"], {}, None))):
        log = os.path.join(folder, f"ways{number}.jsonl")
        run(folder, ["train.batch_size=12", "train.max_epochs=8", f"runtime.log={log}", *settings], clock)
        with open(log) as lines:
            events = [json.loads(line) for line in lines]
        found = [(e["way"], e["step_ms"] > 0, e["taken"]) for e in events if e["event"] == "decoder_way"]
        restarts = 3 if "train.n_restarts=3" in settings else 1
        assert found == ([(way, True, way == taken) for way in ("no rows", "rows")] * restarts if taken else []), found
        losses += [[e["elbo_train"] for e in events if e["event"] == "epoch"][7]]
    assert max(losses) - min(losses) < 1e-4 * losses[0], losses


def switches(folder):
    """Sums by switches vary from run to run: refused where the same bits are promised, else the user's choice."""
    nvls = {"NCCL_NVLS_ENABLE": "1"}
    for promise in ("run", "strict"):
        errors = run(folder, [f"runtime.reproducible={promise}"], nvls, 78)[1]
        assert "[runtime] reproducible: NCCL_NVLS_ENABLE = 1 in the environment lets switches add" in errors, errors
    run(folder, [], nvls)


def too_many_covariates(folder):
    """64 columns are refused before counts are read: those are wrong here, as is said with 63."""
    data = anndata.read_h5ad(os.path.join(folder, "in.h5ad"))
    data.X = data.X.toarray()
    data.X[0, 0] = -1
    for c in range(64):
        data.obs[f"c{c}"] = pd.Categorical(["ab"[(i + c) % 2] for i in range(data.n_obs)])
    path = os.path.join(folder, "columns.h5ad")
    data.write_h5ad(path)
    keys = lambda n: [f"data.input={path}", "output.path=" + os.path.join(folder, "none.h5ad"),
                      "data.categorical_covariate_keys=" + ",".join(f"c{c}" for c in range(n))]
    for check in (False, True):
        errors = run(folder, keys(64), status=78, check=check)[1]
        lines = [line for line in errors.splitlines() if line.startswith("atlasvi: error:")]
        assert len(lines) == 1 and "[data] categorical_covariate_keys: with backend = cuda" in lines[0] \
            and "here are 64 with more than one category: leave some out" in lines[0], errors
    assert "-1" in run(folder, keys(63), status=65)[1]
    run(folder, keys(63), check=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "in.h5ad")
        simulate(data, cells=120, genes=60)
        with open(os.path.join(folder, "run.ini"), "w") as file:
            file.write(f"[data]\ninput = {data}\n[model]\nn_hidden = 12\nlinear_decoder = yes\n"
                       f"[train]\nmax_epochs = 2\n[output]\npath = {folder}/out.h5ad\noverwrite = yes\n"
                       "[runtime]\nthreads = 1\nprogress = none\n")
        if sys.argv[1:] == ["ends"]:
            late_rank(folder)
            broken(folder)
            return
        communication(folder)
        default_sizes(folder)
        averages(folder)
        codes(folder)
        graphs(folder)
        waits(folder)
        works_on(folder)
        ways(folder)
        old_gpus(folder)
        too_many_covariates(folder)
        switches(folder)


main()
