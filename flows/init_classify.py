"""What `shrink init` writes for one's own encoder and labelled rows, after the shipped `sentiment`."""

PAIRED = (
    ("noninferiority_margin: 0.03", "points of its score below the teacher's, the whole interval counted"),
    ("champion_margin: 0.03", "the same below the champion that it would replace"),
    ("flips_max: 0.1", "most share of answers that turn from right to wrong"),
    ("slice_drop_max: 0.1", "points on the worst slice: thirds by length, labels, columns of evaluate.slices"),
)
ENOUGH = 900  # test rows that prove 3 points in four of five samples, where 10 % of the answers differ
FEW = "  # {rows} test rows would leave these not proven; take them in with {enough} or more:\n"


def paired(rows: int) -> str:
    """The gate's lines about paired differences; as comments where there are too few test rows to prove them."""
    off = "" if rows >= ENOUGH else "# "
    head = "" if rows >= ENOUGH else FEW.format(rows=rows, enough=ENOUGH)
    return head + "".join(f"  {off}{line:30}# {meaning}\n" for line, meaning in PAIRED)


TEMPLATE = """# {name}: written by `shrink init`. Run: shrink run {file} (first with --smoke: it takes minutes)
name: {name}
task: classify
seed: 0
teacher: {{uri: {teacher}, licence: {licence}}}
data_source: {{uri: {source}, licence: {data_licence}}}
data:
  kind: data
  file: {data_file}
  format: {format}
  text_column: {text_column}
{pair}  label_column: {label_column}
{several}  max_length: {max_length}   # tokens; longer texts are cut
{floor}stages:
  - {{kind: finetune, epochs: {epochs}{tuned}{weights}}}
  - {{kind: label, second_teacher: {second_teacher}, transfer: false}}
  - {{kind: prune, method: vocabulary, min_count: 1}}
  - {{kind: prune, method: structured, layers: {layers}{ffn}}}
  - {{kind: distill, method: logits, epochs: {distill_epochs}, transfer: false{weights}}}
  - {{kind: export, method: onnx}}
  - {{kind: quantize, method: int8_dynamic, embedding: int4}}
evaluate: {{kind: evaluate, metric: {metric}}}   # or {metrics}: what the gate goes by
gate:   # what the student must reach to become @champion
  retention_min: 0.97
  retention_low_min: 0.95
  beat_floor: true
{paired}  bytes_ratio_min: {bytes_ratio}
  speed_ratio_min: {speed_ratio}
  leakage_max: 0.01   # most share of test texts that were learnt from: word for word, nearly, in part
"""
