// Small helpers to make elements. Text enters the page through textContent only.

const SVG = "http://www.w3.org/2000/svg";

const MARKS = {
  alarm: { glyph: "\u25B2", outline: "M0-7L7 5H-7Z", key: "a", name: "alarm" },
  said: { glyph: "\u25C6", outline: "M0-7L7 0L0 7L-7 0Z", key: "s", name: "said" },
  action: { glyph: "\u25A0", outline: "M-5.5-5.5h11v11h-11Z", key: "x", name: "action" },
};

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

// Five steps of risk, anchored at the threshold: 0 to 2 below it, 3 and 4 at or over it.
// null where there is no score, "plain" where there is no threshold to compare with.
function riskStep(data, index) {
  const score = data.scores[index];
  if (score === null) return null;
  if (data.threshold === null) return "plain";
  const [low, high] = data.range;
  if (data.overSet.has(index)) {
    return score >= (data.threshold + high) / 2 && high > data.threshold ? 4 : 3;
  }
  const share = (score - low) / (data.threshold - low || 1);
  return clamp(Math.floor(share * 3), 0, 2);
}

function riskWords(score) {
  return score === null ? "no score" : score.toFixed(2);
}

function marksAt(data, index) {
  return Object.keys(MARKS).filter((name) => data.marks[name]?.sentence === index);
}
