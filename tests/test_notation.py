"""The legend of axes: every letter in the code is in it, and nothing else is."""

import re
from pathlib import Path

import tiny_lm
from tiny_lm.notation import AXES

# Shapes, Float[Tensor, "N E"], and patterns, "B T (H d) -> B H T d".
SHAPE = re.compile(r'\b[A-Z]\w*\[Tensor,\s*"([^"]*)"\]')
PATTERN = re.compile(r'"([\w ,.()]+->[\w ,.()]+)"')


def _axes_in(text: str) -> set[str]:
    """Axis names without their marks; `B_local` is `B` as one rank sees it."""
    strings = SHAPE.findall(text) + PATTERN.findall(text)
    names = re.sub(r"[(),*#]|->", " ", " ".join(strings)).split()
    return {name.removesuffix("_local") for name in names}


def _axes_of_the_package() -> set[str]:
    package = Path(tiny_lm.__file__).parent
    files = [f for f in package.rglob("*.py") if "course" not in f.parts]
    return set().union(*(_axes_in(file.read_text()) for file in files))


def test_axes_are_read_out_of_signatures_and_patterns():
    signature = 'def f(x: Float[Tensor, "... B_local T"], n: Int[Tensor, " #H"]): ...'
    assert _axes_in(signature) == {"...", "B", "T", "H"}
    assert _axes_in('rearrange(x, "N (G d) -> N G d", G=2)') == {"N", "G", "d"}
    assert _axes_in('einsum(x, w, "... K, M K -> ... M")') == {"...", "K", "M"}


def test_every_letter_that_names_an_axis_is_in_the_legend():
    letters = {name for name in _axes_of_the_package() if name[:1].isupper()}
    assert letters, "no axes found"
    assert sorted(letters - set(AXES)) == []


def test_nothing_in_the_legend_is_unused():
    assert sorted(set(AXES) - _axes_of_the_package()) == []


def test_no_two_axes_mean_the_same():
    assert all(meaning.strip() == meaning != "" for meaning in AXES.values())
    assert len(set(AXES.values())) == len(AXES)
