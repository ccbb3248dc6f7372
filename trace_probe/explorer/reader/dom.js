// Small helpers to make elements. Text enters the page through textContent only.

const SVG = "http://www.w3.org/2000/svg";

const MARKS = {
  alarm: { glyph: "\u25B2", outline: "M0-7L7 5H-7Z", key: "a", name: "alarm" },
  said: { glyph: "\u25C6", outline: "M0-7L7 0L0 7L-7 0Z", key: "s", name: "said" },
  action: { glyph: "\u25A0", outline: "M-5.5-5.5h11v11h-11Z", key: "x", name: "done" },
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

function count(number) {
  return number.toLocaleString("en");
}

// Three digits that matter, without the noise of a float.
function brief(number) {
  return String(Number(number.toPrecision(3)));
}

// Four steps of risk: 0 to 2 below the threshold, 3 at or over it; one colour means that everywhere.
// null where there is no score, "plain" where there is no threshold to compare with.
function stepOf(score, threshold, [low], over) {
  if (score === null) return null;
  if (threshold === null) return "plain";
  if (over) return 3;
  return clamp(Math.floor(((score - low) / (threshold - low || 1)) * 3), 0, 2);
}

// Whether a score is over is decided before it was rounded, so it comes with the data.
function riskStep(data, index) {
  return stepOf(data.scores[index], data.threshold, data.range, data.overSet.has(index));
}

function riskWords(score) {
  return score === null ? "no score" : score.toFixed(2);
}

function marksAt(data, index) {
  return Object.keys(MARKS).filter((name) => data.marks[name]?.sentence === index);
}

// The sentence that holds a token, or null: sentences are in order, so bisect.
function sentenceAt(sentences, token) {
  let low = 0;
  let high = sentences.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (token < sentences[middle][0]) high = middle - 1;
    else if (token >= sentences[middle][1]) low = middle + 1;
    else return middle;
  }
  return null;
}

// The highest score so far that could raise an alarm, at each sentence; null until there is one.
function runningScores(sentences, scores) {
  let best = null;
  return scores.map((score, index) => {
    const counts = sentences[index][2] === "reasoning" && score !== null;
    if (counts && (best === null || score > best)) best = score;
    return best;
  });
}
