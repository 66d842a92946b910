"""The labs: how they are written from one source, set up, and what a learner keeps.

Chapter: index
Source: course
"""
