"use strict";
// One response: an entry of the index and its unpacked texts in, elements out. Text is set as text; formulas are built
// element by element from trees that hold known MathML only.

const MATHML = "http://www.w3.org/1998/Math/MathML";
const SVG = "http://www.w3.org/2000/svg";

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null));
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function mathml(tree) {
  if (typeof tree === "string") return document.createTextNode(tree);
  const [tag, ...rest] = tree;
  const element = document.createElementNS(MATHML, tag);
  for (const part of rest) {
    if (typeof part === "string" || Array.isArray(part)) element.append(mathml(part));
    else for (const [name, value] of Object.entries(part)) element.setAttribute(name, value);
  }
  return element;
}

function formula([source, isDisplay, tree]) {
  const element = mathml(["math", ...tree]);
  if (isDisplay) element.setAttribute("display", "block");
  element.setAttribute("title", source);
  return isDisplay ? make("span", "display", element) : element;
}

// The line breaks that stand around a displayed formula are the formula's own.
function prose(pieces, formulas) {
  const isDisplay = (piece) => typeof piece === "number" && formulas[piece][1] === 1;
  const fragment = document.createDocumentFragment();
  pieces.forEach((piece, i) => {
    if (typeof piece === "number") return fragment.append(formula(formulas[piece]));
    if (piece.startsWith("[asy]")) return fragment.append(make("details", "drawn", make("summary", null, "code of a drawing"), piece));
    let text = piece;
    if (isDisplay(pieces[i - 1])) text = text.replace(/^[ \t]*\n?[ \t]*/, "");
    if (isDisplay(pieces[i + 1])) text = text.replace(/\n[ \t]*$/, "");
    fragment.append(text);
  });
  return fragment;
}

function searchText(entry, texts, formulas) {
  const plain = (pieces) => pieces.map((piece) => (typeof piece === "number" ? formulas[piece][0] : piece)).join("");
  const { question, steps, extracted = [], answer = [] } = texts;
  return [entry.id, entry.group, ...[question, ...steps, extracted, answer].map(plain)].join("\n").toLowerCase();
}

// A formula within a line that is wider than the line scrolls by itself, as displayed ones do. To call again at every width.
function fitFormulas(element) {
  for (const wide of element.querySelectorAll(".display.wide")) wide.replaceWith(wide.firstChild);
  const isWide = (math) => {
    const edge = math.closest(".prose, .facts").getBoundingClientRect();
    const beyond = (part) => part.right > edge.right + 1 || part.left < edge.left - 1;
    return [math, ...math.querySelectorAll("*")].some((part) => beyond(part.getBoundingClientRect()));
  };
  for (const math of [...element.querySelectorAll("math:not([display])")].filter(isWide)) {
    const wide = make("span", "display wide");
    math.replaceWith(wide);
    wide.append(math);
  }
}

// Texts lie in compressed chunks, unpacked on demand; those of the responses that were opened are kept.
const chunks = new Map();

function unpack(number) {
  const packed = Uint8Array.from(atob(document.getElementById(`chunk-${number}`).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

async function textsOf(entry, chunkSize) {
  const number = Math.floor(entry.rank / chunkSize);
  if (!chunks.has(number)) chunks.set(number, unpack(number));
  const chunk = await chunks.get(number);
  return { texts: chunk.items[entry.rank % chunkSize], formulas: chunk.formulas };
}

function format(score) {
  return score === null ? "–" : score.toFixed(Math.abs(score) >= 100 ? 0 : Math.abs(score) >= 10 ? 1 : 2).replace("-", "−");
}

// -1 says that every step is right, null that nobody knows.
const isStep = (step) => step !== null && step >= 0;
const furtherErrors = (entry) => (entry.wrong_steps ?? []).filter((step) => step !== entry.first_error);

// Bars as high as the scores; a ring above the predicted first error, a wedge below the true one and a hollow one below others.
function strip(entry, width, height, maxPitch) {
  const count = entry.units.length;
  const pitch = Math.min(maxPitch, width / Math.max(1, count));
  const bar = Math.max(1, pitch - (pitch > 4 ? 2 : 0.5));
  const floor = height - 7;
  width = Math.min(width, Math.ceil(count * pitch));
  const picture = draw("svg", { class: "strip", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  entry.units.forEach((unit, i) => {
    const tall = 2 + unit * (floor - 9);
    const rect = draw("rect", { x: i * pitch, y: floor - tall, width: bar, height: tall, rx: Math.min(1.5, bar / 3) });
    rect.style.setProperty("--u", unit);
    picture.append(rect);
  });
  const middle = (step) => step * pitch + bar / 2;
  const wedge = (step, kind) => picture.append(draw("path", { class: kind, d: `M${middle(step)} ${floor + 1.5}l3.5 5h-7z` }));
  furtherErrors(entry).forEach((step) => wedge(step, "wrong"));
  if (isStep(entry.first_error)) wedge(entry.first_error, "true");
  if (isStep(entry.predicted)) {
    picture.append(draw("circle", { class: "predicted", cx: middle(entry.predicted), cy: 3.5, r: 2.4 }));
  }
  return picture;
}

function chip(verdict) {
  return verdict === null ? null : make("span", `chip ${verdict.replace(" ", "-")}`, verdict);
}

function flags(entry, step) {
  const isTrue = entry.first_error === step, isPredicted = entry.predicted === step;
  if (isTrue && isPredicted) return [make("span", "flag both", "true and predicted first error")];
  if (isTrue) return [make("span", "flag true", "true first error")];
  return [furtherErrors(entry).includes(step) ? make("span", "flag wrong", "wrong step") : null,
    isPredicted ? make("span", "flag predicted", "predicted first error") : null].filter(Boolean);
}

function stepElement(entry, pieces, step, formulas) {
  const score = entry.scores[step], unit = entry.units[step];
  const body = make("div", "body", ...flags(entry, step));
  body.append(pieces === null ? make("em", "quiet", "no text") : make("div", "prose", prose(pieces, formulas)));
  const number = make("span", "number", String(step + 1));
  number.title = `step ${step + 1}; index ${step}`;
  const item = make("li", "step", number, body);
  if (score !== undefined) {
    const meter = make("span", "meter");
    const value = make("span", "score", make("span", "hidden", "score "), format(score), meter);
    value.title = String(score);
    item.append(value);
    item.classList.add("scored");
    item.style.setProperty("--u", unit);
  }
  if (entry.first_error === step) item.classList.add("is-true");
  if (furtherErrors(entry).includes(step)) item.classList.add("is-wrong");
  if (entry.predicted === step) item.classList.add("is-predicted");
  return item;
}

function facts(entry, texts, formulas, count) {
  const element = make("p", "facts");
  const add = (...parts) => element.append(element.hasChildNodes() ? " · " : "", ...parts);
  // Each in a direction of its own: an answer from right to left does not take what follows along.
  if (entry.group) add(make("bdi", null, entry.group));
  if (entry.correct !== null) add(`final answer ${entry.correct ? "right" : "wrong"}`);
  if (texts.extracted?.length) add("answer ", make("bdi", null, prose(texts.extracted, formulas)));
  if (texts.answer?.length) add("reference ", make("bdi", null, prose(texts.answer, formulas)));
  add(`${count} step${count === 1 ? "" : "s"}`);
  if (entry.first_error !== null) add(entry.first_error === -1 ? "no step is wrong" : `step ${entry.first_error + 1} is the first wrong one`);
  if (entry.response_score !== null) add(`response score ${format(entry.response_score)}`);
  if (entry.severity !== null) add(`severity ${format(entry.severity)}`);
  return element;
}

function responseElements(entry, { texts, formulas }, verdicts) {
  const name = make("h3", null, entry.id);
  name.id = "response-title";
  const verdict = entry.verdict === null ? null : make("p", "verdict", chip(entry.verdict), ` ${verdicts[entry.verdict]}`);
  const question = make("div", "question", make("h4", null, "Question"), make("div", "prose", prose(texts.question, formulas)));
  const count = Math.max(texts.steps.length, entry.scores.length);
  const steps = make("ol", "steps");
  for (let step = 0; step < count; step++) steps.append(stepElement(entry, texts.steps[step] ?? null, step, formulas));
  const profile = make("div", "profile", strip(entry, 288, 60, 24));
  const legend = make("p", "legend", make("span", "low", "low"), make("span", "ramp"), make("span", "high", "high score"),
    isStep(entry.first_error) ? make("span", "key", "▲ true first error") : "",
    furtherErrors(entry).length ? make("span", "key", "△ further wrong step") : "",
    isStep(entry.predicted) ? make("span", "key", "○ predicted first error") : "");
  return [name, verdict, facts(entry, texts, formulas, count), question,
    entry.scores.length ? profile : null, entry.scores.length ? legend : null,
    count ? steps : make("p", "note", "This response has no steps.")].filter(Boolean);
}
