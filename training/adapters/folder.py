"""Your own pictures: one folder a person, `person_id/image.jpg`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from reposedm_core.errors import InputError
from training.preparation.adapter import Adapter
from training.preparation.plan import Item, Plan, Shares, Skip, files_below, hold_out, inside


class Folder(Adapter):
    """Every folder in the root is a person, with all pictures below it."""

    name = "folder"
    title = "A folder of people"
    licence = "That of the pictures' owner; ask the people shown."
    size = (256, 176)
    resize = "letterbox"
    estimator = "ours"

    def plan(self, root: Path, shares: Shares, cache: Path) -> Plan:
        if not root.is_dir():
            raise InputError(f"root = {root}: give a folder that holds one folder a person.")
        skipped = [Skip(path.name, "not in a person's folder") for path in sorted(root.iterdir()) if path.is_file()]
        people: dict[str, list[Path]] = {}
        for folder in sorted(root.iterdir()):
            if not folder.is_dir():
                continue
            if inside(root, folder.name) is None:
                skipped.append(Skip(folder.name, "outside of the root", "a link"))
                continue
            seen: dict[bytes, str] = {}
            for path in files_below(folder):
                name = str(path.relative_to(root))
                if inside(root, name) is None:
                    skipped.append(Skip(name, "outside of the root", "a link"))
                    continue
                try:
                    digest = hashlib.sha256(path.read_bytes()).digest()
                except OSError as error:
                    skipped.append(Skip(name, "unreadable file", error.strerror or ""))
                    continue
                if digest in seen:
                    skipped.append(Skip(name, "duplicate", f"the same as {seen[digest]}"))
                    continue
                seen[digest] = name
                people.setdefault(folder.name, []).append(path)
        split = hold_out(set(people), shares.val, shares.test)
        items = [
            Item(str(path.relative_to(root)), identity, split[person], path)
            for identity, person in enumerate(people)
            for path in people[person]
        ]
        return Plan(items, None, skipped)
