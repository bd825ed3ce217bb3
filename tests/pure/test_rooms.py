"""The house of the code: rooms use only rooms below them, no imports in circles, ComfyUI's internals in one room."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("model", "nodes", "tasks")
# From the roof down. A file lies in the last room whose path begins its own.
ROOMS = (
    "run",
    "tasks",
    "__init__",
    "nodes",
    "nodes/sockets",
    "nodes/native",
    "model/training",
    "model/scenes",
    "model/pipeline",
    "model/geometry",
    "model/depth",
    "model/diffusion",
    "model",  # what serves several rooms
    "model/network",
    "model/demo",
    "model/new_file",
)
# ComfyUI's own FLUX.2 beside ours, and its samplers
MEASURES_THE_HOST = ("tasks/bench/cost", "tasks/bench/gpu", "tasks/bench/in_core")
PUBLIC = ("comfy_api", "folder_paths", "node_helpers", "server")
HOST = (*PUBLIC, "comfy", "comfy_extras", "comfy_execution", "execution", "latent_preview", "nodes")


def modules() -> dict[str, list[ast.AST]]:
    """Path without its ending -> the import statements, of all our Python outside the tests."""
    files = [*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))]
    return {file.relative_to(ROOT).with_suffix("").as_posix(): imports(ast.parse(file.read_bytes())) for file in files}


def imports(tree: ast.AST) -> list[ast.AST]:
    """Import statements that run at some time; those for type checkers alone are none."""
    if isinstance(tree, (ast.Import, ast.ImportFrom)):
        return [tree]
    if isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING":
        return []
    inner = [node for node in ast.iter_child_nodes(tree) if not isinstance(node, ast.expr)]
    return [found for node in inner for found in imports(node)]


MODULES = modules()


@cache
def own_imports(name: str) -> set[str]:
    """Our modules that a module imports, wherever in it."""
    found = set()
    for node in MODULES[name]:
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = Path(name).parents[node.level - 1] / (node.module or "").replace(".", "/")
        for alias in node.names:
            options = [(folder / alias.name).as_posix(), (folder / alias.name / "__init__").as_posix()]
            options += [folder.as_posix(), (folder / "__init__").as_posix()]
            found.add(next(option for option in options if option in MODULES))
    return found


def foreign_imports(name: str) -> set[str]:
    """Dotted names that a module imports from elsewhere."""
    found = set()
    for node in MODULES[name]:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
    return found


def room(name: str) -> int:
    """The number of a module's room, from the top."""
    fits = [room for room in ROOMS if name == room or name.startswith(f"{room}/")]
    return ROOMS.index(max(fits, key=len))


def test_rooms_use_only_rooms_below_them():
    upwards = [f"{name} imports {other}" for name in MODULES for other in own_imports(name) if room(other) < room(name)]
    assert not upwards


def test_no_imports_in_circles():
    open_, done = [], set()

    def visit(name):
        assert name not in open_, f"a circle: {' -> '.join([*open_[open_.index(name) :], name])}"
        if name in done:
            return
        open_.append(name)
        for other in sorted(own_imports(name)):
            visit(other)
        open_.pop()
        done.add(name)

    for name in MODULES:
        visit(name)


def test_only_the_native_room_touches_the_internals_of_comfyui():
    """The host's public modules are for all nodes; `model` and `tasks` know nothing of it, but for what measures it."""
    for name in MODULES:
        if name.startswith("nodes/native/") or name in MEASURES_THE_HOST:
            continue
        allowed = PUBLIC if name.startswith(("nodes/", "__init__")) else ()
        hosts = {found for found in foreign_imports(name) if found.split(".")[0] in HOST}
        forbidden = {found for found in hosts if found.split(".")[0] not in allowed}
        assert not forbidden, f"{name} imports {forbidden}"
