"""Settings of the trainer: FRESHRANK_TRAINER_<FIELD>, read once in `__main__`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from services.common.settings import ServiceSettings
from services.trainer import expression
from services.trainer.privacy import config as privacy
from services.trainer.strategies import expression as strategies


def _a_trigger(text: str) -> str:
    if text:
        expression.parse(text)
    return text


def _parts(text: str) -> str:
    strategies.parts(text)
    return text


def _a_loss(text: str) -> str:
    strategies.loss(text)
    return text


def _a_privacy(text: str) -> str:
    privacy.parse(text)
    return text


class TrainerSettings(ServiceSettings):
    """Every field with its unit and the reason for its default."""

    model_config = SettingsConfigDict(env_prefix="FRESHRANK_TRAINER_", frozen=True, extra="forbid")

    arm: str = Field("main", pattern=r"^[a-z0-9][a-z0-9-]{0,30}$", description="arm of the model store this trainer is")
    clock: Literal["wall", "log"] = Field(
        "wall", description="what triggers count: the time of day, or the log's in replays faster than life"
    )
    update_interval: float = Field(
        30.0, ge=0.1, le=86_400, description="seconds between releases; 30 keeps the dense part under a minute old"
    )
    update_examples: int = Field(
        0, ge=0, description="examples after which a release is made before its time; 0 = time alone decides"
    )
    trigger: Annotated[str, AfterValidator(_a_trigger)] = Field(
        "",
        description="when releases are made instead, such as any(time(300), drift(adwin)): of time(seconds),"
        " volume(examples), batch(), cost(seconds per 1,000 examples), performance(share worse, impressions),"
        " drift(adwin or page_hinkley), shift(stability index, impressions); any, all, majority",
    )
    hold_psi: float = Field(
        0.0,
        ge=0,
        le=10,
        description="population stability index of a feature, or of the label share, since the last release against the"
        " window before, above which a due release waits; 0 = none waits",
    )
    hold_seconds: float = Field(
        60.0, ge=0, le=3_600, description="s that a due release waits at most: what has changed for good must go too"
    )
    push_interval: float = Field(
        1.0, ge=0, le=60, description="seconds between row deltas; 0 = one after every batch, for lockstep replays"
    )
    share: float = Field(
        1.0, ge=0.01, le=1, description="share of shoppers learned from, by hash; weights make up for the rest"
    )
    batch_impressions: int = Field(
        20, ge=1, le=4_096, description="impressions, or clicks, per update at least; of long lists they alone count"
    )
    batch_items: int = Field(
        384,
        ge=1,
        le=65_536,
        description="candidates per update at least; of short lists they alone count; larger is faster, smaller learns"
        " more of each example",
    )
    model: Literal[
        "logistic", "factorisation", "embedding_sum", "two_tower", "deepfm", "dlrm", "din", "transformer"
    ] = Field(
        "din",
        description="what ranks: logistic, factorisation, embedding_sum, two_tower, deepfm, dlrm, din or transformer;"
        " another one needs another arm",
    )
    optimiser: Literal["sgd", "adagrad", "adam", "ftrl"] = Field(
        "adam", description="of the dense part; its running average is what is released"
    )
    strategy: Annotated[str, AfterValidator(_parts)] = Field(
        "",
        description="what an update does beside its plain step, in one line such as replay(2000, 0.5), ewc(100);"
        " docs/techniques.md lists all",
    )
    loss: Annotated[str, AfterValidator(_a_loss)] = Field(
        "", description="what a wrong score costs, such as focal(2), smoothed(0.1); empty = cross-entropy"
    )
    labels: Literal["flips", "waiting", "fake_negatives", "calibrated", "at_release"] = Field(
        "flips",
        description="how late labels are learned: taken back by flips, waited for, weighed, or calibrated; at_release"
        " learns nothing between releases and needs epochs(...) in the strategy",
    )
    privacy: Annotated[str, AfterValidator(_a_privacy)] = Field(
        "",
        description="differential privacy of shoppers: private(epsilon, delta, noise, clip, cap, round), such as"
        " private(8, 1e-6, 4); behind it selected(noise, threshold, clip) moves selected rows of items alone; empty ="
        " none; docs/privacy.md",
    )
    privacy_items: Path | None = Field(
        None, description="file of the shop's items, one id a line: of private learning, those that have rows"
    )
    hold_out: float = Field(
        0.0, ge=0, le=0.5, description="share of impressions that choose before they are learned, at each release"
    )
    accumulate: int = Field(1, ge=1, le=10_000, description="steps whose gradients are summed before anything moves")
    learning_rate: float = Field(0.003, gt=0, le=10, description="of the dense part")
    row_learning_rate: float = Field(0.2, gt=0, le=10, description="of the rows")
    schedule: Literal["constant", "inverse_sqrt"] = Field(
        "constant", description="of both rates; a stream has no end, so the default does not fall"
    )
    warmup_impressions: int = Field(1000, ge=0, description="over which the rates rise from nothing")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled, of the dense part, per update and rate")
    row_decay: float = Field(0.0, ge=0, le=1, description="the same of touched rows")
    clip_norm: float = Field(100.0, ge=0, description="largest length of the dense gradient; 0 = any")
    row_clip_norm: float = Field(1.0, gt=0, description="largest length of one row's gradient in one update")
    row_max_norm: float = Field(8.0, gt=0, description="largest length of a row; the row gate refuses above 16")
    loss_weights: dict[str, float] = Field(
        {"click": 1.0, "cart": 1.0, "purchase": 1.0},
        min_length=1,
        description="weight of each head's loss; heads in the joiner's order",
    )
    objective: dict[str, float] = Field(
        {"click": 1.0, "cart": 1.0, "purchase": 1.0},
        description="weight of each head in the score items are ordered by",
    )
    propensity_clip: float = Field(
        1.0, ge=1, le=100, description="largest 1/propensity of an explored item; 1 = not used"
    )
    position_power: float = Field(
        0.0, ge=0, le=2, description="examination of place k is (k+1)^-power; 0 = scores are of clicks as shown"
    )
    row_dim: int = Field(16, ge=1, le=256, description="values of an embedding row; the row views have as many")
    max_rows: int = Field(
        4_000_000, ge=1_000, description="rows of each table at most; memory is used only as rows come"
    )
    admission: int = Field(
        3, ge=1, le=255, description="times an id is seen before it gets a row; rarer ones stay content"
    )
    expiry_days: float = Field(30.0, gt=0, description="days on the log clock after which an unseen row goes")
    row_dropout: float = Field(0.05, ge=0, lt=1, description="share of rows hidden in learning, for items without one")
    retrieval_dim: int = Field(32, ge=1, le=512, description="values of a retrieval vector")
    window: int = Field(5_000, ge=1, description="judged impressions that the metrics of a release are over")
    checkpoints: int = Field(3, ge=1, le=100, description="newest checkpoints kept beside those of loadable releases")
    archive: bool = Field(
        True, description="keep what is learned as Parquet under the arm, for full retrains and `freshrank evaluate`"
    )
    archive_days: float = Field(30.0, gt=0, description="days after which such a file is taken away")
    transfer_from: Path | None = Field(
        None, description="checkpoint of another arm (folder <lineage>-<seq>) that this one begins with; none = anew"
    )
    transfer_users: bool = Field(True, description="take shoppers' rows over too, not only items'")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="of the dense part; auto takes a GPU if there is one"
    )
    threads: int = Field(1, ge=1, le=256, description="of torch; small matrices get slower with more")
    seed: int = Field(1, ge=0, description="of first weights and row dropout; equal seeds and logs give equal weights")
    poll_ms: float = Field(100.0, gt=0, le=10_000, description="longest wait for examples before timers are looked at")
    gather_ms: float = Field(
        250.0, ge=0, le=10_000, description="wait for examples that share an update: few large ones learn best"
    )
    poll_messages: int = Field(500, ge=1, le=100_000, description="messages per batch at most")
    tensorboard: Path | None = Field(None, description="folder for TensorBoard; none = <store>/arms/<arm>/tensorboard")

    @model_validator(mode="after")
    def _learns_at_all(self) -> Self:
        names = [part.name for part in strategies.parts(self.strategy)]
        if self.labels == "at_release" and "epochs" not in names:
            raise ValueError("labels = at_release learns nothing without epochs(...) in the strategy")
        if self.labels in ("waiting", "at_release") and "lightgcn" in names:
            raise ValueError(f"labels = {self.labels} learns an action when lightgcn(...) has shown it to the rows")
        return self
