"""How fast the course's code is, beside others and beside the machine's own limits.

Chapter: index
Source: course
"""
