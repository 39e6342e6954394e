"The exercises of nbs/92_sandbox.ipynb, solved and tried against wrong answers: run in the notebook's namespace, after its last cell."

# %%
_escape = """
for c in ().__class__.__base__.__subclasses__():
    if c.__name__ == "_wrap_close":
        g = c.__init__.__globals__
        print(g["read"](g["open"](path, 0), 99))
"""
_escape2 = """
g = [c for c in object.__subclasses__() if c.__name__ == "_wrap_close"][0].__init__.__globals__
print(g["popen"]("cat " + path).read())
""".replace("object.", "().__class__.__mro__[1].")
assert diary.read_text() not in run_python(f"path = {str(diary)!r}" + _escape).stdout, "the wall holds"
for right in (_escape, _escape2):
    check_escape.verify(right, wrong=["", "import os", "print(open(path).read())", "print(path)", "print('The cat sat on the mat.')", "print(().__class__.__base__.__subclasses__())",
                                      "exec('print(1)')", "raise SystemExit(0)", "syntax error here", "print(__builtins__)", "print(getattr(path, 'x'))"])

# %%
def _needed(works):
    left = list(ALLOWED_CALLS)
    for call in list(left):
        without = tuple(c for c in left if c != call)
        if works(without): left.remove(call)
    return tuple(left)
check_needed.verify(_needed, wrong=[lambda works: tuple(ALLOWED_CALLS), lambda works: (), lambda works: ("read", "write", "exit_group"),
                                    lambda works: tuple(c for c in ALLOWED_CALLS if not works(tuple(d for d in ALLOWED_CALLS if d != c))),
                                    lambda works: _needed(works)[:-1]])
assert len(_needed(works)) < 10, "as the solution says"

# %%
_tap = "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, parent)\nprint('BREACH')"
check_tap.verify(_tap, wrong=["", "print('BREACH')  # F_SETOWN", "import os; os.kill(parent, 0); print('BREACH')", "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_GETFL)\nprint('BREACH')",
                              "import fcntl\nfcntl.F_SETOWN\nraise SystemExit(1)"])
