"""A smaller model taught by a larger one, on an archive of examples."""

from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli import output
from services.cli.evaluate import changes_of
from services.cli.options import Json
from services.common.errors import InvalidInput

_STUDENT = "What the student is: 'SETTING=VALUE; ...', such as 'model=logistic' or 'hidden=[16,8]; row_dim=4'."


def distil(
    examples: Annotated[Path, typer.Argument(help="Archive of a trainer: <store>/arms/<arm>/examples.")],
    teacher: Annotated[Path, typer.Argument(help="Checkpoint: <store>/arms/<arm>/checkpoints/<lineage>-<seq>.")],
    arm: Annotated[str, typer.Option(help="New arm of the store whose first checkpoint the student is.")],
    student: Annotated[str, typer.Option(help=_STUDENT)] = "hidden=[16,8]",
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the teacher in the loss; the rest is labels.")] = 0.5,
    temperature: Annotated[float, typer.Option(min=0.1, max=20, help="Softens both scores; weighs by its square.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Times that the archive is gone through.")] = 1,
    tail: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share judged and not learned, the newest.")] = 0.2,
    as_json: Json = False,
) -> None:
    """Teach a model by another one's scores, and compare it with the teacher and with itself untaught.

    The student's other settings are those of the FRESHRANK_TRAINER_ variables here. A trainer of the new arm goes on
    from its checkpoint, another arm takes it by FRESHRANK_TRAINER_TRANSFER_FROM.
    """
    if not examples.is_dir():
        raise InvalidInput("EXAMPLES", "missing", f"{examples} is no folder")
    settings = changes_of("--student", "student", f"{student}; arm={arm}").settings()
    from services.trainer.evaluation.students import Lesson, teach

    with output.progress("passes", 2 * epochs + 3) as shown:
        lesson = Lesson(examples, teacher, share, temperature, epochs, tail)
        found = teach(lesson, settings, lambda done, what: shown.at(done, what))
    output.show(found.plain, as_json, _table(found.plain))
    if not as_json:
        if found.teacher_knew:
            output.say("The teacher has learned lists that are judged here: its figures flatter.")
        output.say(f"Student: {found.checkpoint}")


def _table(found: dict[str, Any]) -> output.Table:
    columns = ("model", "AUC", "95 %", "log-loss", "ONNX bytes", "dense numbers", "row", "ms a batch")
    rows = []
    for name in ("teacher", "distilled", "alone"):
        each = found[name]
        interval = f"{output.text(each['auc']['lower'])} to {output.text(each['auc']['upper'])}"
        cells = (each["log_loss"]["value"], each["onnx_bytes"], each["weights"], each["row_dim"], each["batch_ms"])
        rows.append([name, output.text(each["auc"]["value"]), interval, *map(output.text, cells)])
    return output.Table("On lists that the students have not learned", columns, rows)
