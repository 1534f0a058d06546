"""What `shrink init --task embed` writes for one's own encoder and texts: fewer layers than the shipped `embedder`."""

TEMPLATE = """# {name}: written by `shrink init`. Run: shrink run {file} (first with --smoke: it takes minutes)
name: {name}
task: embed
seed: 0
teacher: {{uri: {teacher}, licence: {licence}}}
data_source: {{uri: {source}, licence: {data_licence}}}
data:
  kind: data
  file: {data_file}
  format: {format}
  text_column: {text_column}
  label_column: {label_column}   # null: none; labels would serve a probe in the evaluation alone
  max_length: {max_length}   # tokens; longer texts are cut
stages:
  - {{kind: adopt}}
  - {{kind: label, transfer: false}}
  - {{kind: prune, method: vocabulary, min_count: 1}}
  - {{kind: prune, method: structured, layers: {layers}{ffn}}}
  - {{kind: distill, method: embeddings, epochs: {embed_epochs}, lr: 6e-4, transfer: false}}
  - {{kind: export, method: onnx}}
  - {{kind: quantize, method: int8_dynamic, embedding: int4}}
gate:   # what the student must reach to become @champion
  retention_min: 0.85
  retention_min_of: {{overlap_at_10: 0.5}}   # its teacher's own is 1 by construction
  beat_floor_of: [overlap_at_10, spearman]
  bytes_ratio_min: {bytes_ratio}
  speed_ratio_min: {speed_ratio}
  leakage_max: 0.01   # most share of test texts that were learnt from: word for word, nearly, in part
  # champion_margin: 0.03   # points of the measure that keeps least, below the champion that it would replace
"""
