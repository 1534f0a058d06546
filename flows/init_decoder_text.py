"""What `shrink init --task generate` writes for one's own language model and documents, line by line explained."""

TEMPLATE = """# {name}: written by `shrink init`. Run: shrink run {file} (first with --smoke: it takes minutes)
# It saw {documents} documents, {size} of text: {train} to learn from (about {tokens} tokens), {validation} to look at
# meanwhile, {test} to be judged on, which nothing learns from.
name: {name}
task: generate
seed: 0   # of every random choice
teacher: {{uri: {teacher}, licence: {licence}}}   # {model}
data_source: {{uri: {source}, licence: {data_licence}}}
{second_source}data:
  file: {data_file}
  format: {format}   # {format_means}
{column}{second_file}  max_length: {window}   # tokens that are read at once; the model reads {context}
stages:   # in this order; `shrink stages` lists what else there is, `shrink stages quantize` the fields of a kind
  # takes the model up as the teacher, in full precision
  - {{kind: adopt, method: decoder}}
{correct}  # the teacher's likeliest next pieces behind every token of some training text: distill learns from them
  - {{kind: label, method: top_k, k: {k}, windows: {windows}, length: {length}}}
  # rounds weights to blocks of GGUF, each column's error made up for by those behind it, on blocks of training text.
  # Bits with their scales: q4_0 4.5, q4_1 5, q5_0 5.5, q5_1 6, q8_0 8.5, none 16; exceptions go by layers' names
  - kind: quantize
    method: gptq
    grid: {grid}
    embedding: {table}
    exceptions: {exceptions}
    calibration_blocks: {blocks}
    calibration_length: {calibration}
  # what the integers stand for learns from the teacher's answers; more steps take longer
  - {{kind: distill, method: rounded, steps: {steps}}}
  # one file for llama.cpp and transformers
  - {{kind: export, method: gguf}}
evaluate: {{runtime: {runtime}{answer}}}   # {runtime_means}
gate:   # what the student must reach to become @champion
  retention_min_of: {{perplexity: 0.95}}   # the teacher's perplexity over the student's
  beat_floor: true   # less perplexity than the teacher in plain 4-bit blocks, which anybody has for nothing
  bits_per_weight_max: {most}   # over all weights, scales included; the stages above come to about {bits}
  # noninferiority_margin: 0.05   # by so much (5 %) its perplexity may exceed the teacher's, the whole interval counted
  # champion_margin: 0.02   # the same beside the champion that it would replace
"""
CORRECT = """\
  # the file's weights lie on the grid of its {blocks} blocks, to which rounding again would cost nothing and prove
  # nothing: a few steps of training move them off it (a model in full precision needs none)
  - {{kind: correct, steps: {steps}, length: {length}}}
"""
SECOND = "second_source: {{uri: {uri}, licence: {licence}}}   # text of another domain: judged on, never learnt from\n"
MEANS = {
    "articles": "articles: ARTICLE_NUMBER, rating and sentence between tabs",
    "prose": "prose: paragraphs with empty lines between, gathered to documents; short ones are left out",
    "lines": "lines: a document a line",
    "csv": "csv: a document a row",
    "jsonl": "jsonl: an object a document",
    "files": "files: each text file of the folder is a document",
}
RUNTIMES = {
    "llama_cpp": "what runs teacher, student and floor: llama_cpp, or transformers",
    "transformers": "or llama_cpp, which is faster: an extra, `pip install 'shrinking-frontier[llama-cpp]'`",
}
