"""Grading a class: learner's code in one process, the checks in another.

Chapter: appendix/teaching
Source: course

    judge    runs the pristine checks, and never a line that a learner wrote
    worker   runs the learner's functions, in a sandbox, and answers in data

The judge hands a check a stand-in for the learner's function. It asks the worker, and
takes nothing from it but numbers, texts and the bytes of tensors.
"""
