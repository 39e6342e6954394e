"""Programs of the package as forks of a process that has imported it: real processes, without the two seconds that importing torch takes.

`Popen` and `run` are those of `subprocess`, for commands that begin with `sys.executable` and go on with -m, -c or a script. What a start
from nothing needs is seen in test_install, and in the programs that these start; how an interpreter takes itself apart is not seen here.
"""
import atexit, multiprocessing, os, pkgutil, runpy, signal, subprocess, sys, types
from importlib.machinery import ModuleSpec
from multiprocessing.forkserver import ensure_running
from multiprocessing.reduction import DupFd
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
PACKAGE = Path(__file__).resolve().parent.parent / "nanochat_course"
MODULES = [f"nanochat_course.{m.name}" for m in pkgutil.iter_modules([str(PACKAGE)]) if m.name[0] != "_"]


def start_server():
    "The process that imports; started once, it ends with this one. The ranks of `run_ranks` are forks of it, too."
    CONTEXT.set_forkserver_preload(["pytest", "nanochat_course.labs.zero3", *MODULES])
    ensure_running()


class Popen(subprocess.Popen):
    "As its base class, but for the start and the two ways to wait."
    def __init__(self, args, start_new_session=False, **settings):
        self.session = start_new_session
        super().__init__(args, **settings)

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                       stdin, stdin_here, stdout_here, stdout, stderr_here, stderr, *rest):
        python, *words = map(str, args)
        assert python == sys.executable, f"{python} is not this Python"
        streams = {number: Stream(fd) for number, fd in enumerate((stdin, stdout, stderr)) if fd >= 0}
        environment = dict(os.environ if env is None else env)
        start_server()
        self.process = CONTEXT.Process(target=program, args=(words, streams, environment, str(cwd or os.getcwd()), self.session), daemon=True)
        main = sys.modules["__main__"]
        spec, main.__spec__ = getattr(main, "__spec__", None), ModuleSpec("__main__", None)      # or the new process would run it, too
        try: self.process.start()
        finally: main.__spec__ = spec
        self.pid, self._child_created = self.process.pid, True
        self._close_pipe_fds(stdin, stdin_here, stdout_here, stdout, stderr_here, stderr)

    def _internal_poll(self, *_, **__):
        if self.returncode is None: self.returncode = self.process.exitcode
        return self.returncode

    def _wait(self, timeout):
        self.process.join(timeout)
        if self._internal_poll() is None: raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode


def run(args, input=None, capture_output=False, timeout=None, check=False, **settings):
    "As subprocess.run."
    if capture_output: settings |= dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if input is not None: settings["stdin"] = subprocess.PIPE
    with Popen(args, **settings) as p:
        try: out, err = p.communicate(input, timeout)
        finally: p.kill()
    done = subprocess.CompletedProcess(args, p.returncode, out, err)
    if check: done.check_returncode()
    return done


class Stream:
    "A file descriptor on its way to the new process; there it arrives as a number."
    def __init__(self, fd): self.fd = fd
    def __reduce__(self): return arrived, (DupFd(self.fd),)


def arrived(fd): return fd.detach()


def program(words, streams, environment, folder, session):
    "In the new process: what `python WORDS` would do."
    if session: os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, fd in streams.items():
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = (open(n, mode, buffering=1, errors="backslashreplace", closefd=False) for n, mode in enumerate("rww"))
    for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.current_process().daemon = False                         # it may have children
    if "OMP_NUM_THREADS" in environment: sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try: execute(*words)
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally: atexit._run_exitfuncs()


def execute(first, *words):
    "-m MODULE, -c CODE or a script, with its arguments."
    alone = first in ("-m", "-c")
    sys.path.insert(0, os.getcwd() if alone else os.path.dirname(os.path.abspath(first)))
    sys.argv = [first, *(words[1:] if alone else words)]
    if first == "-m":
        sys.modules.pop(words[0], None)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[0], "<string>", "exec"), vars(main))
    else: runpy.run_path(first, run_name="__main__")
