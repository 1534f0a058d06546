"""What the kind of the labels and texts asks of a recipe's other keys: refused when the recipe is read."""

from typing import TYPE_CHECKING

from registry.records import ShrinkError
from tasks import data
from tasks.generate.documents import DocumentsConfig
from tasks.label import LabelConfig

if TYPE_CHECKING:
    from flows.recipe import Recipe

SHORTEST_PAIR = 8  # tokens: three stand around and between two texts


def check(recipe: "Recipe") -> None:
    """ShrinkError naming the key that does not go with the data's labels (multi_label) or texts (pair_column)."""
    where = f"recipe '{recipe.name}'"
    if isinstance(recipe.data, DocumentsConfig):
        return
    try:
        if recipe.task == "embed":
            check_embed(recipe.rows)
        data.check_config(recipe.rows)
    except ShrinkError as error:
        what = f"{error}"
        raise ShrinkError(f"{where}: {what if what.startswith('evaluate.') else f'data.{what}'}") from None
    if recipe.data.kept and recipe.data.kept != recipe.rows.kept:
        raise ShrinkError(f"{where}: data.kept is {list(recipe.data.kept)} but is filled in: use evaluate.slices.")
    several = recipe.rows.multi_label
    metric = getattr(recipe.evaluate, "metric", None)
    if several and metric == "mcc":
        raise ShrinkError(
            f"{where}: evaluate.metric is 'mcc' but data.multi_label is true, where there is none: take macro_f1, "
            "micro_f1 or accuracy."
        )
    if metric == "micro_f1" and not several:
        raise ShrinkError(
            f"{where}: evaluate.metric is 'micro_f1', which with one label a row is the accuracy: take accuracy."
        )
    for number, stage in enumerate(recipe.stages, start=1):
        if several and isinstance(stage, LabelConfig) and stage.second_teacher:
            raise ShrinkError(
                f"{where}: stage {number} (label): second_teacher is {stage.second_teacher} but data.multi_label is "
                "true: it works with one of two labels a row only, set it to 0."
            )
        if several and isinstance(stage, LabelConfig) and len(stage.teachers) > 1:
            raise ShrinkError(
                f"{where}: stage {number} (label) names {len(stage.teachers)} teachers but data.multi_label is true: "
                "they are mixed where a row has one label only, name one."
            )
    if recipe.rows.pair_column and recipe.rows.max_length < SHORTEST_PAIR:
        raise ShrinkError(
            f"{where}: data.max_length is {recipe.rows.max_length} but two texts need {SHORTEST_PAIR}: raise it."
        )


def check_embed(config: data.DataConfig) -> None:
    """ShrinkError for pairs and for several labels a row, of which embeddings make nothing."""
    for key in ("pair_column", "multi_label"):
        if getattr(config, key):
            raise ShrinkError(f"{key} is for task classify, not embed: leave it out.")
