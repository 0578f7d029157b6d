"""The data files that ship with the package."""

import json
from importlib import resources

__all__ = ["about", "data_file"]


def data_file(name: str) -> bytes:
    """The bytes of a data file."""
    return (resources.files(__package__) / "data" / name).read_bytes()


def about(name: str) -> dict[str, str]:
    """Description, source and license of a data set."""
    facts = json.loads(data_file("about.json"))[name]
    return {**facts, "description": "\n".join(facts["description"])}
