"Forked programs do what programs do that start from nothing."
import os, signal, subprocess, sys
import forked, pytest, torch

SCRIPT = "import os, sys\nfrom dataclasses import dataclass\n@dataclass\nclass Told: what:str\nprint(Told(__name__), sys.argv[1:], os.environ['HERE'], os.getcwd() == sys.path[0])"


@pytest.mark.parametrize("words", [
    ["-c", "import sys; print(sys.argv, sys.stdin.read()); print('aside', file=sys.stderr); sys.exit(3)", "a", "b c"],
    ["-c", "raise SystemExit('error: too late')"], ["-c", "import os; print('before', flush=True); os.kill(os.getpid(), 9)"],
    ["-c", "import atexit; atexit.register(print, 'at the end'); 1 / 0"], ["-m", "json.tool", "--help"], ["-m", "json.tool"], ["script.py", "--flag"],
    ["-c", "import os; print('a child', flush=True) if not os.fork() else os.wait()"],
    ["-c", "from multiprocessing import get_context as c; p = c('fork').Pool(2); print(p.map(abs, [-1, -2])); p.terminate()"]], ids=lambda w: " ".join(w)[:30])
def test_a_fork_is_like_a_start(words, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    settings = dict(input='{"b": [1, 2]}', cwd=tmp_path, env=dict(os.environ, HERE="x"), capture_output=True, text=True)
    got, want = (run([sys.executable, *words], **settings) for run in (forked.run, subprocess.run))
    assert (got.returncode, got.stdout) == (want.returncode, want.stdout), got.stderr
    assert got.stderr.splitlines()[-1:] == want.stderr.splitlines()[-1:] and ("Traceback" in got.stderr) == ("Traceback" in want.stderr)


def test_signals_sessions_and_time():
    wait = "import os, time; print(os.getpid() == os.getsid(0), flush=True)\ntry: time.sleep(60)\nexcept KeyboardInterrupt: print('stopped')"
    p = forked.Popen([sys.executable, "-c", wait], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert p.stdout.readline() == "True\n" and p.poll() is None
    with pytest.raises(subprocess.TimeoutExpired): p.wait(.01)
    os.killpg(p.pid, signal.SIGINT)
    assert p.communicate() == ("stopped\n", None) and p.returncode == 0
    with pytest.raises(subprocess.TimeoutExpired): forked.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=.2)


def test_torch_is_there_already_and_has_its_threads():
    "What this module is for; and a backward pass in a fork works."
    code = "import sys; had = 'torch' in sys.modules; import torch; x = torch.ones(2, requires_grad=True); x.sum().backward(); print(had, torch.get_num_threads(), x.grad.tolist())"
    torch.ones(2, requires_grad=True).sum().backward()
    done = forked.run([sys.executable, "-c", code], env=dict(os.environ, OMP_NUM_THREADS="2"), capture_output=True, text=True)
    assert done.stdout == "True 2 [1.0, 1.0]\n", done.stderr
