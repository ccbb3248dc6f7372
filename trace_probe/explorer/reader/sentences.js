// The list of sentences: number, risk, heat bar, marks, text; calm stretches folded.
// Tokens are made for the one sentence that is open. Between sentences stand the turns of an agent,
// its tool calls and what came back.

const SETTLING_FRAMES = 5;

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

  draw(data) {
    this.data = data;
    this.running = runningScores(data.sentences, data.scores);
    this.rows = data.sentences.map((_, index) => this.row(index));
    this.folds = data.folds.map(([from, to, highest]) => this.fold(from, to, highest));
    this.selected = undefined;
    const starts = new Map(this.folds.map((fold) => [fold.from, fold]));
    const steps = new Map();
    for (const step of data.steps ?? []) {
      steps.set(step[0], [...(steps.get(step[0]) ?? []), step]);
    }
    let group = null;
    const groups = [];
    this.rows.forEach((row, index) => {
      const between = (steps.get(index) ?? []).map((step) => this.step(step));
      groups.push(...between);
      const parted = index === 0 || data.sentences[index - 1][2] !== data.sentences[index][2];
      if (parted || between.length) {
        group = this.group(data.sentences[index][2]);
        groups.push(group);
      }
      if (starts.has(index)) group.append(starts.get(index).bar);
      group.append(row);
    });
    groups.push(...(steps.get(this.rows.length) ?? []).map((step) => this.step(step)));
    this.host.replaceChildren(...groups);
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
    this.rows.forEach((row, index) => {
      const step = riskStep(data, index);
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
    this.open(fold, false);
    return fold;
  }

  open(fold, shown) {
    fold.bar.hidden = shown;
    for (const row of this.rows.slice(fold.from, fold.to)) row.hidden = !shown;
    if (this.selected) this.reportWindow();
  }

  // Opens every fold, or folds everything again where all are open.
  toggleFolds() {
    const shown = this.folds.some(({ bar }) => !bar.hidden);
    for (const fold of this.folds) this.open(fold, shown);
    if (this.selected?.hidden) this.open(this.foldOf(Number(this.selected.dataset.index)), true);
    if (this.selected) this.bring(this.selected);
  }

  foldOf(index) {
    return this.folds.find(({ from, to }) => index >= from && index < to);
  }

  // The next sentence that is not folded away, in a direction; the same one where there is none.
  beside(index, step) {
    for (let next = index + step; next >= 0 && next < this.rows.length; next += step) {
      if (!this.rows[next].hidden) return next;
    }
    return index;
  }

  click(event, onPick) {
    const row = event.target.closest(".row");
    if (row) onPick(Number(row.dataset.index));
  }

  select(index) {
    const row = this.rows[index];
    if (row.hidden) this.open(this.foldOf(index), true);
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
    const top = this.host.scrollTop;
    const shown = this.rows.filter((row) => !row.hidden);
    if (!shown.length) return;
    const first = firstBelow(shown, top);
    const last = Math.max(firstBelow(shown, top + this.host.clientHeight - 1), first);
    this.onWindow(Number(shown[first].dataset.index), Number(shown[last].dataset.index));
  }
}

// Index of the first row that ends below a height; rows are in order, so bisect.
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
