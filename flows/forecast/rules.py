"""What each stage kind leaves and takes, foretold from sizes alone: weights, bytes, memory, processor seconds.

A rule a kind, in five rooms: rules_ends (data, floor, comparison, evaluation), rules_teach (all that learns or
answers), rules_cut (what makes a student smaller), rules_export, and rules_decoder for models that write. A kind that
has none is foretold as a training (where it has epochs) or as a pass over the training texts, and says so.
"""

from flows.forecast import rules_cut, rules_decoder, rules_ends, rules_export, rules_teach
from flows.forecast.amounts import Forecast, Made, calibrated
from flows.forecast.counted import Counted
from flows.forecast.rules_decoder import CountedDocuments
from tasks.kinds import AnyStageConfig


def foretell(config: AnyStageConfig, inputs: dict[str, Made], counted: Counted | CountedDocuments) -> Forecast:
    """The forecast of a stage with these inputs by role."""
    if isinstance(counted, CountedDocuments):
        return rules_decoder.foretell(config, inputs, counted)
    if isinstance(config, rules_ends.Ends):
        return rules_ends.foretell(config, inputs, counted)
    if isinstance(config, rules_teach.Teaching):
        return rules_teach.foretell(config, inputs, counted)
    student = next(inputs[role] for role in ("student", "start", "model", "teacher") if role in inputs)
    if isinstance(config, rules_cut.Cuts):
        return rules_cut.foretell(config, student, counted)
    if isinstance(config, rules_export.Exports):
        return rules_export.foretell(config, student, counted)
    return unknown(config, inputs, counted)


def unknown(config: AnyStageConfig, inputs: dict[str, Made], counted: Counted) -> Forecast:
    """A kind without a rule: a training where it has epochs, else a pass over the training texts; the shape stays."""
    student = next(one for one in inputs.values() if one.shape is not None)
    made = student.model_copy(update={"format": config.writes[1]})
    if getattr(config, "epochs", None):
        forecast = rules_teach.taught(config, inputs, counted)
    else:
        forecast = calibrated(counted.splits["train"].rows, student, counted)
    return forecast.model_copy(update={"made": made, "known": False})
