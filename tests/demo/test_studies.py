"""What a lag and a missing input cost, on rankings where the answer is known."""

from freshrank.v1 import ranking_pb2

from services.demo.loaders.steps import Ask, Tell
from services.demo.studies import Study, early, orders_without


class Gateway:
    """Early it knows nothing and answers the wanted item last; the score of "a" is all by input "x"."""

    async def preview(self, ask: Ask) -> list[str] | None:
        return ["b", "c", "a"]

    async def contributions(self, token: str, item: str, time_us: int) -> tuple[float, dict[str, float]] | None:
        assert (token, time_us) == ("token", 5_000_000_000)
        return {"a": 0.9, "b": 0.5, "c": 0.4}[item], {"x": 0.9 if item == "a" else 0.0, "y": 0.1}


def ask(time_s: int) -> Ask:
    candidates = [ranking_pb2.Candidate(item_id=item) for item in "abc"]
    shopper = ranking_pb2.Shopper(user_id="u", session_id="s")
    return Ask(time_s * 1_000_000, shopper, candidates, wanted="a")


def test_requests_of_the_second_half_are_asked_early_in_order_of_time() -> None:
    asks = [ask(second) for second in (1000, 2000, 3000, 4000)]
    ahead = early([asks[0], Tell(1, []), *asks[1:]], every=1, lags_s=(10, 1500))
    assert [(one.time_us // 1_000_000, one.lag_s) for one in ahead] == [
        (1500, 1500),
        (2500, 1500),
        (2990, 10),
        (3990, 10),
    ]


async def test_a_lag_and_a_missing_input_cost_what_they_cost() -> None:
    study, one = Study(Gateway()), ask(5000)
    (ahead,) = early([one], every=1, lags_s=(60,))
    await study.look_early(ahead)
    await study.answered(one, ["a", "b", "c"], "token", "r1")
    (lag,) = study.lags()
    assert (lag.what, lag.requests, round(lag.mrr, 6), round(lag.difference, 6)) == ("60 s", 1, 0.333333, -0.666667)
    assert (lag.auc, lag.auc_difference) == (0.0, -1.0), "the wanted one stood last, and stands first"
    assert [(cost.what, round(cost.difference, 6)) for cost in study.features()] == [("x", -0.666667), ("y", 0.0)]


async def test_requests_that_no_release_ranked_are_left_out() -> None:
    study, one = Study(Gateway()), ask(5000)
    (ahead,) = early([one], every=1, lags_s=(60,))
    await study.look_early(ahead)
    await study.answered(one, ["a", "b", "c"], "token", "")
    assert (study.lags(), study.features()) == ([], [])


def test_ties_keep_the_order_of_the_answer() -> None:
    assert orders_without(["a", "b"], [(0.9, {"x": 0.9}), (0.1, {"x": 0.1})]) == {"x": ["a", "b"]}
