"""The protos are what is generated and what people read: stubs equal to them, a comment on every part."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "services" / "pb"


def protoc(*options: str) -> None:
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "proto").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", *options, *protos]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*_pb2*.py*") if p.suffix != ".pyc"}


def test_the_committed_stubs_are_what_protoc_makes_of_the_protos(tmp_path: Path) -> None:
    protoc(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", f"--grpc_python_out={tmp_path}")
    assert files(tmp_path) == files(STUBS), "run `make proto`"


@pytest.fixture(scope="module")
def descriptors(tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorSet:
    out = tmp_path_factory.mktemp("descriptors") / "set"
    protoc("--include_source_info", f"--descriptor_set_out={out}")
    return FileDescriptorSet.FromString(out.read_bytes())


def test_every_message_field_value_and_call_has_a_comment(descriptors: FileDescriptorSet) -> None:
    silent = [name for file in descriptors.file for name in without_comment(file)]
    assert silent == []


def test_a_part_without_a_comment_is_found() -> None:
    file = FileDescriptorProto(name="x.proto", message_type=[DescriptorProto(name="Bare")])
    assert list(without_comment(file)) == ["x.proto: Bare"]


def without_comment(file: FileDescriptorProto) -> Iterator[str]:
    said = {tuple(at.path) for at in file.source_code_info.location if at.leading_comments or at.trailing_comments}
    for name, path in parts(file):
        if path not in said:
            yield f"{file.name}: {name}"


Part = tuple[str, tuple[int, ...]]


def parts(file: FileDescriptorProto) -> Iterator[Part]:
    """Name and path of every part; the numbers are those of descriptor.proto's own fields."""
    for i, message in enumerate(file.message_type):
        yield from message_parts(message, (4, i))
    for i, enum in enumerate(file.enum_type):
        yield from enum_parts(enum, (5, i))
    for i, service in enumerate(file.service):
        yield service.name, (6, i)
        yield from ((f"{service.name}.{m.name}", (6, i, 2, k)) for k, m in enumerate(service.method))


def message_parts(message: DescriptorProto, path: Sequence[int], prefix: str = "") -> Iterator[Part]:
    if message.options.map_entry:
        return
    name = f"{prefix}{message.name}"
    yield name, tuple(path)
    yield from ((f"{name}.{field.name}", (*path, 2, k)) for k, field in enumerate(message.field))
    yield from ((f"{name}.{one.name}", (*path, 8, k)) for k, one in enumerate(message.oneof_decl) if one.name[0] != "_")
    for k, nested in enumerate(message.nested_type):
        yield from message_parts(nested, (*path, 3, k), f"{name}.")
    for k, enum in enumerate(message.enum_type):
        yield from enum_parts(enum, (*path, 4, k), f"{name}.")


def enum_parts(enum: EnumDescriptorProto, path: Sequence[int], prefix: str = "") -> Iterator[Part]:
    yield f"{prefix}{enum.name}", tuple(path)
    yield from ((f"{prefix}{enum.name}.{v.name}", (*path, 2, k)) for k, v in enumerate(enum.value))
