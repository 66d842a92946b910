"""The page that a learner shows around at the end: its facts, pictures and two forms.

Chapter: 06_together/full_model
"""
