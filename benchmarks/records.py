"""Pack what a table was made from: the databases of a study's finished runs, without models, texts or local paths.

    python benchmarks/records.py runs/defects --out benchmarks/records/yoco_defects.tar.xz
    tar -xf benchmarks/records/yoco_defects.tar.xz -C runs && nasframe compare runs/yoco_defects

Several studies of the same arms, say one a seed, become folders side by side: `nasframe compare runs/yoco_defects/*`.
A study that was cut off goes on elsewhere: begin it anew, stop it, copy the packed `runs` over its own, `--resume` it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

from nasframe.store import text_digest
from nasframe_studies import study

LOCAL = re.compile(r"(?<![\w.+,@%-])/(?:[\w.+@%-]+/)+([\w.+@%-]+)")  # not behind what may end a folder's name


def portable(text: str) -> str:
    """Leave of every absolute path its last name.

    >>> portable('["/home/me/nasframe", "task.path=/data/GLUE", "3/4", "runs/tune-40%/sst2/seed-0"]')
    '["nasframe", "task.path=GLUE", "3/4", "runs/tune-40%/sst2/seed-0"]'
    """
    return LOCAL.sub(r"\1", text)


def copy_run(run: Path, target: Path) -> None:
    """Copy a run's database and recipe; the keys of its stages, which only a cache reads, stay behind."""
    target.mkdir(parents=True)
    recipe = portable((run / "recipe.yaml").read_text(encoding="utf-8"))
    with closing(sqlite3.connect(run / "run.db")) as source, closing(sqlite3.connect(target / "run.db")) as db:
        source.backup(db)
        db.execute("DELETE FROM run WHERE key LIKE 'key %' OR key = 'cache'")
        for table, column, key in (("run", "value", "key"), ("stage", "result", "name"), ("model", "path", "name")):
            for name, text in db.execute(f"SELECT {key}, {column} FROM {table}").fetchall():
                if text is not None and portable(text) != text:
                    db.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (portable(text), name))
        # A run is only read with the recipe that it wrote, and the copy's recipe has other paths.
        db.execute("UPDATE run SET value = ? WHERE key = 'recipe_digest'", (json.dumps(text_digest(recipe)),))
        db.commit()
        db.execute("VACUUM")
    (target / "recipe.yaml").write_text(recipe, encoding="utf-8")
    environment = (run / "env.json").read_text(encoding="utf-8")
    (target / "env.json").write_text(portable(environment), encoding="utf-8")


def copy_study(home: Path, target: Path) -> int:
    """Copy a study's settings and its finished runs; return how many these are."""
    done = [run.run for run in study.settings(home).runs if study.finished(home / run.run)]
    target.mkdir(parents=True)
    (target / study.SETTINGS).write_text(portable((home / study.SETTINGS).read_text(encoding="utf-8")))
    for run in done:
        copy_run(home / run, target / run)
    return len(done)


def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Say neither whose a file is nor when it was copied."""
    return entry.replace(uid=0, gid=0, uname="", gname="", mtime=0, deep=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    name = options.out.name.removesuffix(".tar.xz")
    draft = options.out.with_name(f".{options.out.name}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / name
        for home in options.studies:
            target = whole if len(options.studies) == 1 else whole / home.name
            print(f"{home}: {copy_study(home, target)} finished runs")
        with tarfile.open(draft, "w:xz", preset=9) as archive:
            archive.add(whole, name, filter=anonymous)
    os.replace(draft, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
