// The page of `shrink bundle --browser`: tokens and answers are computed here, by tokenizers.js and onnxruntime-web.
// Every file comes from this page's own folder; its Content-Security-Policy lets nothing else be asked for.

import * as ort from "./runtime/ort.wasm.bundle.min.mjs";
import { Tokenizer } from "./runtime/tokenizers.min.mjs";

const ROUNDS = 5; // times that the golden texts are timed
const $ = (id) => document.getElementById(id);

function element(name, text, ...children) {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
}

async function json(path) {
  return (await fetch(path)).json();
}

// A file's bytes; `told` hears of the share that has arrived.
async function bytes(path, size, told) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path} is missing in this folder`);
  const held = new Uint8Array(size);
  let at = 0;
  for (const reader = answer.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (at + value.length > size) throw new Error(`${path} is longer than it was`);
    held.set(value, at);
    told((at += value.length) / size);
  }
  if (at !== size) throw new Error(`${path} is shorter than it was`);
  return held;
}

// A function from text to token ids, cut like Rust's tokenizers: the text is shortened, the special tokens stay.
function encoder(description, limit) {
  const tokenizer = new Tokenizer({ ...description, truncation: null, padding: null }, {});
  const bare = (text) => tokenizer.encode(text, { add_special_tokens: false }).ids;
  const [probe, whole] = [bare("a"), tokenizer.encode("a").ids];
  let before = 0;
  while (!probe.every((id, place) => id === whole[before + place])) before++;
  const [head, tail] = [whole.slice(0, before), whole.slice(before + probe.length)];
  return (text) => {
    const ids = [...head, ...bare(text).slice(0, limit - head.length - tail.length), ...tail];
    return ids.length ? ids : [0];
  };
}

// The numbers that the model gives for one text's token ids: logits, or an embedding.
async function run(session, ids) {
  const length = Math.max(2, ids.length);
  const fill = (value) => BigInt64Array.from({ length }, (_, place) => (place < ids.length ? BigInt(value(place)) : 0n));
  const tensor = (value) => new ort.Tensor("int64", fill(value), [1, length]);
  const found = await session.run({ input_ids: tensor((place) => ids[place]), attention_mask: tensor(() => 1) });
  return Array.from(found[session.outputNames[0]].data);
}

// Cosine of the angle between two embeddings.
function cosine(one, other) {
  const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);
  return dot(one, other) / Math.sqrt(dot(one, one) * dot(other, other));
}

function softmax(values) {
  const top = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - top));
  const sum = powers.reduce((one, other) => one + other, 0);
  return powers.map((power) => power / sum);
}

// The golden texts again: the same tokens exactly, answers within the tolerance of ONNX Runtime's own on a computer.
async function check(model, golden) {
  let [largest, tokens] = [0, true];
  for (const [place, text] of golden.texts.entries()) {
    const ids = model.encode(text);
    tokens &&= JSON.stringify(ids) === JSON.stringify(golden.ids[place]);
    const found = await run(model.session, ids);
    found.forEach((value, at) => (largest = Math.max(largest, Math.abs(value - golden.answers[place][at]))));
  }
  const taken = [];
  for (let round = 0; round < ROUNDS; round++) {
    for (const text of golden.texts) {
      const start = performance.now();
      await run(model.session, model.encode(text));
      taken.push(performance.now() - start);
    }
  }
  taken.sort((one, other) => one - other);
  const passed = tokens && largest <= golden.tolerance;
  return { passed, tokens, largest, texts: golden.texts.length, tolerance: golden.tolerance, p50_ms: taken[taken.length >> 1] };
}

function fact(name, value, more) {
  const detail = element("dd", "", element("b", value), element("small", more));
  return element("div", "", element("dt", name), detail);
}

function describe(facts) {
  document.title = facts.title;
  $("name").textContent = facts.title;
  $("facts").replaceChildren(...facts.facts.map((one) => fact(...one)));
  $("origin").textContent = facts.origin;
}

function show(labels, scores) {
  const best = scores.indexOf(Math.max(...scores));
  const rows = labels.map((label, place) => {
    const meter = document.createElement("meter");
    meter.value = scores[place];
    const row = element("div", "", element("span", label), meter, element("span", `${(100 * scores[place]).toFixed(1)} %`));
    row.className = place === best ? "label best" : "label";
    return row;
  });
  $("answer").replaceChildren(...rows);
}

// What the page shows for what is typed: scores of the labels, or of two texts how alike they are.
async function answer(model) {
  const boxes = model.embeds ? [$("text"), $("other")] : [$("text")];
  const texts = boxes.map((box) => box.value);
  if (!texts.every((text) => text.trim())) {
    $("answer").replaceChildren();
    $("spent").textContent = "";
    return;
  }
  const start = performance.now();
  const ids = texts.map(model.encode);
  const found = [];
  for (const one of ids) found.push(await run(model.session, one));
  const spent = performance.now() - start;
  if (boxes.some((box, place) => box.value !== texts[place])) return; // typed on meanwhile: the next answer is coming
  if (model.embeds) {
    const alike = element("p", `${cosine(...found).toFixed(3)} `, element("small", "alike (cosine; 1 is the same)"));
    alike.className = "verdict";
    $("answer").replaceChildren(alike);
  } else show(model.labels, model.several ? found[0].map((value) => 1 / (1 + Math.exp(-value))) : softmax(found[0]));
  const cut = ids.some((one) => one.length >= model.limit) ? `, cut at ${model.limit}` : "";
  const count = ids.map((one) => one.length).join(" + ");
  $("spent").textContent = `answered in ${spent.toFixed(1)} ms on this device, ${count} tokens${cut}`;
}

async function main() {
  const say = (text) => ($("state").textContent = text);
  say("Loading the model …");
  const [facts, config, golden] = await Promise.all(["facts.json", "model/config.json", "golden.json"].map(json));
  describe(facts);
  $("loaded").hidden = false;
  const graph = await bytes("model/model.onnx", facts.model_bytes, (share) => ($("loaded").value = share));
  const encode = encoder(await json("model/tokenizer.json"), config.max_length);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { wasm: new URL("runtime/ort-wasm-simd-threaded.wasm", document.baseURI).href };
  say("Starting onnxruntime-web …");
  const session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  const model = { session, encode, labels: config.labels, limit: config.max_length };
  model.embeds = config.task === "embed";
  model.several = Boolean(config.multi_label);
  say("Checking its answers …");
  const seen = await check(model, golden);
  $("check").dataset.result = JSON.stringify(seen);
  const same = seen.tokens ? "the same tokens" : "OTHER TOKENS";
  const apart = `answers at most ${seen.largest.toExponential(1)} apart (allowed: ${seen.tolerance.toExponential(1)})`;
  $("check").textContent = `${seen.passed ? "Passed" : "Failed"}: on ${seen.texts} texts ${same} as ONNX Runtime outside of the browser, ${apart}; ${seen.p50_ms.toFixed(1)} ms a text here.`;
  $("loaded").hidden = true;
  if (!seen.passed) throw new Error("its answers here are not those that it was judged by; do not use them");
  for (const box of [$("text"), $("other")]) {
    box.disabled = false;
    box.addEventListener("input", () => answer(model));
  }
  $("second").hidden = !model.embeds;
  $("text").focus();
  document.body.dataset.state = "ready";
}

main().catch((error) => {
  document.body.dataset.state = "failed";
  $("state").textContent = `This page cannot answer: ${error.message}.`;
});
