"""The sandbox against attacks, each of which is shown to be one by running it without the wall; and HumanEval's grader.

What an attack did is judged from outside: by files, servers, processes and clocks of this test, and by what only a successful attack can print.
"""
import ast, gzip, json, os, platform, re, socket, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nanochat_course import sandbox
from nanochat_course.common import CourseError
from nanochat_course.sandbox import (ALLOWED_CALLS, Program, call_filter, completed_program, humaneval_passed,
                                     humaneval_result, isolation, run_python, supervise)

ROOT = Path(__file__).resolve().parent.parent
MB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can isolate programs")
pytestmark = [linux, pytest.mark.timeout(120)]


class World:
    "A file with a secret, servers that note what arrives, and a process to be attacked."
    def __init__(self, folder):
        self.folder, self.secret, self.text = folder, folder / "secret.txt", os.urandom(8).hex()
        self.secret.write_text(self.text)
        self.secret.chmod(0o640)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(type=socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix, self.abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        self.unix.bind(str(folder / "unix"))
        self.abstract.bind(f"\0sandbox_test_{os.getpid()}")
        self.servers = [self.tcp, self.udp, self.unix, self.abstract]
        for s in self.servers: s.setblocking(False)
        for s in (self.unix, self.abstract): s.listen()
        self.victim = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], env={"TOKEN": self.text}, stdout=subprocess.PIPE)
        self.victim.stdout.readline()
        self.before = self.state()

    def names(self):
        "What an attack may know about this world."
        return dict(secret=str(self.secret), folder=str(self.folder), tcp=self.tcp.getsockname()[1], udp=self.udp.getsockname()[1],
                    unix=str(self.folder / "unix"), abstract=f"\0sandbox_test_{os.getpid()}", victim=self.victim.pid, package=str(ROOT / "nanochat_course"))

    def state(self):
        "Everything an attack could have changed."
        try: return self._state()
        except OSError as e: return dict(gone=repr(e))

    def _state(self):
        info = os.stat(self.secret)
        limits = Path(f"/proc/{self.victim.pid}/limits").read_text()
        return dict(text=self.secret.read_text(), mode=info.st_mode, mtime=info.st_mtime_ns, owner=info.st_uid, here=sorted(os.listdir(self.folder)),
                    shm=sorted(f for f in os.listdir("/dev/shm") if "sandbox_test" in f), alive=self.victim.poll(), limits=limits,
                    package=sorted(os.listdir(ROOT / "nanochat_course")), affinity=sorted(os.sched_getaffinity(self.victim.pid)),
                    priority=os.getpriority(os.PRIO_PROCESS, self.victim.pid), traced=re.search(r"TracerPid:\t(\d+)", Path(f"/proc/{self.victim.pid}/status").read_text())[1])

    def arrived(self):
        "What the servers received."
        found = []
        for s in self.servers:
            try: found.append(s.recv(99) if s is self.udp else s.accept())
            except BlockingIOError: pass
        return found

    def close(self):
        self.victim.kill()
        self.victim.wait()
        self.victim.stdout.close()
        for s in self.servers: s.close()
        for name in os.listdir("/dev/shm"):
            if "sandbox_test" in name: os.remove(f"/dev/shm/{name}")


@pytest.fixture
def world(tmp_path):
    w = World(tmp_path)
    yield w
    w.close()


def breach(world, result):
    "What the attack achieved; empty if nothing."
    found = []
    if world.text in result.stdout + result.stderr: found.append("the secret was printed")
    if "BREACH" in result.stdout: found.append("it reported success")
    if arrived := world.arrived(): found.append(f"a server received {arrived}")
    if world.state() != world.before: found.append("the world has changed")
    return ", ".join(found)


C = "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"      # most attacks on the kernel begin so

# name -> the program. It may use the names of `World.names`. It prints the secret, or BREACH if there is another proof.
ATTACKS = {
    # reading
    "open": "print(open(secret).read())",
    "os.open": "import os; print(os.read(os.open(secret, os.O_RDONLY), 99))",
    "io.FileIO": "import io; print(io.FileIO(secret).read())",
    "libc open": C + "b = ctypes.create_string_buffer(99); libc.read(libc.open(secret.encode(), 0), b, 99); print(b.value)",
    "libc fopen": C + "libc.fopen.restype = ctypes.c_void_p; f = ctypes.c_void_p(libc.fopen(secret.encode(), b'r')); b = ctypes.create_string_buffer(99); f.value and libc.fgets(b, 99, f); print(b.value)",
    "mmap": "import mmap, os; print(mmap.mmap(os.open(secret, os.O_RDONLY), 0, prot=mmap.PROT_READ)[:])",
    "cat": "import subprocess; print(subprocess.check_output(['cat', secret]))",
    "os.system": "import os; os.system(f'cat {secret}')",
    "posix_spawn": "import os; os.waitpid(os.posix_spawn('/bin/cat', ['cat', secret], {}), 0)",
    "exec": "import os; os.execv('/bin/cat', ['cat', secret])",
    "reload os": "import importlib, os; importlib.reload(os); print(os.popen(f'cat {secret}').read())",
    "symbolic link": "import os; os.symlink(secret, 'link'); print(open('link').read())",
    "hard link": "import os\nfor here in ('.', os.path.dirname(secret)):\n    try: os.link(secret, here + '/hard'); print(open(here + '/hard').read())\n    except OSError: pass",
    "proc root": "print(open('/proc/self/root' + secret).read())",
    "folder descriptor": "import os; d = os.open(folder, os.O_PATH); print(os.read(os.open('secret.txt', os.O_RDONLY, dir_fd=d), 99))",
    "relative path": "import os; os.chdir(folder); print(open('secret.txt').read())",
    "dots": "import os; print(open('../' * 20 + secret).read())",
    "list a folder": "import os; print('BREACH' if 'secret.txt' in os.listdir(folder) else '')",
    "copy": "import shutil; shutil.copyfile(secret, 'mine'); print(open('mine').read())",
    "sendfile": "import os; os.sendfile(1, os.open(secret, os.O_RDONLY), 0, 99)",
    "sqlite": "import sqlite3; sqlite3.connect(f'file:{secret}?mode=ro', uri=True).execute('select * from sqlite_master')",
    "as a module": "import runpy; runpy.run_path(secret)",
    "passwd": "print('BREACH' if 'root:' in open('/etc/passwd').read() else '')",
    "pwd module": "import pwd; print('BREACH' if pwd.getpwall() else '')",
    "own environment": "import os; print('BREACH' if os.environ.get('SANDBOX_TEST_TOKEN') or os.environb.get(b'PATH') else '')",
    "proc self environ": "print('BREACH' if open('/proc/self/environ').read() is not None else '')",
    "another's environment": "print(open(f'/proc/{victim}/environ').read())",
    "init's command line": "print('BREACH' if open('/proc/1/cmdline').read() else '')",
    "another's memory": "open(f'/proc/{victim}/mem', 'rb'); print('BREACH')",
    "another's files": "import os; print('BREACH' if os.readlink(f'/proc/{victim}/exe') else '')",
    "the course": "import os; print('BREACH' if open(os.path.join(package, 'sandbox.py')).read() else '')",
    # writing
    "overwrite": "open(secret, 'w').write('gone')",
    "append": "open(secret, 'a').write('more')",
    "remove": "import os; os.remove(secret)",
    "rename": "import os; os.rename(secret, secret + '2')",
    "take away": "import os; os.rename(secret, 'mine')",
    "put there": "import os; os.rename('program.py', folder + '/program.py')",
    "truncate": "import os; os.truncate(secret, 0)",
    "permissions": "import os; os.chmod(secret, 0o666)",
    "owner": "import os; os.chown(secret, os.getuid() or 12345, -1); os.utime(secret, (1, 1))",
    "clock of a file": "import os; os.utime(secret, (1, 1))",
    "new file": "open(folder + '/new', 'w')",
    "new folder": "import os; os.mkdir(folder + '/new')",
    "shared memory": "open('/dev/shm/sandbox_test_x', 'w').write('x')",
    "shared memory by name": "from multiprocessing import shared_memory as s; s.SharedMemory('sandbox_test_y', create=True, size=99)",
    "into the package": "open(package + '/evil.py', 'w').write('x')",
    "fifo": "import os; os.mkfifo(folder + '/fifo')",
    # network
    "TCP": "import socket; socket.create_connection(('127.0.0.1', tcp), 2)",
    "UDP": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', udp))",
    "unix socket": "import socket; socket.socket(socket.AF_UNIX).connect(unix)",
    "abstract socket": "import socket; socket.socket(socket.AF_UNIX).connect(abstract)",
    "listen": "import socket; s = socket.create_server(('127.0.0.1', 0)); print('BREACH')",
    "name server": "import socket; print('BREACH' if socket.getaddrinfo('localhost', 80) else '')",
    "http": "import urllib.request as u\ntry: u.urlopen(f'http://127.0.0.1:{tcp}', timeout=0.3)\nexcept TimeoutError: pass",
    "asyncio": "import asyncio; asyncio.run(asyncio.wait_for(asyncio.open_connection('127.0.0.1', tcp), 1))",
    "raw system call": C + "import platform; print('BREACH' if libc.syscall(dict(x86_64=41, aarch64=198)[platform.machine()], 2, 1, 0) >= 0 else '')",
    "io_uring": C + "print('BREACH' if libc.syscall(425, 8, bytes(120)) >= 0 or ctypes.get_errno() not in (1, 38) else '')",
    # other processes
    "fork": "import os\nif os.fork() == 0: os._exit(0)\nprint('BREACH')",
    "thread": "import threading; t = threading.Thread(target=print, args=('BREACH',)); t.start(); t.join()",
    "pool": "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: print('BREACH' if p.map(abs, [-1]) else '')",
    "fork bomb": "import os, time\nn = 0\nfor _ in range(5):\n    try: n += os.fork() > 0\n    except OSError: pass\ntime.sleep(0.2)\nif n: print('BREACH', flush=True)",
    "thread bomb": "import threading, time\nfor _ in range(100): threading.Thread(target=time.sleep, args=(0.3,), daemon=True).start()\nprint('BREACH')",
    "daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(0.3)\n        open(folder + '/late', 'w').write('x')\n    os._exit(0)\ntime.sleep(0.1)",
    "kill": "import os; os.kill(victim, 9); import time; time.sleep(0.2)",
    "kill by descriptor": "import os, signal, time; signal.pidfd_send_signal(os.pidfd_open(victim), 9); time.sleep(0.2)",
    "signal by queue": C + "import time; print('BREACH' if libc.sigqueue(victim, 0, None) == 0 else '')",
    "signal by pipe": "import fcntl, os; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, victim); print('BREACH')",
    "limits of another": "import resource as r; r.prlimit(victim, r.RLIMIT_CORE, (0, 0)); r.prlimit(victim, r.RLIMIT_NOFILE, (9, 9))",
    "priority of another": "import os; os.setpriority(os.PRIO_PROCESS, victim, 9)",
    "processor of another": "import os; os.sched_setaffinity(victim, {min(os.sched_getaffinity(0))}); print('BREACH')",
    "ptrace": C + "import time; print('BREACH' if libc.ptrace(16, victim, None, None) == 0 else '')",
    "process_vm_readv": C + "b = ctypes.create_string_buffer(8)\nclass V(ctypes.Structure): _fields_ = [('p', ctypes.c_void_p), ('n', ctypes.c_size_t)]\na = id(1)\n"
                            "libc.process_vm_readv(victim, ctypes.byref(V(ctypes.addressof(b), 8)), 1, ctypes.byref(V(0, 8)), 1, 0); print('BREACH' if ctypes.get_errno() == 14 else '')",
    # its own limits
    "raise the limits": "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (20, 20)); print('BREACH')",
    "memory": "x = bytearray(6 * 10**8); print('BREACH')",
    "memory by mmap": "import mmap; m = mmap.mmap(-1, 6 * 10**8); print('BREACH')",
    "memory by memfd": "import os; fd = os.memfd_create('x'); os.ftruncate(fd, 10**8); print('BREACH')",
    "disk": "open('big', 'wb').write(bytes(3 * 10**7)); print('BREACH')",
    "deep folders": "import os\nfor _ in range(200): os.mkdir('d'); os.chdir('d')\nprint('BREACH')",
    "open files": "files = [open('program.py') for _ in range(100)]; print('BREACH')",
    "new namespaces": C + "print('BREACH' if libc.unshare(0x10000000) == 0 else '')",
    "key ring": C + "print('BREACH' if libc.syscall(dict(x86_64=250, aarch64=219)[__import__('platform').machine()], 0, -3, 1) != -1 or ctypes.get_errno() not in (1, 38) else '')",
    "persona": C + "print('BREACH' if libc.personality(0x0040000) >= 0 else '')",
    "prctl": C + "print('BREACH' if libc.prctl(15, b'innocent', 0, 0, 0) == 0 else '')",
}
PRIVILEGED = {    # these need the superuser, or would harm this machine: tried behind the wall only
    "setuid": "import os; os.setuid(os.getuid()); print('BREACH')",
    "mount": C + "print('BREACH' if libc.mount(b'none', b'/mnt', b'tmpfs', 0, None) == 0 else '')",
    "chroot": "import os; os.chroot('.'); print('BREACH')",
    "host name": "import socket; socket.sethostname(socket.gethostname()); print('BREACH')",
    "set the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, time.time()); print('BREACH')",
    "bpf": C + "print('BREACH' if libc.syscall(dict(x86_64=321, aarch64=280)[__import__('platform').machine()], 0, bytes(64), 64) >= 0 else '')",
    "kernel log": C + "b = ctypes.create_string_buffer(99); print('BREACH' if libc.klogctl(3, b, 99) > 0 else '')",
    "swap and modules": C + "print('BREACH' if libc.swapoff(b'/x') == 0 or ctypes.get_errno() != 1 else '')",
}


def attack(world, code):
    return "\n".join(f"{k} = {v!r}" for k, v in world.names().items()) + "\n" + code


@pytest.mark.parametrize("name", [*ATTACKS, *PRIVILEGED])
def test_no_attack_succeeds(world, name, monkeypatch):
    monkeypatch.setenv("SANDBOX_TEST_TOKEN", world.text)
    result = run_python(attack(world, (ATTACKS | PRIVILEGED)[name]), timeout=10)
    assert not breach(world, result), result
    if name == "daemon": time.sleep(0.5)
    assert world.state() == world.before
    assert result.reason != "timeout"


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_is_one(world, name, monkeypatch):
    "Without the wall each of them succeeds; so the test above could fail."
    monkeypatch.setenv("SANDBOX_TEST_TOKEN", world.text)
    code = attack(world, ATTACKS[name])
    if name == "own environment": code = "import os; os.environ['SANDBOX_TEST_TOKEN'] = 'x'\n" + code     # nobody gives it ours
    if name == "raise the limits": code = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (10, 30))\n" + code
    result = supervise([Program(code, 256 * MB, 10, ())], 10)[0]
    if name == "daemon": time.sleep(0.5)
    if name in ("sqlite", "as a module", "io_uring"):                     # they fail on what they have read, or on what a container forbids
        assert "unable to open" not in result.stderr and "Permission" not in result.stderr
    elif name != "new namespaces" or "BREACH" in result.stdout: assert breach(world, result), result
    for leftover in ("late", "new", "fifo", "hard"):
        path = world.folder / leftover
        if path.is_file(): path.unlink()
    (ROOT / "nanochat_course" / "evil.py").unlink(missing_ok=True)
    if name == "fork bomb": time.sleep(0.5)


# What passes a limit is stopped, with the right reason, and soon.

HOGS = {
    "endless loop": ("while True: pass", "timeout"),
    "sleep": ("import time; time.sleep(1000)", "timeout"),
    "ignores signals": ("import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass", "timeout"),
    "blocks signals": ("import signal\nsignal.pthread_sigmask(signal.SIG_SETMASK, range(1, 65))\nwhile True: pass", "timeout"),
    "holds the interpreter": ("import re; re.match('(a+)+$', 'a' * 60 + 'b')", "timeout"),
    "closes its output": ("import os\nfor fd in (0, 1, 2): os.close(fd)\nwhile True: pass", "timeout"),
    "catches everything": ("while True:\n    try:\n        while True: pass\n    except BaseException: pass", "timeout"),
    "standard input": ("import sys; print(repr(sys.stdin.read())); input()", "error"),
    "chatter": ("while True: print('x' * 10**5)", "output"),
    "chatter on stderr": ("import sys\nwhile True: print('x' * 10**5, file=sys.stderr)", "output"),
    "one line for ever": ("import sys\nwhile True: sys.stdout.write('x')", "output"),
    "many files": ("i = 0\nwhile True:\n    open(str(i), 'w').write('x'); i += 1", "disk"),
    "many large files": ("i = 0\nwhile True:\n    open(str(i), 'wb').write(bytes(7 * 10**6)); i += 1", "disk"),
    "a list without end": ("x = []\nwhile True: x.append(bytes(10**6))", "memory"),
    "a large number": ("x = 10 ** 10 ** 8 * 1; y = [x * x for _ in range(99)]", ("memory", "timeout")),
    "deep recursion": ("def f(): return f()\nf()", "error"),
    "recursion without limit": ("import sys; sys.setrecursionlimit(10**9)\ndef f(x): return [f(x)]\nf(1)", ("error", "memory", "timeout", "signal 11")),
    "null pointer": ("import ctypes; ctypes.string_at(0)", "signal 11"),
    "abort": ("import os; os.abort()", ("signal 11", "signal 6")),
    "deep syntax": ("eval('(' * 10**5)", ("error", "memory", "signal 11")),
}


@pytest.mark.parametrize("name", HOGS)
def test_hogs_are_stopped(name):
    code, reason = HOGS[name]
    start = time.monotonic()
    result = run_python(code, timeout=1)
    assert not result.ok and result.reason in (reason if isinstance(reason, tuple) else (reason,)), (result.reason, result.stderr[-300:])
    assert time.monotonic() - start < 60                                   # not a measurement: it must not hang
    assert len(result.stdout) <= MB and len(result.stderr) <= MB


def processes(): # command lines of all processes whose working folder is, or was, a sandbox's
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if "/sandbox_" in os.readlink(f"/proc/{pid}/cwd"): found.append(int(pid))
        except OSError: pass
    return found


def test_nothing_is_left_over(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    for code, _ in HOGS.values(): run_python(code, timeout=0.3)
    isolation()
    assert os.listdir(tmp_path) == []
    mine = [p for p in processes() if Path(f"/proc/{p}/cwd").resolve().is_relative_to(tmp_path)]
    assert mine == []
    assert len(os.listdir("/proc/self/fd")) < 100


def test_the_program_ends_with_the_grader(tmp_path):
    "Also when the grader is killed and can clean up nothing."
    code = ("import tempfile, threading\nfrom nanochat_course.sandbox import run_python\n"
            f"tempfile.tempdir = {str(tmp_path)!r}\nthreading.Timer(1.5, lambda: print('running', flush=True)).start()\nrun_python('import time; time.sleep(100)', timeout=100)")
    grader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    grader.stdout.readline()
    here = lambda: [p for p in processes() if str(tmp_path) in os.readlink(f"/proc/{p}/cwd")]
    assert here(), "the program was running"
    grader.kill()
    grader.wait()
    for _ in range(100):
        if not here(): break
        time.sleep(0.05)
    assert not here()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of one processor")
def test_the_other_door_for_32_bit_programs_is_shut():
    "int 0x80 reaches the kernel's 32-bit table, where the numbers mean other calls (20 is getpid)."
    shellcode = "b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3'"                # mov eax, 20; int 0x80; ret
    code = f"import ctypes, mmap; m = mmap.mmap(-1, 4096, prot=7); m.write({shellcode}); f = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(m))); print('pid', f())"
    assert supervise([Program(code, 256 * MB, 5, ())], 5)[0].stdout.startswith("pid")
    result = run_python(code)
    assert result.reason == "signal 31" and "pid" not in result.stdout


def test_time_is_the_programs_own_and_not_the_machines():
    "A program that works for longer than the limit is stopped; one that sleeps for as long is not, until the wall clock's limit."
    work = "import time\nwhile time.process_time() < {}: pass\nprint('done')"
    assert run_python(work.format(0.4), timeout=1).ok
    assert run_python(work.format(9), timeout=1).reason == "timeout"
    assert run_python("import time; time.sleep(1.5)", timeout=1).ok


# Honest programs work

HONEST = {
    "print": ("print(17 + 25)", "42\n"),
    "libraries": ("import hashlib, json, math, re, collections, itertools, functools, heapq, bisect, random, statistics, decimal, fractions, datetime, string, copy, sqlite3, zlib, csv, typing, ctypes\n"
                  "print(hashlib.md5(b'cat').hexdigest())", "d077f244def8a70e5ea758bd8352fcd8\n"),
    "scratch files": ("import os\nwith open('a.txt', 'w') as f: f.write('The cat')\nos.rename('a.txt', 'b.txt'); print(open('b.txt').read()); os.remove('b.txt'); print(os.listdir('.'))", "The cat\n['program.py']\n"),
    "temporary files": ("import tempfile\nwith tempfile.TemporaryFile('w+') as f: f.write('x'); f.seek(0); print(f.read())", "x\n"),
    "clock": ("import time; t = time.monotonic(); time.sleep(0.05); print(time.monotonic() - t >= 0.05)", "True\n"),
    "unicode": ("print('naïve 🙂 猫')", "naïve 🙂 猫\n"),
    "main": ("if __name__ == '__main__': print('main')", "main\n"),
    "alarm": ("import signal\ndef ring(*_): print('rung')\nsignal.signal(signal.SIGALRM, ring); signal.setitimer(signal.ITIMER_REAL, 0.05); signal.pause()", "rung\n"),
    "set order": ("print(list({'cat', 'mat', 'hat', 'bat'}) == list({'cat', 'mat', 'hat', 'bat'}))", "True\n"),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_work(name):
    code, expected = HONEST[name]
    result = run_python(code)
    assert (result.ok, result.stdout, result.reason) == (True, expected, ""), result


def test_a_programs_verdict_does_not_change_from_run_to_run():
    code = "print(hash('cat'), list({'cat', 'mat', 'hat'}))"
    assert len({run_python(code).stdout for _ in range(3)}) == 1


@pytest.mark.parametrize("code, reason", [("raise ValueError('no')", "error"), ("import sys; sys.exit(3)", "error"), ("x = (", "error"), ("\ud800", "error"), ("a\0b", "error"), ("import os; os._exit(1)", "error")])
def test_failures_have_a_reason(code, reason):
    result = run_python(code)
    assert not result.ok and result.reason == reason


def test_output_that_is_not_text_is_shown():
    assert run_python("import sys; sys.stdout.buffer.write(b'\\xff\\xfecat')").stdout == "\ufffd\ufffdcat"


def test_many_at_a_time():
    "From threads, each with its own folder and verdict."
    with ThreadPoolExecutor(4) as pool: results = list(pool.map(lambda i: run_python(f"import os; print({i}, sorted(os.listdir('.')))"), range(12)))
    assert [r.stdout for r in results] == [f"{i} ['program.py']\n" for i in range(12)]


@pytest.mark.parametrize("options", [dict(code=3), dict(code="", timeout=0), dict(code="", timeout=float("nan")), dict(code="", memory=1000)])
def test_wrong_arguments_are_named(options):
    with pytest.raises(CourseError) as e: run_python(**options)
    assert "\n" not in str(e.value)


# Where it cannot isolate, it refuses

WITHOUT = """
import ctypes, json, os, sys
import nanochat_course.sandbox as s
from nanochat_course.sandbox import *
from nanochat_course.common import CourseError
{deny}
def attempt(hide): # in a process of its own, because nothing of it can be undone
    read, write = os.pipe()
    if os.fork() == 0:
        try: exec(hide, globals()); said = ["ran", repr(run_python("print(1)"))]
        except CourseError as e: said = ["refused", str(e), run_python("print(1)", unsafe=True).stdout]
        except BaseException as e: said = ["failed", repr(e)]
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    return json.loads(os.read(read, 10**5))
print(json.dumps({{name: attempt(hide) for name, hide in json.load(sys.stdin).items()}}))
"""
HIDDEN = {   # what a container or an old kernel may lack; the system call 444 to 446 really fails
    "no Landlock": "filter_calls(deny('landlock_create_ruleset', 'landlock_add_rule', 'landlock_restrict_self'))",
    "Landlock cannot be put into force": "filter_calls(deny('landlock_restrict_self'))",
    "no seccomp": "filter_calls(deny_seccomp())",
    "no libseccomp": "s.ctypes.CDLL = (lambda real: lambda name, *a, **k: real('missing.so') if name and 'seccomp' in name else real(name, *a, **k))(s.ctypes.CDLL)",
    "a brick that does nothing": "old = s.wall; s.wall = lambda *a, **k: [step for step in old(*a, **k) if step[0] is not s.restrict_files]",
    "a filter that lets sockets pass": "careless = s.call_filter(tuple(s.ALLOWED_CALLS) + ('socket',)); s.call_filter = lambda: careless",
    "a filter that lets fork pass": "careless = s.call_filter(tuple(s.ALLOWED_CALLS) + ('clone', 'clone3', 'fork')); s.call_filter = lambda: careless",
    "no limits": "old = s.wall; s.wall = lambda *a, **k: [step for step in old(*a, **k) if step[0] is not s.limit_resources]",
    "another system": "sys.platform = 'darwin'; s.limit_resources = lambda **k: None; s.wall = lambda *a, **k: []",
}
DENY = """
def deny(*names):
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(0x7FFF0000)))
    numbers = dict(landlock_create_ruleset=444, landlock_add_rule=445, landlock_restrict_self=446)
    for name in names: assert lib.seccomp_rule_add_array(context, ctypes.c_uint32(0x00050000 | 38), numbers[name], 0, None) == 0
    return export(lib, context)
def deny_seccomp(): # prctl(PR_SET_SECCOMP) fails from now on
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(0x7FFF0000)))
    assert lib.seccomp_rule_add_array(context, ctypes.c_uint32(0x00050000 | 22), lib.seccomp_syscall_resolve_name(b"prctl"), 1, (s._Comparison * 1)(s._Comparison(0, 4, 22))) == 0
    return export(lib, context)
def export(lib, context):
    import tempfile
    with tempfile.TemporaryFile() as f:
        lib.seccomp_export_bpf(context, f.fileno()); f.seek(0)
        return f.read()
"""


@pytest.fixture(scope="module")
def without():
    done = subprocess.run([sys.executable, "-c", WITHOUT.format(deny=DENY)], input=json.dumps({"nothing": "", **HIDDEN}), capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_with_nothing_hidden_it_runs(without):
    assert without["nothing"][0] == "ran" and "ok=True" in without["nothing"][1]


@pytest.mark.parametrize("what", HIDDEN)
def test_it_refuses_where_it_cannot_isolate(without, what):
    said = without[what]
    assert said[0] == "refused", said
    assert said[1].startswith("programs cannot be isolated here") and "unsafe=True" in said[1] and "\n" not in said[1]
    assert said[2] == "1\n", "with unsafe=True it runs all the same"


def test_what_is_in_force_is_said():
    said = isolation()
    assert set(said) == {"limits", "files", "calls"} and "Landlock" in said["files"] and str(len(ALLOWED_CALLS)) in said["calls"]


def test_the_filter_compiles_to_something_that_distinguishes_arguments():
    "Read the allowed values back out of the BPF program: comparisons (BPF_JEQ | BPF_K, 0x15) with constants."
    code = call_filter()
    constants = {int.from_bytes(code[i + 4:i + 8], "little") for i in range(0, len(code), 8) if code[i] == 0x15}
    assert {0x5401, 1030} <= constants and 0x5412 not in constants         # TIOCSTI is not among them
    assert not {"socket", "clone", "fork", "execve", "kill", "ptrace", "mount", "prctl", "socketpair"} & set(ALLOWED_CALLS)


# HumanEval

PROBLEM = dict(prompt='def add(a: int, b: int) -> int:\n    """Add."""\n', entry_point="add", canonical_solution="    return a + b\n",
               test="def check(candidate):\n    assert candidate(2, 2) == 4\n    assert candidate(17, 25) == 42\n    assert candidate(a=1, b=-1) == 0\n")
CHEATS = {
    "None": "    return None\n",
    "off by one": "    return a + b + 1\n",
    "half right": "    return 4\n",
    "exit": "    pass\nimport sys; sys.exit(0)\n",
    "exit inside": "    raise SystemExit(0)\n",
    "_exit": "    import os; os._exit(0)\n",
    "atexit": "    pass\nimport atexit, os; atexit.register(os._exit, 0)\n",
    "own check": "    pass\ndef check(candidate): pass\n",
    "marker": "    pass\nprint('PASSED'); print('ok', True)\n",
    "equals everything": "    class Yes(int):\n        __eq__ = lambda self, other: True\n        __repr__ = lambda self: 'Yes()'\n    return Yes()\n",
    "repr is a program": "    class R:\n        __repr__ = lambda self: '__import__(\"os\")._exit(0)'\n    return R()\n",
    "no assertions": "    pass\nimport builtins; builtins.AssertionError = Exception; __debug__\n",
    "patched len": "    pass\nimport builtins; builtins.all = lambda x: True; builtins.abs = lambda x: 0\n",
    "frames": "    import sys\n    f = sys._getframe()\n    while f:\n        f.f_globals.update(check=lambda c: None); f.f_locals.update(check=lambda c: None); f = f.f_back\n    return 0\n",
    "garbage collector": "    import gc\n    for o in gc.get_objects():\n        if isinstance(o, dict) and 'check' in o: o['check'] = lambda c: None\n    return 0\n",
    "writes to all files": "    import os\n    for fd in range(3, 32):\n        try: os.write(fd, b'4\\n42\\n0\\n' if 0 else b'None\\n')\n        except OSError: pass\n    return None\n",
    "reads the questions": "    pass\nimport os\nfor fd in range(3, 32):\n    try: os.read(fd, 99)\n    except OSError: pass\n",
    "closes the pipes": "    pass\nimport os; os.closerange(3, 64)\n",
    "silent": "    import time; time.sleep(100)\n",
    "syntax error": "    return a +\n",
    "deep answer": "    return eval('[' * 50 + ']' * 50)\n",
    "endless answer": "    class R:\n        __repr__ = lambda self: '1' * 10**9\n    return R()\n",
    "generator": "    yield a + b\n",
    "float": "    return a + b + 1e-9\n",
    "no function": "",
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_do_not_pass(name):
    result = humaneval_result(PROBLEM, CHEATS[name], timeout=1)
    assert not result.ok and result.reason


@pytest.mark.parametrize("completion", [PROBLEM["canonical_solution"], "    print('hello'); return b + a\n", "    return sum((a, b))\n\ndef more(): return 1\n",
                                        "Here it is:\n```python\ndef add(a, b):\n    return a + b\n```\nDone.", "```\n    return a + b\n```", "```python\ndef add(a, b): return b + a"])
def test_right_answers_pass(completion):
    assert humaneval_passed(PROBLEM, completion)


def test_only_the_first_block_counts():
    assert completed_program(PROBLEM, "```py\nx = 1\n```\nand\n```py\ny = 2\n```") == PROBLEM["prompt"] + "x = 1\n"


def test_the_examiners_message_says_what_failed():
    result = humaneval_result(PROBLEM, "    print('thinking'); return 5\n")
    assert "assert candidate(2, 2) == 4" in result.stderr or "AssertionError" in result.stderr
    assert result.stdout == "thinking\n"


def test_a_problem_without_tests_is_named():
    with pytest.raises(CourseError, match="test is missing"): humaneval_passed({"prompt": "", "entry_point": "f"}, "")


@pytest.fixture(scope="module")
def humaneval(test_data):
    path = test_data / "humaneval" / "HumanEval.jsonl.gz"
    with gzip.open(path, "rt") as f: return [json.loads(line) for line in f]


def mutated(problem):
    "Wrong versions of the canonical solution: every returned value spoiled in one of four ways, or the tests evaded."
    class Spoil(ast.NodeTransformer):
        def __init__(self, how): self.how = how
        def visit_FunctionDef(self, node): return self.generic_visit(node) if node.name == problem["entry_point"] else node
        def visit_Return(self, node): return ast.Return(ast.parse(self.how.format(ast.unparse(node.value) if node.value else "None"), mode="eval").body)
    tree = lambda how: ast.unparse(Spoil(how).visit(ast.parse(problem["prompt"] + problem["canonical_solution"])))
    program = lambda how: f"```python\n{tree(how)}\n```"
    return dict(none=program("None"), wrapped=program("[{}, 0]"), equal=program("type('Yes', (), dict(__eq__=lambda s, o: True, __len__=lambda s: 1))()"),
                exits="    import sys; sys.exit(0)\n", early="    pass\nimport os; os._exit(0)\n", check=f"    pass\ndef check(c): pass\n{problem['entry_point']} = lambda *a, **k: None\n")


def test_humaneval_canonical_solutions_pass_and_mutations_fail(humaneval):
    "A third of the problems; all 164 pass and all their mutations fail when tried by hand (see the chapter)."
    jobs = [(p, kind, c, kind == "canonical") for i, p in enumerate(humaneval[::3])
            for kind, c in {"canonical": p["canonical_solution"], **dict(list(mutated(p).items())[i % 6:][:1])}.items()]
    with ThreadPoolExecutor(2) as pool: got = list(pool.map(lambda j: humaneval_passed(j[0], j[2], timeout=5), jobs))
    assert [(p["task_id"], kind) for (p, kind, _, expected), ok in zip(jobs, got) if ok != expected] == []
