"""What the ComfyUI registry reads: pyproject.toml, and that it says the same as the files beside it."""

import sys

import pytest
from modality_forcing.tasks import ROOT
from modality_forcing.tasks.host.hosts import requirement_lines

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")


@pytest.fixture
def project() -> dict:
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_dependencies_are_those_of_requirements_txt(project):
    assert project["project"]["dependencies"] == requirement_lines(ROOT / "requirements.txt")


def test_the_fields_of_the_registry_agree(project):
    repository = project["project"]["urls"]["Repository"]
    assert all(address.startswith(repository) for address in project["project"]["urls"].values())
    owner_and_name = repository.removeprefix("https://github.com/")
    assert owner_and_name.partition("/")[0] == project["tool"]["comfy"]["PublisherId"]
    base = f"https://raw.githubusercontent.com/{owner_and_name}/main/"
    icon = project["tool"]["comfy"]["Icon"]
    assert icon.startswith(base) and (ROOT / icon.removeprefix(base)).is_file()
    assert "comfyui" not in project["project"]["name"].lower()  # the registry's rule


def test_the_changelog_opens_with_the_version(project):
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines() if line[:3] == "## "]
    assert project["project"]["version"] in headings[0]


def test_what_is_not_published_is_named(project):
    """Every line of .comfyignore is there; nothing that ComfyUI or a user needs is in it."""
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    ignored = {line.rstrip("/") for line in lines if line and line[0] != "#"}
    assert all((ROOT / path).exists() for path in ignored)
    assert not ignored & {"web", "nodes", "model", "locales", "workflows", "subgraphs", "tasks", "run.py"}
