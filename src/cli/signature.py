"""Prints the signature of a Python function as JSON. Parses the file and runs nothing of it, so no package needs to be installed.

Arguments: the file and the function's name. Understands shapes in annotations of these forms:
  Float16[Tensor, "rows columns"]          (jaxtyping; also Float, Int32, Bool, ...)
  Annotated[Tensor, "float16[rows, columns]"]
  "float16[rows, columns]"
and float, int, bool and their default values as scalars.
"""
import ast
import json
import re
import sys

SHAPED = re.compile(r"^\s*(\w+)\s*\[([^\]]*)\]\s*$")
JAXTYPING = {
    "float": "float32", "float16": "float16", "bfloat16": "bfloat16", "float32": "float32", "float64": "float64",
    "half": "float16", "int": "int32", "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64", "bool": "bool",
}
SCALARS = {"float": "float32", "int": "int32", "bool": "bool"}


def last_name(node):
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def text_of(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def described_tensor(text):
    """`float16[rows, columns]` as a tensor."""
    found = SHAPED.match(text)
    return found and {"dtype": found[1], "shape": re.split(r"[,\s]+", found[2].strip()) if found[2].strip() else []}


def tensor(node):
    """The tensor or scalar that an annotation describes, or None."""
    if node is None:
        return None
    text = text_of(node)
    if text is not None:
        if described_tensor(text):
            return described_tensor(text)
        try:
            return tensor(ast.parse(text, mode="eval").body)
        except SyntaxError:
            return None
    if isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        texts = [text_of(part) for part in parts[1:]]
        name = last_name(node.value)
        if name == "Annotated":
            return next((described_tensor(text) for text in texts if text and described_tensor(text)), None)
        if name.lower() in JAXTYPING and texts and texts[0] is not None:
            return {"dtype": JAXTYPING[name.lower()], "shape": texts[0].split()}
        return None
    dtype = SCALARS.get(last_name(node))
    return dtype and {"dtype": dtype, "shape": None}


def value(node):
    if node is None:
        return None
    try:
        found = ast.literal_eval(node)
    except ValueError:
        return None
    return float(found) if isinstance(found, (int, float)) else None


def results(node):
    if isinstance(node, ast.Subscript) and last_name(node.value).lower() == "tuple":
        return node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return [] if node is None else [node]


def fail(message):
    print(json.dumps({"error": message}))
    sys.exit(0)


def main():
    path, name = sys.argv[1:3]
    source = open(path, encoding="utf-8").read()
    try:
        tree = ast.parse(source, path)
    except SyntaxError as error:
        fail(f"line {error.lineno}: {error.msg}")
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    if name not in functions:
        fail(f"there is no function `{name}`; there are {', '.join(functions) or 'none'}")
    function = functions[name]
    arguments = function.args
    if arguments.vararg or arguments.kwarg:
        fail(f"`{name}` takes any number of arguments (`*` or `**`): name each one")
    positional = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    pairs = list(zip(positional, defaults)) + list(zip(arguments.kwonlyargs, arguments.kw_defaults))
    inputs = []
    for argument, default in pairs:
        found = tensor(argument.annotation)
        inputs.append({"name": argument.arg, "tensor": found and {**found, "value": value(default)}})
    outputs = [tensor(node) for node in results(function.returns)]
    print(json.dumps({"inputs": inputs, "outputs": outputs, "source": ast.get_source_segment(source, function)}))
