"""The seconds of tests are counted for the right part."""

from types import SimpleNamespace

import budget


def test_a_file_of_tests_belongs_to_the_part_of_its_module():
    chapters = {"moe": "02_moe", "lab": "06_together", "fp8_kernels": "04_fp8"}
    chapters |= {"fp8": "04_fp8", "kernels": "05_comm"}
    for file, part in {
        "tests/test_moe.py": "02_moe",
        "tests/test_moe_figures.py": "02_moe",
        "tests/test_fp8_kernels.py": "04_fp8",
        "tests/test_labs.py": budget.COURSE,
    }.items():
        assert budget.part_of(file, chapters) == part


def test_parts_add_up_and_one_over_its_budget_is_marked():
    reports = [("tests/test_router.py", 40.0), ("tests/test_moe.py", 30.0)]
    reports += [("tests/test_mla.py", 59.0), ("tests/test_site.py", 99.0)]
    seconds = budget.seconds_by_part(reports)
    assert seconds == {"02_moe": 70.0, "03_mla": 59.0, budget.COURSE: 99.0}
    marked = [line.split()[0] for line in budget.lines(seconds) if "over" in line]
    assert marked == ["02_moe"]


def test_a_whole_run_prints_the_seconds_and_a_few_files_do_not():
    for num_files, printed in ((budget.MANY_FILES, True), (2, False)):
        terminal = Terminal(num_files)
        budget.report(terminal)
        assert bool(terminal.written) is printed
    terminal = Terminal(budget.MANY_FILES)
    budget.report(terminal)
    assert terminal.written[-1].split() == ["the", "course", "60", "s"]


class Terminal:
    """What pytest's reporter has of a run: two reports a file, of a second each."""

    def __init__(self, num_files: int) -> None:
        reports = [
            SimpleNamespace(nodeid=f"tests/test_{n}.py::test_a", duration=1.0)
            for n in range(num_files)
        ]
        warning = SimpleNamespace(nodeid="tests/test_0.py::test_a")  # takes no time
        self.stats = {"passed": reports, "": reports, "warnings": [warning]}
        self.written: list[str] = []

    def section(self, title: str) -> None:
        self.written.append(title)

    def write_line(self, line: str) -> None:
        self.written.append(line)
