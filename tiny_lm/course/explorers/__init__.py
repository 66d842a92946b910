"""Models behind the interactive figures: Python for the truth, JavaScript to play.

Chapter: index
Source: course

Each figure is one `name.py`, whose numbers come from the course's own modules, and
one `name.js`, which repeats them in the reader's browser. A test drives the second
and compares it with the first.
"""
