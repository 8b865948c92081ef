"""Settings of the trainer: FRESHRANK_TRAINER_<FIELD>, read once in `__main__`."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from services.common.errors import InvalidInput
from services.trainer import expression, maintenance, presets, tracking
from services.trainer.privacy import config as privacy
from services.trainer.strategies import expression as strategies
from services.trainer.text.settings import TextSettings


def _a_trigger(text: str) -> str:
    if text:
        expression.parse(text)
    return text


def _a_policy(text: str) -> str:
    maintenance.parse(text)
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


def _trackers(text: str) -> str:
    tracking.parse(text)
    return text


def _widths(given: Any) -> Any:
    return json.loads(given) if isinstance(given, str) else given


Width = Annotated[int, Field(ge=1, le=4_096)]

_PLACES = {"arm", "tensorboard", "transfer_from", "privacy_items", "device", "threads", "trackers"}
"""Settings that say where, not how."""


class TrainerSettings(TextSettings):
    """Every field with its unit and the reason for its default."""

    model_config = SettingsConfigDict(env_prefix="FRESHRANK_TRAINER_", frozen=True, extra="forbid")

    preset: str = Field(
        "",
        description="worked example whose values are the defaults here, such as hourly; `freshrank presets` lists all",
    )
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
    maintenance: Annotated[str, AfterValidator(_a_policy)] = Field(
        "",
        description="what precedes a release, chosen by figures, such as fine_tune(drift(adwin)), prune(0.8),"
        " retrain(time(604800)): learning at length only then, old rows let go, a full retrain asked for; empty = what"
        " the strategy does, always",
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
    traffic: Literal["shared", "own"] = Field(
        "shared",
        description="what an arm learns from: everybody's impressions, or those of its own shoppers only (fair to an"
        " arm that explores or ranks otherwise, and slower)",
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
    hidden: Annotated[tuple[Width, Width], BeforeValidator(_widths)] = Field(
        (64, 32), description="widths of a model's two dense layers, such as [16,8]; others need another arm"
    )
    layers: int = Field(2, ge=1, le=12, description="encoder blocks of transformer; others need another arm")
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
    rating: dict[str, float] = Field(
        {},
        description="heads that are a rating together, such as {rated: 1, two: 1, three: 1}: the first says that there"
        " is one and the least it may be, each other, learned of what is rated alone, what a step adds; empty = none",
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
    seal: bool = Field(
        False,
        description="seal the archive with a key per shopper, that of before too; forgetting deletes the key. What has "
        "keys stays sealed whatever this says",
    )
    transfer_from: Path | None = Field(
        None, description="checkpoint of another arm (folder <lineage>-<seq>) that this one begins with; none = anew"
    )
    transfer_users: bool = Field(True, description="take shoppers' rows over too, not only items'")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="of the dense part; auto takes a GPU if there is one"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of products of matrices in learning; bfloat16 is for GPUs, and slower on most processors; what is"
        " scored and released is float32",
    )
    threads: int = Field(1, ge=1, le=256, description="of torch; small matrices get slower with more")
    seed: int = Field(1, ge=0, description="of first weights and row dropout; equal seeds and logs give equal weights")
    poll_ms: float = Field(100.0, gt=0, le=10_000, description="longest wait for examples before timers are looked at")
    gather_ms: float = Field(
        250.0, ge=0, le=10_000, description="wait for examples that share an update: few large ones learn best"
    )
    poll_messages: int = Field(500, ge=1, le=100_000, description="messages per batch at most")
    tensorboard: Path | None = Field(None, description="folder for TensorBoard; none = <store>/arms/<arm>/tensorboard")

    trackers: Annotated[str, AfterValidator(_trackers)] = Field(
        "",
        description="trackers beside TensorBoard: mlflow(uri, experiment), wandb(project, online or offline), texts in"
        " quotes; needs the extra tracking",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not given.get("preset"):
            return given
        try:
            return {**presets.trainer(str(given["preset"])), **given}
        except InvalidInput as error:
            raise ValueError(error.detail) from error

    @property
    def about(self) -> dict[str, str]:
        """The trainer's own settings that are not the defaults, as text: what a run was made with."""
        own = set(type(self).model_fields) - set(TextSettings.model_fields) - {"trackers"}
        return {k: str(v) for k, v in self.model_dump(mode="json", exclude_defaults=True).items() if k in own}

    def way(self) -> dict[str, Any]:
        """What is learned and how, as plain data: every field but the names of other machines and folders."""
        own = set(type(self).model_fields) - set(TextSettings.model_fields)
        return {name: value for name, value in self.model_dump(mode="json").items() if name in own - _PLACES}

    @model_validator(mode="after")
    def _learns_at_all(self) -> Self:
        names = {part.name for part in strategies.parts(self.strategy)}
        if len(self.rating) == 1 or any(worth <= 0 for worth in list(self.rating.values())[1:]):
            raise ValueError(
                "rating needs the head that says there is one, and steps above it that are worth something"
            )
        if unknown := self.rating.keys() - self.loss_weights.keys():
            raise ValueError(f"rating names {', '.join(sorted(unknown))}, which loss_weights does not")
        if self.labels == "at_release" and "epochs" not in names:
            raise ValueError("labels = at_release learns nothing without epochs(...) in the strategy")
        if self.labels in ("at_release", "waiting") and "rare_items" in names:
            raise ValueError(f"rare_items repeats impressions as they come; labels = {self.labels} learns them later")
        if self.labels in ("waiting", "at_release") and "lightgcn" in names:
            raise ValueError(f"labels = {self.labels} learns an action when lightgcn(...) has shown it to the rows")
        return self
