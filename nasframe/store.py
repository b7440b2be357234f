"""The run directory: one SQLite file, model directories, and states from which a run goes on.

Everything is written under a temporary name and then renamed, so a kill at any moment leaves the old file or the
new one. Nothing is pickled: :func:`save_state` puts tensors into safetensors and the rest into its JSON header.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.digests import fresh_digest
from nasframe.errors import RunError, UsageError
from nasframe.records import LedgerEntry, Trial, arch_id, canonical_json
from nasframe.storage import check_database, connect, damaged_database, write_problem, writing

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
STAGE_TABLES = ("trial", "metric", "ledger")
"""The tables whose rows belong to one stage each."""
ORDERS = {"stage": "position", "trial": "stage, number", "metric": "stage, name, step"}
"""Table → the order of its rows; others are in the order in which rows were added."""
JSON_COLUMNS = {"arch", "blueprint", "metrics", "costs", "objectives", "result"}

SCHEMA = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE stage (name TEXT PRIMARY KEY, position INTEGER NOT NULL, verb TEXT NOT NULL, state TEXT NOT NULL,
  started_at REAL, finished_at REAL, run_seconds REAL NOT NULL DEFAULT 0, result TEXT NOT NULL DEFAULT '{}');
CREATE TABLE trial (stage TEXT NOT NULL, number INTEGER NOT NULL, arch_id TEXT NOT NULL, arch TEXT NOT NULL,
  state TEXT NOT NULL, score REAL, objectives TEXT NOT NULL, metrics TEXT NOT NULL, costs TEXT NOT NULL,
  violation REAL NOT NULL, origin TEXT NOT NULL, examples INTEGER, trial_seconds REAL, finished_at REAL,
  PRIMARY KEY (stage, number));
CREATE TABLE metric (stage TEXT NOT NULL, step INTEGER NOT NULL, name TEXT NOT NULL, value REAL,
  PRIMARY KEY (stage, step, name));
CREATE TABLE ledger (stage TEXT NOT NULL, role TEXT NOT NULL, steps INTEGER NOT NULL, examples INTEGER NOT NULL,
  tokens INTEGER NOT NULL, forward_macs REAL NOT NULL, backward_macs REAL NOT NULL, evaluations INTEGER NOT NULL,
  run_seconds REAL NOT NULL, PRIMARY KEY (stage, role));
CREATE TABLE model (name TEXT PRIMARY KEY, stage TEXT NOT NULL, arch TEXT, blueprint TEXT, budget TEXT, path TEXT,
  metrics TEXT NOT NULL DEFAULT '{}', costs TEXT NOT NULL DEFAULT '{}');
"""


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    with writing(path), _removed_on_error(temporary):
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)


@contextmanager
def _removed_on_error(temporary: Path) -> Iterator[None]:
    """Leave no half-written file: on a full disk it would take the room that is left."""
    try:
        yield
    except Exception:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested state of tensors, arrays and plain values to one safetensors file.

    Args:
        path: the file; written under another name first, then renamed.
        state: dicts, lists and tuples of tensors, numpy arrays and JSON-plain values.

    Raises:
        TypeError: something in the state is neither.
        RunError: the file cannot be written.

    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "state.safetensors"
    >>> save_state(path, {"step": 3, "moments": {0: torch.ones(2)}})
    >>> load_state(path)["moments"][0].tolist()
    [1.0, 1.0]
    """
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    text = json.dumps(_encode(state, tensors))
    header = {"format": str(FORMAT), "state": text, "sha256": _state_digest(text, tensors)}
    temporary = path.with_name(path.name + ".tmp")
    with writing(path), _removed_on_error(temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(temporary), metadata=header)
        os.replace(temporary, path)


def _state_digest(text: str, tensors: Mapping[str, Any]) -> str:
    """Digest a state as it is written: the text of its header, and every tensor by name."""
    import torch

    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote.

    Raises:
        RunError: the file is missing, damaged, no such state, or of another format version; says what can be done.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != str(FORMAT):
                raise RunError(f"{path}: format {header.get('format')!r}. Expected {FORMAT}: made by another version?")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if header.get("sha256") not in (None, _state_digest(header["state"], tensors)):
            raise RunError(_damaged_state(path, "its content is not what was written"))
        state: dict[str, Any] = _decode(json.loads(header["state"]), tensors)
        return state
    except FileNotFoundError as error:
        raise RunError(f"{path}: missing. {_state_remedy(path)}") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(_damaged_state(path, str(error))) from error


def _damaged_state(path: Path, reason: str) -> str:
    return f"{path}: not a readable state ({reason}). {_state_remedy(path)}"


def _state_remedy(path: Path) -> str:
    """Say what can be done about a state that is lost: some can be made again."""
    if path.name.startswith("stage-"):
        return "Delete it and resume: the stage then starts again."
    if path.name.startswith("expected-"):
        return "Delete it and resume: it is then computed again."
    return (
        "Put a copy of it back, or run the recipe again with another --out; with a cache its stages are not run again."
    )


def _encode(value: Any, tensors: dict[str, Any]) -> Any:
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor | np.ndarray):
        key = str(len(tensors))
        kind = "tensor" if isinstance(value, torch.Tensor) else "array"
        tensors[key] = torch.as_tensor(value).detach().to("cpu", copy=True).contiguous()
        return {"$": kind, "key": key}
    if isinstance(value, Mapping):
        return {"$": "dict", "items": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"$": "tuple", "items": [_encode(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a state may hold tensors, arrays and plain values, not {type(value).__name__}")


def _decode(value: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if value["$"] == "dict":
        return {_decode(k, tensors): _decode(v, tensors) for k, v in value["items"]}
    if value["$"] == "tuple":
        return tuple(_decode(item, tensors) for item in value["items"])
    tensor = tensors[value["key"]]
    return tensor if value["$"] == "tensor" else tensor.numpy()


class Checkpoint:
    """One stage's state over a crash: ``load`` the last one, ``save`` the next."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, Any] | None:
        """Return the last state, or ``None`` where there is none yet."""
        return load_state(self.path) if self.path.exists() else None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state."""
        save_state(self.path, state)


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
BORN_WITH = {".lock", "run.db.tmp", "run.db.tmp-journal", "recipe.yaml", "recipe.yaml.tmp"}
"""All that can lie in a directory whose run was stopped before it had a database."""


def refuse_existing(directory: Path) -> None:
    """Make sure that a run may begin in a directory: it is not there, or empty.

    What a run left that was stopped before it began does not count.

    Raises:
        UsageError: something else lies there.
    """
    if directory.is_dir() and not (directory / "run.db").exists():
        names = {path.name for path in directory.iterdir()}
        if not names or (".lock" in names and names <= BORN_WITH):
            return
    if directory.exists():
        is_run = (directory / "run.db").exists()
        hint = f" To go on with the run in it: nasframe run --resume {directory}" if is_run else ""
        raise UsageError(f"{directory}: not empty; a run directory is never overwritten.{hint}")


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _is_kept(inside: str) -> bool:
    """Tell whether a file of a model stays as it was written.

    Predictions may be added to, and so may the card, whose digest the export's report has.
    """
    return not inside.endswith((".md", ".csv")) and inside != "export_report.json"


def _lock_problem(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in NO_LOCKS:
        reason = error.strerror
    elif isinstance(error, OSError):
        return write_problem(path, error)
    else:
        reason = str(error)
    return (
        f"{path}: this file system has no locks ({reason}). Expected one with locks, so that two processes never work "
        "in one run: choose a local disk for --out."
    )


class RunStore:
    """One run's directory, opened by one process at a time.

    Args:
        directory: the run directory.
        create: make it; otherwise it must be a run's.
        shared: open beside the process that owns the run (the other ranks of a distributed run, a reader).
        recipe: what ``recipe.yaml`` of a new run says.
        facts: what a new run keeps, as with :meth:`put`.

    Raises:
        UsageError: the directory is not empty (``create``), is no run, or another process works in it.
    """

    def __init__(
        self,
        directory: Path,
        create: bool = False,
        shared: bool = False,
        recipe: str | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = Path(directory)
        if create:
            refuse_existing(self.directory)
        elif not (self.directory / "run.db").is_file():
            begun = (self.directory / "run.db.tmp").exists()
            hint = " One was stopped here before it began: start it again with the same --out." if begun else ""
            raise UsageError(
                f"{self.directory}: no run here (no run.db). Expected a directory that 'nasframe run' made.{hint}"
            )
        with writing(self.directory, UsageError):
            self.directory.mkdir(parents=True, exist_ok=True)
        self.lock = None if shared else self._acquire()
        try:
            if create:
                self._begin(recipe, {**(facts or {}), "format": FORMAT})
            self.db = connect(self.directory / "run.db")
            self._check_format(thorough=not shared and not create)
        except BaseException:
            if self.lock is not None:
                self.lock.release()
            raise

    def _check_format(self, thorough: bool) -> None:
        """Make sure that the database is whole, as far as is asked for, and of this version's format."""
        try:
            if thorough:
                self.check()
            if self.get("format") != FORMAT:
                raise UsageError(f"{self.directory}: run format {self.get('format')}. Expected {FORMAT}.")
        except BaseException:
            self.db.close()
            raise

    def check(self) -> None:
        """Read the database through once.

        Raises:
            RunError: it is damaged.
        """
        check_database(self.db)

    def _begin(self, recipe: str | None, facts: Mapping[str, Any]) -> None:
        """Write what a resume needs; the database, by which a run is known, gets its name last."""
        if recipe is not None:
            facts = {**facts, "recipe_digest": text_digest(recipe)}
        temporary = self.directory / "run.db.tmp"
        with writing(self.directory / "run.db"):
            temporary.unlink(missing_ok=True)
        rows = [(key, canonical_json(value)) for key, value in facts.items()]
        with _removed_on_error(temporary), closing(connect(temporary)) as db:
            db.executescript(f"BEGIN; {SCHEMA}")  # one transaction: a disk is waited for once
            db.executemany("INSERT INTO run VALUES (?, ?)", rows)
            db.execute("COMMIT")
        if recipe is not None:
            write_text(self.directory / "recipe.yaml", recipe)
        with writing(self.directory / "run.db"):
            os.replace(temporary, self.directory / "run.db")

    def check_recipe(self) -> Path:
        """Return the run's recipe, which must be as the run wrote it.

        Raises:
            UsageError: it is missing, or was changed.
        """
        path, known = self.directory / "recipe.yaml", self.get("recipe_digest")
        if not path.is_file():
            raise UsageError(f"{path}: missing. Expected the recipe that the run wrote there: put it back.")
        if known is not None and hashlib.sha256(path.read_bytes()).hexdigest() != known:
            raise UsageError(
                f"{path}: changed since the run began. Expected it as the run wrote it: undo the change, or run the "
                f"changed recipe by itself: nasframe run {path} --out NEW"
            )
        return path

    def put_files(self, name: str, digests: Mapping[str, str] | None) -> None:
        """Remember the digests of a model's files.

        Args:
            name: the model's.
            digests: file → SHA-256; ``None`` while they are written, so that a kill leaves nothing that is not true.
        """
        kept = None if digests is None else {inside: d for inside, d in digests.items() if _is_kept(inside)}
        self.put(f"files {name}", kept)

    def files(self) -> dict[str, dict[str, str] | None]:
        """Return what :meth:`put_files` kept, by model."""
        rows = self.db.execute("SELECT key, value FROM run WHERE key LIKE 'files %'").fetchall()
        return {key.removeprefix("files "): self.plain(text) for key, text in rows}

    def check_files(self, name: str | None = None) -> None:
        """Make sure that the files of one model, or of all, are as they were written.

        Raises:
            RunError: some are missing or damaged; names them all.
        """
        wrong = []
        for model, digests in self.files().items():
            if name in (None, model):
                wrong += list(self._wrong_files(self.directory / "models" / model, digests or {}))
        if wrong:
            raise RunError(
                f"{', '.join(wrong)}. Expected the models as the run wrote them: put copies back, or run the recipe "
                "again with another --out; with a cache its stages are not run again."
            )

    @staticmethod
    def _wrong_files(home: Path, digests: Mapping[str, str]) -> Iterator[str]:
        for inside, digest in digests.items():
            file = home / inside
            if not file.is_file():
                yield f"{file}: missing"
            elif fresh_digest(file) != digest:
                yield f"{file}: damaged or changed since it was written"

    def plain(self, text: str) -> Any:
        """Read JSON that the database holds.

        Raises:
            RunError: it is none: the database is damaged.
        """
        try:
            return json.loads(text)
        except ValueError as error:
            raise RunError(damaged_database(self.db.path, str(error))) from error

    def _acquire(self) -> Any:
        """Lock the directory against other processes; the operating system lets go if this one dies."""
        import inspect

        from filelock import FileLock, Timeout

        path = self.directory / ".lock"
        hard: dict[str, Any] = {}
        if "fallback_to_soft" in inspect.signature(FileLock).parameters:  # newer versions have one to fall back to
            hard["fallback_to_soft"] = False  # which would outlive a process that is killed
        try:
            lock = FileLock(path, **hard)
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                f"{self.directory}: another process is working on this run. Expected it to be free."
            ) from None
        except (OSError, NotImplementedError) as error:
            raise UsageError(_lock_problem(path, error)) from error
        return lock

    def close(self) -> None:
        """Close the database and let other processes in."""
        self.db.close()
        if self.lock is not None:
            self.lock.release()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group writes: all of them, or none."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(RunError):  # of a full disk: SQLite has rolled back by itself
                self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def put(self, key: str, value: Any) -> None:
        """Keep a JSON-plain fact about the run."""
        self.db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, canonical_json(value)))

    def get(self, key: str, default: Any = None) -> Any:
        """Return a fact kept with :meth:`put`."""
        row = self.db.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
        return default if row is None else self.plain(row[0])

    def facts(self) -> dict[str, Any]:
        """Return all facts that :meth:`put` kept, by key."""
        rows = self.db.execute("SELECT key, value FROM run").fetchall()
        return {key: self.plain(text) for key, text in rows}

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return a table's rows in order, with JSON columns as values.

        Args:
            table: ``stage``, ``trial``, ``metric``, ``ledger`` or ``model``.
        """
        cursor = self.db.execute(f'SELECT * FROM "{table}" ORDER BY {ORDERS.get(table, "rowid")}')
        columns = [column[0] for column in cursor.description]
        return [self._record(columns, row) for row in cursor.fetchall()]

    def _record(self, columns: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
        """Return a row as a mapping, with JSON columns as values."""
        record = dict(zip(columns, row, strict=True))
        for column in JSON_COLUMNS & record.keys():
            if record[column]:
                record[column] = self.plain(record[column])
        return record

    def stage_state(self, name: str) -> str:
        """Return ``new``, ``running``, ``failed`` or ``done``."""
        row = self.db.execute("SELECT state FROM stage WHERE name = ?", (name,)).fetchone()
        return "new" if row is None else row[0]

    def start_stage(self, name: str, position: int, verb: str) -> None:
        """Note that a stage begins, or goes on."""
        self.db.execute(
            "INSERT INTO stage (name, position, verb, state, started_at) VALUES (?, ?, ?, 'running', ?)"
            " ON CONFLICT (name) DO UPDATE SET state = 'running'",
            (name, position, verb, time.time()),
        )

    def end_stage(self, name: str, state: str, seconds: float, result: Mapping[str, Any] | None = None) -> None:
        """Note how a stage ended; seconds of several sittings add up."""
        self.db.execute(
            "UPDATE stage SET state = ?, finished_at = ?, run_seconds = run_seconds + ?, result = ? WHERE name = ?",
            (state, time.time(), seconds, canonical_json(result or {}), name),
        )

    def stage_result(self, name: str) -> dict[str, Any]:
        """Return what :meth:`end_stage` kept."""
        row = self.db.execute("SELECT result FROM stage WHERE name = ?", (name,)).fetchone()
        return {} if row is None else self.plain(row[0])

    def stage_rows(self, name: str) -> dict[str, Any]:
        """Return all that a stage left here: its trials, metrics, ledger and facts, and the models as they stand."""
        rows: dict[str, Any] = {
            table: self.db.execute(f"SELECT * FROM {table} WHERE stage = ?", (name,)).fetchall()
            for table in STAGE_TABLES
        }
        facts = self.db.execute(
            "SELECT key, value FROM run WHERE key = ? OR key LIKE 'measured %'", (f"tally {name}",)
        ).fetchall()
        return rows | {"run": facts, "model": self.db.execute("SELECT * FROM model ORDER BY rowid").fetchall()}

    def put_stage(
        self, name: str, position: int, verb: str, rows: Mapping[str, Any], seconds: float, result: Mapping[str, Any]
    ) -> None:
        """Write what :meth:`stage_rows` returned, of this run or an equal one, as a finished stage's."""
        with self.transaction():
            for table in STAGE_TABLES:
                self.db.execute(f"DELETE FROM {table} WHERE stage = ?", (name,))
            self.db.execute("DELETE FROM model")
            for table, values in rows.items():
                for row in values:
                    self.db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
            for model, text in self.db.execute("SELECT name, costs FROM model").fetchall():
                costs = self.plain(text)
                costs |= {f"{cost}_cached": 1 for cost in list(costs) if f"{cost}_spread" in costs}
                self.put_model(model, costs=costs)
            self.start_stage(name, position, verb)
            self.end_stage(name, "done", seconds, result)

    def add_trial(self, stage: str, number: int, trial: Trial, seconds: float) -> None:
        """Store one trial in one transaction."""
        self.db.execute(
            "INSERT OR REPLACE INTO trial VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                stage, number, arch_id(trial.arch), canonical_json(trial.arch), trial.state, trial.score,
                json.dumps(trial.objectives), canonical_json(dict(trial.metrics)), canonical_json(dict(trial.costs)),
                trial.violation, trial.origin, trial.examples, seconds, time.time(),
            ),
        )  # fmt: skip

    def trials(self, stage: str) -> list[Trial]:
        """Return a stage's trials in order."""
        plain = self.plain
        rows = self.db.execute(
            "SELECT arch, score, objectives, metrics, costs, violation, state, origin, examples FROM trial"
            " WHERE stage = ? ORDER BY number",
            (stage,),
        )
        return [
            Trial(plain(a), s, tuple(plain(o)), plain(m), plain(c), v, state, origin, examples)
            for a, s, o, m, c, v, state, origin, examples in rows
        ]

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Keep a step's metrics; a step run again after a crash replaces itself."""
        rows = [(stage, step, k, float(v) if math.isfinite(v) else None) for k, v in values.items()]
        self.db.executemany("INSERT OR REPLACE INTO metric VALUES (?, ?, ?, ?)", rows)

    def add_ledger(self, stage: str, entries: Sequence[LedgerEntry]) -> None:
        """Set a stage's ledger, one row a role."""
        for entry in entries:
            self.db.execute(
                "INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (stage, *asdict(entry).values())
            )

    def put_model(self, name: str, **fields: Any) -> None:
        """Insert a model's row or change the given fields of it; values are JSON-plain."""
        texts = {k: v if k in ("stage", "path", "budget") else canonical_json(v) for k, v in fields.items()}
        self.db.execute("INSERT OR IGNORE INTO model (name, stage) VALUES (?, '')", (name,))
        for column, value in texts.items():
            self.db.execute(f"UPDATE model SET {column} = ? WHERE name = ?", (value, name))

    def model(self, name: str) -> dict[str, Any]:
        """Return a model's row, or an empty dict."""
        cursor = self.db.execute("SELECT * FROM model WHERE name = ?", (name,))
        row = cursor.fetchone()
        if row is None:
            return {}
        texts = dict(zip([column[0] for column in cursor.description], row, strict=True))
        return {
            k: self.plain(v) if k in ("arch", "blueprint", "metrics", "costs") and v else v for k, v in texts.items()
        }

    def frame(self, table: str) -> pd.DataFrame:
        """Return a table as a data frame, JSON columns as text."""
        import pandas as pd

        cursor = self.db.execute(f'SELECT * FROM "{table}"')
        return pd.DataFrame(cursor.fetchall(), columns=[column[0] for column in cursor.description])

    def checkpoint(self, name: str) -> Checkpoint:
        """Return the place of a stage's state."""
        return Checkpoint(self.directory / "checkpoints" / f"{name}.safetensors")

    def clear_checkpoints(self) -> None:
        """Drop all states: the run is complete."""
        shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)

    def clear_rests(self) -> None:
        """Remove what a process left that was killed while it wrote: nothing of it has its final name."""
        for path in [*self.directory.rglob("*.tmp"), *self.directory.rglob(".tmp*")]:
            if path.is_file():
                path.unlink()
