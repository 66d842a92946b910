"""Prepare a process for steps that allocate the same tensors over and over.

Chapter: 06_together/full_model
Source: course

By default the C library returns large tensors to the system as soon as they are freed.
The next tensor of that size is made of new pages, and each page costs a fault when it
is first written. Python's collector of cycles, for its part, looks at every object
there is again and again: those of the imported libraries too, which stay anyway.
In a small model, whose operations are short, both show.
"""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGE = 2**30
LARGE_FOR_SOME = 2**25  # the most that some versions of glibc take


def settle() -> None:
    """Keep freed memory, and leave out of collections what exists by now.

    Call it when the model is built. The process then stays as large as it ever was.
    """
    keep_freed()
    gc.collect()
    gc.freeze()


@contextmanager
def settled() -> Iterator[None]:
    """`settle` for what runs inside; afterwards the collector sees everything again.

    So a notebook that trains one model after the other does not keep them all.
    """
    settle()
    try:
        yield
    finally:
        gc.unfreeze()


def keep_freed() -> bool:
    """Let this process keep what it frees; True where the C library can be told.

    That is glibc, on Linux. Elsewhere nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    told = mallopt(M_MMAP_THRESHOLD, LARGE) or mallopt(M_MMAP_THRESHOLD, LARGE_FOR_SOME)
    return bool(told and mallopt(M_TRIM_THRESHOLD, LARGE))
