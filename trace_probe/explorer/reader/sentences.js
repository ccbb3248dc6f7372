// The list of sentences: number, risk, heat bar, marks, text; calm stretches folded.
// Tokens are made for the one sentence that is open. Between sentences stand the turns of an agent,
// its tool calls and what came back.

const SETTLING_FRAMES = 5;
const BLOCK = 100;
const ROW_PX = 30;
const AT_ONCE = 1500;
const NEARBY = (root) => ({ root, rootMargin: "600px 0px" });

class Sentences {
  constructor(host, { onPick, onWindow, onPeek }) {
    this.host = host;
    this.onWindow = onWindow;
    host.onclick = (event) => this.click(event, onPick);
    host.onscroll = () => this.reportWindow();
    host.onmouseover = (event) => {
      const row = event.target.closest(".row");
      onPeek(row ? Number(row.dataset.index) : null);
    };
    host.onmouseleave = () => onPeek(null);
  }

  // Rows lie in blocks. Those of a long trace are made once their block comes near the window.
  draw(data) {
    this.data = data;
    this.running = runningScores(data.sentences, data.scores);
    this.nearby?.disconnect();
    this.nearby = new IntersectionObserver((seen) => this.makeSeen(seen), NEARBY(this.host));
    this.blocks = [];
    this.folds = data.folds.map(([from, to, highest]) => this.fold(from, to, highest));
    this.selected = undefined;
    const starts = new Map(this.folds.map((fold) => [fold.from, fold]));
    const ends = new Set(this.folds.map((fold) => fold.to));
    const steps = new Map();
    for (const step of data.steps ?? []) {
      steps.set(step[0], [...(steps.get(step[0]) ?? []), step]);
    }
    let group = null;
    const groups = [];
    data.sentences.forEach(([, , channel], index) => {
      const between = (steps.get(index) ?? []).map((step) => this.step(step));
      groups.push(...between);
      const parted = index === 0 || data.sentences[index - 1][2] !== channel || between.length > 0;
      if (parted) {
        group = this.group(channel);
        groups.push(group);
      }
      if (starts.has(index)) group.append(starts.get(index).bar);
      const block = this.blocks.at(-1);
      const full = parted || starts.has(index) || ends.has(index) || index - block.from === BLOCK;
      if (full) group.append(this.block(index).node);
      this.blocks.at(-1).to = index + 1;
    });
    groups.push(...(steps.get(data.sentences.length) ?? []).map((step) => this.step(step)));
    this.host.replaceChildren(...groups);
    for (const fold of this.folds) this.open(fold, false);
    if (data.sentences.length <= AT_ONCE) this.blocks.forEach((block) => this.make(block));
    else this.blocks.forEach((block) => this.keepPlace(block));
  }

  block(from) {
    const block = { from, to: from, rows: null, node: element("div", "block") };
    block.node.setAttribute("role", "presentation");
    this.blocks.push(block);
    return block;
  }

  // Keeps the place of rows that are still to be made.
  keepPlace(block) {
    block.node.style.minHeight = `${(block.to - block.from) * ROW_PX}px`;
    block.node.dataset.from = block.from;
    this.nearby.observe(block.node);
  }

  makeSeen(seen) {
    for (const { target, isIntersecting } of seen) {
      if (isIntersecting) this.make(this.blockOf(Number(target.dataset.from)));
    }
    this.reportWindow();
  }

  make(block) {
    if (block.rows) return;
    block.rows = [];
    for (let index = block.from; index < block.to; index += 1) block.rows.push(this.row(index));
    block.node.replaceChildren(...block.rows);
    block.node.style.minHeight = "";
    this.nearby.unobserve(block.node);
  }

  blockOf(index) {
    let low = 0;
    let high = this.blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.blocks[middle].from <= index) low = middle;
      else high = middle - 1;
    }
    return this.blocks[low];
  }

  // The row of a sentence, made if it is not there yet.
  rowOf(index) {
    const block = this.blockOf(index);
    this.make(block);
    return block.rows[index - block.from];
  }

  // A turn begins, or a tool was called, or something came back; the violating call stands open.
  step([, kind, title, text, violating]) {
    if (kind === "turn") return element("div", "turn", title);
    const step = element("details", `step ${kind}${violating ? " violating" : ""}`);
    const summary = element("summary", "");
    if (violating) summary.append(element("span", "sign", MARKS.action.glyph));
    summary.append(element("span", "what", title));
    const first = text.trim().split("\n")[0];
    if (first) summary.append(element("span", "first", first));
    if (violating) summary.append(element("span", "why", "the violating call"));
    step.append(summary, element("pre", "", text));
    step.open = violating;
    return step;
  }

  group(channel) {
    const group = element("div", "channel");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", channel);
    const name = element("div", "phase-name", channel);
    name.setAttribute("aria-hidden", "true");
    group.append(name);
    return group;
  }

  row(index) {
    const step = riskStep(this.data, index);
    const score = this.data.scores[index];
    const row = element("div", `row ${step === null ? "missing" : `step-${step}`}`);
    row.id = `sentence-${index}`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", "false");
    row.dataset.index = index;
    const glyphs = element("span", "glyphs");
    for (const name of marksAt(this.data, index)) {
      glyphs.append(element("span", name, MARKS[name].glyph));
    }
    row.append(
      element("span", "number", index + 1),
      element("span", "score", score === null ? "\u2014" : score.toFixed(2)),
      this.heat(score),
      glyphs,
      element("span", "text", this.data.sentences[index][3].trim()),
    );
    return row;
  }

  // Another threshold colours other rows; texts, folds and selection stay.
  recolour(data) {
    this.data = data;
    this.blocks.flatMap(({ rows }) => rows ?? []).forEach((row) => {
      const step = riskStep(data, Number(row.dataset.index));
      row.className = `row ${step === null ? "missing" : `step-${step}`}`;
      const tick = row.querySelector(".heat b");
      if (tick) tick.style.left = `${100 * this.share(data.threshold)}%`;
    });
  }

  heat(score) {
    const heat = element("span", "heat");
    const bar = element("i");
    bar.style.width = score === null ? "100%" : `${100 * this.share(score)}%`;
    heat.append(bar);
    if (this.data.threshold === null) return heat;
    const tick = element("b");
    tick.style.left = `${100 * this.share(this.data.threshold)}%`;
    heat.append(tick);
    return heat;
  }

  share(score) {
    const [low, high] = this.data.range;
    return clamp((score - low) / (high - low || 1), 0, 1);
  }

  fold(from, to, highest) {
    const words = `${to - from} calm sentences, highest ${highest.toFixed(2)}`;
    const bar = element("div", "fold", `${words} \u2014 show`);
    bar.setAttribute("role", "option");
    bar.setAttribute("aria-selected", "false");
    const fold = { bar, from, to };
    bar.onclick = () => this.open(fold, true);
    return fold;
  }

  open(fold, shown) {
    fold.bar.hidden = shown;
    for (const block of this.blocks) {
      if (block.from >= fold.from && block.to <= fold.to) block.node.hidden = !shown;
    }
    if (this.selected) this.reportWindow();
  }

  // Opens every fold, or folds everything again where all are open.
  toggleFolds() {
    const shown = this.folds.some(({ bar }) => !bar.hidden);
    for (const fold of this.folds) this.open(fold, shown);
    if (this.selected?.parentElement.hidden) this.open(this.foldOf(Number(this.selected.dataset.index)), true);
    if (this.selected) this.bring(this.selected);
  }

  foldOf(index) {
    return this.folds.find(({ from, to }) => index >= from && index < to);
  }

  // The next sentence that is not folded away, in a direction; the same one where there is none.
  beside(index, step) {
    let next = index + step;
    while (next >= 0 && next < this.data.sentences.length) {
      const { from, to, node } = this.blockOf(next);
      if (!node.hidden) return next;
      next = step > 0 ? to : from - 1;
    }
    return index;
  }

  click(event, onPick) {
    const row = event.target.closest(".row");
    if (row) onPick(Number(row.dataset.index));
  }

  select(index) {
    const row = this.rowOf(index);
    if (row.parentElement.hidden) this.open(this.foldOf(index), true);
    if (this.selected) this.close(this.selected);
    this.selected = row;
    row.setAttribute("aria-selected", "true");
    this.host.setAttribute("aria-activedescendant", row.id);
    this.showTokens(row, index);
    this.bringUntilStill(row);
  }

  // Rows off screen have estimated heights: once they are drawn, the place may have moved.
  bringUntilStill(row, frames = SETTLING_FRAMES) {
    this.bring(row);
    if (frames && row === this.selected) {
      requestAnimationFrame(() => this.bringUntilStill(row, frames - 1));
    }
  }

  close(row) {
    row.setAttribute("aria-selected", "false");
    row.querySelector(".text").textContent = this.data.sentences[Number(row.dataset.index)][3].trim();
    row.querySelector(".detail")?.remove();
  }

  showTokens(row, index) {
    const [, , , text, cuts] = this.data.sentences[index];
    let from = 0;
    const tokens = cuts.map((length) => {
      const piece = text.slice(from, from + length).replaceAll("\n", "\u21B5");
      from += length;
      return element("span", "token", piece);
    });
    row.querySelector(".text").replaceChildren(...tokens);
    row.append(element("span", "detail", this.detail(index)));
  }

  detail(index) {
    const [start, stop] = this.data.sentences[index];
    const parts = [`tokens ${count(start)}\u2013${count(stop - 1)}`];
    if (this.running[index] !== null) parts.push(`running ${this.running[index].toFixed(2)}`);
    for (const { name, scores } of this.data.beside) {
      parts.push(`${name} ${riskWords(scores[index])}`);
    }
    const point = this.data.oracle?.points.find(([token]) => token === stop);
    if (point) {
      const [, p, low, high, n] = point;
      parts.push(`oracle ${p.toFixed(2)} [${low.toFixed(2)}, ${high.toFixed(2)}], n = ${n}`);
    }
    return parts.join(" \u00B7 ");
  }

  // Scrolls the list alone: scrollIntoView would move the page as well.
  bring(row) {
    const top = row.offsetTop;
    const { scrollTop, clientHeight } = this.host;
    const inside = top >= scrollTop + 30 && top + row.offsetHeight <= scrollTop + clientHeight - 30;
    if (!inside) this.host.scrollTop = top - clientHeight * 0.35;
    this.reportWindow();
  }

  reportWindow() {
    const shown = this.blocks.filter(({ node }) => !node.hidden);
    if (!shown.length) return;
    const top = this.host.scrollTop;
    const first = this.sentenceBelow(shown, top);
    const last = this.sentenceBelow(shown, top + this.host.clientHeight - 1);
    this.onWindow(first, Math.max(first, last));
  }

  // The first sentence that ends below a height; a guess where its row is not made yet.
  sentenceBelow(shown, height) {
    const { from, to, rows, node } = shown[firstBelow(shown.map((block) => block.node), height)];
    if (rows) return from + firstBelow(rows, height);
    const part = (height - node.offsetTop) / Math.max(node.offsetHeight, 1);
    return from + clamp(Math.floor(part * (to - from)), 0, to - from - 1);
  }
}

// Index of the first of some elements that ends below a height; they are in order, so bisect.
function firstBelow(rows, height) {
  let low = 0;
  let high = rows.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].offsetTop + rows[middle].offsetHeight > height) high = middle;
    else low = middle + 1;
  }
  return low;
}
