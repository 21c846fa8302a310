"""Risky constructs in one Python file, found in its syntax tree.

Contract: :func:`inspect_file` never raises for what a file holds; a file that cannot be read or parsed is a result
with ``error``. Names are followed through imports (``import subprocess as sp``), not through assignments.
Outside: data flow, and whether a construct is reachable with hostile input. A finding is a place to look at, not a
verdict.
"""

from __future__ import annotations

import ast
import threading
import tokenize
from pathlib import Path, PurePosixPath
from typing import TypedDict

SNIPPET_LIMIT = 120
_PARSING = threading.Lock()
"""CPython 3.11 counts the depth of a tree for all threads together: two that parse at once fail (SystemError)."""

CALLS: dict[str, tuple[str, str]] = {
    "eval": ("eval", "high"),
    "exec": ("exec", "high"),
    "os.system": ("os.system", "high"),
    "os.popen": ("os.popen", "high"),
    "pickle.load": ("unpickling", "high"),
    "pickle.loads": ("unpickling", "high"),
    "pickle.Unpickler": ("unpickling", "high"),
    "marshal.load": ("unmarshalling", "medium"),
    "marshal.loads": ("unmarshalling", "medium"),
    "shelve.open": ("unpickling", "medium"),
    "tempfile.mktemp": ("tempfile.mktemp", "medium"),
    "ssl._create_unverified_context": ("unverified TLS", "high"),
}
"""Calls that are risky whatever their arguments: dotted name to (construct, severity)."""

SUBPROCESS = {"subprocess." + name for name in ("run", "call", "check_call", "check_output", "Popen")}
WEAK_HASHES = {"md5", "sha1"}
SAFE_YAML = {"SafeLoader", "CSafeLoader", "BaseLoader"}
MUTABLE_CALLS = {"list", "dict", "set"}


class Finding(TypedDict):
    """One risky construct."""

    file: str
    line: int
    construct: str
    severity: str
    snippet: str


class FileResult(TypedDict):
    """What was seen in one file; ``error`` is empty if it could be parsed."""

    file: str
    lines: int
    findings: int
    error: str


def inspect_file(root: Path, file: str) -> tuple[FileResult, list[Finding]]:
    """Read and parse ``root/file`` and look for risky constructs.

    :param file: a path below ``root`` with forward slashes; it names the file in the results.
    """
    try:
        with tokenize.open(root / file) as source:
            text = source.read()
        with _PARSING:
            tree = ast.parse(text, file)
    except (OSError, SyntaxError, ValueError, RecursionError) as error:  # ValueError: null bytes or a wrong encoding
        return FileResult(file=file, lines=0, findings=0, error=f"{type(error).__name__}: {error}"), []
    lines = text.splitlines()
    visitor = _Visitor(file, lines)
    visitor.visit(tree)
    result = FileResult(file=file, lines=len(lines), findings=len(visitor.findings), error="")
    return result, sorted(visitor.findings, key=lambda finding: (finding["line"], finding["construct"]))


def is_test(file: str) -> bool:
    """Whether a file is test code, where ``assert`` is what it should be."""
    path = PurePosixPath(file)
    return path.name.startswith("test_") or any(part in ("test", "tests", "idle_test") for part in path.parts[:-1])


class _Visitor(ast.NodeVisitor):
    def __init__(self, file: str, lines: list[str]) -> None:
        self.findings: list[Finding] = []
        self._file = file
        self._lines = lines
        self._test = is_test(file)
        self._names: dict[str, str] = {}

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.asname:
                self._names[alias.asname] = alias.name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module and not node.level:
            for alias in node.names:
                self._names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._defaults(node.args)
        self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._defaults(node.args)
        self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._defaults(node.args)
        self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is None:
            self._add(node, "bare except", "low")
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        if not self._test:
            self._add(node, "assert as validation", "low")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = self._dotted(node.func)
        if name in CALLS:
            self._add(node, *CALLS[name])
        elif name in SUBPROCESS and _is_true(_keyword(node, "shell")):
            self._add(node, "subprocess with shell=True", "high")
        elif name == "yaml.load" and not self._safe_yaml(node):
            self._add(node, "yaml.load", "high")
        elif _weak_hash(node, name):
            self._add(node, "weak hash", "medium")
        self.generic_visit(node)

    def _defaults(self, arguments: ast.arguments) -> None:
        for default in (*arguments.defaults, *arguments.kw_defaults):
            made = isinstance(default, ast.Call) and self._dotted(default.func) in MUTABLE_CALLS
            if default and (made or isinstance(default, ast.List | ast.Dict | ast.Set)):
                self._add(default, "mutable default argument", "low")

    def _safe_yaml(self, node: ast.Call) -> bool:
        loader = _keyword(node, "Loader") or (node.args[1] if len(node.args) > 1 else None)
        return loader is not None and self._dotted(loader).rpartition(".")[2] in SAFE_YAML

    def _dotted(self, node: ast.expr) -> str:
        """The full name of ``a.b.c`` with ``a`` followed through imports; empty for anything else."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        parts.append(self._names.get(node.id, node.id))
        return ".".join(reversed(parts))

    def _add(self, node: ast.expr | ast.stmt | ast.ExceptHandler, construct: str, severity: str) -> None:
        snippet = self._lines[node.lineno - 1].strip()[:SNIPPET_LIMIT] if node.lineno <= len(self._lines) else ""
        self.findings.append(
            Finding(file=self._file, line=node.lineno, construct=construct, severity=severity, snippet=snippet)
        )


def _keyword(node: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in node.keywords if keyword.arg == name), None)


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and bool(node.value)


def _weak_hash(node: ast.Call, name: str) -> bool:
    declared_harmless = _keyword(node, "usedforsecurity")
    if isinstance(declared_harmless, ast.Constant) and declared_harmless.value is False:
        return False
    if name == "hashlib.new":
        first = node.args[0] if node.args else _keyword(node, "name")
        return isinstance(first, ast.Constant) and str(first.value).lower() in WEAK_HASHES
    return name in {f"hashlib.{weak}" for weak in WEAK_HASHES}
