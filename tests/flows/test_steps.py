"""The steps of a run: in order, each reading what an earlier one made, the judged ones deployable."""

from pathlib import Path

from flows.recipe import load
from flows.steps import DATA, TEACHER, steps_of


def test_every_step_reads_what_stands_before_it() -> None:
    steps, judged = steps_of(load("sentiment"))
    made = {TEACHER, DATA}
    for number, step in enumerate(steps):
        assert step.name.startswith(f"{number:02d}-{step.config.kind}") and set(step.inputs) == set(step.config.reads)
        assert set(step.inputs.values()) <= made
        made.add(step.name)
    assert [step.config.method for step in steps if step.config.kind == "compare"] == ["onnx", "int8_dynamic", "onnx"]
    by_name = {step.name: step for step in steps}
    student, teacher = by_name[judged["student"]], by_name[judged["teacher"]]
    assert student.config.kind == "quantize" and teacher.role == "teacher" and teacher.config.kind == "export"
    assert by_name[teacher.inputs["model"]].config.kind == "finetune"


def test_without_a_finetune_stage_the_teacher_is_the_source(tiny: Path) -> None:
    recipe = load(str(tiny / "tiny.yaml"))
    kept = tuple(stage for stage in recipe.stages if stage.kind != "finetune")
    steps, judged = steps_of(recipe.model_copy(update={"stages": kept}))
    exported = next(step for step in steps if step.name == judged["teacher"])
    assert exported.inputs == {"model": TEACHER}
