// Puts a text with LaTeX on the page. Everything that comes from a model goes in as text: only KaTeX makes elements, and it
// is not trusted with links, images or HTML (trust: false).

const ENVIRONMENT =
  /^\\begin\{((?:align|aligned|alignat|gather|gathered|equation|multline|split|cases|array|matrix|pmatrix|bmatrix|vmatrix|Bmatrix|Vmatrix)\*?)\}/;
// A text that repeats what opens a formula thousands of times, as small models do, is not searched to its end each time.
const LONGEST = 5000; // characters of one formula; a longer one is shown as it is written
const LONGEST_CODE = 50000;
const MOST_ENDS = 8; // dollar signs before a digit, at none of which a formula ends

/** Replaces what an element holds by a text, with its formulas typeset. */
export function typeset(element, text) {
  element.replaceChildren(...withoutGaps(pieces(text)).map(node));
}

/** Without the line breaks around what stands on lines of its own anyway. */
function withoutGaps(list) {
  const isBlock = (piece) => piece && (piece.kind === "code" || piece.display);
  return list.map((piece, place) => {
    if (piece.kind !== "text") return piece;
    let { text } = piece;
    if (isBlock(list[place + 1])) text = text.replace(/\s+$/, "");
    if (isBlock(list[place - 1])) text = text.replace(/^\s+/, "");
    return { ...piece, text };
  });
}

function node(piece) {
  if (piece.kind === "text") return document.createTextNode(piece.text);
  if (piece.kind === "code") {
    const code = document.createElement("pre");
    code.textContent = piece.text;
    return code;
  }
  const place = document.createElement(piece.display ? "div" : "span");
  place.className = piece.display ? "formula display" : "formula";
  try {
    if (piece.text.length > LONGEST) throw new RangeError("too long");
    window.katex.render(piece.text, place, {
      displayMode: piece.display,
      throwOnError: true,
      trust: false,
      strict: "ignore",
      maxSize: 20,
      maxExpand: 1000,
    });
  } catch {
    place.className = "formula unreadable";
    place.title = "Shown as it is written: this is not LaTeX that can be typeset.";
    place.textContent = piece.raw;
  }
  return place;
}

/** The pieces of a text, in order: {kind: "text" | "math" | "code", text, raw, display}. */
function pieces(text) {
  const found = [];
  let plain = "";
  let at = 0;
  let end = null;
  const take = (end, piece) => {
    if (plain) found.push({ kind: "text", text: plain });
    plain = "";
    if (piece) found.push({ raw: text.slice(at, end), ...piece });
    at = end;
  };
  while (at < text.length) {
    const formula = mathAt(text, at);
    if (formula) {
      take(formula.end, { kind: "math", text: formula.text, display: formula.display });
    } else if (text.startsWith("[asy]", at) && (end = endOf(text, at, "[/asy]", LONGEST_CODE)) !== null) {
      // MATH draws its figures with Asymptote: the code is all that there is.
      take(end, { kind: "code", text: text.slice(at, end) });
    } else if (text[at] === "\\" && "$%&#_\\".includes(text[at + 1] ?? " ")) {
      plain += text[at + 1] === "\\" ? "\\\\" : text[at + 1];
      at += 2;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  take(text.length, null);
  return found;
}

/** The formula that begins at a place: {text, display, end}; null if none does. */
function mathAt(text, at) {
  if (text.startsWith("$$", at)) return closedBy(text, at, 2, "$$", true);
  if (text[at] === "$") return inDollars(text, at);
  if (text.startsWith("\\[", at)) return closedBy(text, at, 2, "\\]", true);
  if (text.startsWith("\\(", at)) return closedBy(text, at, 2, "\\)", false);
  if (text.startsWith("\\boxed{", at)) {
    const end = endOfGroup(text, at + "\\boxed".length);
    return end && { text: text.slice(at, end), display: false, end };
  }
  const environment = text[at] === "\\" && ENVIRONMENT.exec(text.slice(at, at + 40));
  if (environment) {
    const end = endOf(text, at, `\\end{${environment[1]}}`);
    return end && { text: text.slice(at, end), display: true, end };
  }
  return null;
}

function closedBy(text, at, skip, close, display) {
  const end = endOf(text, at + skip, close);
  if (end === null) return null;
  const inside = text.slice(at + skip, end - close.length);
  return inside.trim() ? { text: inside, display, end } : null;
}

/** The place after the first `close` from a place on; null if there is none within `most` characters. */
function endOf(text, from, close, most = LONGEST) {
  const place = text.slice(from, from + most).indexOf(close);
  return place < 0 ? null : from + place + close.length;
}

/** A formula in single dollars. "$5 and $10" is none: a digit follows the second one, and there are words between. */
function inDollars(text, at) {
  let depth = 0;
  let passed = 0;
  const stop = Math.min(text.length, at + LONGEST);
  for (let i = at + 1; i < stop; i++) {
    const c = text[i];
    if (c === "\\") i += 1;
    else if (c === "{") depth += 1;
    else if (c === "}") depth -= 1;
    else if (c === "\n" && /^\n\s*\n/.test(text.slice(i, i + 40))) return null;
    else if (c === "$" && depth <= 0) {
      const inside = text.slice(at + 1, i);
      if (!inside.trim() || isProse(inside)) return null;
      if (/[0-9]/.test(text[i + 1] ?? "")) {
        if ((passed += 1) > MOST_ENDS) return null;
        continue;
      }
      return { text: inside, display: false, end: i + 1 };
    }
  }
  return null;
}

/** Whether what stands between two dollar signs is a sentence about money: "5 and gives back ", "3 per " before a formula. */
function isProse(inside) {
  const words = inside.replace(/\\(?:text|mbox)[a-z]*\s*\{[^{}]*\}/g, " ").replace(/\\[a-zA-Z]+/g, " \\ ");
  return /[a-z]{3,}\s+[a-z]{2,}/.test(words) || /^\d[\d.,]*\s+[a-z]{2,}.*\s$/s.test(words);
}

function endOfGroup(text, open) {
  let depth = 0;
  const stop = Math.min(text.length, open + LONGEST);
  for (let i = open; i < stop; i++) {
    if (text[i] === "\\") i += 1;
    else if (text[i] === "{") depth += 1;
    else if (text[i] === "}" && --depth === 0) return i + 1;
  }
  return null;
}
