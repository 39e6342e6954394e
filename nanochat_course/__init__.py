__version__ = "0.1.0"

# The only code of the package that no notebook exports. Parameters are explained in comments, where they stand; when a module is
# imported, these comments are added to its docstrings, so that help() shows them.
import ast, inspect, re, sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader


def _explained(nodes, lines):
    "{'a, b': comment} for nodes of one line each, or of several on a line with one comment; the comment may go on below."
    rows = []
    for name, first, last in nodes:
        if rows and rows[-1][2].end_lineno == first.lineno: rows[-1] = (f"{rows[-1][0]}, {name}", rows[-1][1], last)
        else: rows.append((name, first, last))
    said = {}
    for name, _, last in rows:
        behind = lines[last.end_lineno - 1].encode()[last.end_col_offset:].decode()
        comment = re.match(r"\s*,?\s*#+\s*(.+)", behind)
        if not comment: continue
        words, below = [comment[1].strip()], last.end_lineno
        while below < len(lines) and (more := re.match(r"\s+#\s*(.+)", lines[below])):
            words.append(more[1].strip())
            below += 1
        said[name] = " ".join(words)
    return said


def _parameters(function, lines):
    "What the comments of a signature say about its parameters."
    a = function.args
    plain, nodes = [*a.posonlyargs, *a.args], []
    defaults = [None] * (len(plain) - len(a.defaults)) + a.defaults
    for arg, default in [*zip(plain, defaults), (a.vararg, None), *zip(a.kwonlyargs, a.kw_defaults), (a.kwarg, None)]:
        if arg: nodes.append((arg.arg, arg, default or arg))
    return _explained(nodes, lines)


def _behind(function, lines):
    "The comment behind the colon, as in `)->int: # bytes`: what is returned, or else what belongs to the last parameter."
    body = function.body[0]
    start, end = function.lineno - 1, body.lineno - 1
    text = "\n".join([*lines[start:end], lines[end].encode()[:body.col_offset].decode()])
    return "".join(re.findall(r"\)[ \t]*(?:->[^#\n]*)?:[ \t]*#[ \t]*(.+)", text)[-1:]).strip()


def _add(thing, parameters, returned=""):
    "Append what the comments say to one docstring."
    parts = ["Parameters:\n" + "\n".join(f"    {name}: {text}" for name, text in parameters.items())] if parameters else []
    if returned: parts.append(f"Returns: {returned}")
    if not parts: return
    try: thing.__doc__ = "\n\n".join([inspect.cleandoc(thing.__doc__ or ""), *parts])
    except (AttributeError, TypeError): pass    # the docstring of something built in cannot be written


def _name_long_defaults(function, node, names):
    "In signatures, and so in help(), `pattern=SPLIT_PATTERN` instead of the pattern's hundred characters."
    plain = [*node.args.posonlyargs, *node.args.args]
    pairs = [*zip(plain[len(plain) - len(node.args.defaults):], node.args.defaults), *zip(node.args.kwonlyargs, node.args.kw_defaults)]
    constants = {arg.arg: default.id for arg, default in pairs if isinstance(default, ast.Name)}
    long = {arg: name for arg, name in constants.items() if isinstance(names.get(name), (str, tuple)) and len(repr(names[name])) > 60}
    if not long: return
    signature = inspect.signature(function)
    parameters = dict(signature.parameters)
    for arg, name in long.items():
        kind = type("Named", (type(names[name]),), {"__repr__": lambda self, name=name: name})
        parameters[arg] = parameters[arg].replace(default=kind(names[name]))
    function.__signature__ = signature.replace(parameters=parameters.values())


def _from_elsewhere(arguments, parameters, method, owner, names):
    "What a signature leaves out is said by the method that it overrides, or by the fields of the parameter's class."
    explained = {name for group in parameters for name in group.split(", ")}
    bases = owner.__mro__[1:] if isinstance(owner, type) and method != "__init__" else ()
    overridden = [getattr(vars(base).get(method), "_explained", {}) for base in bases]
    for argument in arguments:
        if argument.arg in explained: continue
        kind = names.get(getattr(argument.annotation, "id", None))
        said = [found[argument.arg] for found in overridden if argument.arg in found]
        if hasattr(kind, "__dataclass_fields__") and getattr(kind, "_explained", None): said.append(f"a {kind.__name__}, whose fields are explained there")
        if said: parameters = {**parameters, argument.arg: said[0]}
    return parameters


def _document_function(node, owner, names, lines):
    "Explain a function of a module, or a method; one that is added by @patch belongs to the class of its first parameter."
    if any(isinstance(d, ast.Name) and d.id == "patch" for d in node.decorator_list):
        owner = names.get(getattr(node.args.args[0].annotation, "id", None))
    thing = (vars(owner) if isinstance(owner, type) else names).get(node.name)
    thing = getattr(thing, "__func__", thing)
    if not callable(thing) and not isinstance(thing, property): return
    parameters, behind = _parameters(node, lines), _behind(node, lines)
    arguments = [*node.args.args, *node.args.kwonlyargs]
    if behind and arguments and not node.returns: parameters.setdefault(arguments[-1].arg, behind)
    parameters = _from_elsewhere(arguments, parameters, node.name, owner, names)
    _add(thing, parameters, "" if behind in parameters.values() else behind)
    if node.name == "__init__": owner._explained = {**getattr(owner, "_explained", {}), **parameters}
    if inspect.isfunction(thing): thing._explained = parameters
    if callable(thing): _name_long_defaults(thing, node, names)


def _document(module, source):
    "Add the comments of one module's signatures and fields to its docstrings."
    lines, names = source.split("\n"), vars(module)
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): _document_function(node, None, names, lines)
        owner = names.get(node.name) if isinstance(node, ast.ClassDef) else None
        if not isinstance(owner, type) or owner.__module__ != module.__name__: continue
        fields = [(f.target.id, f, f) for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)]
        own_init = any(isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) and part.name == "__init__" for part in node.body)
        owner._explained = {**({} if own_init else getattr(owner, "_explained", {})), **_explained(fields, lines)}
        for part in node.body:
            if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)): _document_function(part, owner, names, lines)
        _add(owner, owner._explained)


class _Loader(SourceFileLoader):
    "Python's own loader, and the docstrings afterwards."
    def exec_module(self, module):
        super().exec_module(module)
        if sys.flags.optimize < 2 and not module.__name__.endswith("._modidx"):
            _document(module, self.get_source(module.__name__))


if isinstance(__loader__, SourceFileLoader): sys.path_importer_cache[__path__[0]] = FileFinder(__path__[0], (_Loader, SOURCE_SUFFIXES))
