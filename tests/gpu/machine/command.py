"""Running commands that may hang, crash or outlive us, with their time limited."""
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time

TAIL = 4000  # characters of its output that a result keeps
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # that end a session


class Result:
    def __init__(self, argv, status, seconds, text):
        self.argv, self.status, self.seconds, self.text = argv, status, seconds, text

    @property
    def cut(self):
        return self.status is None

    @property
    def last(self):
        """The last line that says something."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip(" -=\n")]
        return lines[-1][:300] if lines else ""


@contextlib.contextmanager
def undisturbed():
    """Signals wait while a process is started or stopped: whoever stops it has to know of it, and what a
    handler raises in Python's own hooks of a fork is printed and forgotten."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_us():
    """Nothing that we have started goes on when we are killed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def start(argv, output, env=None, cwd=None, stdin=subprocess.DEVNULL):
    """Undisturbed until its caller has noted what it returns."""
    return subprocess.Popen([str(a) for a in argv], stdin=stdin, stdout=output,
                            stderr=subprocess.STDOUT, cwd=cwd, env={**os.environ, **(env or {})},
                            start_new_session=True, preexec_fn=die_with_us)


def stop(process):
    """mpirun ends its ranks when it is asked to, not when it is killed."""
    for number, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        if process.poll() is None:
            try:
                os.killpg(process.pid, number)
                process.wait(patience)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass


def run(argv, limit, env=None, cwd=None):
    """The result; its status is None where the limit (seconds) was reached, 127 where there is no
    such program."""
    began, process = time.monotonic(), None
    with tempfile.TemporaryFile() as output:
        try:
            with undisturbed():
                process = start(argv, output, env, cwd)
            status = process.wait(max(limit, 0.1))
        except OSError as error:
            return Result(argv, 127, 0.0, str(error))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process is not None:
                with undisturbed():
                    stop(process)
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - 4 * TAIL))
        text = output.read().decode("utf-8", "replace")
    return Result(argv, status, time.monotonic() - began, text)


class Programs:
    """Where atlasvi and its tests are: in a bundle or a build. mpirun is None where there is none."""

    def __init__(self, bundle=None, build=None, stand_in=None):
        self.bundle, self.stand_in = bundle, stand_in
        if bundle:
            self.bundle = bundle = os.path.abspath(bundle)
            self.atlasvi, self.mpirun = bundle + "/bin/atlasvi", bundle + "/bin/mpirun"
            self.folders, self.tests = [bundle + "/programs"], bundle + "/bin"
            self.activity = bundle + "/lib/libatlasvi_activity.so"
        else:
            build = os.path.abspath(build)
            self.atlasvi = build + "/src/atlasvi"
            self.mpirun = shutil.which(os.environ.get("MPIRUN", "mpirun"))
            self.folders, self.tests = [build + "/src", build + "/tests/gpu"], build + "/tests/gpu"
            self.activity = build + "/tests/gpu/libatlasvi_activity.so"
        if stand_in:  # in the place of libatlasvi_cuda.so
            old = os.environ.get("LD_LIBRARY_PATH")
            os.environ["LD_LIBRARY_PATH"] = os.path.abspath(stand_in) + (":" + old if old else "")

    def itself(self, name):
        """The program as it is loaded, for tools that look into it (see under)."""
        return next((os.path.join(f, name) for f in self.folders
                     if os.path.exists(os.path.join(f, name))), name)

    def under(self, argv):
        """A command on programs `itself`."""
        return ([self.bundle + "/run"] if self.bundle else []) + list(argv)
