"""The form of the tasks that are not yet written as references and mistakes.

Chapter: index
Source: course
"""
