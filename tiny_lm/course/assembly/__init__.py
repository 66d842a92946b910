"""One language model made of the learner's kept pieces.

Chapter: 06_together/full_model
Source: course
"""
