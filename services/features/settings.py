"""Settings of features."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings
from services.features.fold import DUE_ROWS


class FeaturesSettings(ServiceSettings):
    """How state is kept and how new definitions are picked up. Variables: FRESHRANK_FEATURES_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="FRESHRANK_FEATURES_", frozen=True, extra="forbid")

    snapshot_s: float = Field(15.0, gt=0, description="s between two snapshots of a partition: what a restart redoes")
    registry_s: float = Field(3.0, gt=0, description="s between two looks at the registry for changed definitions")
    check_s: float = Field(0.5, gt=0, description="s between two looks whether the online store has lost its data")
    due_rows: int = Field(
        DUE_ROWS, ge=1, description="keys of a view that time alone has changed, written per step: bounds a step"
    )
    step_ms: int = Field(
        150,
        ge=0,
        le=1000,
        description="ms between two steps of a busy partition of shoppers: more rows in a step cost less CPU each",
    )
    item_step_ms: int = Field(
        300, ge=0, le=1000, description="the same of items, which each page of results changes a hundred of"
    )
    archive_rows: int = Field(
        50_000, ge=0, description="emitted feature rows per Parquet file; 0 archives none (about 50 bytes a row)"
    )
    archive_s: float = Field(60.0, gt=0, description="s after which a smaller file is written; a crash loses so much")
    archive_block: int = Field(2_000, ge=0, description="messages of the cleaned log per Parquet file; 0 archives none")
    seal: bool = Field(
        False,
        description="seal the archives with a key per shopper, the cleaned log of before too; forgetting deletes the "
        "key. What has keys stays sealed whatever this says",
    )
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
