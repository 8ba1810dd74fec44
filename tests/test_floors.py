"""The floors of docs/architecture.md: a module imports only from floors below its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "muxwsgi"

#: As the page has them. What stands in none of these (errors, settings and the package itself) is for everybody.
FLOORS = {"wire": 0, "patch": 0, "mux": 1, "http": 2, "hijackers": 2, "proxy": 3, "server": 4, "observe": 4, "cli": 5}


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of ours that are imported while the program runs, inside of functions too; not those that only types need."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("muxwsgi"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("muxwsgi"))
        yield from imported(node)


def floor_of(module: str) -> int | None:
    return FLOORS.get(module.split(".")[1]) if "." in module else None


def test_a_module_imports_only_from_floors_below() -> None:
    looked_at = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        own = ".".join(("muxwsgi", *path.relative_to(PACKAGE).with_suffix("").parts))
        own_floor = floor_of(own)
        if own_floor is None:
            continue
        looked_at += 1
        for module in imported(ast.parse(path.read_text())):
            floor = floor_of(module)
            same_room = module.split(".")[1] == own.split(".")[1]
            assert floor is None or floor < own_floor or same_room, f"{own} (floor {own_floor}) imports {module} (floor {floor})"
    assert looked_at > 50


def test_every_folder_of_the_package_is_on_a_floor() -> None:
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(FLOORS)
