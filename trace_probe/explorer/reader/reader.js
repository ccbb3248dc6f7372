// Joins header, curve and sentences: one selection, moved by keys, clicks and jumps.

const SETTLE_MS = 300;
const SHORTEST_LIST = 260;
const THRESHOLD_STEPS = 100;
const THRESHOLD_REST_MS = 50;
const ANSWER_MS = 2000;
const ASKS = 4;
const HELP = [
  ["j k", "next, previous sentence"],
  ["J K", "next, previous over the threshold"],
  ["a s x p", "alarm, said, done, peak"],
  ["d", "next sentence where the detectors disagree"],
  ["+ -", "raise, lower the threshold"],
  ["f", "show or fold calm sentences"],
  ["l", "every layer"],
  ["[ ]", "previous, next trace"],
  ["Home End", "first, last sentence"],
];

class Reader {
  constructor(root) {
    this.root = root;
    this.part = (name) => root.querySelector(name);
    this.curve = new Curve(this.part(".curve"), {
      onPick: (index) => this.move(index),
      onThreshold: (value) => this.tryThreshold(value),
    });
    this.sentences = new Sentences(this.part(".list"), {
      onPick: (index) => this.move(index),
      onWindow: (first, last) => this.curve.showWindow(first, last),
      onPeek: (index) => this.curve.peek(index),
    });
    this.withLayers = true;
    root.onkeydown = (event) => this.key(event);
    this.resized = new ResizeObserver(() => this.resize());
    this.resized.observe(root);
  }

  // `emit` is told where the reader went; `step`, that another trace is wanted; `onThreshold`,
  // that another threshold is. Without someone to tell, a threshold cannot be moved.
  show(data, { emit, step = null, onThreshold = null, onMove = null }) {
    const sameScores = this.data?.trace === data.trace && `${this.data.range}` === `${data.range}`;
    const wanted = sameScores ? this.wanted : undefined;
    Object.assign(this, { emit, step, onThreshold, onMove });
    const moved = this.data?.trace === data.trace && this.data.focus === data.focus;
    const keep = moved && this.index !== undefined ? this.index : data.focus;
    this.data = { ...data, overSet: new Set(data.over) };
    this.part(".title").textContent = data.note ? `${data.title} \u00B7 ${data.note}` : data.title;
    this.part(".headline").textContent = data.headline;
    this.part(".facts").replaceChildren(...data.facts.map((fact) => this.card(fact)));
    this.drawPrompt();
    this.drawJumps();
    this.curve.draw(this.data, this.withLayers);
    this.sentences.draw(this.data);
    this.fit();
    this.index = undefined;
    if (keep !== null) this.select(keep);
    this.width = this.root.clientWidth;
    this.root.dataset.ready = data.trace;
    this.root.dataset.threshold = data.threshold ?? "";
    this.goOnAsking(wanted);
  }

  // The list ends where the window does, so that the sentence it opens at can be seen.
  fit() {
    const list = this.part(".list");
    const room = window.innerHeight - list.getBoundingClientRect().top - 28;
    list.style.maxHeight = `${Math.max(room, SHORTEST_LIST)}px`;
  }

  // What happened and what text it was; a card with a place leads to it.
  card({ name, title, value, detail, quote, sentence }) {
    const reachable = sentence !== null && sentence !== undefined;
    const card = element(reachable ? "button" : "div", `fact ${name}`);
    if (reachable) {
      card.type = "button";
      card.onclick = () => this.jump(sentence);
    }
    const head = element("span", "what");
    if (MARKS[name]) head.append(element("span", "sign", MARKS[name].glyph));
    head.append(element("span", "", title));
    if (reachable) head.append(element("kbd", "", MARKS[name].key));
    card.append(head, element("span", "value", value), element("span", "fine", detail));
    if (quote) card.append(element("span", "quote", quote));
    return card;
  }

  drawPrompt() {
    this.part(".prompt summary").textContent = `Prompt \u00B7 ${count(this.data.begin)} tokens`;
    this.part(".prompt .text").textContent = this.data.prompt;
    this.part(".prompt").hidden = !this.data.prompt;
  }

  drawJumps() {
    const jumps = [["previous", "k"], ["next", "j"]];
    if (this.data.over.length) jumps.push(["next over threshold", "J"]);
    if (this.peak() !== null) jumps.push(["peak", "p"]);
    if (this.data.folds.length) jumps.push(["calm", "f"]);
    if (this.data.layers) jumps.push(["layers", "l"]);
    jumps.push(["keys", "?"]);
    const buttons = jumps.map(([words, key]) => {
      const button = element("button", "", words);
      button.type = "button";
      button.append(element("kbd", "", key));
      button.onclick = () => { this.go(key); this.part(".list").focus({ preventScroll: true }); };
      return button;
    });
    this.part(".jumps").replaceChildren(...buttons);
  }

  help() {
    const panel = this.part(".help");
    panel.hidden = !panel.hidden;
    const parts = HELP.flatMap(([keys, words]) => [element("dt", "", keys), element("dd", "", words)]);
    panel.replaceChildren(...parts);
  }

  peak() {
    let best = null;
    this.data.scores.forEach((score, index) => {
      const reasoning = this.data.sentences[index][2] === "reasoning";
      if (!reasoning || score === null) return;
      if (best === null || score > this.data.scores[best]) best = index;
    });
    return best;
  }

  // Where a key leads: a sentence, null for nowhere, undefined if it is no key of ours.
  target(key) {
    const { marks, sentences, over } = this.data;
    const here = this.index ?? 0;
    const mark = Object.keys(MARKS).find((name) => MARKS[name].key === key);
    if (mark) return marks[mark]?.sentence ?? marks[mark]?.near ?? null;
    switch (key) {
      case "p": return this.peak();
      case "j": case "ArrowDown": return this.sentences.beside(here, 1);
      case "k": case "ArrowUp": return this.sentences.beside(here, -1);
      case "J": return over.find((index) => index > here) ?? null;
      case "K": return over.findLast((index) => index < here) ?? null;
      case "d": return this.disagreement(here);
      case "Home": return 0;
      case "End": return sentences.length - 1;
      default: return undefined;
    }
  }

  // The next sentence that exactly one of two detectors holds to be over its threshold.
  disagreement(here) {
    const other = this.data.beside.find(({ threshold }) => threshold !== null);
    if (!other || this.data.threshold === null) return null;
    const over = new Set(other.over);
    const differ = (index) => other.scores[index] !== null && this.data.scores[index] !== null
      && over.has(index) !== this.data.overSet.has(index);
    const order = this.data.sentences.map((_, index) => (here + 1 + index) % this.data.sentences.length);
    return order.find(differ) ?? null;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("button, summary") && (event.key === "Enter" || event.key === " ")) return;
    if (this.go(event.key)) {
      event.preventDefault();
      event.stopPropagation();
    }
  }

  // Does what a key means here; tells whether it means anything.
  go(key) {
    const acts = {
      "?": () => this.help(),
      f: () => this.sentences.toggleFolds(),
      l: () => this.toggleLayers(),
      "+": () => this.nudgeThreshold(1),
      "-": () => this.nudgeThreshold(-1),
      "[": () => this.step?.(-1),
      "]": () => this.step?.(1),
    };
    if (acts[key]) {
      acts[key]();
      return true;
    }
    if (!this.data?.sentences.length) return false;
    const target = this.target(key);
    if (target === undefined) return false;
    if (target !== null) this.move(target);
    return true;
  }

  nudgeThreshold(direction) {
    const { threshold, range: [low, high] } = this.data;
    if (threshold === null) return;
    this.tryThreshold(threshold + (direction * (high - low)) / THRESHOLD_STEPS);
  }

  // Shows at once what another threshold would colour; words and alarm follow once it rests.
  tryThreshold(value) {
    if (!this.onThreshold || this.data.threshold === null) return;
    this.wanted = { threshold: clamp(value, ...this.data.range), asks: ASKS };
    this.colourAt(this.wanted.threshold);
    this.thresholdIn(THRESHOLD_REST_MS);
  }

  colourAt(threshold) {
    const { scores } = this.data;
    const overSet = new Set([...scores.keys()].filter((i) => scores[i] !== null && scores[i] >= threshold));
    this.data = { ...this.data, threshold, overSet, over: [...overSet] };
    this.curve.draw(this.data, this.withLayers);
    this.sentences.recolour(this.data);
    if (this.index !== undefined) this.curve.select(this.index);
  }

  // A page that is being drawn may lose what it is told meanwhile, so it is told again.
  askForThreshold() {
    if (!this.wanted || !this.onThreshold) return;
    this.wanted.asks -= 1;
    this.onThreshold(this.wanted.threshold);
    if (this.wanted.asks) this.thresholdIn(ANSWER_MS);
  }

  // Without the threshold that is wanted, what was drawn is an answer to something else: the
  // reader keeps its colours, and goes on asking.
  goOnAsking(wanted) {
    const [low, high] = this.data.range;
    const near = (threshold) => Math.abs(threshold - this.data.threshold) <= 1e-6 * (high - low);
    if (!wanted?.asks || this.data.threshold === null || near(wanted.threshold)) {
      this.wanted = undefined;
      clearTimeout(this.thresholdTimer);
    } else {
      this.colourAt(wanted.threshold);
    }
  }

  thresholdIn(milliseconds) {
    clearTimeout(this.thresholdTimer);
    this.thresholdTimer = setTimeout(() => this.askForThreshold(), milliseconds);
  }

  toggleLayers() {
    this.withLayers = !this.withLayers;
    this.curve.heatMap.draw(this.curve.plot, this.withLayers);
  }

  jump(index) {
    this.move(index);
    this.part(".list").focus({ preventScroll: true });
  }

  move(index) {
    if (index === this.index) return;
    this.select(index);
    this.onMove?.(index);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.emit(index), SETTLE_MS);
  }

  select(index) {
    this.index = index;
    this.curve.select(index);
    this.sentences.select(index);
    const names = marksAt(this.data, index).map((name) => MARKS[name].name);
    const risk = `risk ${riskWords(this.data.scores[index])}`;
    const over = this.data.overSet.has(index) ? ["over the threshold"] : [];
    const words = [`Sentence ${index + 1} of ${this.data.sentences.length}`, risk, ...over, ...names];
    this.part(".live").textContent = words.join(" \u00B7 ");
  }

  resize() {
    if (!this.data || this.root.clientWidth === this.width) return;
    this.width = this.root.clientWidth;
    this.curve.draw(this.data, this.withLayers);
    if (this.index !== undefined) this.curve.select(this.index);
    this.sentences.reportWindow();
  }

  stop() {
    clearTimeout(this.timer);
    clearTimeout(this.thresholdTimer);
    this.resized.disconnect();
  }
}

// The token of another trace at the same distance from the start of the same turn, within that turn.
function sameTurn(token, here, there) {
  const from = here.turns ?? [here.begin];
  const to = there.turns ?? [there.begin];
  const turn = from.findLastIndex((start) => start <= token);
  if (turn >= to.length) return there.end - 1;
  const stop = to[turn + 1] ?? there.end;
  return Math.min(to[turn] + token - from[turn], stop - 1);
}

// One reader, or two whose selections keep the same distance from their origins.
class Frame {
  constructor(frame) {
    this.frame = frame;
    this.readers = [new Reader(frame.querySelector(".reader"))];
  }

  show(sides, { emit, step, onThreshold }) {
    while (this.readers.length < sides.length) {
      const root = this.readers[0].root.cloneNode(true);
      this.frame.append(root);
      this.readers.push(new Reader(root));
    }
    while (this.readers.length > sides.length) {
      const last = this.readers.pop();
      last.stop();
      last.root.remove();
    }
    this.frame.classList.toggle("pair", sides.length > 1);
    this.readers.forEach((reader, side) => {
      const told = () => emit(this.readers[0].index);
      const onMove = sides.length > 1 ? (index) => this.follow(side, index) : null;
      const single = sides.length > 1 ? null : onThreshold;
      reader.show(sides[side], { emit: told, step, onThreshold: single, onMove });
    });
    // Only now has each the place it keeps beside the other.
    for (const reader of this.readers) reader.fit();
    const list = this.readers[0].part(".list");
    if (document.activeElement === document.body) list.focus({ preventScroll: true });
  }

  follow(side, index) {
    const [here, there] = [this.readers[side], this.readers[1 - side]];
    const { sentences } = there.data;
    if (!sentences.length) return;
    const token = here.data.sentences[index][0];
    const place = here.data.by_turn
      ? sameTurn(token, here.data, there.data)
      : token - here.data.origin + there.data.origin;
    const last = sentences.length - 1;
    const inside = clamp(place, sentences[0][0], sentences[last][1] - 1);
    // Between two sentences there is markup: the one before it is the place.
    const before = sentences.findLastIndex(([start]) => start <= inside);
    there.select(sentenceAt(sentences, inside) ?? Math.max(before, 0));
  }

  stop() {
    for (const reader of this.readers) reader.stop();
  }
}
