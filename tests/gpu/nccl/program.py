#!/usr/bin/env python3
"""The program itself on two ranks that sum through NCCL: the cuda backend in the emulation of ../emulation
(which pretends to have two devices), NCCL on MPI (nccl_mpi.c).

usage: program.py
"""
import os
import subprocess
import sys
import tempfile

ENVIRONMENT = dict(os.environ, AV_EMULATED_DEVICES="2")


def run(folder, settings, environment=None, status=0):
    """Two ranks; their standard error."""
    command = [os.environ["MPIRUN"], "--bind-to", "none", "-n", "2", os.environ["ATLASVI"],
               os.path.join(folder, "run.ini"), "runtime.backend=cuda", "runtime.cuda_graphs=no", *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120,
                          env=dict(ENVIRONMENT, **(environment or {})))
    if done.returncode != status:
        sys.exit(f"{' '.join(command)}\nstatus {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stderr


def late_rank(folder):
    """A rank that does not come ends the run after runtime.gpu_timeout seconds."""
    for seconds in ("1", "1.5"):
        errors = run(folder, [f"runtime.gpu_timeout={seconds}"], {"AV_STANDIN_ABSENT": "1"}, 74)
        expected = f"starting NCCL: NCCL has waited {seconds} s ([runtime] gpu_timeout) for the other GPUs; "
        assert expected in errors, errors


def main():
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "in.h5ad")
        subprocess.run([os.environ["ATLASVI"], "simulate", data, "cells=120", "genes=60", "factors=2"],
                       check=True, capture_output=True)
        with open(os.path.join(folder, "run.ini"), "w") as file:
            file.write(f"[data]\ninput = {data}\n[model]\nn_hidden = 12\nlinear_decoder = yes\n"
                       f"[train]\nmax_epochs = 2\n[output]\npath = {folder}/out.h5ad\noverwrite = yes\n"
                       "[runtime]\nthreads = 1\nprogress = none\n")
        run(folder, [])
        late_rank(folder)


main()
