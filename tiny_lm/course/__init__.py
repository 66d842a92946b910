"""What only the course needs: checks, labs, the learner's pieces, figures.

Chapter: index
Source: course

Nothing outside this folder imports it, so the package stands without the course.
"""
