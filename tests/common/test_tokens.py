import base64

import pytest

from services.common.errors import InvalidInput
from services.common.tokens import MAX_AGE_S, MAX_AHEAD_S, Tokens, impression_of, query_of

OLD = Tokens({1: b"a" * 16}, 1)
NEW = Tokens({2: b"b" * 16, 1: b"a" * 16}, 2)
IMPRESSION = "00112233445566778899aabbccddeeff"
NOW = 1_800_000_000_000_000


def test_a_token_names_its_impression_to_its_user() -> None:
    token = OLD.issue(IMPRESSION, "ada", NOW)
    assert OLD.check(token, "ada", NOW + 1) == IMPRESSION == impression_of(token)


def test_a_token_of_a_search_says_what_was_searched_for_and_vouches_for_it() -> None:
    query = "𝕢" * 80  # as many letters as are counted, of four bytes each
    token = OLD.issue(IMPRESSION, "ada", NOW, query)
    assert (OLD.check(token, "ada", NOW), query_of(token)) == (IMPRESSION, query)
    assert len(token) < 512
    raw = base64.urlsafe_b64decode(OLD.issue(IMPRESSION, "ada", NOW, "red") + "==")
    with pytest.raises(InvalidInput, match="not issued"):
        OLD.check(base64.urlsafe_b64encode(raw.replace(b"red", b"bed")).decode().rstrip("="), "ada", NOW)


@pytest.mark.parametrize("token", [OLD.issue(IMPRESSION, "ada", NOW), "not a token!", ""])
def test_other_tokens_say_nothing_of_a_search(token: str) -> None:
    assert query_of(token) == ""


def test_a_token_of_the_old_key_is_good_after_rotation() -> None:
    assert NEW.check(OLD.issue(IMPRESSION, "ada", NOW), "ada", NOW) == IMPRESSION


def _changed(token: str) -> str:
    return token[:10] + ("A" if token[10] != "A" else "B") + token[11:]


@pytest.mark.parametrize(
    ("token", "user", "later_s", "says"),
    [
        pytest.param(OLD.issue(IMPRESSION, "ada", NOW), "bob", 0, "not issued to this user", id="other user"),
        pytest.param(_changed(OLD.issue(IMPRESSION, "ada", NOW)), "ada", 0, "not issued", id="changed"),
        pytest.param(NEW.issue(IMPRESSION, "ada", NOW), "ada", 0, "key that is not known", id="unknown key"),
        pytest.param(OLD.issue(IMPRESSION, "ada", NOW), "ada", MAX_AGE_S + 1, "expired", id="expired"),
        pytest.param(OLD.issue(IMPRESSION, "ada", NOW), "ada", -MAX_AHEAD_S - 1, "future", id="future"),
        pytest.param(OLD.issue(IMPRESSION, "ada", NOW)[:-4], "ada", 0, "length", id="truncated"),
        pytest.param("not a token!", "ada", 0, "base64url", id="text"),
        pytest.param("ü" * 50, "ada", 0, "base64url", id="not ascii"),
        pytest.param("", "ada", 0, "length", id="empty"),
    ],
)
def test_a_token_that_does_not_hold_is_refused(token: str, user: str, later_s: int, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        OLD.check(token, user, NOW + later_s * 1_000_000)
    assert (caught.value.field, caught.value.reason) == ("attribution_token", "bad_token")


@pytest.mark.parametrize("text", ["", "x:00", "1", "1:zz", "300:" + "ab" * 16, "1:abcd"])
def test_keys_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Tokens.parse(text)
    assert caught.value.field == "token_keys"
