"""Text encoders, asked of a real server."""

from freshrank.v1 import models_pb2 as pb

from tests.cli.fakes import Admin, run, serving

STATES = (("x2", "serving"), ("x1", "previous"))


def test_encoders_are_listed() -> None:
    with serving(Admin()) as address:
        ended = run("encoders", "list", "--admin", address, "--json")
    assert ended.code == 0
    assert [(found["encoder"], found["state"], found["slot"]) for found in ended.json] == [
        ("t2", "serving", "tb"), ("t1", "previous", "ta"),
    ]  # fmt: skip
    assert ended.json[0]["decided"] == "2025-10-09T08:53:20+00:00"


def test_the_one_before_is_asked_for_with_a_reason() -> None:
    admin = Admin()
    with serving(admin) as address:
        ended = run("encoders", "rollback", "--admin", address, "--reason", "odd", "--actor", "ada", "--json")
    assert ended.code == 0
    assert [(found["encoder"], found["state"]) for found in ended.json] == [("t1", "serving")]
    assert (admin.asked[0].actor, admin.asked[0].reason) == ("ada", "odd")


def test_what_does_not_show_ends_with_one() -> None:
    with serving(Admin(stuck=True)) as address:
        ended = run("encoders", "rollback", "--admin", address)
    assert ended.code == 1
    assert "t2 still serves" in ended.err


def test_the_reranker_before_is_asked_for_by_name() -> None:
    admin = Admin()
    admin.encoders += [pb.Encoder(encoder=name, kind="reranker", state=state) for name, state in STATES]
    with serving(admin) as address:
        ended = run("encoders", "rollback", "--reranker", "--admin", address)
    assert admin.asked[0].reranker
    assert ended.code == 1  # the server knows of encoders alone
    assert "x2 still serves: there may be no reranker before it" in ended.err
