"""What a learner writes into a cell to harm the grader or the others, as data.

Each stands in the answer cell of task 2.1 of lab 02. What could harm the machine that
tests, should a limit fail, is bounded here too. Words between two @ are filled in by
`hostile`.
"""

from hostile_cheats import NO_ANSWER

DAMAGE = {
    "writes_everywhere": """
import os, pathlib
def score_and_choose(x, centroids, top_k):
    places = ["@FOLDER@", "@OUT@", "@OUT@/results", "@ROOT@", "@HOME@", "/tmp"]
    places += ["@ROOT@/tiny_lm", "@ROOT@/labs", "@SITE@", "/var/tmp", "/dev/shm"]
    for place in places:
        try:
            pathlib.Path(place, "escaped").write_text("here I am")
        except OSError:
            pass
    for file in ("@FOLDER@/neighbour.ipynb", "@OUT@/results/neighbour.json"):
        try:
            os.truncate(file, 0)
            os.remove(file)
        except OSError:
            pass
""",
    "removes_its_own_file": """
import os
def score_and_choose(x, centroids, top_k):
    for work in (os.remove, lambda file: open(file, "a").write(" ")):
        try:
            work("@FOLDER@/removes_its_own_file.ipynb")
        except OSError:
            pass
""",
    "leaves_a_process": """
import os, time
def score_and_choose(x, centroids, top_k):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", "@SLEEP@"])
        os._exit(0)
""",
    "forks": """
import os, time
def score_and_choose(x, centroids, top_k):
    for _ in range(400):
        try:
            if os.fork() == 0:
                os.setsid()
                time.sleep(@SLEEP@)
                os._exit(0)
        except OSError:
            break
    time.sleep(@SLEEP@)
""",
    "kills_everybody": """
import os, signal
def score_and_choose(x, centroids, top_k):
    if os.readlink("/proc/self/ns/pid") != "@PIDS@":  # else this machine would suffer
        for pid in (os.getppid(), 1, 0, -1):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
""",
    "kills_its_parent": """
import os, signal
def score_and_choose(x, centroids, top_k):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        os.kill(os.getppid(), number)
""",
    "never_ends": "def score_and_choose(x, centroids, top_k):\n    while True: pass\n",
    "never_loads": "while True:\n    pass\n" + NO_ANSWER,
    "is_deaf": """
import signal, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
def score_and_choose(x, centroids, top_k):
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass
""",
    "takes_its_time": """
import time
def score_and_choose(x, centroids, top_k):
    time.sleep(1.5)
    scores = (x @ centroids.T).sigmoid()
    return scores, scores.topk(top_k).indices
""",
    "takes_all_memory": """
def score_and_choose(x, centroids, top_k):
    everything = bytearray(50 * 2**30)
    everything[::4096] = b"x" * len(everything[::4096])
""",
    "takes_memory_in_steps": """
def score_and_choose(x, centroids, top_k):
    taken = [b"x" * 2**26 for _ in range(96)]
    return taken
""",
    "prints_without_end": """
def score_and_choose(x, centroids, top_k):
    while True:
        print("x" * 2**20)
""",
    "prints_past_python": """
import os
def score_and_choose(x, centroids, top_k):
    while True:
        os.write(1, b"x" * 2**20)
        os.write(2, b"x" * 2**20)
""",
    "fills_the_disk": """
def score_and_choose(x, centroids, top_k):
    for number in range(60):
        with open(f"file-{number}", "wb") as file:
            file.write(bytes(2**24))
""",
    "kills_itself": """
import os, signal
def score_and_choose(x, centroids, top_k):
    os.kill(os.getpid(), signal.SIGKILL)
""",
    "leaves_at_once": "import os\nos._exit(0)\n" + NO_ANSWER,
    "ends_politely": "import sys\nsys.exit(0)\n" + NO_ANSWER,
    "reads_nothing": """
import ctypes
def score_and_choose(x, centroids, top_k):
    return ctypes.string_at(0)
""",
    "interrupts": """
def score_and_choose(x, centroids, top_k):
    raise KeyboardInterrupt
""",
    "has_no_floor": """
import sys
sys.setrecursionlimit(10**9)
def score_and_choose(x, centroids, top_k):
    return score_and_choose(x, centroids, top_k)
""",
    "answers_a_giant": """
import torch
def score_and_choose(x, centroids, top_k):
    return torch.zeros(1).expand(10**13), torch.zeros(1).long().expand(10**13)
""",
    "answers_a_well": """
def score_and_choose(x, centroids, top_k):
    well = []
    for _ in range(10**5):
        well = [well]
    ring = []
    ring.append(ring)
    return well, ring
""",
    "answers_oddly": """
import torch
def score_and_choose(x, centroids, top_k):
    odd = torch.zeros(len(x), len(centroids), device="meta")
    return odd, torch.sparse_coo_tensor(size=(len(x), top_k)).long()
""",
    "fails_loudly": """
class Loud(Exception):
    def __str__(self):
        return "<script>alert(1)</script>\\x1b[2J" + "loud " * 10**7
def score_and_choose(x, centroids, top_k):
    raise Loud
""",
    "fails_at_failing": """
class Worse(Exception):
    def __str__(self):
        raise self
    __repr__ = __str__
def score_and_choose(x, centroids, top_k):
    raise Worse
""",
    "holds_on": """
import atexit, threading, time
atexit.register(lambda: time.sleep(@SLEEP@))
threading.Thread(target=time.sleep, args=(@SLEEP@,)).start()
"""
    + NO_ANSWER,
    "opens_everything": """
import os
def score_and_choose(x, centroids, top_k):
    while True:
        os.pipe()
""",
    "takes_memory_by_children": """
import os, time
def score_and_choose(x, centroids, top_k):
    children = []
    for _ in range(8):
        one = os.fork()
        if one == 0:
            taken = b"x" * (7 * 10**8)
            time.sleep(1)
            os._exit(0)
        children.append(one)
    codes = [os.waitpid(one, 0)[1] for one in children]
    raise RuntimeError(f"{codes.count(0)} children had it all at once")
""",
    "switches_and_fails": """
import random, torch
def score_and_choose(x, centroids, top_k):
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    random.seed(0)
    raise ValueError("and now?")
""",
    "answers_a_view": """
def score_and_choose(x, centroids, top_k):
    giant = x.flatten()[:1].expand(10**13)
    return giant, giant
""",
    "speaks_for_the_worker": """
import gc, sys
def score_and_choose(x, centroids, top_k):
    frame = sys._getframe()
    while not hasattr(frame.f_locals.get("self"), "channel"):
        frame = frame.f_back
    worker = frame.f_locals["self"]
    giant = 10**4000
    told = {"kind": "result", "value": ["t", [giant, giant]], "after": [[0, {"value":
            ["v", 0, 0, [10**12], [0]]}]], "settings": ["the default dtype"],
            "printed": "", "work": [giant], "noted": ["no"], "where": [], "name": {}}
    ask = {"kind": "ask", "of": -1, "name": "all_reduce", "given": ["t", []]}
    ask["named"] = ["d", []]
    state = bytes(5056)
    for said in (ask, told, {"kind": "error", "name": "x\0", "text": 3}, {}, []):
        worker.channel.send(said, [state])
""",
}
