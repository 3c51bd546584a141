"""What the Comfy registry wants in pyproject.toml: say what lacks, or fill in where the repository is published.

    python .ci/registry.py                                           # what lacks for `comfy node publish`
    python .ci/registry.py https://github.com/OWNER/NAME PUBLISHER   # fill it in; PUBLISHER may be left out

The registry shows icon and banner from public addresses. As long as the repository has none, pyproject.toml names
the files themselves and no repository. Needs Python 3.11, or tomli, and nothing else.

Source: docs.comfy.org/registry/specifications.
"""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PUBLISHER = r"[a-zA-Z][\w-]+"
PICTURES = {"Icon": "workflows/images/icon.png", "Banner": "workflows/images/banner.png"}


def lacks(text: str) -> list[str]:
    """What keeps a pyproject.toml from being published, a line each; empty when nothing does."""
    data = tomllib.loads(text)
    project, comfy = data["project"], data["tool"]["comfy"]
    found = []
    if not re.fullmatch(r"(?!.*[._-]{2})[a-zA-Z][\w.-]{0,98}", project["name"]):
        found.append(f"name: {project['name']!r} is no name for the registry.")
    if not re.fullmatch(r"\d+\.\d+\.\d+", project["version"]):
        found.append(f"version: {project['version']!r} is not of the form 1.2.3.")
    if not project.get("description"):
        found.append("description: say what the pack does.")
    if not re.fullmatch(PUBLISHER, comfy.get("PublisherId", "")):
        found.append("PublisherId: give the id that you registered at registry.comfy.org.")
    if not is_address(project.get("urls", {}).get("Repository", "")):
        found.append("Repository: publish the repository and give its address.")
    for key, name in PICTURES.items():
        if not is_address(comfy.get(key, "")):
            found.append(f"{key}: {name} needs the address it is published under.")
        found += misshapen(key, ROOT / name)
    return found


def is_address(text: str) -> bool:
    return text.startswith("https://")


def misshapen(key: str, path: Path) -> list[str]:
    """What the registry would not accept about a picture: an icon is square and at most 400 pixels, a banner 21:9."""
    header = path.read_bytes()[:24]
    if header[:8] != b"\x89PNG\r\n\x1a\n":
        return [f"{key}: {path.name} is no PNG file."]
    width, height = struct.unpack(">II", header[16:])
    fits = width == height <= 400 if key == "Icon" else 9 * width == 21 * height
    return [] if fits else [f"{key}: {path.name} is {width}x{height} pixels."]


def fill(text: str, repository: str, publisher: str = "") -> str:
    """The text of pyproject.toml with the addresses of a repository on GitHub, and with another publisher if given.

    Raises:
        ValueError: the address is not https://github.com/OWNER/NAME, or the publisher is no id.
    """
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", repository)
    if not match:
        raise ValueError(f"{repository} is not https://github.com/OWNER/NAME.")
    if publisher and not re.fullmatch(PUBLISHER, publisher):
        raise ValueError(f"{publisher!r} is no publisher id.")
    repository, files = (f"https://{host}/{match[1]}" for host in ("github.com", "raw.githubusercontent.com"))
    if publisher:
        text = replace(text, "PublisherId", publisher)
    for key, name in PICTURES.items():
        text = replace(text, key, f"{files}/main/{name}")
    addresses = {"Repository": repository, "Documentation": f"{repository}#readme", "Issues": f"{repository}/issues"}
    text = re.sub(rf"^(?:{'|'.join(addresses)}) = .*\n", "", text, flags=re.MULTILINE)
    lines = "".join(f'{key} = "{address}"\n' for key, address in addresses.items())
    return text.replace("[project.urls]\n", f"[project.urls]\n{lines}", 1)


def replace(text: str, key: str, value: str) -> str:
    """Set the one line `key = …`."""
    text, count = re.subn(rf"^{key} = .*$", f'{key} = "{value}"', text, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"pyproject.toml has {count} lines for {key} where one is expected.")
    return text


def main(arguments: list[str]) -> str | None:
    """Do what was asked for; returns what is wrong, or None."""
    path = ROOT / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    if arguments:
        if len(arguments) > 2:
            return f"usage: {Path(__file__).name} [https://github.com/OWNER/NAME [PUBLISHER]]"
        try:
            text = fill(text, *arguments)
        except ValueError as error:
            return f"error: {error}"
        path.write_text(text, encoding="utf-8")
    return "\n".join(lacks(text)) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
