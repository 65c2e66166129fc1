// The browser of responses: filters, sorting, a list that holds only the rows in sight, keys, and links to a response.

const INDEX = JSON.parse(document.getElementById("index").textContent);
const ENTRIES = INDEX.items;
const ROW = 76; // pixels, as in page.css
const MARGIN = 6; // rows kept beyond the edges
const $ = (id) => document.getElementById(id);
const list = $("list"), rows = $("rows"), response = $("response"), panes = $("panes"), search = $("search");
const isNarrow = () => matchMedia("(max-width: 879px)").matches;

ENTRIES.forEach((entry, rank) => {
  entry.rank = rank;
  entry.lowest = entry.scores.length ? Math.min(...entry.scores) : Infinity;
});
const byId = new Map(ENTRIES.map((entry) => [entry.id, entry]));

const SORTS = {
  "worst misses first": (a, b) => a.rank - b.rank,
  "best first": (a, b) => b.rank - a.rank,
  "lowest step score": (a, b) => a.lowest - b.lowest || a.rank - b.rank,
  "highest response score": (a, b) => (b.response_score ?? -Infinity) - (a.response_score ?? -Infinity) || a.rank - b.rank,
  "most steps": (a, b) => b.scores.length - a.scores.length || a.rank - b.rank,
  "as in the file": (a, b) => a.place - b.place,
};
const OUTCOMES = { right: true, wrong: false, unknown: null };

const state = { verdict: "", group: "", outcome: "", sort: "worst misses first", words: [], shown: [], current: -1, opened: null };
let searchTexts = null, reading = null;

function count(items, key) {
  const counts = new Map();
  for (const item of items) counts.set(key(item), (counts.get(key(item)) ?? 0) + 1);
  return counts;
}

function fill(select, options, onChange) {
  for (const [value, label] of options) {
    const option = make("option", null, label);
    option.value = value;
    select.append(option);
  }
  select.parentElement.hidden = options.length < 2;
  select.addEventListener("change", () => { onChange(select.value); refresh(); });
}

function withAll(counts, all) {
  return [["", all], ...[...counts].map(([value, n]) => [value, `${value} (${n.toLocaleString("en")})`])];
}

function setUpFilters() {
  const byName = new Intl.Collator("en", { numeric: true }).compare;
  const groups = withAll([...count(ENTRIES, (e) => e.group)].sort(([a], [b]) => byName(a, b)), "all groups");
  fill($("group"), groups.length > 2 ? groups : [], (value) => { state.group = value; });
  const outcomeName = (e) => Object.keys(OUTCOMES).find((name) => OUTCOMES[name] === e.correct);
  const outcomes = withAll(count(ENTRIES, outcomeName), "right or wrong");
  fill($("outcome"), outcomes.length > 2 ? outcomes : [], (value) => { state.outcome = value; });
  const hasResponseScores = ENTRIES.some((e) => e.response_score !== null);
  const sorts = Object.keys(SORTS).filter((name) => hasResponseScores || name !== "highest response score");
  fill($("sort"), sorts.map((name) => [name, name]), (value) => { state.sort = value; });
  const counts = count(ENTRIES, (e) => e.verdict);
  const present = Object.keys(INDEX.verdicts).filter((name) => counts.has(name));
  if (!present.length) { $("verdicts").hidden = true; return; }
  for (const name of ["", ...present]) {
    const button = make("button", `chip ${name.replace(" ", "-") || "all"}`, name || "all", " ");
    button.append(make("span", "count", (name ? counts.get(name) : ENTRIES.length).toLocaleString("en")));
    button.type = "button";
    button.title = INDEX.verdicts[name] ?? "every response";
    button.setAttribute("aria-pressed", String(name === ""));
    button.addEventListener("click", () => {
      state.verdict = name;
      for (const other of $("verdicts").children) other.setAttribute("aria-pressed", String(other === button));
      refresh();
    });
    $("verdicts").append(button);
  }
}

function matches(entry) {
  return (!state.verdict || entry.verdict === state.verdict)
    && (!state.group || entry.group === state.group)
    && (!state.outcome || entry.correct === OUTCOMES[state.outcome])
    && state.words.every((word) => searchTexts[entry.rank].includes(word));
}

function refresh() {
  state.shown = ENTRIES.filter(matches).sort(SORTS[state.sort]);
  state.current = state.shown.indexOf(state.opened);
  if (state.opened !== null && state.current < 0 && state.shown.length) {
    state.current = 0;
    open(state.shown[0], false);
  }
  rows.style.height = `${state.shown.length * ROW}px`;
  list.scrollTop = Math.max(0, state.current * ROW - ROW);
  const total = ENTRIES.length.toLocaleString("en");
  const shown = state.shown.length.toLocaleString("en");
  $("status").textContent = state.shown.length === ENTRIES.length ? `${total} responses` : `${shown} of ${total} responses`;
  renderRows();
}

function renderRows() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - MARGIN);
  const last = Math.min(state.shown.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + MARGIN);
  rows.replaceChildren(...state.shown.slice(first, last).map((entry, i) => row(entry, first + i)));
  if (!state.shown.length) rows.replaceChildren(make("p", "none", "No response matches these filters."));
  const active = state.current >= first && state.current < last ? `row-${state.current}` : "";
  if (active) list.setAttribute("aria-activedescendant", active);
  else list.removeAttribute("aria-activedescendant");
}

function row(entry, position) {
  const lower = make("div", "line", chip(entry.verdict), make("span", "headline", entry.headline || "(no question)"));
  const element = make("div", "row", make("div", "texts", make("div", "name", entry.id), lower), strip(entry, 112, 44, 14));
  element.id = `row-${position}`;
  element.setAttribute("role", "option");
  element.setAttribute("aria-selected", String(position === state.current));
  element.setAttribute("aria-posinset", position + 1);
  element.setAttribute("aria-setsize", state.shown.length);
  element.style.transform = `translateY(${position * ROW}px)`;
  element.addEventListener("click", () => { select(position); open(entry, true); });
  return element;
}

function select(position) {
  state.current = Math.max(0, Math.min(state.shown.length - 1, position));
  const top = state.current * ROW, bottom = top + ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
  renderRows();
}

function move(steps) {
  if (!state.shown.length) return;
  select(state.current < 0 && Number.isFinite(steps) ? 0 : state.current + steps);
  open(state.shown[state.current], panes.classList.contains("reading"), true);
}

// On a narrow screen a response takes the list's place once it is read; beside the list it shows at once.
async function open(entry, isReading, keepsHistory = false) {
  state.opened = entry;
  const link = `#item=${encodeURIComponent(entry.id)}`;
  if (location.hash !== link) history[keepsHistory || !isReading ? "replaceState" : "pushState"](null, "", link);
  await show(entry, isReading);
}

async function show(entry, isReading) {
  panes.classList.toggle("reading", isReading);
  const unpacked = await textsOf(entry, INDEX.chunk);
  if (state.opened !== entry) return;
  response.replaceChildren(navigation(entry), ...responseElements(entry, unpacked, INDEX.verdicts));
  fit();
  response.setAttribute("aria-labelledby", "response-title");
  response.scrollTop = 0;
  if (isReading) response.focus({ preventScroll: true });
  if (response.getBoundingClientRect().top < 0 || (isReading && isNarrow())) response.scrollIntoView({ block: "start" });
}

// By keyboard one reaches, and then scrolls, what is wider than its place, and passes the rest.
function fit() {
  fitFormulas(response);
  for (const box of document.querySelectorAll(".scroll, .drawing, .display")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

function navigation(entry) {
  const button = (label, text, action) => {
    const element = make("button", null, text);
    element.type = "button";
    element.setAttribute("aria-label", label);
    element.addEventListener("click", action);
    return element;
  };
  const back = button("Back to the list", "‹ list", close);
  back.className = "back";
  const link = make("a", "link", "link");
  link.href = `#item=${encodeURIComponent(entry.id)}`;
  link.setAttribute("aria-label", `Link to ${entry.id}`);
  const bar = make("nav", "moves", back, button("Previous response", "‹ previous", () => move(-1)), button("Next response", "next ›", () => move(1)), link);
  bar.setAttribute("aria-label", "Response");
  return bar;
}

function close() {
  panes.classList.remove("reading");
  if (isNarrow()) list.scrollIntoView({ block: "nearest" });
  renderRows();
  list.focus({ preventScroll: true });
}

async function unpackAll() {
  const texts = new Array(ENTRIES.length);
  for (let first = 0; first < ENTRIES.length; first += INDEX.chunk) {
    const { items, formulas } = await unpack(first / INDEX.chunk);
    items.forEach((item, i) => { texts[first + i] = searchText(ENTRIES[first + i], item, formulas); });
  }
  searchTexts = texts;
}

async function find() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length && searchTexts === null) {
    $("status").textContent = "Reading all responses …";
    await (reading ??= unpackAll());
  }
  if (search.value.toLowerCase().split(/\s+/).filter(Boolean).join(" ") !== words.join(" ")) return;
  state.words = words;
  refresh();
}

const MOVES = { j: 1, k: -1 };
const LIST_MOVES = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "Escape") {
    if (event.target === search || panes.classList.contains("reading")) close();
  } else if (event.target === search && event.key === "Enter") {
    close();
  } else if (isTyping) {
    return;
  } else if (event.key === "/") {
    search.focus();
    search.select();
  } else if (event.key in MOVES) {
    move(MOVES[event.key]);
  } else if (event.target === list && event.key in LIST_MOVES) {
    move(LIST_MOVES[event.key]);
  } else if ((event.target === list || event.target === document.body) && event.key === "Enter" && state.current >= 0) {
    open(state.shown[state.current], true);
  } else {
    return;
  }
  event.preventDefault();
}

// Without a hash, as on the way back to where one began, the first response shows beside the list; a narrow list stays as it is.
function fromHash() {
  const id = new URLSearchParams(location.hash.slice(1)).get("item");
  const entry = byId.get(id);
  if (entry === undefined) {
    panes.classList.remove("reading");
    if (id !== null) $("status").textContent = `No response ${id} in this page`;
    if (((location.hash || isNarrow()) && state.opened) || !state.shown.length) return;
  }
  state.opened = entry ?? state.shown[0];
  state.current = state.shown.indexOf(state.opened);
  if (entry !== undefined) panes.scrollIntoView();
  if (state.current < 0) renderRows();
  else select(state.current);
  show(state.opened, entry !== undefined);
}

function explain() {
  const kept = INDEX.note ? `${INDEX.note}. ` : "";
  const capped = INDEX.num_items > ENTRIES.length
    ? `Shown are ${ENTRIES.length.toLocaleString("en")} of ${INDEX.num_items.toLocaleString("en")} responses, the worst misses of each group; counts and filters are of these. ` : "";
  $("explained").textContent = `${kept}${capped}Every step is tinted by its score. Severity is the largest distance between a score and its label `
    + "(steps before the first error are right, the first error is wrong); where only the outcome is known, between the response score and it.";
}

function start() {
  if (!ENTRIES.length) {
    $("responses").hidden = false;
    $("panes").hidden = document.querySelector(".tools").hidden = true;
    $("explained").textContent = INDEX.num_items
      ? `None of the ${INDEX.num_items.toLocaleString("en")} responses is kept in this page.` : "This evaluation kept no texts of responses.";
    return;
  }
  $("responses").hidden = false;
  explain();
  setUpFilters();
  list.addEventListener("scroll", renderRows, { passive: true });
  new ResizeObserver(renderRows).observe(list);
  search.addEventListener("input", find);
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", fromHash);
  refresh();
  fromHash();
}

start();
fit();
addEventListener("resize", fit);
document.addEventListener("toggle", fit, true);
