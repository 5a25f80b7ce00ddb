"""The benchmark: cells/s of training, ours and theirs in turns on the same GPU and file.

Theirs are the steps of torch_step.py (torch_worker.py), and scvi-tools itself where the python that
runs this has it. Jobs are done in the order of their worth while there is time for them; what is
left out is written down. Ours: whole runs of the program, epochs after the first."""
import json
import os
import selectors
import subprocess
import sys
import time
from importlib.util import find_spec

import activity
import command
import device
import part
from programs import MODELS, Failed, Programs, model_settings, training_settings

HERE = os.path.dirname(os.path.abspath(__file__))
MINIBATCHES = [128, 4096, 1024, 16384]  # by worth
CELLS = {2000: 200000, 10000: 100000}
EPOCHS = {128: 3, 1024: 8, 4096: 16, 16384: 24}  # timed, after the first
SHORT_GENES, SHORT_MINIBATCHES = 40, [32]
PRECISIONS = ["float32", "tf32", "bf16"]
PRECISION_EPOCHS = 16
# latents and minibatches of a linear decoder; its trial of the ways it can go is over by then
WAYS = [(latents, minibatch) for latents in (10, 30, 64) for minibatch in (128, 1024, 4096)]
WAY_STEPS = 100


class NoFile(Exception):
    """There is no file to measure with."""


class GpuPrograms(Programs):
    """Ours, with every run limited in time."""

    def __init__(self, session):
        self.session = session
        options = session.bench_options()
        super().__init__(options, session.folder)
        self.cpus = sorted(os.sched_getaffinity(0))

    def call(self, argv, extra=None):
        limit = self.session.limit_of_run()
        result = command.run(argv, limit, extra, self.folder)
        if result.status != 0:
            raise Failed("no end in %.0f s" % limit if result.cut else
                         "status %s: %s" % (result.status, result.text[-1500:]))
        return result.text


class Worker:
    """torch_worker.py, started when it is needed, and again after it had to be stopped."""

    def __init__(self, folder):
        self.process, self.log = None, open(os.path.join(folder, "torch.log"), "ab")

    def start(self):
        theirs, ours = os.pipe()
        with command.undisturbed():
            self.process = subprocess.Popen(
                [sys.executable, "-B", os.path.join(HERE, "torch_worker.py"), "--answers", str(ours)],
                stdin=subprocess.PIPE, stdout=self.log, stderr=self.log, pass_fds=[ours],
                start_new_session=True, preexec_fn=command.die_with_us)
        os.close(ours)
        self.answers = os.fdopen(theirs, "rb", buffering=0)

    def ask(self, task, limit):
        if self.process is None or self.process.poll() is not None:
            self.start()
        try:
            self.process.stdin.write((json.dumps(task) + "\n").encode())
            self.process.stdin.flush()
            return self.answer(time.monotonic() + limit)
        except OSError as error:
            self.stop()
            return {"error": "PyTorch's process ended: %s" % error}

    def answer(self, until):
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.answers, selectors.EVENT_READ)
            while not text.endswith(b"\n"):
                if not selector.select(max(0, until - time.monotonic())):
                    self.stop()
                    return {"error": "no end in the time that was left"}
                more = os.read(self.answers.fileno(), 65536)
                if not more:
                    self.stop()
                    return {"error": "PyTorch's process ended"}
                text += more
        return json.loads(text)

    def stop(self):
        if self.process is not None:
            command.stop(self.process)
            self.process.stdin.close()
            self.answers.close()
            self.process = None


class Case:
    def __init__(self, model, minibatch, genes):
        self.model, self.minibatch, self.genes = model, minibatch, genes

    def __str__(self):
        return "%s, minibatch %d, %d genes" % (self.model, self.minibatch, self.genes)


class Speed:
    def __init__(self, session):
        self.session, self.short = session, session.options.short
        self.programs = GpuPrograms(session)
        self.worker = Worker(session.folder)
        self.took, self.turns = {}, 0  # by kind of job: the seconds that the last one has taken
        self.has_torch = find_spec("torch") is not None and find_spec("scipy") is not None
        self.has_scvi = find_spec("scvi") is not None
        self.accelerator = "cpu" if session.device is None else "gpu"

    # --- one measurement each ---------------------------------------------------------------------
    def put(self, case, side, fields):
        self.session.journal.put("speed", model=case.model, minibatch=case.minibatch,
                                 genes=case.genes, cells=self.session.cells_of(case.genes),
                                 side=side, **fields)

    def epochs_of(self, case):
        return 2 if self.short else EPOCHS[case.minibatch]

    def settings(self, case, epochs):
        return {**training_settings(self.session.file_of(case.genes), case.model, case.minibatch,
                                    epochs),
                "runtime.backend": "cuda", "runtime.gpu_rows": "never",  # no trial among timed steps
                "output.latent": "no", "output.loadings": "no", "train.n_epochs_kl_warmup": "1"}

    def ours(self, case):
        try:
            with device.Watch(self.session.bus) as seen:
                events = self.programs.ours(self.settings(case, self.epochs_of(case) + 1))["events"]
            seconds = [e["seconds"] for e in events["epoch"]]
            self.put(case, "atlasvi", {"cells_per_second": part.our_rate(events),
                                       "epoch_seconds": seconds,
                                       "elbo_train": events["epoch"][-1]["elbo_train"],
                                       **seen.facts()})
        except (Failed, OSError, ValueError, KeyError, ZeroDivisionError) as fault:
            self.put(case, "atlasvi", {"error": str(fault)[:1500]})

    def torch(self, case, way):
        linear, likelihood = MODELS[case.model]
        task = {"file": self.session.file_of(case.genes), "cells": self.session.cells_of(case.genes),
                "linear": linear, "likelihood": likelihood, "minibatch": case.minibatch,
                "way": way, "seconds": 0.1 if self.short else 1.5}
        self.put(case, "torch " + way, self.worker.ask(task, self.session.limit_of_run()))

    def scvi(self, case):
        linear, likelihood = MODELS[case.model]
        cells = min(self.session.cells_of(case.genes), max(20000, 8 * case.minibatch))
        self.programs.scvi_python = sys.executable
        try:
            made = self.programs.theirs({"do": "speed", "file": self.session.file_of(case.genes),
                                   "linear": linear, "likelihood": likelihood, "epochs": 3,
                                   "minibatch": case.minibatch, "first_cells": cells,
                                   "accelerator": self.accelerator})
            self.put(case, "scvi-tools", {
                "cells_per_second": part.rate_of(made["epoch_seconds"], made["cells"]),
                "scvi": made["scvi"], "torch": made["torch"]})
        except (Failed, OSError, ValueError, KeyError) as fault:
            self.put(case, "scvi-tools", {"error": str(fault)[:1500]})

    def precision(self, model, precision, minibatch, genes):
        """Speed, and what it costs: the held-out loss after as many epochs from the same start."""
        epochs = 2 if self.short else PRECISION_EPOCHS
        values = {"data.input": self.session.file_of(genes), "data.batch_key": "batch",
                  **model_settings(model, minibatch, epochs), "runtime.backend": "cuda",
                  "runtime.precision": precision, "output.latent": "no", "output.loadings": "no",
                  "train.n_epochs_kl_warmup": str(epochs // 2),
                  "train.check_val_every_n_epoch": str(epochs)}
        line = {"model": model, "minibatch": minibatch, "genes": genes, "precision": precision,
                "epochs": epochs, "cells": self.session.cells_of(genes)}
        try:
            events = self.programs.ours(values)["events"]
            line.update(cells_per_second=part.our_rate(events),
                        elbo_validation=events["epoch"][-1]["elbo_validation"])
        except (Failed, OSError, ValueError, KeyError, ZeroDivisionError) as fault:
            line["error"] = str(fault)[:1500]
        self.session.journal.put("precision", **line)

    def ways(self, latents, minibatch, genes):
        """What a step takes with and without rows of gradients, as the program measures it."""
        line = {"model": "LDVAE-NB", "latents": latents, "minibatch": minibatch, "genes": genes}
        steps = max(1, int(0.9 * self.session.cells_of(genes)) // minibatch)
        try:
            events = self.programs.ours({
                "data.input": self.session.file_of(genes), "data.batch_key": "batch",
                **model_settings("LDVAE-NB", minibatch, 1 + WAY_STEPS // steps),
                "model.n_latent": str(latents), "runtime.backend": "cuda", "output.latent": "no",
                "output.loadings": "no", "train.n_epochs_kl_warmup": "1"})["events"]
            line["ways"] = {e["way"]: {"step_ms": e["step_ms"], "taken": e["taken"]}
                            for e in events["decoder_way"]}
        except (Failed, OSError, ValueError, KeyError) as fault:
            line["error"] = str(fault)[:1500]
        self.session.journal.put("ways", **line)

    def kernels(self, case):
        path = os.path.join(self.session.folder, "activity")
        line = {"model": case.model, "minibatch": case.minibatch, "genes": case.genes}
        epochs = 1 + min(3, self.epochs_of(case))
        settings = self.settings(case, epochs)
        environment = {"CUDA_INJECTION64_PATH": self.session.programs.activity,
                       "ATLASVI_ACTIVITY": path}
        os.environ.update(environment)  # what we start hands it on
        # as it is; and where a graph's kernels are not recorded one by one, without graphs
        for more in [{}, {"runtime.cuda_graphs": "no"}]:
            line["graphs"] = not more
            line.pop("error", None)
            try:
                events = self.programs.ours({**settings, **more})["events"]
                line.update(traced_cells_per_second=part.our_rate(events),
                            **activity.analyse(path, epochs))
                break
            except (Failed, OSError, ValueError, KeyError, activity.Unusable) as fault:
                line["error"] = str(fault)[:1500]
        for name in environment:
            del os.environ[name]
        if os.path.exists(path):
            os.unlink(path)
        self.session.journal.put("kernels", **line)

    # --- in which order ------------------------------------------------------------------------------
    def visit(self, case):
        """Everybody once, in turns."""
        jobs = [(self.ours, ())]
        jobs += [(self.torch, (way,)) for way in ("host", "resident")] if self.has_torch else []
        if self.has_scvi:
            jobs.append((self.scvi, ()))
        self.turns += 1
        for job, more in jobs if self.turns % 2 == 1 else jobs[::-1]:
            job(case, *more)

    def jobs(self):
        """(kind, words, seconds that it may take at first, what to do), by worth."""
        genes = [SHORT_GENES] if self.short else [2000, 10000]
        sizes = SHORT_MINIBATCHES if self.short else MINIBATCHES
        visit = lambda case: ("visit %d" % case.genes, str(case), 25, lambda: self.visit(case))
        trace = lambda case: ("kernels", "kernels of %s" % case, 15, lambda: self.kernels(case))
        first = [Case(m, b, genes[0]) for b in sizes[:2] for m in ("LDVAE-NB", "scVI-ZINB")]
        rest = [Case(m, b, genes[0]) for b in sizes for m in ("scVI-NB", "LDVAE-NB", "scVI-ZINB")
                if not any(c.model == m and c.minibatch == b for c in first)]
        wide = [Case(m, b, g) for g in genes[1:] for b in sizes
                for m in ("LDVAE-NB", "scVI-ZINB", "scVI-NB")]
        soon = [c for c in wide if c.minibatch in sizes[:2] and c.model != "scVI-NB"]
        late = [c for c in wide if c not in soon]
        made = [visit(case) for case in first]
        if os.path.exists(self.session.programs.activity) and self.session.device is not None:
            made += [trace(case) for case in [*first, *wide[:1]]]
            self.session.done("speed", "time per kernel and busy share")
        else:
            self.session.leave_out("speed", "time per kernel and busy share", "no records of the "
                                   "GPU's activity: CUPTI was not there when this was built"
                                   if self.session.device else "no GPU",
                                   lacking=self.session.device is not None)
        made += [visit(case) for case in [*soon, *rest, *late]]
        minibatch = sizes[min(1, len(sizes) - 1)]
        made += [("precision", "scVI-ZINB in %s" % p, 20,
                  lambda p=p: self.precision("scVI-ZINB", p, minibatch, genes[0]))
                 for p in PRECISIONS]
        tried = [(10, SHORT_MINIBATCHES[0])] if self.short else WAYS
        made += [("ways", "ways of %d latents, minibatch %d" % how, 8,
                  lambda how=how: self.ways(*how, genes[0])) for how in tried]
        if self.has_torch and not self.short:
            made += [("compiled", "torch.compile of %s" % case, 60,
                      lambda case=case: self.torch(case, "compiled"))
                     for case in first if case.model == "scVI-ZINB"]
        if not self.short:
            made += [visit(case) for case in [*first, *rest, *wide]]
        return made

    def all(self):
        if not self.has_torch:
            self.session.leave_out("speed", "the training step in PyTorch",
                                   "%s has no torch and scipy" % sys.executable)
        else:
            self.session.done("speed", "the training step in PyTorch")
        seen = {}
        try:
            for kind, words, guess, job in self.jobs():
                again = seen.get(words, 0)
                seen[words] = again + 1
                name = words if again == 0 else "%s, round %d" % (words, again + 1)
                if self.session.part_left() < 1.2 * self.took.get(kind, guess):
                    self.session.leave_out("speed", name, "out of time", lacking=again == 0)
                    continue
                began = time.monotonic()
                try:
                    job()
                except (NoFile, OSError) as fault:
                    self.session.leave_out("speed", name, str(fault), lacking=again == 0)
                    continue
                self.session.done("speed", name)
                self.took[kind] = time.monotonic() - began
                print("  %-50s %5.1f s" % (words, self.took[kind]), flush=True)
        finally:
            self.worker.stop()
