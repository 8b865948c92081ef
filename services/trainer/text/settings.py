"""Settings of the worker that keeps the text encoder learning: FRESHRANK_TRAINER_TEXT_<FIELD>, beside the trainer's."""

from typing import Annotated

from pydantic import AfterValidator, Field

from services.common.settings import ServiceSettings


def _a_way(text: str) -> str:
    from services.trainer.text.ways import parse  # brings torch, which a reader of other settings need not wait for

    parse(text)
    return text


class TextSettings(ServiceSettings):
    """What the trainer's settings hold for `python -m services.trainer text`."""

    text_model: str = Field(
        "",
        description="encoder that `python -m services.trainer text` begins from: a sentence-transformers folder, or"
        " default for the packaged all-MiniLM-L6-v2; empty = no encoder is learned, the command refuses to start",
    )
    text_way: Annotated[str, AfterValidator(_a_way)] = Field(
        "lora(8), replay(2000)",
        description="which weights move: frozen(), full(rate), top(layers, rate), lora(rank, alpha, rate) or"
        " adalora(rank, budget, rate, steps); beside it replay(kept, share) against forgetting, and varied(share):"
        " queries in other forms, with a word left out or a letter wrong",
    )
    text_pairs: int = Field(
        500,
        ge=1,
        le=1_000_000,
        description="pairs of a search and a chosen item that are judged, then learned together; 1 to 2 minutes of a"
        " core with the packaged model",
    )
    text_interval: float = Field(
        3_600.0,
        ge=0.1,
        le=2_592_000,
        description="seconds between releases of an encoder, for which what waits is learned earlier if it fills a"
        " step; each release costs the vectors of all items anew",
    )
    text_batch: int = Field(
        32, ge=1, le=4_096, description="pairs of one step: the others' items are its wrong answers, so more is better"
    )
    text_negatives: int = Field(
        2, ge=0, le=100, description="items of a search above its last click and passed over, as wrong answers more"
    )
    text_judged: int = Field(
        100,
        ge=1,
        le=100_000,
        description="lists judged of each slice before it is learned, and early ones kept to see what is forgotten",
    )
    text_category_searches: int = Field(
        4_000,
        ge=0,
        le=100_000,
        description="newest searches from which it is learned which category a query asks for, at each release; the"
        " newest fifth of them judges it; 0 = no categories are told",
    )
    text_max_tokens: int = Field(64, ge=8, le=512, description="longer texts are cut; cost grows with it")
    text_int8: bool = Field(False, description="release 8-bit weights; what that loses is measured and written")
