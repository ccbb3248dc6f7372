// The list of sentences: number, risk, heat bar, marks, text; calm stretches folded.

class Sentences {
  constructor(host, onPick, onWindow) {
    this.host = host;
    this.onWindow = onWindow;
    host.onclick = (event) => this.click(event, onPick);
    host.onscroll = () => this.reportWindow();
  }

  draw(data) {
    this.data = data;
    this.rows = data.sentences.map((_, index) => this.row(index));
    const folds = new Map(data.folds.map(([from, to, highest]) => [from, { to, highest }]));
    const parts = [];
    let fold = null;
    this.rows.forEach((row, index) => {
      if (index === 0 || data.sentences[index - 1][2] !== data.sentences[index][2]) {
        parts.push(element("div", "phase-name", data.sentences[index][2]));
      }
      if (folds.has(index)) {
        fold = this.fold(index, folds.get(index));
        parts.push(fold.bar);
      }
      if (fold && index < fold.to) {
        row.hidden = true;
        row.fold = fold;
        fold.rows.push(row);
      }
      parts.push(row);
    });
    this.host.replaceChildren(...parts);
  }

  row(index) {
    const text = this.data.sentences[index][3];
    const step = riskStep(this.data, index);
    const score = this.data.scores[index];
    const names = marksAt(this.data, index);
    const row = element("div", `row ${step === null ? "missing" : `step-${step}`}`);
    row.id = `sentence-${index}`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", "false");
    row.dataset.index = index;
    const heat = element("span", "heat");
    const bar = element("i");
    bar.style.width = score === null ? "100%" : `${100 * this.share(score)}%`;
    heat.append(bar);
    if (this.data.threshold !== null) heat.append(this.tick());
    const glyphs = element("span", "glyphs");
    for (const name of names) glyphs.append(element("span", name, MARKS[name].glyph));
    row.append(
      element("span", "number", index + 1),
      element("span", "score", score === null ? "\u2014" : score.toFixed(2)),
      heat,
      glyphs,
      element("span", "text", text),
    );
    return row;
  }

  share(score) {
    const [low, high] = this.data.range;
    return clamp((score - low) / (high - low || 1), 0, 1);
  }

  tick() {
    const tick = element("b");
    tick.style.left = `${100 * this.share(this.data.threshold)}%`;
    return tick;
  }

  fold(from, { to, highest }) {
    const bar = element("div", "fold");
    const words = `${to - from} calm sentences, highest ${highest.toFixed(2)} \u2014 show`;
    const button = element("button", "", words);
    button.type = "button";
    button.tabIndex = -1;
    bar.append(button);
    const fold = { bar, to, rows: [] };
    button.onclick = () => this.unfold(fold);
    return fold;
  }

  unfold(fold) {
    fold.bar.hidden = true;
    for (const row of fold.rows) row.hidden = false;
    this.reportWindow();
  }

  click(event, onPick) {
    const row = event.target.closest(".row");
    if (row) onPick(Number(row.dataset.index));
  }

  select(index) {
    const row = this.rows[index];
    if (row.hidden && row.fold) this.unfold(row.fold);
    if (this.selected) this.selected.setAttribute("aria-selected", "false");
    this.selected = row;
    row.setAttribute("aria-selected", "true");
    this.host.setAttribute("aria-activedescendant", row.id);
    this.bring(row);
    // Rows off screen have estimated heights; once drawn, the place may have moved.
    requestAnimationFrame(() => this.bring(row));
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
    const last = Math.max(firstBelow(shown, top + this.host.clientHeight) - 1, first);
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
