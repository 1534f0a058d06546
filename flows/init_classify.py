"""What `shrink init` writes for one's own encoder and labelled rows, after the shipped `sentiment`."""

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
  bytes_ratio_min: {bytes_ratio}
  speed_ratio_min: {speed_ratio}
"""
