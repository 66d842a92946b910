"""The command that measures: `python -m tiny_lm.course.bench`.

Chapter: index
Source: course
"""

from tiny_lm.course.bench.training import main

if __name__ == "__main__":
    main()
