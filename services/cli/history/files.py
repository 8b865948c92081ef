"""Tables from Parquet and CSV files, and faults that name file, row and column.

In CSV files everything is read as text and converted here: a reader that guesses turns item 007 into the number 7.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from services.common.errors import InvalidInput

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz")


@dataclass(frozen=True)
class Source:
    """One file as it lies there, with our names for its columns."""

    option: str
    path: Path
    table: pa.Table
    names: Mapping[str, str]
    """Our name -> the file's."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def has(self, name: str) -> bool:
        """Whether the file has this column."""
        return name in self.names

    def column(self, name: str) -> pa.Array:
        """A column by our name."""
        found = self.table.column(self.names[name]).combine_chunks()
        return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)

    def fault(self, row: int, name: str, reason: str, detail: str) -> InvalidInput:
        """What is wrong with one value; `row` counts from 0 here and from 1 for people, headers aside."""
        column = self.names.get(name, name)
        return InvalidInput(self.option, reason, f"{self.path.name}, row {row + 1}, column {column}: {detail}")

    def refuse(self, wrong: pa.Array, name: str, reason: str, detail: Callable[[Any], str]) -> None:
        """Raises InvalidInput for the first row where `wrong` holds."""
        row = pc.index(pc.fill_null(wrong, False), True).as_py()
        if row >= 0:
            raise self.fault(row, name, reason, detail(self.column(name)[row].as_py() if self.has(name) else None))


def read(option: str, path: Path, known: Sequence[str], required: Sequence[str], mapping: Mapping[str, str]) -> Source:
    """A file with its columns named. `mapping`: our name -> the file's, where they differ.

    Raises InvalidInput naming the file, and the column that is missing.
    """
    table = _table(option, path)
    names = {name: mapping.get(name, name) for name in known if mapping.get(name, name) in table.column_names}
    lacking = [name for name in required if name not in names]
    if lacking:
        wanted = mapping.get(lacking[0], lacking[0])
        has = ", ".join(table.column_names)
        raise InvalidInput(option, "missing_column", f"{path.name} has no column {wanted} ({lacking[0]}); it has {has}")
    for name in mapping.keys() & set(known) - names.keys():
        raise InvalidInput(option, "missing_column", f"{path.name} has no column {mapping[name]} ({name})")
    if not table.num_rows:
        raise InvalidInput(option, "empty", f"{path.name} has no rows")
    return Source(option, path, table, names)


def mapping_of(option: str, pairs: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """`ours=theirs` pairs. Raises InvalidInput.

    >>> mapping_of("--map", ["user=customer_id"], ["user"])
    {'user': 'customer_id'}
    """
    found: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not theirs:
            raise InvalidInput(option, "malformed", f"{pair!r} is not <ours>=<column of the file>")
        if ours not in known:
            raise InvalidInput(option, "unknown_column", f"{ours!r} is none of {', '.join(known)}")
        found[ours] = theirs
    return found


def _table(option: str, path: Path) -> pa.Table:
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise InvalidInput(option, "malformed", f"{path.name} is none of {', '.join(SUFFIXES)}")
    try:
        return pq.read_table(path) if name.endswith(".parquet") else _text(path, "\t" if ".tsv" in name else ",")
    except OSError as error:
        reason = error.strerror or "is no Parquet file"
        raise InvalidInput(option, "not_found" if error.strerror else "malformed", f"{path}: {reason}") from error
    except pa.ArrowException as error:
        raise InvalidInput(option, "malformed", f"{path.name}: {error}") from error


def _text(path: Path, delimiter: str) -> pa.Table:
    parse = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with pa.csv.open_csv(path, parse_options=parse) as reader:
        columns = reader.schema.names
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    return pa.csv.read_csv(path, parse_options=parse, convert_options=convert)
