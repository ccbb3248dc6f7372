// Joins curve and sentences: one selection, moved by keys, clicks and jumps.

const SETTLE_MS = 300;
const readers = new WeakMap();

class Reader {
  constructor(root) {
    this.root = root;
    this.part = (name) => root.querySelector(name);
    this.curve = new Curve(this.part(".curve"), (index) => this.move(index));
    const window_ = (first, last) => this.curve.showWindow(first, last);
    this.sentences = new Sentences(this.part(".list"), (index) => this.move(index), window_);
    root.onkeydown = (event) => this.key(event);
    this.resized = new ResizeObserver(() => this.resize());
    this.resized.observe(root);
  }

  show(data, emit) {
    this.emit = emit;
    const moved = this.data?.trace === data.trace && this.data.focus === data.focus;
    const keep = moved && this.index !== undefined ? this.index : data.focus;
    this.data = { ...data, overSet: new Set(data.over) };
    this.part(".title").textContent = data.note ? `${data.title} \u00B7 ${data.note}` : data.title;
    this.part(".headline").textContent = data.headline;
    this.part(".fine").textContent = data.fine;
    this.drawPrompt();
    this.drawJumps();
    this.curve.draw(this.data);
    this.sentences.draw(this.data);
    this.index = undefined;
    if (keep !== null) this.select(keep);
    this.width = this.root.clientWidth;
    if (document.activeElement === document.body) this.part(".list").focus({ preventScroll: true });
    this.root.dataset.ready = data.trace;
  }

  drawPrompt() {
    const tokens = this.data.begin.toLocaleString("en");
    this.part(".prompt summary").textContent = `Prompt \u00B7 ${tokens} tokens`;
    this.part(".prompt .text").textContent = this.data.prompt;
    this.part(".prompt").hidden = !this.data.prompt;
  }

  drawJumps() {
    const jumps = Object.entries(MARKS)
      .filter(([name]) => this.data.marks[name])
      .map(([name, { glyph, key }]) => [`${glyph} ${name}`, key, name]);
    if (this.peak() !== null) jumps.push(["peak", "p", ""]);
    jumps.push(["next", "j", ""], ["previous", "k", ""]);
    const buttons = jumps.map(([words, key, name]) => {
      const button = element("button", name, words);
      button.type = "button";
      button.append(element("kbd", "", key));
      button.onclick = () => { this.go(key); this.part(".list").focus({ preventScroll: true }); };
      return button;
    });
    this.part(".jumps").replaceChildren(...buttons);
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

  target(key) {
    const { marks, sentences } = this.data;
    const last = sentences.length - 1;
    const here = this.index ?? 0;
    const mark = Object.keys(MARKS).find((name) => MARKS[name].key === key);
    if (mark) return marks[mark]?.sentence ?? null;
    if (key === "p") return this.peak();
    if (key === "j" || key === "ArrowDown") return Math.min(here + 1, last);
    if (key === "k" || key === "ArrowUp") return Math.max(here - 1, 0);
    if (key === "Home") return 0;
    if (key === "End") return last;
    return undefined;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("button, summary") && (event.key === "Enter" || event.key === " ")) return;
    if (this.go(event.key)) {
      event.preventDefault();
      event.stopPropagation();
    }
  }

  // Moves if the key means a move here; tells whether it does.
  go(key) {
    if (!this.data?.sentences.length) return false;
    const target = this.target(key);
    if (target === undefined) return false;
    if (target !== null) this.move(target);
    return true;
  }

  move(index) {
    if (index === this.index) return;
    this.select(index);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.emit(index), SETTLE_MS);
  }

  select(index) {
    this.index = index;
    this.curve.select(index);
    this.sentences.select(index);
    const names = marksAt(this.data, index).map((name) => MARKS[name].name);
    const risk = riskWords(this.data.scores[index]);
    const over = this.data.overSet.has(index) ? ["over the threshold"] : [];
    const [start, stop] = this.data.sentences[index];
    const tokens = `tokens ${start}\u2013${stop - 1}`;
    const words = [`Sentence ${index + 1}`, tokens, `risk ${risk}`, ...over, ...names];
    this.part(".live").textContent = words.join(" \u00B7 ");
  }

  resize() {
    if (!this.data || this.root.clientWidth === this.width) return;
    this.width = this.root.clientWidth;
    this.curve.draw(this.data);
    if (this.index !== undefined) this.curve.select(this.index);
    this.sentences.reportWindow();
  }

  stop() {
    clearTimeout(this.timer);
    this.resized.disconnect();
  }
}

export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const root = parentElement.querySelector(".reader");
  if (!root) return undefined;
  if (!readers.has(root)) readers.set(root, new Reader(root));
  const reader = readers.get(root);
  reader.show(data, (index) => setStateValue("sentence", index));
  return () => { reader.stop(); readers.delete(root); };
}
