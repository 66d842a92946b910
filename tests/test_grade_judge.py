"""Learners' functions in a worker, judged by pristine checks: who gets points for what.

One court a lab, with a few tasks each; a worker a task.
"""

import contextlib
import os
import tempfile
import time
from pathlib import Path

import nbformat
import pytest
import torch

import tiny_lm
from tiny_lm.course.grade import notebook, samples
from tiny_lm.course.grade import worker as works
from tiny_lm.course.grade.compare import compare
from tiny_lm.course.grade.distant import ENDLESS
from tiny_lm.course.grade.judge import judge
from tiny_lm.course.grade.records import of_verdict
from tiny_lm.course.grade.remote import wanting
from tiny_lm.course.grade.sandbox import environment
from tiny_lm.course.grade.session import CALL_S
from tiny_lm.course.grade.single import opened
from tiny_lm.course.grade.spaces import Measures, measures
from tiny_lm.course.grade.there import CALLS, NUMBER
from tiny_lm.course.grade.wires import COLLECTIVES, LETTERS, asked_of
from tiny_lm.course.grade.wires import NUMBER as SAME
from tiny_lm.course.grade.zygote import START

ANSWERS = {cell.id: cell.source for cell in samples.solved("02_moe").cells}
GATE = ANSWERS["answer_2_2"]


@pytest.fixture(scope="module")
def court(tmp_path_factory):
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("mine"))
    hidden = tmp_path_factory.mktemp("hidden")
    (hidden / "secret").write_text("secret")
    os.environ["SECRET_TOKEN"] = "s3cr3t"  # before anything is started
    with opened(
        "02_moe", 7, 4.0, hidden=[str(hidden)], only=("2.1", "2.2", "2.4", "2.5")
    ) as made:
        yield made
    tempfile.tempdir = before
    del os.environ["SECRET_TOKEN"]


def judged(court, changes, only=None):
    """Verdicts on our solution with some answers changed, by task."""
    made = samples.solved(court.lab)
    for task, source in changes.items():
        made = samples.with_answer(made, task, source)
    read = notebook.parse(nbformat.writes(made).encode())
    tasks, kept = court.tasks, [t for t in court.tasks if t.id in (only or changes)]
    submission = compare(read, notebook.pristine(court.lab), tasks)
    court.tasks = kept
    try:
        return {v.task.id: v for v in judge(court, submission)}
    finally:
        court.tasks = tasks


def status(court, task, source):
    return judged(court, {task: source})[task].status


def test_our_own_answers_pass(court):
    found = judged(court, {}, only=("2.1", "2.2", "2.4", "2.5"))
    assert {v.status for v in found.values()} == {"passed"}


def test_a_wrong_answer_is_explained_as_in_the_lab(court):
    wrong = GATE.replace("route_scale * ", "")
    verdict = judged(court, {"2.2": wrong})["2.2"]
    assert verdict.status == "failed" and verdict.outcome.passed == 3
    assert "route_scale forgotten" in verdict.outcome.mismatch.because
    record = of_verdict(verdict)
    assert record["earned"] == 0
    assert record["property"] == record["properties"][3]
    assert "on     scores" in record["report"]


def test_gradients_are_asked_for_where_they_are_made(court):
    cut = GATE.replace("scores.gather", "scores.detach().gather")
    verdict = judged(court, {"2.2": cut})["2.2"]
    assert "gradient" in verdict.outcome.failed


def test_work_is_counted_where_it_is_done(court):
    dense = """
def run_experts(x, experts, weights, gate_up, down):
    y = torch.zeros_like(x)
    for e in range(len(down)):
        gate, up = (x @ gate_up[e].T).chunk(2, dim=-1)
        out = (F.silu(gate) * up) @ down[e].T
        y = y + out * (weights * (experts == e)).sum(1, keepdim=True)
    return y
"""
    verdict = judged(court, {"2.4": dense})["2.4"]
    assert (
        verdict.outcome.failed
        == "each expert reads its tokens at once, and reads no others"
    )


def test_a_changed_argument_and_a_changed_setting_are_seen(court):
    body = GATE.replace(
        "experts = (", "scores += 0.0\n    scores[0] = 1\n    experts = ("
    )
    assert "in place" in judged(court, {"2.2": body})["2.2"].outcome.mismatch.because
    body = GATE.replace("experts = (", "torch.manual_seed(3)\n    experts = (")
    assert "seed" in judged(court, {"2.2": body})["2.2"].outcome.mismatch.wanted
    body = GATE.replace(
        "experts = (", "torch.set_default_dtype(torch.float64)\n    experts = ("
    )
    assert "dtype" in judged(court, {"2.2": body})["2.2"].outcome.mismatch.wanted
    assert torch.get_default_dtype() is torch.float32


def test_a_stub_an_error_and_an_exit_are_told_apart(court):
    stub = next(c.source for c in samples.blank("02_moe").cells if c.id == "answer_2_2")
    assert status(court, "2.2", stub) == "not done"
    assert status(court, "2.2", "gate = 3") == "error"
    assert status(court, "2.2", "pass") == "missing"
    verdict = judged(court, {"2.2": "def gate(:"})["2.2"]
    assert verdict.status == "error" and "line 1 of its cell" in verdict.says
    ends = "import os\ndef gate(*a):\n    os._exit(0)"
    assert status(court, "2.2", ends) == "stopped"
    leaves = "def gate(*a):\n    raise SystemExit"
    verdict = judged(court, {"2.2": leaves})["2.2"]
    assert verdict.status == "failed" and "SystemExit" in verdict.outcome.mismatch.got


def test_an_error_is_told_with_its_line(court):
    verdict = judged(court, {"2.2": "def gate(*a):\n    x = 1\n    return x / 0"})[
        "2.2"
    ]
    got = verdict.outcome.mismatch.got
    assert "ZeroDivisionError" in got and "line 3 of its cell" in got
    assert "return x / 0" in got


def test_an_endless_loop_and_a_long_sleep_cost_their_own_task_alone(court):
    start = time.monotonic()
    found = judged(
        court,
        {
            "2.1": "def score_and_choose(*a):\n    while True:\n        pass",
            "2.2": "import time\ndef gate(*a):\n    time.sleep(1000)",
            "2.5": ANSWERS["answer_2_5"],
        },
    )
    assert [v.status for v in found.values()] == ["timeout", "timeout", "passed"]
    assert time.monotonic() - start < 20


HOLD = """
import os, signal, subprocess, sys
def gate(scores, bias, top_k, route_scale):
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            open("mark-SECRET", "w").close()
            while True:
                signal.pause()
        os._exit(0)
    raise ValueError("done")
"""


def test_nothing_is_left_of_a_worker(court):
    judged(court, {"2.2": HOLD})
    deadline = time.monotonic() + 5
    while len(left := processes(court)) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == [court.zygote.process.pid]
    kept = [court.zygote.folder.name]
    assert [*map(str, Path(tempfile.gettempdir()).glob("grade-*"))] == kept


def processes(court):
    """Those whose environment is the zygote's."""
    home, found = f"HOME={court.zygote.folder.name}\0", []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if home in environ.read_text():
                found.append(int(environ.parent.name))
    return found


LOOK = """
import os
def gate(scores, bias, top_k, route_scale):
    raise ValueError("|".join([{look}]))
"""


def seen(court, look):
    """What code in a worker finds."""
    verdict = judged(court, {"2.2": LOOK.format(look=look)})["2.2"]
    return verdict.outcome.mismatch.got


def test_a_worker_sees_no_environment_and_no_answers(court):
    got = seen(court, "repr(dict(os.environ))")
    assert "s3cr3t" not in got and "HOME" in got
    here = Path(tiny_lm.__file__).parent
    secret = f"{court.hidden[0]}/secret"
    paths = [here / "router.py", here / "course/checks/moe/gate.py", secret]
    if court.measures.spaces:
        look = f"*(str(os.path.exists(p)) for p in {[*map(str, paths)]})"
        assert "ValueError: False|False|False" in seen(court, look)


def test_where_the_system_hides_nothing_python_refuses(court):
    here, court.measures = court.measures, Measures(linux=True)
    try:
        router = str(Path(tiny_lm.__file__).parent / "router.py")
        for look in (f"open({router!r}).read()", "os.popen('cat x').read()"):
            assert "PermissionError" in seen(court, look)
        assert judged(court, {}, only=("2.2",))["2.2"].passed
    finally:
        court.measures = here


@pytest.mark.parametrize(
    "source",
    [
        "from tiny_lm.router import route as gate",
        "from tiny_lm.course.checks.moe import gate as g\ngate = g.gate",
        "from tiny_lm.course.checks.moe.gate import task_2_2 as t\ngate = t.reference",
        "from tiny_lm.course.checks.task import TASKS\n"
        "def gate(*a):\n    return TASKS['2.2'].reference(*a)",
        "from tiny_lm import router\ndef gate(s, b, k, r):\n"
        "    w, e = router.route(s, b, k)\n    return w * r, e",
        "import importlib\ndef gate(s, b, k, r):\n"
        "    w, e = importlib.import_module('tiny_lm.router').route(s, b, k)\n"
        "    return w * r, e",
        "import gc, types\ndef gate(*a):\n"
        "    f = [x for x in gc.get_objects() if isinstance(x, types.FunctionType)\n"
        "         and x.__name__ in ('gate', 'route') and x is not gate]\n"
        "    return f[0](*a)",
    ],
)
def test_an_answer_that_is_looked_up_is_not_there(court, source):
    verdict = judged(court, {"2.2": source})["2.2"]
    assert verdict.status in ("failed", "error")


FORGE = """
import gc
NONE, EMPTY = ["t", []], ["d", []]
from tiny_lm.course.grade.channel import Channel
def gate(scores, bias, top_k, route_scale):
    for channel in (x for x in gc.get_objects() if isinstance(x, Channel)):
        channel.send({reply}, {blobs})
    import time
    time.sleep(100)
"""


@pytest.mark.parametrize(
    "reply",
    [
        '{"kind": "passed"}',
        '{"kind": "result", "value": None, "after": [], "settings": [], "printed": ""}',
        '{"kind": "result", "value": ["f", 0, "x"], "after": [], "settings": []}',
        '{"kind": "ask", "of": 0, "name": "__class__", "given": NONE, "named": EMPTY}',
        '{"kind": "ask", "of": -1, "name": "barrier", "given": NONE, "named": EMPTY}',
        '["passed"]',
        '{"kind": "error", "name": "NotDone", "text": "", "where": 3, "after": 5}',
        '{"kind": "result", "value": ["v", 0, 0, [99999999999], [0]], "after": []}',
    ],
)
def test_a_forged_reply_earns_nothing(court, reply):
    source = FORGE.replace("{reply}", reply).replace("{blobs}", "[]")
    verdict = judged(court, {"2.2": source})["2.2"]
    assert verdict.status in ("stopped", "failed", "timeout", "error")


def test_checks_patched_in_a_worker_change_nothing(court):
    source = """
import builtins, sys, torch
torch.allclose = torch.equal = lambda *a, **k: True
builtins.all = lambda x: True
for name, module in list(sys.modules.items()):
    if "checks" in name or "grade" in name:
        for key in list(vars(module)):
            if key in ("same", "close", "outcome", "changes"):
                setattr(module, key, lambda *a, **k: True)
def gate(scores, bias, top_k, route_scale):
    return scores[:, :top_k], bias[:, :top_k].long() if bias.dim() > 1 else bias
"""
    assert status(court, "2.2", source) == "failed"


@pytest.fixture(scope="module")
def ranks():
    with opened("05_comm", 7, 20.0, only=("5.1", "5.3", "5.4", "5.5")) as made:
        yield made


def test_ranks_are_played_and_what_they_send_is_counted_here(ranks):
    found = judged(ranks, {}, only=("5.1", "5.3", "5.4", "5.5"))
    assert {v.status for v in found.values()} == {"passed"}


def test_a_ready_made_collective_is_no_ring(ranks):
    source = "def ring_all_reduce(x, group):\n    return comm.all_reduce(x, group)"
    verdict = judged(ranks, {"5.1": source})["5.1"]
    assert verdict.status == "failed"
    assert "comm.send and comm.receive alone" in verdict.outcome.mismatch.got


def test_ranks_that_all_send_first_are_told_so(ranks):
    source = """
def ring_all_reduce(x, group):
    comm.send(x, (group.rank + 1) % group.size, group)
    return comm.receive(x, (group.rank - 1) % group.size, group)
"""
    verdict = judged(ranks, {"5.1": source})["5.1"]
    assert "sends before it receives" in verdict.outcome.mismatch.because


def test_things_of_the_judge_answer_only_what_they_are_for(ranks):
    source = """
def dispatch(x, experts, num_experts, group, there):
    said = []
    for name in ("trips", "group", "__call__.__globals__", "meters", "count", "past"):
        try:
            said.append(str(getattr(group if name in dir(group) else there, name)))
        except AttributeError as error:
            said.append("nothing")
    raise ValueError(" ".join(said))
"""
    got = judged(ranks, {"5.3": source})["5.3"].outcome.mismatch.got
    assert "nothing nothing nothing nothing nothing nothing" in got
    assert asked_of(object()) == ((), ())


def test_what_protects_is_said():
    words = measures().words()
    assert any("limits" in word for word in words)
    assert (os.geteuid() != 0) or measures().linux
    assert "SECRET" not in str(environment("x"))


def test_the_parts_of_both_sides_agree():
    assert NUMBER == SAME
    assert {*CALLS} == {*COLLECTIVES, *LETTERS}
    assert works.ENDLESS == ENDLESS
    assert CALL_S > 1 and "-c" not in START


def test_both_sides_find_the_same_tensors_that_want_a_gradient():
    x, y = torch.ones(1, requires_grad=True), torch.ones(2, requires_grad=True)
    found = [*wanting([x, (torch.ones(3), {"a": y}), 4])]
    assert found[0] is x and found[1] is y and len(found) == 2
