"""A folder with a small input, a place for outputs, and judgements of how runs end there."""
import concurrent.futures
import os
import re
import shutil
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "files"))
sys.dont_write_bytecode = True

import atlasrun as ar  # noqa: E402
import layouts as lay  # noqa: E402

# The library that makes system calls fail, and why there is none: a sanitizer's has to come first.
SANITIZE = os.environ.get("ATLASVI_SANITIZE", "")
SHIM = "" if SANITIZE else os.environ.get("SHIM", "")
NO_SHIM = ("the program is built with -fsanitize=%s, which no library may be loaded before"
           % SANITIZE if SANITIZE else "no fault shim given in SHIM")


class Scene:
    def __init__(self):
        ar.require_program()
        self.folder = tempfile.mkdtemp(prefix="atlasvi-faults-")
        self.failures, self.n_checks, self.skipped = [], 0, []
        self.lock = threading.Lock()
        self.input = self.write_input("counts.h5ad", lay.COUNTS)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def write_input(self, name, counts, layer=None):
        with lay.new_file(self.path(name)) as file:
            lay.sparse(file, "X", counts)
            lay.standard_obs(file)
            lay.standard_var(file)
            lay.mappings(file)
            if layer is not None:
                lay.sparse(file["layers"], "counts", layer)
        return self.path(name)

    def new_folder(self, mode=None):
        folder = tempfile.mkdtemp(prefix="case-", dir=self.folder)
        if mode is not None:
            os.chmod(folder, mode)
        return folder

    def ini(self, folder, settings):
        merged = {**ar.QUICK, "data.input": self.input,
                  "output.path": os.path.join(folder, "out.h5ad"), **settings}
        # The INI is not among the outputs, so that "nothing is left" means an empty folder.
        handle, path = tempfile.mkstemp(suffix=".ini", dir=self.folder)
        os.close(handle)
        os.chmod(path, 0o644)
        return ar.write_ini(path, merged)

    def judge(self, title, problem, result=None):
        with self.lock:
            self.n_checks += 1
            if problem:
                self.failures.append(title)
                print("FAIL %s: %s\n%s" % (title, problem, result if result is not None else ""),
                      flush=True)

    def skip(self, title):
        print("not tested here: %s" % title, flush=True)
        self.skipped.append(title)

    @staticmethod
    def left_in(folder, expected=()):
        left = sorted(set(os.listdir(folder)) - set(expected))
        return "left in the output folder: %s" % left if left else None

    def refused(self, title, settings, code, message, ranks=(0, 2, 3), overrides=(), kept=(),
                folder=None, watch=None, **options):
        """A run of each number of ranks (0: no launcher) ends with `code` and one line matching
        `message` (a list: one line for each), leaves nothing but `kept` in the output folder and
        the file `watch` (default: the input) as it was."""
        watch = watch or settings.get("data.input", self.input)
        for n in ranks:
            place = folder or self.new_folder()
            watched = os.path.isfile(watch) and ar.sha256(watch)
            ini = self.ini(place, settings)
            result = ar.run([ini, *overrides], ranks=n, **options)
            problem = self.lines_fault(result, code, message)
            problem = problem or self.left_in(place, kept)
            if not problem and watched and ar.sha256(watch) != watched:
                problem = "%s was changed" % watch
            self.judge("%s (%s)" % (title, "%d ranks" % n if n else "no launcher"), problem, result)

    @staticmethod
    def lines_fault(result, code, message):
        if not isinstance(message, list):
            return ar.fault_of(result, code, message)
        errors = result.lines("error")
        if result.code != code or ar.STACKS.search(result.out + result.err):
            return "exit status %d, expected %s, or a stack" % (result.code, code)
        if len(errors) != len(message):
            return "%d error lines, expected %d" % (len(errors), len(message))
        unmatched = [m for m in message if not any(re.search(m, e) for e in errors)]
        return "no error line matches %s" % unmatched if unmatched else None

    def together(self, calls, jobs=2):
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for future in [pool.submit(*call) for call in calls]:
                future.result()

    def finish(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        print("%d checks, %d failed%s" % (self.n_checks, len(self.failures),
                                          "; not tested here: " + "; ".join(self.skipped)
                                          if self.skipped else ""))
        if self.failures:
            sys.exit(1)
        sys.exit(77 if self.n_checks == 0 else 0)
