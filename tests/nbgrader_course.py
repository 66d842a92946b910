"""Run by nbgrader's own Python: makes assignments of all labs, grades one submission.

    python nbgrader_course.py COURSE make LAB …      of COURSE/source/LAB/LAB.ipynb
    python nbgrader_course.py COURSE grade LAB LEARNER

It prints JSON: points by lab and cell, or what the learner earned by cell.
"""

import json
import sys
import warnings

from nbgrader.api import Gradebook, MissingEntry
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

warnings.simplefilter("ignore")  # sqlalchemy's, about nbgrader


def main(course: str, task: str, lab: str, *others: str) -> dict:
    settings = Config()
    settings.CourseDirectory.root = course
    settings.CourseDirectory.db_url = f"sqlite:///{course}/gradebook.db"
    settings.Execute.timeout = 300
    nbgrader = NbGraderAPI(CourseDirectory(config=settings), config=settings)
    book = settings.CourseDirectory.db_url
    if task == "make":
        for one in (lab, *others):
            told = nbgrader.generate_assignment(one)
            assert told["success"], told["log"]
        return {one: points_of(book, one) for one in (lab, *others)}
    told = nbgrader.autograde(lab, others[0])
    assert told["success"], told["log"]
    return earned_by(book, lab, others[0])


def points_of(book: str, lab: str) -> dict[str, float]:
    with Gradebook(book) as gradebook:
        notebook = gradebook.find_notebook(lab, lab)
        return {cell.name: cell.max_score for cell in notebook.grade_cells}


def earned_by(book: str, lab: str, learner: str) -> dict[str, float]:
    with Gradebook(book) as gradebook:
        try:
            grades = gradebook.find_submission_notebook(lab, lab, learner).grades
        except MissingEntry:
            return {}
        return {grade.name: grade.score for grade in grades}


print(json.dumps(main(*sys.argv[1:])))
