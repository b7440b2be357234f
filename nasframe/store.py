"""The run directory: one SQLite file, model directories, and states that a run goes on from.

:class:`RunStore` is the only place that knows the database's tables. Files are written under a temporary name and then
renamed, so that a kill at any moment leaves the old file or the new one.
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
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasframe.digests import fresh_digest
from nasframe.errors import RunError, UsageError, in_shell
from nasframe.folders import model_folder
from nasframe.records import LedgerEntry, Trial, arch_id, canonical_json
from nasframe.states import Checkpoint, load_state, save_state
from nasframe.storage import (
    check_database,
    connect,
    damaged_database,
    removed_on_error,
    write_problem,
    write_text,
    writing,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Checkpoint", "RunStore", "load_state", "refuse_existing", "save_state", "text_digest", "write_text"]

FORMAT = 1
SHARED_SAMPLER = "sampler.safetensors"
"""The file in a run directory with the final state of the recipe's own sampler."""
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
  tokens INTEGER NOT NULL, forward_macs REAL, backward_macs REAL, evaluations INTEGER NOT NULL,
  run_seconds REAL NOT NULL, PRIMARY KEY (stage, role));
CREATE TABLE model (name TEXT PRIMARY KEY, stage TEXT NOT NULL, arch TEXT, blueprint TEXT, budget TEXT, path TEXT,
  metrics TEXT NOT NULL DEFAULT '{}', costs TEXT NOT NULL DEFAULT '{}');
"""


NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what network file systems without locks answer
BORN_WITH = {".lock", "run.db.tmp", "run.db.tmp-journal", "recipe.yaml", "recipe.yaml.tmp"}
"""The files that can be in a directory whose run was stopped before it had a database."""


def refuse_existing(directory: Path) -> None:
    """Make sure that a run may begin in a directory: it does not exist, or is empty.

    Files of a run that was stopped before it began do not count.

    Raises:
        UsageError: other files are there.
    """
    if not directory.exists():
        return
    is_run = (directory / "run.db").exists()
    if directory.is_dir() and not is_run:
        names = {path.name for path in directory.iterdir()}
        is_leftover = ".lock" in names and names <= BORN_WITH
        if not names or is_leftover:
            return
    hint = f" To go on with the run in it: nasframe run --resume {in_shell(directory)}" if is_run else ""
    raise UsageError(f"{directory}: not empty; a run directory is never overwritten.{hint}")


def _refuse_missing(directory: Path) -> None:
    """Make sure that there is a run in a directory."""
    if (directory / "run.db").is_file():
        return
    hint = ""
    if (directory / "run.db.tmp").exists():
        hint = " One was stopped here before it began: start it again with the same --out."
    raise UsageError(f"{directory}: no run here (no run.db). Expected a directory that 'nasframe run' made.{hint}")


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _is_kept(inside: str) -> bool:
    """Tell whether a file of a model must stay as it was written.

    Predictions and the card may change later; the export's report holds the card's digest, and changes with it.
    """
    may_change = inside.endswith((".md", ".csv")) or inside == "export_report.json"
    return not may_change


def _lock_problem(path: Path, error: Exception) -> str:
    reason = str(error)
    if isinstance(error, OSError):
        if error.errno not in NO_LOCKS:
            return write_problem(path, error)
        reason = str(error.strerror)
    return (
        f"{path}: this file system has no locks ({reason}). Expected one with locks, so that two processes never work "
        "in one run: choose a local disk for --out."
    )


def _file_faults(folder: Path, digests: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with a model's files, given their digests."""
    for name, digest in digests.items():
        file = folder / name
        if not file.is_file():
            yield f"{file}: missing"
        elif fresh_digest(file) != digest:
            yield f"{file}: damaged or changed since it was written"


@dataclass(frozen=True)
class StageRecord:
    """A stage of a run as its database holds it.

    Args:
        name: the stage's name.
        verb: ``train``, ``search`` …
        state: ``running``, ``failed`` or ``done``.
        started_at: seconds since 1970.
        finished_at: seconds since 1970, ``None`` while it runs.
        run_seconds: the time it took, over all resumes.
        result: what :meth:`RunStore.end_stage` kept; ``cached`` in it if it came from the cache.
    """

    name: str
    verb: str
    state: str
    started_at: float | None
    finished_at: float | None
    run_seconds: float
    result: Mapping[str, Any]


def _columns(cursor: Any) -> list[str]:
    """Return the names of the columns of a query's rows."""
    return [column[0] for column in cursor.description]


class RunStore:
    """One run's directory, opened by one process at a time.

    Args:
        directory: the run directory.
        create: whether to begin a new run in it; otherwise it must hold one.
        shared: whether to open it without a lock, while another process may own the run (other ranks of a distributed
            run, readers).
        recipe: the text of a new run's ``recipe.yaml``.
        facts: facts of a new run to keep, as with :meth:`put`.

    Raises:
        UsageError: the directory is not empty (``create``), holds no run, or another process works in it.
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
        else:
            _refuse_missing(self.directory)
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
        """Make sure that the database is of this version's format and, if ``thorough``, that all of it is readable."""
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
        """Write what a resume needs; the database gets its name last, because a directory with one is a run."""
        if recipe is not None:
            facts = {**facts, "recipe_digest": text_digest(recipe)}
        temporary = self.directory / "run.db.tmp"
        with writing(self.directory / "run.db"):
            temporary.unlink(missing_ok=True)
        rows = [(key, canonical_json(value)) for key, value in facts.items()]
        with removed_on_error(temporary), closing(connect(temporary)) as db:
            db.executescript(f"BEGIN; {SCHEMA}")  # one transaction, so that the disk is waited for once
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
        path = self.directory / "recipe.yaml"
        if not path.is_file():
            raise UsageError(f"{path}: missing. Expected the recipe that the run wrote there: put it back.")
        expected = self.get("recipe_digest")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if expected is not None and digest != expected:
            raise UsageError(
                f"{path}: changed since the run began. Expected it as the run wrote it: undo the change, or run the "
                f"changed recipe by itself: nasframe run {path} --out NEW"
            )
        return path

    def put_files(self, name: str, digests: Mapping[str, str] | None) -> None:
        """Remember the digests of a model's files.

        Args:
            name: the model's.
            digests: file → SHA-256; ``None`` while they are written, so that a kill leaves no wrong digests.
        """
        if digests is not None:
            digests = {file: digest for file, digest in digests.items() if _is_kept(file)}
        self.put(f"files {name}", digests)

    def files(self) -> dict[str, dict[str, str] | None]:
        """Return what :meth:`put_files` kept, by model."""
        rows = self.db.execute("SELECT key, value FROM run WHERE key LIKE 'files %'").fetchall()
        return {key.removeprefix("files "): self.plain(text) for key, text in rows}

    def check_files(self, name: str | None = None) -> None:
        """Make sure that the files of one model, or of all, are as they were written.

        Raises:
            RunError: some are missing or damaged; names them all.
        """
        faults: list[str] = []
        for model, digests in self.files().items():
            if digests is not None and name in (None, model):
                faults += _file_faults(model_folder(self.directory, model), digests)
        if faults:
            raise RunError(
                f"{', '.join(faults)}. Expected the models as the run wrote them: put copies back, or run the recipe "
                "again with another --out; with a cache its stages are not run again."
            )

    def plain(self, text: str) -> Any:
        """Read JSON that the database holds.

        Raises:
            RunError: it is not JSON: the database is damaged.
        """
        try:
            return json.loads(text)
        except ValueError as error:
            raise RunError(damaged_database(self.db.path, str(error))) from error

    def _acquire(self) -> Any:
        """Lock the directory against other processes; the operating system unlocks it if this one dies."""
        import inspect

        from filelock import FileLock, Timeout

        path = self.directory / ".lock"
        options: dict[str, Any] = {}
        if "fallback_to_soft" in inspect.signature(FileLock).parameters:
            # An option of newer versions. A soft lock is a mere file, which outlives a process that is killed.
            options["fallback_to_soft"] = False
        try:
            lock = FileLock(path, **options)
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
        order = ORDERS.get(table, "rowid")
        return self._records(f'SELECT * FROM "{table}" ORDER BY {order}')

    def _records(self, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return the rows of a query as mappings, with JSON columns as values."""
        cursor = self.db.execute(query, parameters)
        columns = _columns(cursor)
        records = []
        for row in cursor.fetchall():
            record = dict(zip(columns, row, strict=True))
            for column in JSON_COLUMNS & record.keys():
                if record[column]:
                    record[column] = self.plain(record[column])
            records.append(record)
        return records

    def stage_states(self) -> dict[str, str]:
        """Return the state of each stage that began, by name, in the order of the recipe."""
        return dict(self.db.execute("SELECT name, state FROM stage ORDER BY position").fetchall())

    def model_paths(self) -> dict[str, Path]:
        """Return the directory of every model that was written, by name."""
        rows = self.db.execute("SELECT name, path FROM model WHERE path IS NOT NULL ORDER BY rowid").fetchall()
        return {name: self.directory / path for name, path in rows}

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
        """Note how a stage ended; the seconds of all resumes add up."""
        self.db.execute(
            "UPDATE stage SET state = ?, finished_at = ?, run_seconds = run_seconds + ?, result = ? WHERE name = ?",
            (state, time.time(), seconds, canonical_json(result or {}), name),
        )

    def stage_result(self, name: str) -> dict[str, Any]:
        """Return what :meth:`end_stage` kept."""
        row = self.db.execute("SELECT result FROM stage WHERE name = ?", (name,)).fetchone()
        return {} if row is None else self.plain(row[0])

    def stages(self) -> list[StageRecord]:
        """Return the stages that the run began, in their order."""
        columns = ", ".join(field.name for field in fields(StageRecord))  # which have the names of columns
        records = self._records(f"SELECT {columns} FROM stage ORDER BY position")
        return [StageRecord(**record) for record in records]

    def outcome_digest(self) -> str | None:
        """Return a digest that no two runs share, or ``None`` if no stage began.

        It covers results and the times at which stages and trials ended, so that a copy of a run has the same digest.
        """
        stages = self.db.execute("SELECT name, started_at, finished_at FROM stage ORDER BY position").fetchall()
        if not stages:
            return None
        models = self.db.execute("SELECT name, metrics FROM model ORDER BY name").fetchall()
        trials = self.db.execute("SELECT finished_at, score FROM trial ORDER BY stage, number").fetchall()
        return text_digest(json.dumps([stages, models, trials]))

    def stage_rows(self, name: str) -> dict[str, Any]:
        """Return everything that a stage left: its trials, metrics, ledger and facts, and all models as they stand."""
        rows: dict[str, Any] = {}
        for table in STAGE_TABLES:
            rows[table] = self.db.execute(f"SELECT * FROM {table} WHERE stage = ?", (name,)).fetchall()
        facts = "SELECT key, value FROM run WHERE key = ? OR key LIKE 'measured %'"
        rows["run"] = self.db.execute(facts, (f"tally {name}",)).fetchall()
        rows["model"] = self.db.execute("SELECT * FROM model ORDER BY rowid").fetchall()
        return rows

    def put_stage(
        self, name: str, position: int, verb: str, rows: Mapping[str, Any], seconds: float, result: Mapping[str, Any]
    ) -> None:
        """Write a finished stage from what :meth:`stage_rows` returned for this run or an equal one."""
        with self.transaction():
            # A kill may have left some of the stage's rows, and those of models as earlier stages left them.
            for table in STAGE_TABLES:
                self.db.execute(f"DELETE FROM {table} WHERE stage = ?", (name,))
            self.db.execute("DELETE FROM model")
            for table, values in rows.items():
                for row in values:
                    places = ", ".join("?" * len(row))
                    self.db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({places})", row)
            self._mark_measured_costs()
            self.start_stage(name, position, verb)
            self.end_stage(name, "done", seconds, result)

    def _mark_measured_costs(self) -> None:
        """Mark the models' measured costs as taken at another time, maybe on another machine."""
        for model, text in self.db.execute("SELECT name, costs FROM model").fetchall():
            costs = self.plain(text)
            measured = [cost for cost in costs if f"{cost}_spread" in costs]  # counted costs have no spread
            for cost in measured:
                costs[f"{cost}_cached"] = 1
            self.put_model(model, costs=costs)

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
        records = self._records(
            "SELECT arch, score, objectives, metrics, costs, violation, state, origin, examples FROM trial"
            " WHERE stage = ? ORDER BY number",
            (stage,),
        )
        trials = []
        for record in records:
            objectives = tuple(record.pop("objectives"))
            trials.append(Trial(objectives=objectives, **record))
        return trials

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Keep a step's metrics; those of a step that runs again after a crash are replaced."""
        rows = []
        for name, value in values.items():
            number = float(value) if math.isfinite(value) else None  # NULL stands for NaN and infinities
            rows.append((stage, step, name, number))
        self.db.executemany("INSERT OR REPLACE INTO metric VALUES (?, ?, ?, ?)", rows)

    def add_ledger(self, stage: str, entries: Sequence[LedgerEntry]) -> None:
        """Set a stage's ledger, one row for each role."""
        for entry in entries:
            self.db.execute(
                "INSERT OR REPLACE INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (stage, *asdict(entry).values())
            )

    def put_model(self, name: str, **fields: Any) -> None:
        """Insert a model's row or change the given fields of it; values are JSON-plain."""
        self.db.execute("INSERT OR IGNORE INTO model (name, stage) VALUES (?, '')", (name,))
        for column, value in fields.items():
            text = canonical_json(value) if column in JSON_COLUMNS else value
            self.db.execute(f"UPDATE model SET {column} = ? WHERE name = ?", (text, name))

    def model(self, name: str) -> dict[str, Any]:
        """Return a model's row, or an empty dict."""
        records = self._records("SELECT * FROM model WHERE name = ?", (name,))
        return records[0] if records else {}

    def frame(self, table: str) -> pd.DataFrame:
        """Return a table as a data frame, JSON columns as text."""
        import pandas as pd

        cursor = self.db.execute(f'SELECT * FROM "{table}"')
        return pd.DataFrame(cursor.fetchall(), columns=_columns(cursor))

    def checkpoint(self, name: str) -> Checkpoint:
        """Return the checkpoint of this name, which may not exist yet."""
        return Checkpoint(self.directory / "checkpoints" / f"{name}.safetensors")

    def clear_checkpoints(self) -> None:
        """Drop all states: the run is complete."""
        shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)

    def clear_rests(self) -> None:
        """Remove temporary files that a process left when it was killed."""
        for path in [*self.directory.rglob("*.tmp"), *self.directory.rglob(".tmp*")]:
            if path.is_file():
                path.unlink()
