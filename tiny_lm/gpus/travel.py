"""How functions and values travel between processes, with the lines they stand in.

Chapter: 05_comm
Source: course

A function travels as code, and an error in it is told by file and line. Some versions
of cloudpickle replace the name of the file by a constant, which makes equal code equal
bytes and every line of a learner's cell unknown. So code goes through `marshal`, which
Python itself uses to keep compiled files: the ranks run the same Python.
"""

import io
import marshal
import pickle
import types
from collections import ChainMap
from typing import Any

import cloudpickle


def _by_marshal(code: types.CodeType) -> tuple:
    return marshal.loads, (marshal.dumps(code),)


class _Pickler(cloudpickle.Pickler):
    dispatch_table = ChainMap(
        {types.CodeType: _by_marshal}, cloudpickle.Pickler.dispatch_table
    )


def pack(value: Any) -> bytes:
    """Any value as bytes, functions and classes of a notebook included.

    Raises:
        Exception: whatever pickling raises where something cannot leave this process.
    """
    with io.BytesIO() as file:
        _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
        return file.getvalue()
