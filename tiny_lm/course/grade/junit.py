"""Results as JUnit XML, which build servers and editors read.

Chapter: appendix/teaching
Source: course

A suite is a learner, a case a task. What is not passed is a failure or an error, never
skipped: a report that skips reads as if all were well.
"""

from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from tiny_lm.course.grade.results import STATUS, Result, TaskResult, shown

FAILURES = {"failed", "not done"}  # an answer that ran and was refused; others: errors


def junit(results: Sequence[Result]) -> str:
    """The whole report."""
    suites = Element("testsuites", name=results[0].lab)
    for one in results:
        suites.append(_suite(one))
    for count in ("tests", "failures", "errors"):
        total = sum(int(suite.get(count, "0")) for suite in suites)
        suites.set(count, str(total))
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _suite(one: Result) -> Element:
    wrong = [task for task in one.tasks if not task.holds]
    failures = sum(task.status in FAILURES for task in wrong)
    suite = Element("testsuite", name=one.learner)
    suite.set("tests", str(len(one.tasks)))
    suite.set("failures", str(failures))
    suite.set("errors", str(len(wrong) - failures))
    suite.set("skipped", "0")
    suite.set("time", f"{sum(task.seconds for task in one.tasks):.3f}")
    properties = SubElement(suite, "properties")
    for name, value in (
        ("points", shown(one.points)),
        ("max_points", shown(one.max_points)),
        ("submission", one.submission),
        ("sha256", one.sha256),
        ("seed", one.seed),
        ("status", one.status),
    ):
        SubElement(properties, "property", name=name, value=value)
    for task in one.tasks:
        suite.append(_case(one, task))
    noticed = [f"{kind} {cell}: {says}" for kind, cell, says in one.notes]
    if noticed:
        SubElement(suite, "system-out").text = "\n".join(noticed)
    return suite


def _case(one: Result, task: TaskResult) -> Element:
    case = Element("testcase", classname=f"{one.lab}.{one.learner}")
    case.set("name", f"{task.id} {task.name}".strip())
    case.set("time", f"{task.seconds:.3f}")
    properties = SubElement(case, "properties")
    for name, value in (("points", task.points), ("earned", task.earned)):
        SubElement(properties, "property", name=name, value=shown(value))
    if not task.holds:
        kind = "failure" if task.status in FAILURES else "error"
        message = task.refused_at or one.reason or STATUS[task.status][1]
        found = SubElement(case, kind, type=task.status, message=message)
        found.text = task.report or task.words
    return case
