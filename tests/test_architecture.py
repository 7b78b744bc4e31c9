"""The rooms of ARCHITECTURE.md, checked against the imports."""

import ast
import re
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import ingester

PACKAGE = Path(ingester.__file__).parent
ROOT = Path(__file__).parents[1]
ROOMS = [
    "common",
    "exchange",
    "config",
    "simulator",
    "sequence",
    "connection",
    "feed",
    "live",
    "spool",
    "questdb",
    "record",
    "datasets",
    "monitoring",
    "cli",
]
"""From the top: a room imports from those before it."""
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if "sql" not in path.parts)
ENTRANCES = ("__init__.py", "__main__.py")
MOST_LINES = 620
PROGRAMS = set(ingester.__all__)
"""What `ingester` itself gives to programs."""


def tree_of(path):
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"))


def room_of(name):
    """Of a dotted name without `ingester`."""
    first = name.split(".")[0]
    return first if first in ROOMS else "common"


def imported(path):
    """The modules of this package that a module imports at run time, without `ingester`."""
    tree = tree_of(path)
    types_only = {
        id(each)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for each in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in types_only or not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        first, _, rest = node.module.partition(".")
        if first == "ingester":
            for alias in node.names:
                name = f"{rest}.{alias.name}" if rest else alias.name
                is_module = (PACKAGE / name.replace(".", "/")).with_suffix(".py").exists()
                yield name if is_module else rest


def test_a_room_imports_only_from_those_before_it():
    wrong = []
    for path in MODULES:
        if str(path) in ENTRANCES:
            continue
        own = room_of(".".join(path.with_suffix("").parts)) if len(path.parts) > 1 else "common"
        for name in imported(path):
            if ROOMS.index(room_of(name)) > ROOMS.index(own):
                wrong.append(f"{path} imports {name}")
    assert wrong == []


def test_a_package_is_used_through_its_face():
    """`ingester.spool.segment` is the spool's own; others import from `ingester.spool`."""
    wrong, used = [], defaultdict(set)
    users = [PACKAGE / path for path in MODULES] + [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("examples/*.py")]
    for path in users:
        own = path.relative_to(PACKAGE).parts[0] if path.is_relative_to(PACKAGE) else ""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("ingester."):
                continue
            room, *inside = node.module.split(".")[1:]
            if room not in ROOMS or room == own:
                continue
            used[room] |= {alias.name for alias in node.names}
            if inside and path.is_relative_to(PACKAGE):
                wrong.append(f"{path.name} imports {node.module}")
    assert wrong == []
    for room in ROOMS[1:-1]:
        public = set(import_module(f"ingester.{room}").__all__)
        assert all(hasattr(import_module(f"ingester.{room}"), name) for name in public)
        assert public - used[room] - PROGRAMS == set(), f"{room}/__init__.pyi names what nobody uses"


def test_no_import_cycles_between_modules():
    """Imports inside of functions count as well."""
    edges = {".".join(path.with_suffix("").parts): set(imported(path)) for path in MODULES}
    done, active = set(), []

    def visit(name):
        if name in active:
            raise AssertionError(" -> ".join([*active[active.index(name) :], name]))
        if name not in done:
            active.append(name)
            for other in sorted(edges[name] & edges.keys()):
                visit(other)
            active.pop()
            done.add(name)

    for name in sorted(edges):
        visit(name)


def test_every_module_says_what_it_is_for_and_is_one_thing():
    for path in MODULES:
        text = (PACKAGE / path).read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
        assert text.count("\n") <= MOST_LINES, f"{path} is crowded"


def test_only_the_exchange_and_its_simulator_know_forms_of_an_exchange():
    """Stream names, paths, hosts and payloads are those modules' own; the others ask a `Venue`."""
    forms = re.compile(
        r"@depth|@\d+ms|/api/v3|/fapi/|/ws\b|lastUpdateId|depthUpdate|exchangeInfo|stream\.binance|api\.binance"
    )
    wrong = []
    for path in MODULES:
        if path.parts[0] in ("exchange", "simulator"):
            continue
        tree = tree_of(path)
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                wrong += [f"{path}: {node.value!r}"] if forms.search(node.value) else []
            elif isinstance(node, ast.ImportFrom):
                names = {node.module or "", *(alias.name for alias in node.names)}
                wrong += [f"{path} imports {name}" for name in names if "binance" in name]
            elif isinstance(node, ast.Attribute | ast.Name):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                wrong += [
                    f"{path} knows {name}" for name in [name] if name in ("BINANCE", "BINANCE_FUTURES", "INTERVAL_MS")
                ]
    assert wrong == []


def test_the_docstring_of_a_package_names_its_modules():
    for path in MODULES:
        if path.name == "__init__.py" or len(path.parts) == 1 or path.parts[0] == "cli":
            continue
        text = ast.get_docstring(tree_of(path.parent / "__init__.py")) or ""
        assert re.search(rf"\b{path.stem}\b", text), f"{path.parent}/__init__.py does not name {path.stem}"


def test_the_architecture_names_every_room():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)/` \|", text, re.M)
    assert rows == ROOMS[1:]


def test_no_class_has_the_name_of_another():
    places = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


WITHOUT_OWN_TEST = {
    "cli/retention.py": "questdb/test_retention.py",
    "cli/server.py": "questdb/test_server.py",
    "cli/sql.py": "test_reference.py",
    "cli/tables.py": "test_text.py",
    "connection/connection.py": "connection/test_slot.py",
    "datasets/columns.py": "datasets/test_recordings.py",
    "datasets/coverage.py": "cli/test_coverage.py",
    "datasets/export.py": "cli/test_export.py",
    "datasets/pickle_machine.py": "datasets/test_pickles.py",
    "exchange/binance.py": "exchange/test_binance_spot.py",
    "exchange/registry.py": "exchange/test_rest.py",
    "exchange/venue.py": "exchange/test_binance_spot.py",
    "live/buffer.py": "record/test_recorder.py",
    "questdb/launch.py": "questdb/test_server.py",
    "questdb/partitions.py": "questdb/test_retention.py",
    "questdb/tables.py": "questdb/test_schema.py",
    "record/recorder_service.py": "cli/test_start.py",
    "sequence/monitor.py": "feed/test_feed.py",
    "spool/disk.py": "spool/test_spool.py",
}
"""Modules that are tested through another one: where."""
ACROSS = {"questdb/test_sql.py": "the files of sql/", "datasets/test_programs.py": "the functions for programs"}
"""Tests in the folder of a room that are about no one module."""


def test_tests_mirror_the_package():
    """Each module of a room has a test module of its name, or is in the list above; and the other way round."""
    tests = ROOT / "tests"
    wrong = []
    for path in MODULES:
        if len(path.parts) > 1 and path.name != "__init__.py":
            own = tests / path.parent / f"test_{path.name}"
            other = WITHOUT_OWN_TEST.get(path.as_posix())
            if own.exists() == (other is not None):
                wrong.append(f"{path}: {'is in the list without need' if other else 'has no test'}")
            elif other is not None and not (tests / other).exists():
                wrong.append(f"{path}: there is no tests/{other}")
    for path in tests.rglob("test_*.py"):
        relative = path.relative_to(tests)
        if relative.parts[0] in ROOMS and relative.as_posix() not in ACROSS:
            module = PACKAGE.joinpath(*relative.parts[:-1], relative.name.removeprefix("test_"))
            if not module.exists():
                wrong.append(f"tests/{relative} tests no module of that name")
    gone = [name for name in WITHOUT_OWN_TEST if not (PACKAGE / name).exists()]
    assert wrong + gone == []
