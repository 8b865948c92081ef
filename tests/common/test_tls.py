"""Certificates: what does not fit is named before anything starts, what is replaced is used from then on."""

import asyncio
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from pydantic_settings import SettingsConfigDict

from services.common.broker import Broker
from services.common.errors import InvalidInput
from services.common.settings import TritonSettings, load_settings
from services.common.tls import RenewingContext, Tls, Watch
from tests.certificates import Authority, Secret


class Shop(TritonSettings):
    model_config = SettingsConfigDict(env_prefix="FRESHRANK_SHOP_", frozen=True, extra="forbid")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine/ and other/ as mounted Secrets, and files that are wrong."""
    folder, authority = tmp_path_factory.mktemp("tls"), Authority("one")
    mine = Secret(folder / "mine").put(authority)
    Secret(folder / "other").put(authority)
    (folder / "junk").write_text("no certificate")
    (folder / "empty").write_text("\n")
    (folder / "password").write_text("hush\n")
    key = serialization.load_pem_private_key(mine.key.read_bytes(), None)
    (folder / "locked.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"a password"),
        )
    )
    return folder


MINE = {"CA": "mine/ca.crt", "CERT": "mine/tls.crt", "KEY": "mine/tls.key"}
KAFKA, TRITON = ({f"{part}_{name}": path for name, path in MINE.items()} for part in ("KAFKA", "TRITON"))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        pytest.param({"KAFKA_CA": "none"}, "KAFKA_CA", id="an authority that is not there"),
        pytest.param({"KAFKA_CA": "mine"}, "KAFKA_CA", id="an authority that is a folder"),
        pytest.param({"KAFKA_CA": "junk"}, "KAFKA_CA", id="an authority that is no certificate"),
        pytest.param({**KAFKA, "KAFKA_CERT": "none"}, "KAFKA_CERT", id="a certificate that is not there"),
        pytest.param({**KAFKA, "KAFKA_CA": ""}, "KAFKA_CERT", id="a certificate in plain text"),
        pytest.param({**KAFKA, "KAFKA_KEY": ""}, "KAFKA_KEY", id="a certificate without a key"),
        pytest.param({**KAFKA, "KAFKA_CERT": ""}, "KAFKA_KEY", id="a key without a certificate"),
        pytest.param({**KAFKA, "KAFKA_KEY": "none"}, "KAFKA_KEY", id="a key that is not there"),
        pytest.param({**KAFKA, "KAFKA_KEY": "other/tls.key"}, "KAFKA_KEY", id="another certificate's key"),
        pytest.param({**KAFKA, "KAFKA_KEY": "locked.key"}, "KAFKA_KEY", id="a key with a password"),
        pytest.param({"KAFKA_USERNAME": "shop"}, "KAFKA_PASSWORD_FILE", id="a user without a password"),
        pytest.param({"KAFKA_PASSWORD_FILE": "password"}, "KAFKA_PASSWORD_FILE", id="a password of nobody"),
        pytest.param(
            {"KAFKA_USERNAME": "shop", "KAFKA_PASSWORD_FILE": "none"}, "KAFKA_PASSWORD_FILE", id="no password file"
        ),
        pytest.param(
            {"KAFKA_USERNAME": "shop", "KAFKA_PASSWORD_FILE": "empty"}, "KAFKA_PASSWORD_FILE", id="no password in it"
        ),
        pytest.param({"REDIS_CA": "mine/ca.crt"}, "REDIS_CA", id="an authority for a redis:// url"),
        pytest.param({"TRITON_CA": "junk"}, "TRITON_CA", id="of Triton"),
        pytest.param({**TRITON, "TRITON_CA": ""}, "TRITON_CERT", id="of Triton in plain text"),
    ],
)
def test_a_wrong_file_is_told_by_its_variable(files: Path, given: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_settings(Shop, variables(files, given))
    assert caught.value.field in (f"FRESHRANK_{named}", f"FRESHRANK_SHOP_{named}")
    assert "\n" not in str(caught.value)


def variables(files: Path, given: dict[str, str]) -> dict[str, str]:
    paths = {
        name: value if name.endswith("USERNAME") or not value else str(files / value) for name, value in given.items()
    }
    return {f"FRESHRANK_{name}": value for name, value in paths.items()}


def test_files_say_how_kafka_is_spoken_to(files: Path) -> None:
    user = {"KAFKA_USERNAME": "shop", "KAFKA_PASSWORD_FILE": "password"}
    given = [{}, {"KAFKA_CA": "mine/ca.crt"}, KAFKA, user, KAFKA | user]
    found = [load_settings(Shop, variables(files, each)).kafka for each in given]
    assert [one.protocol for one in found] == ["PLAINTEXT", "SSL", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
    assert found[4].config() == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(files / "mine/ca.crt"),
        "ssl.certificate.location": str(files / "mine/tls.crt"),
        "ssl.key.location": str(files / "mine/tls.key"),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "shop",
        "sasl.password": "hush",
    }
    assert "hush" not in repr(found[4])


@pytest.mark.parametrize("program", [["services.joiner"], ["services.cli", "status"]], ids=["service", "command"])
def test_a_process_with_a_wrong_file_ends_with_2_and_one_sentence(files: Path, program: list[str]) -> None:
    environment = os.environ | variables(files, {"KAFKA_CA": "junk"}) | {"FRESHRANK_TOKEN_KEYS": "1:" + "ab" * 16}
    ended = subprocess.run([sys.executable, "-m", *program], env=environment, capture_output=True, text=True)
    assert ended.returncode == 2
    assert "FRESHRANK_KAFKA_CA" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_swap_of_the_link_is_seen_once(tmp_path: Path) -> None:
    authority = Authority("one")
    secret = Secret(tmp_path).put(authority)
    watch = Watch(secret.tls.files, every_s=0.0)
    assert not watch.changed()
    secret.put(authority)
    assert (watch.changed(), watch.changed()) == (True, False)
    watch.again()
    assert (watch.changed(), watch.changed()) == (True, False)


def test_a_file_that_is_away_has_not_changed(tmp_path: Path) -> None:
    secret = Secret(tmp_path).put(Authority("one"))
    watch = Watch(secret.tls.files, every_s=0.0)
    (tmp_path / "..data").rename(tmp_path / "..gone")
    assert not watch.changed()
    (tmp_path / "..gone").rename(tmp_path / "..data")
    assert not watch.changed()


def test_a_broker_watches_its_password_too(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("old")
    broker = Broker("k:9092", username="shop", password_file=file)
    watch = broker.watch()
    file.write_text("newer")
    watch._next = 0.0
    assert (watch.changed(), broker.config()["sasl.password"]) == (True, "newer")


async def test_a_context_that_a_library_keeps_makes_each_connection_with_the_files_of_then(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    mine = Secret(tmp_path / "mine").put(old)
    context = RenewingContext(mine.tls)
    async with served(Secret(tmp_path / "old").put(old).tls) as port:
        assert await connects(context, port)
        mine.put(new)
        assert not await connects(context, port)
    async with served(Secret(tmp_path / "new").put(new).tls) as port:
        assert await connects(context, port)
        mine.key.unlink()  # half of a rotation: what was read last goes on
        assert await connects(context, port)


async def connects(context: ssl.SSLContext, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        answered = await reader.read(1) == b"x"  # TLS 1.3 tells a client only now that it was refused
    except ssl.SSLError:
        return False
    writer.close()
    return answered


class served:  # noqa: N801 - reads as a context manager
    """A server that asks for certificates and says x."""

    def __init__(self, files: Tls) -> None:
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_cert_chain(files.cert or "", files.key)

    async def __aenter__(self) -> int:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"x")
            await writer.drain()
            writer.close()

        self._server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=self._context)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
