"""The floors of docs/architecture.md: a module imports only from floors below its own. So do the rooms of the proxy, and nothing goes in a circle.

Imports that only types need (under TYPE_CHECKING) count too: a reader follows them all the same.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "muxwsgi"

#: As the page has them. What stands in none of these is for everybody.
FLOORS = {"wire": 0, "mux": 1, "dial": 2, "http": 3, "protocols": 3, "hijackers": 3, "upstreams": 3, "proxy": 4, "records": 4, "observe": 4, "server": 5, "admin": 6, "cli": 6, "contrib": 6}

#: The arrows between rooms of one floor: (the room that imports, the room that is imported).
BESIDE = {("cli", "admin"), ("contrib", "cli"), ("proxy", "records"), ("http", "protocols"), ("hijackers", "protocols"), ("hijackers", "upstreams")}

#: The rooms of proxy/, likewise. What stands in none of these is what all of them speak of.
ROOMS = {"rules": 1, "certificates": 2, "upstream": 3, "streams": 4, "exchange": 5, "tunnel": 6, "doors": 7, "served": 8, "proxy": 9}

#: Upward, and for types alone: a context names what it carries.
NAMED_BY_TYPE = {("muxwsgi.proxy.context", "rules")}

#: Modules that belong together: a `Connection` hands itself to what is made at its request, and to functions that do the work of its rarer methods.
TOGETHER = {f"muxwsgi.wire.{name}" for name in ("connection", "ending", "extras", "files", "flags", "given", "layers", "pump", "tls.start")}


#: Lines of a file that need no reason.
LONGEST = 450


def name_of(path: Path) -> str:
    parts = ["muxwsgi", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of ours that are imported, inside of functions and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("muxwsgi"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in SOURCES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("muxwsgi"))


IMPORTS = {own: set(imported(ast.parse(path.read_text()))) - {own} for own, path in SOURCES.items()}


def part(module: str, at: int) -> str:
    return (module.split(".") + [""] * 3)[at]


def test_a_module_imports_only_from_floors_below() -> None:
    assert set(FLOORS) <= {part(own, 1) for own in SOURCES}
    for own, modules in IMPORTS.items():
        for module in modules:
            own_floor, floor = FLOORS.get(part(own, 1)), FLOORS.get(part(module, 1))
            allowed = part(own, 1) == part(module, 1) or (part(own, 1), part(module, 1)) in BESIDE
            assert own_floor is None or floor is None or allowed or floor < own_floor, f"{own} (floor {own_floor}) imports {module} (floor {floor})"


def test_the_server_imports_nothing_of_the_proxy() -> None:
    """It knows a proxy by its methods: whoever serves another application does not load one."""
    reached = {module for own, modules in IMPORTS.items() if part(own, 1) == "server" for module in modules if part(module, 1) == "proxy"}
    assert reached == set()


def test_a_room_of_the_proxy_imports_only_from_rooms_below() -> None:
    used = set()
    for own, modules in IMPORTS.items():
        if not own.startswith("muxwsgi.proxy."):
            continue
        for module in modules:
            room = ROOMS.get(part(module, 2), 0) if module.startswith("muxwsgi.proxy.") else 0
            if room > ROOMS.get(part(own, 2), 0):
                known = next((each for each in NAMED_BY_TYPE if own.startswith(each[0]) and part(module, 2) == each[1]), None)
                assert known is not None, f"{own} imports {module}, which is in a room above"
                used.add(known)
    assert used == NAMED_BY_TYPE, "an exception that nobody needs any more"


def test_no_import_goes_in_a_circle() -> None:
    graph = {own: {module for module in modules if not {own, module} <= TOGETHER} for own, modules in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_a_long_file_says_in_its_docstring_why() -> None:
    long = {own: path.read_text() for own, path in SOURCES.items() if path.read_text().count("\n") > LONGEST}
    unexplained = [own for own, text in long.items() if "The file is long because" not in (ast.get_docstring(ast.parse(text)) or "")]
    assert unexplained == []
    assert "muxwsgi.wire.connection" in long, "no file is long any more: drop this test and the sentence in docs/architecture.md"
