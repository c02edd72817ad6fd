// The browser of solutions: one set (test solutions of a seed, or what a policy wrote during PPO) at a time, filtered,
// sorted and in pages; two runs in two columns.

const PER_PAGE = 10;

// An order is offered where `has` holds for a solution of the set; without `key` it is the file's.
const SORTS = {
  "in the file's order": { has: () => true },
  "latest update first": { has: (row) => row.e != null, key: (row) => -row.e },
  "lowest PRM score first": { has: (row) => row.s != null, key: (row) => row.s ?? 2 },
  "highest PRM score first": { has: (row) => row.s != null, key: (row) => -(row.s ?? -1) },
  "highest ORM score first": { has: (row) => row.o != null, key: (row) => -(row.o ?? -1) },
  "highest step rewards first": { has: (row) => row.r != null, key: (row) => -(row.r ?? -Infinity) },
  "PRM farthest from the labels first": { has: (row) => misjudged(row) >= 0, key: (row) => -misjudged(row) },
  "earliest wrong step first": { has: (row) => row.w != null, key: (row) => row.w ?? Infinity },
  "longest first": { has: () => true, key: (row) => -row.t.length },
};

/** How far the PRM is from a label at most, up to the first wrong step. */
function misjudged(row) {
  const steps = stepsOf(row).slice(0, (row.w ?? Infinity) + 1);
  return Math.max(-1, ...steps.filter(([, score, label]) => score != null && label != null).map(([, p, y]) => Math.abs(p - y)));
}

function stepsOf(row) {
  return row.t.filter(Array.isArray);
}

/** Builds the browser; returns what the keyboard does. */
function showSolutions(root, { runs, kinds, sets }) {
  const state = { set: sets[0], kind: -1, sort: Object.keys(SORTS)[0], update: null, query: "", at: 0, shown: [] };
  const about = element("p", { class: "note" });
  const status = element("span", { class: "status", role: "status" });
  const list = element("div", { class: "solutions" });
  const kindSelect = element("select", { "aria-label": "Show", change: () => find({ kind: Number(kindSelect.value) }) });
  const search = element("input", {
    type: "search", placeholder: "Search the text ( / )", "aria-label": "Search the text of problems and solutions",
    input: () => find({ query: search.value }),
  });
  const updateSelect = element("select", { "aria-label": "Update", change: () => find({ update: updateSelect.value ? Number(updateSelect.value) : null }) });
  const sortSelect = element("select", { "aria-label": "Order", change: () => find({ sort: sortSelect.value }) });
  const back = element("button", { type: "button", click: () => turn(-1), "aria-label": "Previous page" }, "‹");
  const on = element("button", { type: "button", click: () => turn(1), "aria-label": "Next page" }, "›");
  const controls = [updateSelect, kindSelect, sortSelect, search];
  if (sets.length > 1) {
    const options = sets.map((set, place) => element("option", { value: place }, titleOf(set, runs)));
    const change = (event) => {
      state.set = sets[Number(event.currentTarget.value)];
      describe();
      find({});
    };
    controls.unshift(element("select", { "aria-label": "Solutions of", change }, ...options));
  }
  const pager = element("div", { class: "pager" }, back, status, on);
  const scale = element("p", { class: "scale" });
  root.append(about, element("div", { class: "controls" }, ...controls), scale, pager, list);

  function columns() {
    return state.set.columns.map((column, place) => [column, place]).filter(([column]) => column);
  }

  /** What the set holds, and how its solutions were chosen. */
  function describe() {
    const parts = columns().map(([column, place]) => {
      const which = state.set.columns.length > 1 ? `${"AB"[place]}: ` : "";
      return `${which}${thousands(column.here)} of ${thousands(column.total)} solutions of ${column.file} are in this page.`;
    });
    const [first] = columns()[0];
    const updates = [...new Set(first.rows.filter((row) => row.e != null).map((row) => row.e))].sort((a, b) => a - b);
    const how = first.here < first.total ? " They were chosen kind by kind in turn, each spread evenly over the file, so kinds that are rare are over-represented." : "";
    const kept = updates.length ? " PPO keeps a few completions of an update: some evenly through its batch, and the wrong ones with the highest step rewards. Rewards are as paid, before advantages." : "";
    const pairs = columns().length > 1 ? " The two runs' solutions are the same samples of the same problems; a filter shows pairs where either fits." : "";
    about.textContent = `${parts.join(" ")}${how}${kept}${pairs} Guards: ${first.guards}.${first.counts.scored_high ? " PRM mistakes: up to the first wrong step." : ""}`;
    scale.replaceChildren(...scaleOf(columns().flatMap(([column]) => column.rows.flatMap(stepsOf))));
    offer(updates);
  }

  /** Fills the choices with what the set can tell; what was chosen stays where it is still offered. */
  function offer(updates) {
    const count = (kind) => columns().map(([column]) => column.counts[kind]?.map(thousands).join(" of ") ?? "not told").join(" | ");
    const told = kinds.map(([name, title], bit) => [name, title, bit]).filter(([name]) => columns().some(([column]) => column.counts[name]));
    const options = told.map(([name, title, bit]) => element("option", { value: bit }, `${title} (${count(name)})`));
    kindSelect.replaceChildren(element("option", { value: -1 }, "every solution"), ...options);
    if (!told.some(([, , bit]) => bit === state.kind)) state.kind = -1;
    kindSelect.value = state.kind;
    const sorts = Object.keys(SORTS).filter((name) => columns().some(([column]) => column.rows.some(SORTS[name].has)));
    sortSelect.replaceChildren(...sorts.map((name) => element("option", { value: name }, name)));
    if (!sorts.includes(state.sort)) state.sort = sorts[0];
    sortSelect.value = state.sort;
    updateSelect.hidden = updates.length < 2;
    updateSelect.replaceChildren(element("option", { value: "" }, "every update"), ...updates.map((update) => element("option", { value: update }, `update ${update}`)));
    if (!updates.includes(state.update)) state.update = null;
    updateSelect.value = state.update ?? "";
  }

  function rowsAt(place) {
    return columns().map(([column]) => column.rows[place]);
  }

  function textOf(row) {
    row.text ??= [...state.set.problems[row.p], row.a ?? "", ...row.t.map((piece) => (Array.isArray(piece) ? piece[0] : piece))].join("\n").toLowerCase();
    return row.text;
  }

  function find(change) {
    Object.assign(state, change, { at: 0 });
    const query = state.query.trim().toLowerCase();
    const fits = (row) =>
      (state.kind < 0 || (row.k >> state.kind) & 1) && (state.update === null || row.e === state.update) && (!query || textOf(row).includes(query));
    const places = columns()[0][0].rows.map((_, place) => place).filter((place) => rowsAt(place).some(fits));
    const sort = SORTS[state.sort].key;
    if (sort) {
      const key = new Map(places.map((place) => [place, Math.min(...rowsAt(place).map(sort))]));
      places.sort((a, b) => key.get(a) - key.get(b) || a - b);
    }
    state.shown = places;
    show(false);
  }

  function turn(pages) {
    const last = Math.max(0, Math.ceil(state.shown.length / PER_PAGE) - 1);
    const page = Math.min(Math.max(Math.floor(state.at / PER_PAGE) + pages, 0), last);
    state.at = page * PER_PAGE;
    show(true);
  }

  /** Shows the page with the current solution; `move` scrolls to it. */
  function show(move) {
    const start = Math.floor(state.at / PER_PAGE) * PER_PAGE, page = state.shown.slice(start, start + PER_PAGE);
    const end = start + page.length;
    const what = columns().length > 1 ? "pairs" : "solutions";
    status.textContent = page.length ? `${start + 1} to ${end} of ${thousands(state.shown.length)} ${what}` : `No ${what} fit.`;
    back.disabled = start === 0;
    on.disabled = end >= state.shown.length;
    list.classList.toggle("pairs", columns().length > 1);
    list.replaceChildren(...page.map((place, k) => card(rowsAt(place), start + k)));
    if (move) mark();
  }

  function mark() {
    for (const node of list.children) node.removeAttribute("aria-current");
    const node = list.children[state.at % PER_PAGE];
    if (!node) return;
    node.setAttribute("aria-current", "true");
    node.focus({ preventScroll: true });
    node.scrollIntoView({ block: "start" });
  }

  function step(count) {
    const before = Math.floor(state.at / PER_PAGE), current = list.querySelector("[aria-current]");
    if (current || count < 0) state.at = Math.min(Math.max(state.at + count, 0), Math.max(state.shown.length - 1, 0));
    if (Math.floor(state.at / PER_PAGE) !== before) show(true);
    else mark();
  }

  function card(rows, number) {
    const [id, text, reference] = state.set.problems[rows[0].p];
    const head = element("header", {}, element("b", {}, `${number + 1}`), ` ${id}, sample ${rows[0].n}; right answer ${reference}`);
    const node = element("article", { class: "solution", tabindex: -1, "aria-label": `Solution ${number + 1}, ${id}` });
    node.append(head, element("p", { class: "problem" }, text.trim()));
    const cells = columns().map(([, place], k) => written(rows[k], columns().length > 1 ? "AB"[place] : ""));
    node.append(element("div", { class: "side" }, ...cells));
    return node;
  }

  describe();
  find({});
  return { step, turn, search };
}

function titleOf(set, runs) {
  const present = set.columns.map((column, place) => (column ? place : -1)).filter((place) => place >= 0);
  return set.columns.length > 1 && present.length === 1 ? `${set.label}, ${"AB"[present[0]]} alone` : set.label;
}

/** What the colours and marks of these steps mean; of those that none of them has, nothing is said. */
function scaleOf(steps) {
  const has = (part) => steps.some((step) => step[part] != null);
  const words = [has(1) && "PRM score of the step", has(4) && "r its reward", has(2) && "✓ ✗ its label"].filter(Boolean);
  const tints = has(1) ? [0, 0.25, 0.5, 0.75, 1].map((p) => element("span", { class: "step", style: tint(p) }, p)) : [];
  if (tints.length && has(2)) tints.push(element("span", { class: "later" }, " pale: after the first wrong step"));
  return [element("span", {}, words.length ? `${words.join("; ")}. ` : ""), ...tints];
}

/** One solution: what it is worth, then its steps. */
function written(row, letter) {
  const tags = [];
  if (letter) tags.push(element("span", { class: "run" }, letter));
  const tag = (text, kind = "") => tags.push(element("span", { class: `tag ${kind}` }, text));
  if (row.c != null) tag(row.c ? "answer right" : row.a == null ? "no answer" : `answer wrong: ${row.a}`, row.c ? "good" : "bad");
  if (row.c && row.w != null) tag(`wrong step ${row.w + 1}`, "bad");
  if (row.u) tag("cut off");
  if (row.g) tag(`withheld: ${row.g}`, "guard");
  if (row.s != null) tag(`PRM ${row.s.toFixed(2)}`);
  if (row.o != null) tag(`ORM ${row.o.toFixed(2)}`);
  if (row.r != null) tag(`process ${signed(row.r)}`);
  if (row.v != null) tag(`outcome ${signed(row.v)}`);
  if (row.y) tag("chosen: wrong, with the highest step rewards");
  const steps = element("ol", { class: "steps" });
  let number = -1;
  for (const piece of row.t) {
    if (Array.isArray(piece)) steps.append(oneStep(piece, (number += 1), row.w));
    else steps.append(element("li", { class: "between" }, piece.trim()));
  }
  return element("div", { class: "written" }, element("p", { class: "tags" }, ...tags), steps);
}

function signed(number) {
  return (number < 0 ? "" : "+") + number.toFixed(2);
}

function oneStep([text, score = null, label = null, guard = null, reward = null], number, wrong) {
  const first = number === wrong;
  const said = [`step ${number + 1}`];
  if (score !== null) said.push(`score ${score.toFixed(4)}`);
  if (label !== null) said.push(label === 1 ? "labelled right" : label === 0 ? "labelled wrong" : `label ${label}`);
  if (first) said.push("first error");
  if (guard) said.push(`withheld by guard ${guard}`);
  if (reward !== null) said.push(`paid ${(reward < 0 ? "" : "+") + reward.toFixed(4)}`);
  const facts = element("span", { class: "facts" });
  if (first) facts.append(element("span", { class: "tag bad" }, "first error"));
  if (guard) facts.append(element("span", { class: "tag guard" }, guard));
  if (score !== null) facts.append(element("span", { class: "score" }, score.toFixed(2)));
  if (reward !== null) facts.append(element("span", { class: "reward" }, `r ${signed(reward)}`));
  if (label !== null) facts.append(element("span", { class: label === 0 ? "wrong" : "right" }, label === 1 ? "✓" : label === 0 ? "✗" : String(label)));
  const kinds = ["step", first ? "first-error" : "", wrong != null && number > wrong ? "later" : ""];
  const attributes = { class: kinds.filter(Boolean).join(" "), style: tint(score), title: said.join(", ") };
  return element("li", attributes, element("span", { class: "text" }, text.replace(/\n+$/, "")), facts);
}

/** Orange at 0, blue at 1, none at 0.5 or without a score. */
function tint(score) {
  if (score === null) return {};
  return { "--tint": score < 0.5 ? "var(--vermilion)" : "var(--blue)", "--away": Math.abs(2 * score - 1) };
}
