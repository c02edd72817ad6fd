// Puts the page together: charts, solutions, the theme and the keyboard.

const HELP = [
  ["j, k", "next, previous solution"],
  ["], [", "next, previous page of solutions"],
  ["/", "search the solutions"],
  ["t", "light or dark"],
  ["← →", "values of the chart in focus"],
  ["?", "this help"],
  ["Esc", "leave the search, or close the help"],
];

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    showChart(figure, data.charts[Number(figure.dataset.chart)], data.runs);
  }
  const root = document.getElementById("browser");
  const browser = root && showSolutions(root, data);
  const help = helpDialog();
  tools(help);
  addEventListener("keydown", (event) => onKey(event, browser, help));
  printWhole();
  document.documentElement.dataset.ready = "true";
}

function onKey(event, browser, help) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest?.("input, select, textarea");
  if (typing) {
    if (event.key === "Escape") typing.blur();
    return;
  }
  const keys = { "?": () => help.showModal(), t: changeTheme };
  if (browser && !help.open) {
    Object.assign(keys, {
      j: () => browser.step(1),
      k: () => browser.step(-1),
      "]": () => browser.turn(1),
      "[": () => browser.turn(-1),
      "/": () => browser.search.focus(),
    });
  }
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}

function helpDialog() {
  const rows = HELP.map(([keys, does]) => element("tr", {}, element("th", { scope: "row" }, element("kbd", {}, keys)), element("td", {}, does)));
  const close = element("button", { type: "button", click: () => dialog.close() }, "Close");
  const dialog = element("dialog", { "aria-label": "Keys" }, element("h2", {}, "Keys"), element("table", {}, ...rows), close);
  document.body.append(dialog);
  return dialog;
}

function tools(help) {
  const theme = element("button", { type: "button", click: changeTheme, "aria-label": "Light or dark", title: "Light or dark (t)" }, "◐");
  const ask = element("button", { type: "button", click: () => help.showModal(), "aria-label": "Keys", title: "Keys (?)" }, "?");
  document.querySelector("nav").append(element("span", { class: "tools" }, theme, ask));
  const kept = stored();
  if (kept) document.documentElement.dataset.theme = kept;
}

function changeTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("rlstep-theme", root.dataset.theme);
  } catch {
    // A page that was opened as a file may have no storage: the choice then lasts as long as the page.
  }
}

function stored() {
  try {
    return localStorage.getItem("rlstep-theme");
  } catch {
    return null;
  }
}

/** Tables that are folded on the screen are open on paper. */
function printWhole() {
  let folded = [];
  addEventListener("beforeprint", () => {
    folded.push(...document.querySelectorAll("details:not([open])"));
    for (const details of folded) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of folded) details.open = false;
    folded = [];
  });
}

start();
