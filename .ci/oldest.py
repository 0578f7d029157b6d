"""Print the oldest declared version of each package that the tests need, as pip's constraints."""

import re

try:
    import tomllib
except ImportError:  # before Python 3.11; pip comes with its own
    from pip._vendor import tomli as tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]


def requirements(lines):
    for line in lines:
        nested = re.fullmatch(r"mlrops\[(.*)\]", line)
        if nested:
            for extra in nested[1].split(","):
                yield from requirements(extras[extra])
        else:
            yield line


for line in [*project["dependencies"], *requirements(extras["test"])]:
    name, version, marker = re.match(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)(;.*)?", line).groups()
    print(f"{name}=={version}.*{marker or ''}")
