"""Settings of ingest."""

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings
from services.ingest.bots import BotRules
from services.ingest.clean import Rules
from services.ingest.validate import Limits


class IngestSettings(ServiceSettings):
    """How records are judged, and how the log clock goes on. Variables: FRESHRANK_INGEST_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="FRESHRANK_INGEST_", frozen=True, extra="forbid")

    ticks: Literal["wall", "log"] = Field(
        "wall", description="wall: a tick to each partition every tick_ms; log: only records move the clock (replays)"
    )
    tick_ms: int = Field(1000, ge=10, le=60_000, description="ms between ticks: windows fall at most so late")
    tick_slack_ms: int = Field(
        100,
        ge=0,
        le=60_000,
        description="ms a tick stays behind the time of day: records on their way keep their order",
    )
    lateness_s: int = Field(
        3600,
        ge=1,
        le=86_400,
        description="s behind the log clock after which an event is late; features fold in as much",
    )
    ahead_s: int = Field(
        600, ge=0, le=86_400, description="s an event may lie after its arrival: shoppers' clocks differ"
    )
    duplicate_ids: int = Field(
        1_000_000, ge=1_000, le=50_000_000, description="event ids remembered per partition; about 100 bytes each"
    )
    clip_every: int = Field(1_000, ge=10, description="values of a column between two bounds for its outliers")
    bot_per_minute: int = Field(120, ge=1, description="events of one shopper in a minute that no person makes")
    bot_dwell_ms: int = Field(200, ge=0, description="ms between two events that are not two looks")
    bot_dwell_run: int = Field(20, ge=1, description="so many of them in a row are a program")
    bot_hold_s: int = Field(600, ge=1, description="s that a verdict stands after the last breach")
    bot_shoppers: int = Field(200_000, ge=100, description="shoppers watched per partition; about 200 bytes each")
    record_bytes: int = Field(1_048_576, ge=1_024, le=8_388_608, description="bytes of the largest record taken")
    batch_events: int = Field(10_000, ge=1, description="events of the largest batch taken")
    snapshot_s: float = Field(15.0, gt=0, description="s between two snapshots of a partition: what a restart redoes")
    fetch_wait_ms: int = Field(
        80, ge=0, le=1000, description="ms the broker gathers messages for an answer; 0 = answers with the first"
    )
    instance: str = Field("", description="static member id in the group; a restart then moves no partitions")
    session_s: float = Field(
        10.0,
        ge=1,
        le=300,
        description="s of silence after which a member's partitions move; above the time of a restart",
    )

    def rules(self) -> Rules:
        """What the fold decides by."""
        return Rules(
            limits=Limits(
                ahead_us=self.ahead_s * 1_000_000, record_bytes=self.record_bytes, batch_events=self.batch_events
            ),
            bots=BotRules(
                per_minute=self.bot_per_minute,
                dwell_us=self.bot_dwell_ms * 1_000,
                dwell_run=self.bot_dwell_run,
                hold_us=self.bot_hold_s * 1_000_000,
                shoppers=self.bot_shoppers,
            ),
            lateness_us=self.lateness_s * 1_000_000,
            duplicates=self.duplicate_ids,
            clip_every=self.clip_every,
        )
