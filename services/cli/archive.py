"""Archives of a model store: sealed feature rows opened for whoever joins them by time."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli import output
from services.cli.failures import Commands
from services.cli.options import Json
from services.common.errors import InvalidInput

if TYPE_CHECKING:
    import pyarrow as pa

    from services.common.keytable import KeyTable

_STORE = "Model store whose archive is opened."


def group() -> typer.Typer:
    """The group `archive`."""
    found = typer.Typer(cls=Commands, help="Open sealed archives.", no_args_is_help=True)
    found.callback()(lambda: None)  # a group, although it has one command
    found.command("open")(open_)
    return found


def open_(
    out: Annotated[Path, typer.Argument(help="Folder to make; it holds archive/features/<view> then.")],
    store: Annotated[Path, typer.Option(envvar="FRESHRANK_STORE", help=_STORE)] = Path("store"),
    view: Annotated[list[str] | None, typer.Option(help="A view; all when left out. Again for more.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="A shopper; all when left out. Again for more.")] = None,
    as_json: Json = False,
) -> None:
    """Write emitted feature rows as plain Parquet, for Feast's point-in-time joins. Delete the folder afterwards.

    Rows of forgotten shoppers stay shut. FRESHRANK_STORE=OUT and a registry of its own let Feast read them there.
    """
    archive = store / "archive" / "features"
    known = {path.name: path for path in sorted(archive.iterdir()) if path.is_dir()} if archive.is_dir() else {}
    for name in view or ():
        if name not in known:
            raise InvalidInput(
                "--view", "not_found", f"{archive} has no {name}; there are {', '.join(known) or 'none'}"
            )
    if out.exists():
        raise InvalidInput("OUT", "exists", f"{out} is there already")
    out.mkdir(mode=0o700, parents=True)
    found = {
        name: _opened(path, out / "archive" / "features" / name, set(user or ()))
        for name, path in known.items()
        if not view or name in view
    }
    data = [{"view": name, "rows": count, "lost": lost} for name, (count, lost) in found.items()]
    rows = [[name, str(count), str(lost)] for name, (count, lost) in found.items()]
    output.show(data, as_json, output.Table(f"Opened into {out}", ("view", "rows", "groups without a key"), rows))


def _opened(view: Path, out: Path, users: Collection[str]) -> tuple[int, int]:
    """Rows written, and groups that no key opens."""
    from services.common.keytable import reading

    count = lost = 0
    with reading(view) as keys:
        for name, rows, shut in _files(view, keys):
            kept = _of(rows, users)
            count, lost = count + kept.num_rows, lost + shut
            if kept.num_rows:
                _write(kept, out / name)
    return count, lost


def _files(view: Path, keys: "KeyTable | None") -> "Iterator[tuple[str, pa.Table, int]]":
    from services.common import sealed

    for path in sorted(view.glob("*.parquet")):
        found = sealed.read(path, sealed.FEATURES, keys)
        yield path.name, found.rows, found.lost


def _of(rows: "pa.Table", users: Collection[str]) -> "pa.Table":
    """Rows of these shoppers, of everybody when there are none; rows of items are everybody's."""
    import pyarrow as pa
    import pyarrow.compute as pc

    owner = next((name for name in ("_user", "user_id") if name in rows.column_names), None)
    if users and owner:
        rows = rows.filter(pc.is_in(rows[owner], value_set=pa.array(sorted(users))))
    return rows.drop_columns([name for name in ("_user", "_row") if name in rows.column_names])


def _write(rows: "pa.Table", path: Path) -> None:
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, compression="zstd")
