"""The rooms of ARCHITECTURE.md, held against the imports."""

import ast
import re
from pathlib import Path

import ingester

PACKAGE = Path(ingester.__file__).parent
ROOT = Path(__file__).parents[1]
FLOORS = ["common", "exchange", "store", "capture", "health", "datasets", "cli"]
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if "sql" not in path.parts)


def floor_of(parts):
    return parts[0] if parts and parts[0] in FLOORS else "common"


def imports(path):
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_a_floor_imports_only_from_those_above_it():
    wrong = []
    for path in MODULES:
        if str(path) in ("__main__.py", "__init__.py"):  # the door of the command, and that of the public names
            continue
        own = floor_of(path.parts[:-1])
        for module in imports(path):
            first, *rest = module.split(".")
            if first != "ingester" or not rest:
                continue
            other = floor_of(rest)
            allowed = FLOORS.index(other) <= FLOORS.index(own)
            # the settings of a recorder name what an exchange offers; the contract has no I/O
            if str(path) == "settings.py" and module == "ingester.exchange":
                allowed = True
            if not allowed:
                wrong.append(f"{path} imports {module}")
    assert wrong == []


def test_every_module_is_small_and_says_what_it_is_for():
    for path in MODULES:
        text = (PACKAGE / path).read_text()
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
        assert text.count("\n") <= 400, f"{path} is crowded"


def test_the_architecture_names_every_module():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for path in MODULES:
        if path.name.startswith("__") or "simulated" in path.parts or path.parts[0] == "cli":
            continue
        assert path.name in text, f"ARCHITECTURE.md does not name {path}"


def test_tests_mirror_the_package():
    for path in (ROOT / "tests").rglob("test_*.py"):
        parts = path.relative_to(ROOT / "tests").parts
        if len(parts) > 1 and parts[0] in FLOORS:
            module = PACKAGE.joinpath(*parts[:-1], re.sub("^test_", "", parts[-1]))
            assert module.exists() or parts[-1] == "test_sql.py", f"{path} tests no module of that name"
