"""A federation of three shops over Flower's own processes: the same model as in one process, whoever is killed."""

import datetime
import ipaddress
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.common.clock import ManualClock
from services.trainer.federated.coordinator import Coordinator
from services.trainer.federated.rounds import Ended, Plan, federate
from services.trainer.federated.runtime import free_port
from tests.trainer.arm import settings
from tests.trainer.federated.shops import archive, coordinator, grid_of, place

pytestmark = pytest.mark.pipeline

SHOPS = ("a", "b", "c")
MESSAGES = 10
PATIENCE_S = 600.0


def variables(store: Path) -> dict[str, str]:
    """The settings of `shops.chosen`, for a process."""
    small = settings(admission=1, batch_impressions=5).model_dump(exclude_unset=True)
    chosen = {f"FRESHRANK_TRAINER_{name.upper()}": str(value) for name, value in small.items()}
    return {**os.environ, **chosen, "FRESHRANK_TRAINER_STORE": str(store)}


@contextmanager
def command(store: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `freshrank federate` of its own; it and its SuperNode or SuperLink are gone afterwards."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / "out").open("ab") as out, (store / "err").open("ab") as err:
        line = [sys.executable, "-m", "services.cli", "federate", *words]
        process = subprocess.Popen(line, env=variables(store), stdout=out, stderr=err, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def certificates(folder: Path) -> list[str]:
    """An authority that is its own certificate for 127.0.0.1, as options."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "link")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    alone = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = made.add_extension(alone, False).add_extension(x509.BasicConstraints(True, None), True)
    (folder / "ca.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    return ["--tls-ca", str(folder / "ca.pem"), "--tls-cert", str(folder / "ca.pem"), "--tls-key", f"{folder}/key.pem"]


def rounds(middle: Path) -> list[dict[str, object]]:
    """The lines of the log."""
    path = middle / "arms" / "federated" / "federation.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(middle: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    """Until the log has so many."""
    until = time.monotonic() + PATIENCE_S
    while len(rounds(middle)) < lines:
        assert time.monotonic() < until, "too slow"
        assert process.poll() is None, (middle / "err").read_text()
        time.sleep(0.2)


def expected(folder: Path, plan: Plan) -> Coordinator:
    """The same in one process: the last shop goes after the first round, and with it nothing else."""
    middle = coordinator(folder)
    grid = grid_of(*(place(folder, name, seed, 40) for seed, name in enumerate(SHOPS, 1)))
    gone: list[Ended] = []

    def over(ended: Ended) -> None:
        if not gone:
            grid.leave(4)
        gone.append(ended)

    federate(grid, middle, plan, ManualClock(), over)
    return middle


def test_shops_and_the_middle_may_be_killed_and_the_model_is_that_of_one_process(tmp_path: Path) -> None:
    port, middle = str(free_port()), tmp_path / "net" / "middle"
    tls, made = certificates(tmp_path), [tmp_path / "net" / name for name in SHOPS]
    for seed, store in enumerate(made, 1):
        archive(store / "examples", seed, 40)
    serve = ["serve", "--messages", str(MESSAGES), "--port", port, "--wait", "90", "--json", *tls]
    joins = [["join", store.name, str(store / "examples"), "--port", port, *tls[:2]] for store in made]
    with ExitStack() as open_:
        third = [open_.enter_context(command(store, *join)) for store, join in zip(made, joins, strict=True)][2]
        first = open_.enter_context(command(middle, *serve, "--rounds", "3", "--least", "3"))
        wait_for(middle, 1, first)
        for killed in (third, first):
            os.killpg(killed.pid, signal.SIGKILL)
            killed.wait()
        coordinating = open_.enter_context(command(middle, *serve, "--rounds", "3", "--least", "2"))
        coordinating.wait(PATIENCE_S)
    assert coordinating.returncode == 0, (middle / "err").read_text()
    seen = [line for line in rounds(middle) if "round" in line and "ended" not in line]
    assert [line["answered"] for line in seen] == [["a", "b", "c"], ["a", "b"], ["a", "b"]]
    assert json.loads((middle / "out").read_text())["checkpoint"].endswith("checkpoints/1-3")
    # One process makes the same model: its shops have other folders and the same examples.
    inside = expected(tmp_path / "one", Plan(rounds=3, messages=MESSAGES, least=2))
    outside = Coordinator(settings(store=middle, arm="federated", admission=1, batch_impressions=5))
    for name, value in inside.weights.items():
        np.testing.assert_allclose(outside.weights[name], value, rtol=0, atol=1e-6)
    assert outside.items.ids == inside.items.ids
    np.testing.assert_allclose(outside.items.rows, inside.items.rows, rtol=0, atol=1e-6)


@pytest.mark.long  # every message starts a process that imports torch: minutes on two cores
def test_a_round_goes_on_when_a_shop_is_killed_in_it_and_answers_are_summed_in_secret(tmp_path: Path) -> None:
    port, middle = str(free_port()), tmp_path / "middle"
    made, items = [tmp_path / name for name in (*SHOPS, "d")], tmp_path / "items"
    items.write_text("\n".join(f"item-{k}" for k in range(20)))
    for seed, store in enumerate(made, 1):
        archive(store / "examples", seed, 40)
    secret = ["--items", str(items)]
    joins = [["join", store.name, str(store / "examples"), "--port", port, *secret] for store in made]
    serve = ["serve", "--rounds", "2", "--messages", str(MESSAGES), "--port", port, "--wait", "90", "--secure", *secret]
    with ExitStack() as open_:
        fourth = [open_.enter_context(command(store, *join)) for store, join in zip(made, joins, strict=True)][3]
        coordinating = open_.enter_context(command(middle, *serve, "--least", "3"))
        wait_for(middle, 1, coordinating)
        os.killpg(fourth.pid, signal.SIGKILL)
        fourth.wait()
        coordinating.wait(PATIENCE_S)
    assert coordinating.returncode == 0, (middle / "err").read_text()
    seen = rounds(middle)
    assert [line.get("answered") for line in seen[-2:]] == [["a", "b", "c"], None]
    assert all(line["figures"] == {} for line in seen[:-1])
    learned = Coordinator(settings(store=middle, arm="federated", admission=1, batch_impressions=5))
    assert learned.round == 2
    assert np.abs(learned.items.rows).max() > 0
