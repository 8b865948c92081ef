"""Settings of the joiner."""

from collections.abc import Callable

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from services.common.errors import InvalidInput
from services.common.settings import ServiceSettings
from services.common.tokens import Tokens
from services.joiner.fold import Rules
from services.joiner.join import JoinRules
from services.joiner.labels import DEFAULT, Heads
from services.joiner.sample import Sampling


class JoinerSettings(ServiceSettings):
    """What counts as a success, and how much waits for it. Variables: FRESHRANK_JOINER_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="FRESHRANK_JOINER_", frozen=True, extra="forbid")

    heads: str = Field(
        DEFAULT, description="heads in the order of their bits: <name>=<KIND>[:<column>>=<n>],...@<window>"
    )
    token_keys: str = Field(
        "", description="<id>:<hex>,<id>:<hex> as the gateway has them; required: without keys nothing can be joined"
    )
    sample_rate: float = Field(
        1.0, gt=0, le=1, description="share of (impression, item) pairs kept; each weighs 1/rate"
    )
    unshown_items: int = Field(8, ge=0, le=1_000, description="candidates that were not shown, of each impression")
    unshown_weight: float = Field(
        0.0, ge=0, description="their weight beside 1 for shown ones; above 0 teaches the ranker its own choices"
    )
    hold_s: float = Field(10.0, ge=0, description="s of log time an action waits for its impression to arrive")
    held_actions: int = Field(10_000, ge=1, description="actions waiting at once per partition")
    open_impressions: int = Field(
        200_000, ge=1, description="impressions inside the click window per partition; about 500 bytes of memory each"
    )
    clicked_rows: int = Field(
        2_000_000, ge=0, description="clicked rows waiting for slower heads per partition; a few kB of disk each"
    )
    snapshot_s: float = Field(15.0, gt=0, description="s between two snapshots of a partition: what a restart redoes")
    fetch_wait_ms: int = Field(
        250, ge=0, le=1000, description="ms the broker gathers messages for an answer; 0 = answers with the first"
    )
    instance: str = Field("", description="static member id in the group; a restart then moves no partitions")
    session_s: float = Field(
        10.0,
        ge=1,
        le=300,
        description="s of silence after which a member's partitions move; above the time of a restart",
    )

    @field_validator("heads")
    @classmethod
    def _heads(cls, text: str) -> str:
        return _checked(text, lambda: Heads.parse(text))

    @field_validator("token_keys")
    @classmethod
    def _keys(cls, text: str) -> str:
        return _checked(text, lambda: Tokens.parse(text) if text else None)

    def rules(self) -> Rules:
        """What the fold decides by. Raises InvalidInput without token keys."""
        if not self.token_keys:
            raise InvalidInput("FRESHRANK_JOINER_TOKEN_KEYS", "missing_setting", "must be given")
        sampling = Sampling(self.sample_rate, self.unshown_items, self.unshown_weight)
        join = JoinRules(Heads.parse(self.heads), sampling, self.open_impressions, self.clicked_rows)
        return Rules(join, Tokens.parse(self.token_keys), int(self.hold_s * 1_000_000), self.held_actions)


def _checked(text: str, parse: Callable[[], object]) -> str:
    try:
        parse()
    except InvalidInput as error:
        raise ValueError(error.detail) from error
    return text
