"""Mistakes of every task: the reference with one operation changed.

Chapter: index
Source: course

Nobody writes these down either: each is the reference's own source with one call,
operator, dim or name replaced. A sentence says what was replaced, never where.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from tiny_lm.course.checks.mistake import Mistake, compiled

Change = tuple[ast.expr, str]  # what stands there instead, and the sentence
KINDS = {
    "sum": "a sum",
    "mean": "a mean",
    "amax": "a maximum",
    "max": "a maximum",
    "norm": "a length (norm)",
    "prod": "a product",
    "median": "a median",
    "var": "a variance",
    "std": "a standard deviation",
    "min": "a minimum",
}
ROUNDS = {  # functions that are forgotten, come twice, or are taken for another
    "sigmoid": ("softmax(-1)", "tanh()", "relu()", "exp()", "logit()"),
    "softmax": ("sigmoid()",),
    "log_softmax": ("softmax(-1)",),
    "silu": ("relu()", "sigmoid()", "tanh()"),
    "sign": ("tanh()",),
    "exp": (),
    "log": (),
    "cumsum": (),
    "mT": (),
}
ALONG = {*KINDS, "softmax", "log_softmax", "topk", "sort", "argsort", "cumsum"}
ALONG |= {"gather", "scatter", "chunk", "flatten", "argmax"}
PASSED_THROUGH = {
    "was cut off. Without a gradient, nothing behind it learns: .detach(), .data, "
    ".item(), numpy and torch.no_grad() cut": "{}.detach()",
    "went through a sigmoid": "{}.sigmoid()",
    "went through a softmax": "{}.softmax(-1)",
    "went through exp": "{}.exp()",
    "lost its sign": "{}.abs()",
    "was cut off below 0": "{}.clamp(min=0)",
    "was cut off at -1 and 1": "{}.clamp(-1, 1)",
    "was divided by its sum": "({0} / {0}.sum(-1, keepdim=True))",
    "was replaced by its first row, for all rows": "{0}[:1].expand_as({0})",
    "was replaced by the mean of all rows": (
        "{0}.mean(0, keepdim=True).expand_as({0})"
    ),
    "was put under a root": "{}.sqrt()",
    "was squared": "{}.square()",
    "was rounded": "{}.round()",
    "was rounded up": "{}.ceil()",
    "went through a logarithm": "{}.log()",
    "was sorted": "{}.sort(-1, descending=True).values",
    "was turned round along its last dim": "{}.flip(-1)",
}
OPERATORS = {  # of, instead, what was done
    (ast.Add, ast.Sub): "Something was subtracted that is to be added.",
    (ast.Add, ast.Mult): "Something was multiplied that is to be added.",
    (ast.Sub, ast.Add): "Something was added that is to be subtracted.",
    (ast.Mult, ast.Div): "Something was divided by that is to be multiplied.",
    (ast.Mult, ast.Add): "Something was added that is a factor.",
    (ast.Div, ast.Mult): "Something was multiplied that is to be divided by.",
    (ast.Div, ast.Sub): "Something was subtracted that is to be divided by.",
    (ast.Div, ast.FloorDiv): "A division lost its fraction: `//` and `int` drop it.",
    (ast.FloorDiv, ast.Div): "A division kept its fraction where none is wanted.",
}
PARTS = {ast.Add: "term", ast.Sub: "term", ast.Mult: "factor", ast.Div: "divisor"}
COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}


@cache
def mutants(reference: Callable[..., Any]) -> tuple[Mistake, ...]:
    """Every one of the reference's mutants that can be compiled."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(reference)))
    tree = ast.parse(source)
    function = tree.body[0]
    known = {a.arg: _kind(a.annotation) for a in function.args.args}
    function.returns, function.decorator_list = None, []
    for argument in function.args.args:
        argument.annotation = None
    stored = {x.id for x in ast.walk(function) if _is_name(x, ast.Store)}
    found = []
    for parent, field, index, node in _expressions(function):
        if _is_name(node, ast.Load) and node.id not in stored | known.keys():
            continue
        changes = _changes(node, known, asked=isinstance(parent, ast.Compare))
        for new, says in changes:
            _put(parent, field, index, new)
            found.append(Mistake(compiled(reference, ast.unparse(tree)), says))
        _put(parent, field, index, node)
    return tuple(found)


def _kind(annotation: ast.expr | None) -> str:
    """Tensor of floats, of whole numbers, or a plain number."""
    return ast.unparse(annotation).partition("[")[0] if annotation else "Float"


def _is_name(node: ast.AST, context: type) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, context)


def _expressions(function: ast.FunctionDef) -> list[tuple]:
    """Each expression of the body, with the place where it stands."""
    found = []
    for parent in (x for line in function.body for x in ast.walk(line)):
        for field, value in ast.iter_fields(parent):
            many = value if isinstance(value, list) else [value]
            for n, node in enumerate(many):
                if isinstance(node, ast.expr):
                    found.append((parent, field, n if many is value else None, node))
    return found


def _put(parent: ast.AST, field: str, index: int | None, node: ast.expr) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _changes(
    node: ast.expr, known: dict[str, str], asked: bool = False
) -> Iterator[Change]:
    """What can stand there instead; `asked`: it is compared, and only yes or no counts.

    There a root does what a clamp does, so no sentence would name what was done.
    """
    if isinstance(node, ast.BinOp):
        yield from _operators(node, known)
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Compare):
        yield from _comparisons(node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        if not isinstance(node.operand, ast.Constant):
            yield node.operand, "A minus sign is missing."
    elif _is_name(node, ast.Load):
        yield from _names(node, known, asked)


def _operators(node: ast.BinOp, known: dict[str, str]) -> Iterator[Change]:
    left, right = node.left, node.right
    for (of, instead), says in OPERATORS.items():
        if isinstance(node.op, of):
            yield ast.BinOp(left, instead(), right), says
    part = PARTS.get(type(node.op))
    if part is None:
        return
    twice = ast.BinOp(ast.BinOp(left, node.op, right), node.op, right)
    yield left, f"A {part} is missing{_called(right, known)}."
    yield twice, f"A {part} came twice{_called(right, known)}."
    if isinstance(node.op, ast.Add | ast.Mult):
        twice = ast.BinOp(ast.BinOp(left, node.op, left), node.op, right)
        yield right, f"A {part} is missing{_called(left, known)}."
        yield twice, f"A {part} came twice{_called(left, known)}."
    else:
        says = "upside down" if part == "divisor" else "the wrong way round"
        what = "division" if part == "divisor" else "difference"
        yield ast.BinOp(right, node.op, left), f"A {what} is {says}."


def _called(node: ast.expr, known: dict[str, str]) -> str:
    """The name of an argument, which the learner knows."""
    return f": `{node.id}`" if isinstance(node, ast.Name) and node.id in known else ""


def _calls(node: ast.Call) -> Iterator[Change]:
    name = getattr(node.func, "attr", "")
    if name in KINDS:
        for other, kind in KINDS.items():
            if kind != KINDS[name]:
                says = f"{kind.capitalize()} was taken, and {KINDS[name]} is wanted."
                yield _with(node, func=_renamed(node.func, other)), says
    if name in ALONG:
        yield from _dims(node, name)
    if name in ROUNDS:
        inside = _receiver(node)
        yield inside, f"`{name}` is missing."
        yield _with(node, **_around(node, inside)), f"`{name}` came twice."
        for other in ROUNDS[name]:
            what = other.partition("(")[0]
            text = f"({ast.unparse(inside)}).{other}"
            yield _parsed(text), f"`{what}` was taken, and `{name}` is wanted."
    if name in ("topk", "sort", "argsort"):
        key = "largest" if name == "topk" else "descending"
        on = name != "topk" and any(k.arg == key for k in node.keywords)
        keywords = [k for k in node.keywords if k.arg != key]
        if not on:
            value = ast.Constant(name != "topk")
            keywords = [*keywords, ast.keyword(key, value)]
        says = "The smallest came first or were taken, where the largest are meant."
        yield _with(node, keywords=keywords), says
    if getattr(node.func, "id", "") == "range" and len(node.args) == 1:
        text = ast.unparse(node.args[0])
        yield _parsed(f"range(({text}) - 1)"), "The last one was left out of a loop."
        yield _parsed(f"range(1, {text})"), "Number 0 was left out of a loop."


def _dims(node: ast.Call, name: str) -> Iterator[Change]:
    """The same along another dim, along all of them, and without keepdim."""
    for where, given in _dims_of(node, name):
        for dim in (0, 1, -1, -2):
            if ast.unparse(given) != str(dim):
                says = f"`{name}` runs along another dim than is meant (dim {dim})."
                yield _with(node, **{where: _replaced(node, where, given, dim)}), says
        if name in KINDS:
            keywords = [k for k in node.keywords if k.arg not in ("dim", "keepdim")]
            says = f"{KINDS[name].capitalize()} was taken over all there is at once."
            yield _with(node, args=[], keywords=keywords), says
    kept = [k for k in node.keywords if k.arg != "keepdim"]
    if len(kept) < len(node.keywords):
        says = f"`{name}` has lost its dim: keepdim=True leaves it there, of size 1."
        yield _with(node, keywords=kept), says


def _dims_of(node: ast.Call, name: str) -> list[tuple[str, ast.expr]]:
    named = [("keywords", k.value) for k in node.keywords if k.arg == "dim"]
    if named or name in ("topk", "chunk") or not node.args:
        return named
    return [("args", node.args[0])]


def _replaced(node: ast.Call, where: str, given: ast.expr, dim: int) -> list:
    new = _parsed(str(dim))
    if where == "args":
        return [new if x is given else x for x in node.args]
    return [ast.keyword(k.arg, new) if k.value is given else k for k in node.keywords]


def _receiver(node: ast.Call) -> ast.expr:
    """What a function is taken of: x in x.sigmoid() and in torch.sigmoid(x)."""
    of_module = isinstance(node.func.value, ast.Name) and node.func.value.id in (
        "torch",
        "F",
        "math",
    )
    return node.args[0] if of_module else node.func.value


def _around(node: ast.Call, inside: ast.expr) -> dict[str, Any]:
    if node.args and node.args[0] is inside:
        return {"args": [node, *node.args[1:]]}
    return {"func": ast.Attribute(node, node.func.attr, ast.Load())}


def _comparisons(node: ast.Compare) -> Iterator[Change]:
    if type(node.ops[0]) in COMPARED:
        other = COMPARED[type(node.ops[0])]()
        says = "A comparison takes equals to the wrong side: `<` is not `<=`."
        yield ast.Compare(node.left, [other], node.comparators), says
        says = "A comparison is the wrong way round."
        yield ast.Compare(node.comparators[0], node.ops, [node.left]), says


def _names(node: ast.Name, known: dict[str, str], asked: bool) -> Iterator[Change]:
    what = f"In one place `{node.id}`" if node.id in known else "Something"
    if known.get(node.id, "Float") == "Float" and not asked:
        for says, text in PASSED_THROUGH.items():
            yield _parsed(text.format(node.id)), f"{what} {says}."
    meant = f"`{node.id}`" if node.id in known else "another thing"
    for other, kind in known.items():
        if other != node.id and kind == known.get(node.id, "Float"):
            yield _parsed(other), f"`{other}` was taken where {meant} is meant."


def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _renamed(function: ast.Attribute, name: str) -> ast.Attribute:
    return ast.Attribute(function.value, name, ast.Load())


def _with(node: ast.Call, **changed: Any) -> ast.Call:
    parts = {"func": node.func, "args": node.args, "keywords": node.keywords}
    return ast.Call(**parts | changed)
