// Charts as inline SVG: lines with the bands of their intervals, the alarm's marks, and values under the pointer.

const MARGIN = { left: 52, right: 14, top: 14, bottom: 42 };
const DOTTED = 20; // points, up to which each one is marked

/** Draws one chart into its figure, and again whenever its width changes or a line is hidden. */
function showChart(figure, chart, runs) {
  const hidden = new Set();
  const titleId = `${figure.dataset.chart}-chart`;
  const panels = element("div", { class: "panels" });
  figure.append(element("figcaption", {}, element("b", { id: titleId }, chart.title), " ", element("span", {}, chart.note)));
  figure.append(legend(chart, hidden, () => draw()), panels);
  const boxes = chart.panels.map((panel, place) => {
    const name = chart.panels.length > 1 ? `${"AB"[place]} ${runs[place]}` : "";
    const box = element("div", { class: "panel" });
    if (name) panels.append(element("div", { class: "panel-frame" }, element("p", { class: "panel-name" }, name), box));
    else panels.append(box);
    return box;
  });
  function draw() {
    const ranges = rangesOf(chart, hidden);
    chart.panels.forEach((panel, place) => {
      if (panel) drawPanel(boxes[place], panel, chart, ranges, hidden);
      else boxes[place].replaceChildren(element("p", { class: "note" }, "No data."));
    });
  }
  let width = -1;
  new ResizeObserver(() => {
    if (width !== panels.clientWidth) {
      width = panels.clientWidth;
      draw();
    }
  }).observe(panels);
  draw();
}

function legend(chart, hidden, redraw) {
  const lines = new Map();
  for (const panel of chart.panels) for (const line of panel ? panel.series : []) lines.set(line.name, line);
  const buttons = [...lines.values()].map((line) =>
    element(
      "button",
      {
        type: "button",
        "aria-pressed": "true",
        title: "Show or hide",
        click(event) {
          const off = !hidden.delete(line.name);
          if (off) hidden.add(line.name);
          event.currentTarget.setAttribute("aria-pressed", String(!off));
          redraw();
        },
      },
      swatch(line),
      line.name,
    ),
  );
  return element("div", { class: "legend" }, ...buttons);
}

function swatch(line) {
  const stroke = drawn("line", { x1: 0, x2: 22, y1: 5, y2: 5, ...strokeOf(line) });
  return drawn("svg", { width: 22, height: 10, "aria-hidden": "true" }, stroke);
}

function strokeOf(line) {
  return {
    style: { stroke: `var(--${line.colour})` },
    "stroke-width": line.width,
    "stroke-dasharray": line.dashes ? line.dashes.map((part) => part * line.width).join(" ") : null,
  };
}

/** The axes' ranges over all panels, so that they can be compared. */
function rangesOf(chart, hidden) {
  const xs = [], ys = chart.share ? [0, 1] : [];
  for (const panel of chart.panels) {
    for (const line of panel ? panel.series : []) {
      if (hidden.has(line.name)) continue;
      xs.push(...line.x);
      ys.push(...line.y);
      if (line.band) ys.push(...line.low, ...line.high);
    }
  }
  if (!xs.length) return { x: [chart.log ? 1 : 0, chart.log ? 2 : 1], y: [0, 1], ticks: xs };
  const x = [chart.log ? Math.min(...xs) : Math.min(0, ...xs), Math.max(...xs)];
  let y = chart.share ? [0, 1] : [Math.min(...ys), Math.max(...ys)];
  if (x[0] === x[1]) x[1] = x[0] + 1;
  if (y[0] === y[1]) y = y[0] === 0 ? [0, 1] : [Math.min(0, 2 * y[0]), Math.max(0, 2 * y[1])];
  if (!chart.share) {
    // Room for a band's end, and 0 where it is near.
    if (y[0] > 0 && y[0] < 0.4 * y[1]) y[0] = 0;
    const steps = ticksOf(y, 5);
    y = [Math.min(y[0], steps[0]), Math.max(y[1], steps[steps.length - 1])];
  }
  return { x, y, ticks: [...new Set(xs)].sort((a, b) => a - b) };
}

/** Round numbers that cover a range, about as many as asked for. */
function ticksOf([low, high], count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const ticks = [];
  for (let k = Math.floor(low / step + 1e-9); k <= Math.ceil(high / step - 1e-9); k += 1) ticks.push(k * step);
  return ticks;
}

function drawPanel(box, panel, chart, ranges, hidden) {
  const width = Math.max(box.clientWidth, 240), height = Math.min(Math.max(0.42 * width, 230), 330);
  const { left, right, top, bottom } = MARGIN;
  const lines = panel.series.filter((line) => !hidden.has(line.name));
  const along = chart.log ? Math.log2 : (value) => value;
  const [x0, x1] = ranges.x.map(along), [y0, y1] = ranges.y;
  const x = (value) => left + ((along(value) - x0) / (x1 - x0)) * (width - left - right);
  // An interval may reach beyond a share's 0 or 100%; it is drawn as far as the axis goes, and read in full.
  const inside = (value) => Math.min(Math.max(value, y0), y1);
  const y = (value) => height - bottom - ((inside(value) - y0) / (y1 - y0)) * (height - top - bottom);
  const label = `${chart.title}: ${lines.map((line) => ending(line, chart)).join("; ")}. Arrow keys read the values.`;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": label });
  svg.append(axes(chart, ranges, { x, y, width, height }), marks(panel, x, height));
  for (const line of lines) {
    if (line.band) {
      const there = line.x.map((value, k) => `${x(value)},${y(line.high[k])}`);
      const back = line.x.map((value, k) => `${x(value)},${y(line.low[k])}`).reverse();
      const paint = { class: "band", style: { fill: `var(--${line.colour})` } };
      svg.append(drawn("polygon", { points: [...there, ...back].join(" "), ...paint }));
    }
    const points = line.x.map((value, k) => `${x(value)},${y(line.y[k])}`).join(" ");
    svg.append(drawn("polyline", { points, class: "line", ...strokeOf(line) }));
    if (line.x.length <= DOTTED) svg.append(...line.x.map((value, k) => dot(x(value), y(line.y[k]), line, 2.6)));
  }
  const tip = element("div", { class: "tip", hidden: true });
  box.replaceChildren(svg, tip);
  readValues(svg, tip, { panel, chart, lines, x, y, width, height });
}

function ending(line, chart) {
  return `${line.name} ends on ${valueText(line, line.x.length - 1, chart)}`;
}

function dot(cx, cy, line, r = 4) {
  return drawn("circle", { cx, cy, r, style: { fill: `var(--${line.colour})` } });
}

function axes(chart, ranges, { x, y, width, height }) {
  const { left, right, bottom } = MARGIN;
  const group = drawn("g", { class: "axes", "aria-hidden": "true" });
  for (const tick of chart.share ? [0, 0.25, 0.5, 0.75, 1] : ticksOf(ranges.y, 5)) {
    group.append(drawn("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    const text = chart.share ? `${tick * 100}%` : short(tick);
    group.append(drawn("text", { x: left - 7, y: y(tick) + 4, "text-anchor": "end" }, text));
  }
  const ticks = chart.log ? ranges.ticks : ticksOf(ranges.x, width < 420 ? 4 : 6);
  let free = -Infinity;
  for (const tick of ticks.filter((value) => value >= ranges.x[0] && value <= ranges.x[1])) {
    if (x(tick) < free) continue;
    const text = thousands(tick);
    free = x(tick) + 7 * text.length + 10;
    group.append(drawn("text", { x: x(tick), y: height - bottom + 16, "text-anchor": "middle" }, text));
  }
  group.append(drawn("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle", class: "axis" }, chart.x));
  return group;
}

function marks(panel, x, height) {
  const group = drawn("g", { class: "marks" });
  const { top, bottom } = MARGIN;
  for (const mark of panel.marks) {
    const wide = Math.max(x(mark.to) - x(mark.from), 3), fill = { fill: `var(--${mark.colour})` };
    group.append(
      drawn("rect", { x: x(mark.from), y: top, width: wide, height: height - top - bottom, style: fill }),
      drawn("text", { x: x(mark.from), y: top - 2, "text-anchor": "middle", style: fill }, "▼", drawn("title", {}, mark.text)),
    );
  }
  return group;
}

/** Shows the values at the pointer's x, or at that of the arrow keys. */
function readValues(svg, tip, { panel, chart, lines, x, y, width, height }) {
  const places = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const cross = drawn("g", { class: "cross", "aria-hidden": "true" });
  svg.append(cross);
  let at = -1;
  function show(place) {
    if (!places.length) return;
    at = Math.min(Math.max(place, 0), places.length - 1);
    const value = places[at];
    cross.replaceChildren(drawn("line", { x1: x(value), x2: x(value), y1: MARGIN.top, y2: height - MARGIN.bottom }));
    const rows = [];
    for (const line of lines) {
      const k = line.x.indexOf(value);
      if (k < 0) continue;
      cross.append(dot(x(value), y(line.y[k]), line));
      rows.push([line.y[k], element("div", {}, swatch(line), `${line.name} `, element("b", {}, valueText(line, k, chart)))]);
    }
    rows.sort((a, b) => b[0] - a[0]);
    const raised = panel.marks.filter((mark) => mark.from <= value && value <= mark.to);
    const head = element("div", { class: "tip-head" }, `${chart.log ? "N = " : ""}${thousands(value)}${chart.log ? "" : " samples"}`);
    tip.replaceChildren(head, ...rows.map((row) => row[1]), ...raised.map((mark) => element("div", {}, `▼ ${mark.text}`)));
    tip.hidden = false;
    const share = x(value) / width;
    tip.style.setProperty("left", share < 0.5 ? `calc(${share * 100}% + 12px)` : "auto");
    tip.style.setProperty("right", share < 0.5 ? "auto" : `calc(${(1 - share) * 100}% + 12px)`);
  }
  function hide() {
    tip.hidden = true;
    cross.replaceChildren();
  }
  svg.addEventListener("pointermove", (event) => {
    const bounds = svg.getBoundingClientRect();
    const where = ((event.clientX - bounds.left) / bounds.width) * width;
    const distances = places.map((value) => Math.abs(x(value) - where));
    show(distances.indexOf(Math.min(...distances)));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(at + step);
  });
}

function valueText(line, k, chart) {
  const text = chart.share ? (value) => `${(100 * value).toFixed(1)}%` : short;
  const interval = line.low ? ` [${text(line.low[k])}, ${text(line.high[k])}]` : "";
  return text(line.y[k]) + interval;
}

/** A number in at most four digits. */
function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 10000 || size < 0.001 ? value.toExponential(1).replace("e+", "e") : String(Number(value.toPrecision(3)));
}
