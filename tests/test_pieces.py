"""Pieces: kept when they pass, on their own; used again; carried between machines."""

import base64
import json
import math
import textwrap
import zlib

import pytest
import torch
import torch.nn.functional as F
from IPython.core.interactiveshell import InteractiveShell

from tiny_lm.course.checks import baseline as check
from tiny_lm.course.labs import pieces

NAME = "baseline.bits_per_byte"
TASK = check.task_1_1


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Every test has a folder of its own, and nothing checked yet."""
    monkeypatch.setenv("TINY_LM_PIECES", str(tmp_path / "pieces"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pieces, "_memory", {})
    for task in (TASK, check.task_1_2):
        monkeypatch.setattr(task, "accepted", None)
        monkeypatch.setattr(task, "attempts", 0)


def bits_per_byte(logits, targets):
    return F.cross_entropy(logits, targets) / math.log(2)


def another(logits, targets):
    return F.cross_entropy(logits, targets).div(math.log(2))


def wrong(logits, targets):
    return F.cross_entropy(logits, targets)


@pytest.fixture
def cell():
    """Run code as a notebook's cells do; returns their namespace."""
    shell = InteractiveShell.instance()
    shell.reset()

    def run(code):
        shell.run_cell(textwrap.dedent(code)).raise_error()
        return shell.user_ns

    yield run
    InteractiveShell.clear_instance()


# ---- use


def test_use_gives_a_passing_function_back_and_keeps_it(capsys):
    TASK(bits_per_byte)
    capsys.readouterr()
    assert pieces.use(NAME, bits_per_byte) is bits_per_byte
    told = capsys.readouterr().out
    assert "yours from here on, kept in" in told
    assert "01_baseline: 1 of 6 tasks passed · 2 of 18 points" in told
    assert "def bits_per_byte(" in pieces.path_of(NAME).read_text()


def test_use_says_aloud_that_the_reference_stands_in(capsys):
    with pytest.raises(Exception, match="not passed yet"):
        TASK(wrong)
    capsys.readouterr()
    assert pieces.use(NAME, wrong) is TASK.reference
    told = capsys.readouterr().out
    assert "not passed yet, so tiny_lm's own stands in" in told
    assert "0 of 6 tasks" in told
    assert not pieces.path_of(NAME).exists()


def test_use_trusts_the_function_that_was_checked_not_its_name():
    TASK(bits_per_byte)
    assert pieces.use(NAME, another) is TASK.reference


def test_use_in_a_later_lab_finds_the_kept_piece(capsys):
    pieces.save(NAME, another)
    found = pieces.use(NAME)
    assert found is not TASK.reference
    assert "yours, as kept in" in capsys.readouterr().out
    logits, targets = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    assert float(found(logits, targets)) == pytest.approx(2.0)


def test_a_stub_of_a_regenerated_lab_leaves_the_kept_piece_in_use():
    pieces.save(NAME, bits_per_byte)
    kept = pieces.path_of(NAME).read_text()

    def stub(logits, targets):
        raise NotImplementedError("Task 1.1: bits_per_byte")

    with pytest.raises(Exception, match="not done yet"):
        TASK(stub)
    assert pieces.use(NAME, stub) not in (stub, TASK.reference)
    assert pieces.path_of(NAME).read_text() == kept


@pytest.mark.parametrize("text", ["def bits_per_byte(a, b):\n    return 0\n", "1 +"])
def test_a_kept_piece_that_was_spoiled_is_named_and_replaced(text, capsys):
    pieces.save(NAME, bits_per_byte)
    pieces.path_of(NAME).write_text(text)
    assert pieces.use(NAME) is TASK.reference
    assert "does not pass its check any more" in capsys.readouterr().out


def test_a_better_version_replaces_the_kept_one():
    pieces.save(NAME, bits_per_byte)
    pieces.save(NAME, another)
    text = pieces.path_of(NAME).read_text()
    assert "def another(" in text
    assert "bits_per_byte = another" in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bits", "named part.function"),
        ("baseline.bits", "there are: baseline.attention, baseline.bits_per_byte"),
        ("nowhere.bits", "no lab has pieces named nowhere"),
        ("../x.y", "named part.function"),
    ],
)
def test_a_name_that_is_no_piece_is_refused(name, said):
    with pytest.raises(ValueError, match=said):
        pieces.use(name)


def test_progress_counts_kept_pieces_of_earlier_runs():
    assert pieces.progress("01_baseline").endswith(
        "0 of 6 tasks passed · 0 of 18 points"
    )
    pieces.save(NAME, bits_per_byte)
    assert "1 of 6 tasks passed · 2 of 18" in pieces.progress("01_baseline")


def test_pieces_lie_beside_the_lab_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("TINY_LM_PIECES")
    assert str(pieces.path_of(NAME)) == "my_pieces/baseline/bits_per_byte.py"


# ---- save: the text has to run on its own


def test_save_refuses_what_does_not_pass():
    with pytest.raises(ValueError, match="does not pass the check of task 1.1 yet"):
        pieces.save(NAME, wrong)


def test_helpers_numbers_and_imports_of_other_cells_go_with_it(cell, capsys):
    cell("import math\nimport torch.nn.functional as F\nfrom torch import Tensor as X")
    cell("LOG2 = math.log(2)")
    cell("def in_bits(nats):\n    return nats / LOG2")
    names = cell(
        """
        def bits_per_byte(logits: X, targets: X) -> X:
            return in_bits(F.cross_entropy(logits, targets))
        """
    )
    TASK(names["bits_per_byte"])
    capsys.readouterr()
    pieces.use(NAME, names["bits_per_byte"])
    assert "With it went, from other cells: LOG2, in_bits." in capsys.readouterr().out
    text = pieces.path_of(NAME).read_text()
    for line in (
        "import torch.nn.functional as F",
        "from torch import Tensor as X",
        "LOG2 = 0.693",
        "def in_bits(",
    ):
        assert line in text
    assert "import math" not in text
    assert pieces.use(NAME) is not TASK.reference


def test_a_tensor_of_another_cell_is_named_with_a_way_out(cell, capsys):
    cell("import torch, math\nimport torch.nn.functional as F")
    cell("log2 = torch.tensor(2.0).log()")
    names = cell("def bits_per_byte(x, y):\n    return F.cross_entropy(x, y) / log2")
    TASK(names["bits_per_byte"])
    capsys.readouterr()
    assert pieces.use(NAME, names["bits_per_byte"]) is names["bits_per_byte"]
    told = capsys.readouterr().out
    assert "not kept for later labs" in told
    assert "uses log2, a Tensor from another cell" in told
    assert "make it inside the function" in told
    assert not pieces.path_of(NAME).exists()


def test_a_function_that_leans_on_a_changed_cell_is_found_out(cell, capsys):
    """It passes here, because a cell changed torch; on its own it would not."""
    cell("import math, types\nimport torch.nn.functional as F")
    names = cell("def bits_per_byte(x, y):\n    return F.cross_entropy(x, y) / 2")
    function = names["bits_per_byte"]
    scope = names["F"]

    class Changed:
        cross_entropy = staticmethod(
            lambda x, y: 2 * scope.cross_entropy(x, y) / math.log(2)
        )

    Changed.__module__, Changed.__qualname__ = "torch.nn", "functional"
    names["F"] = Changed
    TASK(function)
    capsys.readouterr()
    pieces.use(NAME, function)
    assert "not kept for later labs" in capsys.readouterr().out
    assert not pieces.path_of(NAME).exists()


# ---- pack and load


def test_pieces_travel_as_one_line_or_one_file(tmp_path, monkeypatch, capsys):
    pieces.save(NAME, bits_per_byte)
    kept = pieces.path_of(NAME).read_text()
    line = pieces.pack()
    assert "\n" not in line and len(line) < 1000
    for number, packed in enumerate(
        (line, "my_pieces.txt", tmp_path / "my_pieces.txt")
    ):
        monkeypatch.setenv("TINY_LM_PIECES", str(tmp_path / f"other{number}"))
        pieces.load(packed)
        assert pieces.path_of(NAME).read_text() == kept
    pieces.load(line)
    assert "the same is here already" in capsys.readouterr().out


def test_load_leaves_a_piece_that_is_here_unless_told(capsys):
    pieces.save(NAME, another)
    line = pieces.pack()
    pieces.save(NAME, bits_per_byte)
    pieces.load(line)
    assert "another is here and stays" in capsys.readouterr().out
    assert "def bits_per_byte(" in pieces.path_of(NAME).read_text()
    pieces.load(line, replace=True)
    assert "def another(" in pieces.path_of(NAME).read_text()


def test_pack_and_load_refuse_nothing_and_nonsense():
    with pytest.raises(ValueError, match="no pieces in .* yet"):
        pieces.pack()
    with pytest.raises(ValueError, match="neither a file nor the line"):
        pieces.load("nowhere.txt")
    with pytest.raises(ValueError, match="damaged or cut short"):
        pieces.load(pieces.MARK + "abc")
    pieces.save(NAME, bits_per_byte)
    with pytest.raises(ValueError, match="damaged or cut short"):
        pieces.load(pieces.pack()[:-20])


def test_load_refuses_a_name_that_would_leave_the_folder():
    import base64
    import json
    import zlib

    packed = zlib.compress(json.dumps({"../../x.y": "1"}).encode())
    with pytest.raises(ValueError, match="named part.function"):
        pieces.load(pieces.MARK + base64.b64encode(packed).decode())


# ---- where nothing can be written


@pytest.fixture
def unwritable(tmp_path, monkeypatch):
    """A place for pieces that even an administrator cannot write to."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TINY_LM_PIECES", str(tmp_path / "file" / "pieces"))


def test_where_nothing_can_be_written_a_piece_stays_in_memory(unwritable, capsys):
    TASK(bits_per_byte)
    assert pieces.use(NAME, bits_per_byte) is bits_per_byte
    told = capsys.readouterr().out
    assert "kept in memory until this kernel ends, because" in told
    assert "cannot be written (Not a directory)" in told
    assert "1 of 6 tasks passed" in told
    TASK.accepted = None
    found = pieces.use(NAME)  # as a later cell or lab of this kernel does
    assert found is not TASK.reference
    assert "yours, as kept in memory" in capsys.readouterr().out
    assert "1 of 6 tasks passed" in pieces.progress("01_baseline")


def test_pieces_in_memory_are_packed_and_loaded_as_others_are(
    unwritable, tmp_path, monkeypatch, capsys
):
    pieces.save(NAME, another)
    packed = pieces.pack(tmp_path / "file" / "pieces.txt")
    assert "1 pieces in this line; " in capsys.readouterr().out
    pieces.load(packed)
    assert "the same is here already" in capsys.readouterr().out
    monkeypatch.setenv("TINY_LM_PIECES", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(pieces, "_memory", {})
    pieces.load(packed)
    assert "def another(" in pieces.path_of(NAME).read_text()


def test_a_piece_that_can_be_written_again_leaves_memory(unwritable, monkeypatch):
    pieces.save(NAME, bits_per_byte)
    monkeypatch.setenv("TINY_LM_PIECES", "here")
    pieces.save(NAME, another)
    assert not pieces._memory and "def another(" in pieces.path_of(NAME).read_text()


def test_packing_overwrites_packed_pieces_and_nothing_else(tmp_path):
    pieces.save(NAME, bits_per_byte)
    pieces.pack("pieces.txt")
    pieces.pack("pieces.txt")
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="thesis.txt holds something else"):
        pieces.pack("thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("packed", [[], {"moe.route": 3}, "text"])
def test_a_packed_text_with_something_else_in_it_is_refused(packed):
    text = base64.b64encode(zlib.compress(json.dumps(packed).encode())).decode()
    with pytest.raises(ValueError, match="holds no pieces|named part.function"):
        pieces.load(pieces.MARK + text)


def test_a_long_text_that_is_no_file_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match="neither a file nor the line") as caught:
        pieces.load("x" * 10_000)
    assert len(str(caught.value)) < 200


def test_a_kept_piece_that_cannot_be_read_says_so(capsys):
    pieces.save(NAME, bits_per_byte)
    pieces.path_of(NAME).write_bytes(b"\xff")
    assert pieces.use(NAME) is TASK.reference
    assert "bits_per_byte.py is not UTF-8 text" in capsys.readouterr().out
