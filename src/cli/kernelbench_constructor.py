

"""The constructor of a problem's model as a text: what an exported `ModelNew` builds its parameters with.

It is the problem's own code without what computes outputs or makes inputs, inside a function, so that its names meet no others.
"""

import ast

# What an exported file calls the function.
FACTORY = "_problem"


class Reduced(ast.NodeTransformer):
    """Leaves out texts for readers, `forward` of every class, the making of inputs, and what only runs as a program."""

    def visit_Expr(self, node):
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_Pass(self, node):
        return None

    def visit_ImportFrom(self, node):
        return None if node.module == "__future__" else node

    def visit_If(self, node):
        is_program = any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))
        return None if is_program else self.generic_visit(node)

    def visit_FunctionDef(self, node):
        return None if node.name in ("get_inputs", "get_init_inputs") else self.generic_visit(node)

    def visit_ClassDef(self, node):
        node.body = [part for part in node.body if getattr(part, "name", None) != "forward"]
        return self.generic_visit(node)

    def generic_visit(self, node):
        super().generic_visit(node)
        if getattr(node, "body", None) == []:
            node.body = [ast.Expr(ast.Constant(...))]
        return node


def constructor_of(path):
    """A function without parameters that returns the class `Model`."""
    with open(path, encoding="utf-8") as file:
        body = Reduced().visit(ast.parse(file.read())).body
    body.append(ast.Return(ast.Name("Model", ast.Load())))
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    function = ast.parse(f"def {FACTORY}():\n    ...").body[0]
    function.args, function.body = nothing, body
    return ast.unparse(ast.fix_missing_locations(ast.Module(body=[function], type_ignores=[]))) + "\n"


def checked_constructor(path, problem):
    """The text, if it gives a model with the same names and values as the problem's under the same seed; else `None`."""
    import torch

    try:
        text = constructor_of(path)
        namespace = {"__name__": "exported"}
        exec(compile(text, path, "exec"), namespace)
        torch.manual_seed(42)
        found = namespace[FACTORY]()(*problem.namespace["get_init_inputs"]()).to(problem.dtype).state_dict()
        # Calls leave the values of the model alone.
        expected = problem.model.state_dict()
        is_same = list(found) == list(expected) and not differ(found.values(), expected.values())
        return text if is_same else None
    except (Exception, SystemExit):
        traceback.print_exc()
        return None
