// The labelling page: one solution, its steps one at a time, a mark for each, and what the keys do.
//
// A solution is always in one of these phases:
//   rating   a step waits for its mark
//   ended    the labelling of the solution has ended; the next one is on its way or here, and Enter shows it
//   none     there is nothing to rate: not signed in, nothing left, or another browser has taken over

import { typeset } from "./latex.js";
import { Refusal, Saver, ask, keepToken, tabName, takeToken } from "./server.js";

const $ = (id) => document.getElementById(id);

const WORDS = { 1: "positive", 0: "neutral", "-1": "negative" };
const SIGNS = { 1: "+", 0: "○", "-1": "−" };
const RATING_KEYS = {
  1: 1, "+": 1, "=": 1, k: 1, ArrowRight: 1,
  2: 0, 0: 0, l: 0,
  3: -1, "-": -1, j: -1, ArrowLeft: -1,
}; // prettier-ignore

const state = {
  labeller: null,
  browser: tabName(),
  phase: "none",
  item: null, // as the server sent it
  ratings: [],
  revision: 0,
  finished: null, // {id, revision} of the solution finished last: what an undo takes up again
  next: null, // the server's answer to the save that ended the solution: what Enter shows
  advance: false, // Enter was pressed before that answer came
  busy: false, // an undo across solutions is under way
};

const saver = new Saver(saved, refused, trouble);

// ---- time on the solution, as long as the page is seen -------------------------------------------------------------------

const clock = { before: 0, since: null };

function startClock(milliseconds) {
  clock.before = milliseconds;
  clock.since = document.hidden ? null : performance.now();
}

function elapsed() {
  return Math.round(clock.before + (clock.since === null ? 0 : performance.now() - clock.since));
}

document.addEventListener("visibilitychange", () => startClock(elapsed()));

// ---- showing -------------------------------------------------------------------------------------------------------------

function show(screen) {
  showProgress(screen.progress);
  state.finished = screen.finished;
  state.next = null;
  state.advance = false;
  state.item = screen.item;
  $("sign-in").hidden = true;
  if (screen.item === null) {
    state.phase = "none";
    const others = screen.progress.open;
    $("empty-title").textContent = others ? "Nothing left for you now" : "All solutions are labelled";
    $("empty-text").textContent = others
      ? `Others are at work on the last ${others === 1 ? "one" : others}. What they leave for a quarter of an hour comes to you.`
      : `${screen.progress.mine} of them by you. Thank you.`;
    appear("empty");
    say($("empty-title").textContent);
    return;
  }
  const { item } = screen;
  state.ratings = [...item.ratings];
  state.revision = item.revision;
  startClock(item.milliseconds);
  $("number").textContent = `#${item.number}`;
  typeset($("problem"), item.problem);
  $("reference-line").hidden = item.reference === null;
  if (item.reference !== null) typeset($("reference"), asFormula(item.reference));
  $("steps").replaceChildren();
  item.ratings.forEach((rating, step) => $("steps").append(stepElement(step, rating)));
  appear("work");
  enterRating();
  if (!item.ratings.length) window.scrollTo(0, 0);
}

/** A reference answer is often bare LaTeX, \frac{1}{2}, without dollar signs. */
function asFormula(reference) {
  return /\\[a-zA-Z]|[\^_]/.test(reference) && !reference.includes("$") ? `$${reference}$` : reference;
}

function appear(id) {
  for (const other of ["sign-in", "work", "empty"]) $(other).hidden = other !== id;
  $("actions").hidden = id !== "work";
}

function showProgress({ needed, done, mine }) {
  $("progress").hidden = false;
  $("bar").max = needed;
  $("bar").value = done;
  $("count").textContent = `${done} of ${needed} done` + (done === mine ? "" : `, ${mine} by you`);
}

function stepElement(step, rating) {
  const element = document.createElement("li");
  element.className = "step";
  const sign = document.createElement("span");
  sign.className = "sign";
  const text = document.createElement("div");
  text.className = "prose";
  typeset(text, state.item.steps[step]);
  element.append(sign, text);
  mark(element, step, rating);
  return element;
}

function mark(element, step, rating) {
  element.classList.remove("positive", "neutral", "negative", "current");
  element.classList.add(rating === null ? "current" : WORDS[rating]);
  element.toggleAttribute("aria-current", false);
  if (rating === null) element.setAttribute("aria-current", "step");
  const sign = element.querySelector(".sign");
  sign.textContent = rating === null ? step + 1 : SIGNS[rating];
  sign.setAttribute("role", "img");
  sign.setAttribute("aria-label", `Step ${step + 1}, ${rating === null ? "to rate" : WORDS[rating]}`);
}

function enterRating() {
  state.phase = "rating";
  const step = state.ratings.length;
  const steps = $("steps");
  while (steps.children.length > step) steps.lastChild.remove();
  steps.append(stepElement(step, null));
  $("place").textContent = `step ${step + 1} of ${state.item.steps.length}`;
  $("end").hidden = true;
  enableActions();
  steps.lastChild.scrollIntoView({ block: "nearest" });
  say(`Step ${step + 1} of ${state.item.steps.length}. ${state.item.steps[step]}`);
}

function enterEnded(reason) {
  state.phase = "ended";
  const step = state.ratings.length;
  const texts = {
    found_error: `First error at step ${step}.`,
    solution: `All ${step} steps rated, none of them negative.`,
    give_up: `Given up at step ${step + 1}.`,
    bad_problem: "Marked as a bad problem.",
  };
  $("end-text").textContent = texts[reason];
  $("end").dataset.reason = reason;
  $("end").hidden = false;
  $("place").textContent = `ended at step ${Math.min(step + (reason === "give_up" ? 1 : 0), state.item.steps.length)} of ${state.item.steps.length}`;
  enableActions();
  $("next").focus({ preventScroll: true });
  $("end").scrollIntoView({ block: "nearest" });
  say(`${texts[reason]} Press Enter for the next solution, or u to undo.`);
}

function enableActions() {
  const rating = state.phase === "rating" && !state.busy;
  for (const button of document.querySelectorAll(".rate, .ends")) button.disabled = !rating;
  $("undo").disabled = state.phase === "none" || state.busy;
}

function say(words) {
  $("said").textContent = words;
}

function banner(text, label = null, action = null) {
  $("banner").hidden = text === null;
  $("banner-text").textContent = text ?? "";
  $("banner-action").hidden = action === null;
  $("banner-action").textContent = label ?? "";
  $("banner-action").onclick = action;
}

// ---- marking -------------------------------------------------------------------------------------------------------------

function rate(rating) {
  if (state.phase !== "rating" || state.busy) return;
  const step = state.ratings.length;
  state.ratings.push(rating);
  mark($("steps").children[step], step, rating);
  if (rating === -1) end("found_error");
  else if (state.ratings.length === state.item.steps.length) end("solution");
  else {
    save(null);
    enterRating();
  }
}

function end(reason) {
  if (state.phase !== "rating" || state.busy) return;
  save(reason);
  enterEnded(reason);
}

function save(reason) {
  const { item, labeller, browser } = state;
  const marks = { ratings: [...state.ratings], finish_reason: reason, milliseconds: elapsed() };
  $("saving").textContent = "Saving";
  saver.put(item.id, () => ({ labeller, browser, item: item.id, revision: state.revision + 1, ...marks }));
}

function saved(reply, request) {
  state.revision = request.revision;
  state.finished = reply.finished;
  $("saving").textContent = saver.waiting.length ? "Saving" : "Saved";
  showProgress(reply.progress);
  if (request.finish_reason === null) return;
  state.next = reply;
  if (state.advance) show(reply);
}

function next() {
  if (state.phase !== "ended" || state.busy) return;
  if (state.next) show(state.next);
  else state.advance = true;
}

async function undo() {
  if (state.phase === "none" || state.busy) return;
  if (state.phase === "rating" && state.ratings.length) {
    state.ratings.pop();
    save(null);
    enterRating();
    return;
  }
  state.busy = true;
  state.advance = false;
  enableActions();
  try {
    await saver.whenIdle();
    if (state.phase !== "none") await reopen();
  } catch (error) {
    refused(error);
  } finally {
    state.busy = false;
    enableActions();
  }
}

/** Takes the solution finished last up again. It names the solution: where the answer is lost, a second try undoes no other. */
async function reopen() {
  if (state.finished === null) {
    banner("There is nothing to undo: you have finished no solution yet.", "OK", () => banner(null));
    return;
  }
  const { id, revision } = state.finished;
  show(await ask("reopen", { ...visit(), item: id, revision: revision + 1 }));
  banner(null);
}

function trouble(message) {
  banner(message);
  if (message) $("saving").textContent = "Not saved";
}

function refused(error) {
  if (!(error instanceof Refusal)) {
    banner("The server is not reached. Is it still running?", "Try again", open);
  } else if (error.status === 401) {
    signIn(error.message);
  } else if (error.why === "browser") {
    state.phase = "none";
    enableActions();
    banner(error.message, "Go on here", open);
  } else if (error.why === "labeller") {
    signIn(error.message);
  } else {
    state.phase = "none";
    enableActions();
    banner(error.message, "Show what is kept", open);
  }
}

// ---- signing in ----------------------------------------------------------------------------------------------------------

const visit = () => ({ labeller: state.labeller, browser: state.browser });

/** Takes up the labeller's current solution, from whichever browser had it. */
async function open() {
  banner(null);
  try {
    show(await ask("open", visit()));
    $("who").textContent = state.labeller;
    document.title = `rlstep annotate: ${state.labeller}`;
    $("saving").textContent = "";
  } catch (error) {
    refused(error);
  }
}

async function signIn(message = null) {
  state.phase = "none";
  banner(message);
  $("names").replaceChildren();
  $("token-field").hidden = true;
  try {
    const { labellers } = await ask("labellers");
    if (labellers.length === 1 && message === null && state.labeller === null) return enter(labellers[0]);
    for (const name of labellers) $("names").append(nameChoice(name));
  } catch (error) {
    if (!(error instanceof Refusal)) return refused(error);
    $("token-field").hidden = false;
    banner(sessionStorage.getItem("rlstep-token") ? "The token is wrong." : "This server asks for its token.");
  }
  appear("sign-in");
  $("sign-in").querySelector("input:not([hidden])")?.focus();
}

function nameChoice(name) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: "labeller", value: name, required: true });
  label.append(input, name);
  return label;
}

function enter(name) {
  state.labeller = name;
  const address = new URL(location.href);
  address.searchParams.set("labeller", name);
  history.replaceState(null, "", address);
  return open();
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  banner(null);
  if (!$("token-field").hidden) {
    keepToken($("token").value.trim());
    if (state.labeller === null) signIn();
    else open();
    return;
  }
  enter(new FormData($("sign-in")).get("labeller"));
});

// ---- agreement -----------------------------------------------------------------------------------------------------------

async function showAgreement() {
  const body = $("agreement-body");
  try {
    const { pairs, labellers } = await ask("agreement");
    body.replaceChildren(
      table(
        ["Labeller", "Solutions", "Steps", "Seconds per step"],
        labellers.map((one) => [one.labeller, one.solutions, one.steps, digits(one.seconds_per_step, 1)]),
      ),
      pairs.length
        ? table(
            ["Labellers", "Solutions in common", "Same first error", "Kappa, first error", "Kappa, steps"],
            pairs.map((pair) => [
              pair.labellers.join(", "),
              pair.solutions,
              `${Math.round(100 * pair.same_first_error)}%`,
              digits(pair.first_error_kappa, 2),
              digits(pair.step_kappa, 2),
            ]),
          )
        : paragraph("No two labellers have finished a solution in common yet."),
      paragraph("Cohen's kappa: 1 is full agreement, 0 that of chance; – where chance alone would agree on everything."),
    );
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) return signIn(error.message);
    body.replaceChildren(paragraph(error instanceof Refusal ? error.message : "The server is not reached."));
  }
  $("agreement").showModal();
}

const digits = (value, places) => (value === null ? "–" : value.toFixed(places));

function paragraph(text) {
  const element = document.createElement("p");
  element.className = "quiet";
  element.textContent = text;
  return element;
}

function table(heads, rows) {
  const element = document.createElement("table");
  const head = element.createTHead().insertRow();
  for (const text of heads) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = text;
    head.append(cell);
  }
  const body = element.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const value of row) line.insertCell().textContent = value;
  }
  return element;
}

// ---- keys and buttons ----------------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  // A key that is held down marks one step.
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, select, textarea")) return;
  const { key } = event;
  const act = () => {
    if (key === "?") return () => $("help").showModal();
    if (key === "u" || key === "Backspace") return undo;
    if (state.phase === "rating") {
      if (Object.hasOwn(RATING_KEYS, key)) return () => rate(RATING_KEYS[key]);
      if (key === "g") return () => end("give_up");
      if (key === "b") return () => end("bad_problem");
    }
    // On a button, Enter and Space press it.
    if (state.phase === "ended" && (key === "Enter" || key === " ") && !event.target.closest("button")) return next;
    return null;
  };
  const action = act();
  if (action) {
    event.preventDefault();
    action();
  }
});

for (const button of document.querySelectorAll(".rate")) {
  button.addEventListener("click", () => rate(Number(button.dataset.rating)));
}
$("undo").addEventListener("click", undo);
$("give-up").addEventListener("click", () => end("give_up"));
$("bad-problem").addEventListener("click", () => end("bad_problem"));
$("next").addEventListener("click", next);
$("look-again").addEventListener("click", open);
$("show-help").addEventListener("click", () => $("help").showModal());
$("show-agreement").addEventListener("click", showAgreement);

window.addEventListener("beforeunload", (event) => {
  if (!saver.idle) event.preventDefault();
});

takeToken();
state.labeller = new URLSearchParams(location.search).get("labeller");
if (state.labeller === null) signIn();
else open();
