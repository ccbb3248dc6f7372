const NAME_ROOM = 85;
const NARROW = 560;

// The emergence curve: bars are sentences, the line is the running risk, lanes hold the marks.

class Curve {
  constructor(host, { onPick, onThreshold }) {
    this.host = host;
    this.onThreshold = onThreshold;
    this.svg = host.querySelector("svg");
    this.tip = host.querySelector(".tip");
    this.heatMap = new HeatMap(host.querySelector("canvas"));
    for (const surface of [this.svg, this.heatMap.canvas]) {
      surface.onclick = (event) => this.pickAt(event, onPick);
      surface.onmousemove = (event) => this.hover(event);
      surface.onmouseleave = () => this.leave();
    }
    this.svg.onpointerdown = (event) => this.grab(event);
    this.svg.onpointermove = (event) => this.drag(event);
    this.svg.onpointerup = () => { this.held = false; };
  }

  draw(data, withLayers) {
    this.data = data;
    this.plot = new Plot(data, Math.max(this.host.clientWidth, 320));
    const { width, height } = this.plot;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    this.svg.setAttribute("aria-label", data.headline);
    this.svg.replaceChildren(this.patterns());
    this.drawAxis();
    this.drawTurns();
    this.drawBars();
    this.drawBeside();
    this.drawRunning();
    this.drawThreshold();
    if (this.plot.hasChance()) this.svg.append(...chanceLane(this.plot));
    this.drawMarks();
    this.drawLegend();
    this.drawStrip();
    const { top, stripTop } = this.plot;
    const tall = { y: top, height: stripTop + STRIP - top };
    this.glance = shape("rect", { class: "glance", width: 0, ...tall });
    this.cursor = shape("rect", { class: "cursor", ...tall });
    this.view = shape("rect", { class: "view", y: stripTop + 1, height: STRIP - 2, rx: 3 });
    this.svg.append(this.glance, this.cursor, this.view);
    this.heatMap.draw(this.plot, withLayers);
  }

  patterns() {
    const defs = shape("defs", {});
    const hatch = shape("pattern", {
      id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse",
      patternTransform: "rotate(45)",
    });
    hatch.append(shape("line", { x1: 0, y1: 0, x2: 0, y2: 6, class: "hatch" }));
    defs.append(hatch);
    return defs;
  }

  drawAxis() {
    for (const value of this.data.range) {
      const y = this.plot.y(value);
      const ends = { x1: LEFT, x2: this.plot.width - RIGHT, y1: y, y2: y };
      this.svg.append(
        shape("line", { ...ends, class: "grid" }),
        shape("text", { x: LEFT - 6, y: y + 4, class: "tick end" }, this.tick(value)),
      );
    }
  }

  // The axis ends some way below the threshold; what lies deeper is drawn at its bottom.
  tick(value) {
    const deeper = this.data.scores.some((score) => score !== null && score < value);
    return deeper && value === this.data.range[0] ? `\u2264 ${brief(value)}` : brief(value);
  }

  // What bars and lines are, and where the threshold lies.
  drawLegend() {
    const { top } = this.plot;
    const { threshold, beside } = this.data;
    const short = this.plot.width < NARROW;
    const risk = short ? "risk" : "risk of each sentence";
    const legend = shape("text", { x: LEFT, y: top - 6, class: "tick halo" }, risk);
    const name = (sign, kind, words) =>
      legend.append(shape("tspan", { class: kind, dx: 12 }, sign), shape("tspan", { dx: 5 }, words));
    name("\u2501", "running-sign", short ? "highest" : "highest so far");
    if (threshold !== null) {
      name("- -", "running-sign", `threshold ${brief(threshold)}`);
      name("\u25A0", "over-sign", short ? "over" : "at or over it");
    }
    beside.filter(({ kind }) => kind === "detector")
      .forEach((curve) => name("- -", "beside-sign", curve.name));
    if (this.data.scores.includes(null)) name("///", "", "no score");
    this.svg.append(legend);
  }

  // Where each turn of an agent begins.
  drawTurns() {
    const { top, bottom } = this.plot;
    (this.data.turns ?? []).slice(1).forEach((token) => {
      const x = this.plot.x(token);
      this.svg.append(shape("line", { x1: x, x2: x, y1: top, y2: bottom, class: "turn-start" }));
    });
  }

  // Of sentences that share a pixel the riskiest is drawn.
  drawBars() {
    const { plot } = this;
    const { sentences, scores } = this.data;
    const bars = [];
    let pixel = null;
    sentences.forEach(([start, stop], index) => {
      const [from, to] = [plot.x(start), plot.x(stop)].map(Math.floor);
      const same = from === pixel && to - from <= 1;
      if (!same) bars.push(index);
      else if ((scores[index] ?? -Infinity) > (scores[bars.at(-1)] ?? -Infinity)) {
        bars[bars.length - 1] = index;
      }
      pixel = from;
    });
    this.svg.append(...bars.map((index) => this.bar(index)));
  }

  bar(index) {
    const { plot } = this;
    const [start, stop, channel] = this.data.sentences[index];
    const step = riskStep(this.data, index);
    const left = plot.x(start);
    const width = Math.max(plot.x(stop) - left - 0.75, 0.75);
    const y = step === null ? plot.top : plot.y(this.data.scores[index]);
    const height = Math.max(plot.bottom - y, 1);
    const kind = `bar ${channel} ${step === null ? "missing" : `step-${step}`}`;
    return shape("rect", { x: left, y, width, height, class: kind });
  }

  drawBeside() {
    this.data.beside.filter(({ kind }) => kind === "detector").forEach((curve, index) => {
      const path = this.plot.steps(curve.scores, (score) => this.plot.yBeside(curve, score));
      this.svg.append(shape("path", { d: path, class: `beside line-${index}` }));
    });
  }

  drawRunning() {
    const { sentences, scores } = this.data;
    const path = this.plot.steps(runningScores(sentences, scores), (score) => this.plot.y(score));
    if (path) this.svg.append(shape("path", { d: path, class: "running" }));
  }

  drawThreshold() {
    if (this.data.threshold === null) return;
    const y = this.plot.y(this.data.threshold);
    const ends = { x1: LEFT, x2: this.plot.width - RIGHT, y1: y, y2: y };
    this.svg.append(
      shape("line", { ...ends, class: "threshold" }),
      shape("line", { ...ends, class: "handle" }),
    );
    const apart = this.data.range.every((value) => Math.abs(this.plot.y(value) - y) > LEGEND);
    const at = { x: LEFT - 6, y: y + 4, class: "tick end" };
    if (apart) this.svg.append(shape("text", at, brief(this.data.threshold)));
  }

  drawMarks() {
    const { marks } = this.data;
    const { plot } = this;
    plot.lanes.forEach((name, lane) => {
      const mark = marks[name];
      if (!mark) return;
      const y = LANE * lane + 14;
      const x = plot.x(mark.token + (name === "action" ? 0 : 1));
      const stem = { x1: x, x2: x, y1: y - 4, y2: plot.stripTop, class: `stem ${name}` };
      this.svg.append(shape("line", stem));
      if (marks.alarm && mark.lead !== null) this.drawLead(plot.x(marks.alarm.token + 1), x, y);
      this.drawLabel(name, mark, x, y);
    });
  }

  drawLead(from, to, y) {
    this.svg.append(shape("line", { x1: from, x2: to, y1: y - 4, y2: y - 4, class: "lead" }));
    this.svg.append(shape("circle", { cx: from, cy: y - 4, r: 2.5, class: "lead-end" }));
  }

  drawLabel(name, mark, x, y) {
    const { outline } = MARKS[name];
    let words = `${MARKS[name].name} \u00B7 token ${count(mark.token)}`;
    if (mark.lead) {
      const tokens = Math.abs(mark.lead) === 1 ? "token" : "tokens";
      const when = mark.lead > 0 ? "later" : "EARLIER";
      words = `${MARKS[name].name} \u00B7 ${count(Math.abs(mark.lead))} ${tokens} ${when}`;
    }
    const right = x + LABEL_ROOM < this.plot.width;
    const side = right ? { x: x + 12, class: "mark" } : { x: x - 12, class: "mark end" };
    const label = shape("text", { ...side, y }, words);
    const place = `translate(${x} ${y - 4})`;
    this.svg.append(label, shape("path", { d: outline, transform: place, class: `glyph ${name}` }));
    this.plate(label);
  }

  // A label may lie on a lead line, so it gets a ground of its own.
  plate(label) {
    const { x, y, width, height } = label.getBBox();
    label.before(shape("rect", { x: x - 4, y, width: width + 4, height, class: "plate" }));
  }

  drawStrip() {
    const { plot } = this;
    const y = plot.stripTop;
    const { sentences, begin, end } = this.data;
    let from = 0;
    sentences.forEach((sentence, index) => {
      const last = index + 1 === sentences.length || sentences[index + 1][2] !== sentence[2];
      if (!last) return;
      const left = plot.x(sentences[from][0]);
      const width = Math.max(plot.x(sentence[1]) - left, 1);
      this.svg.append(
        shape("rect", { x: left, y, width, height: STRIP, class: `phase ${sentence[2]}` }),
      );
      const middle = left + width / 2;
      const room = Math.min(middle - LEFT, plot.width - RIGHT - middle);
      if (width > 70 && room > NAME_ROOM) {
        const at = { x: middle, y: y + STRIP + 14, class: "tick middle" };
        this.svg.append(shape("text", at, sentence[2]));
      }
      from = index + 1;
    });
    const ends = [[plot.x(begin), `token ${count(begin)}`, ""], [plot.x(end), count(end), "end"]];
    for (const [x, words, side] of ends) {
      this.svg.append(shape("text", { x, y: y + STRIP + 14, class: `tick ${side}` }, words));
    }
  }

  outline(rect, index) {
    const [start, stop] = this.data.sentences[index];
    rect.setAttribute("x", this.plot.x(start) - 1);
    rect.setAttribute("width", Math.max(this.plot.x(stop) - this.plot.x(start) + 1.5, 3));
  }

  select(index) {
    this.outline(this.cursor, index);
  }

  // A light frame around the sentence that the pointer is on, in curve and list alike.
  peek(index) {
    if (index === null) this.glance.setAttribute("width", 0);
    else this.outline(this.glance, index);
  }

  showWindow(first, last) {
    const left = this.plot.x(this.data.sentences[first][0]);
    const right = this.plot.x(this.data.sentences[last][1]);
    this.view.setAttribute("x", left);
    this.view.setAttribute("width", Math.max(right - left, 4));
  }

  sentenceUnder(event) {
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    return sentenceAt(this.data.sentences, this.plot.token(x));
  }

  grab(event) {
    this.held = event.target.classList.contains("handle");
    this.dragged = this.held;
    if (this.held) this.svg.setPointerCapture(event.pointerId);
  }

  drag(event) {
    if (!this.held) return;
    this.onThreshold(this.plot.score(event.clientY - this.svg.getBoundingClientRect().top));
  }

  pickAt(event, onPick) {
    if (this.dragged) {
      this.dragged = false;
      return;
    }
    const index = this.sentenceUnder(event);
    if (index !== null) onPick(index);
  }

  leave() {
    this.tip.hidden = true;
    this.peek(null);
  }

  hover(event) {
    if (this.held) return;
    const index = this.sentenceUnder(event);
    this.peek(index);
    this.tip.hidden = index === null;
    if (index === null) return;
    const words = this.data.sentences[index][3].trim();
    const short = words.length > 140 ? `${words.slice(0, 139)}\u2026` : words;
    const first = `${index + 1} \u00B7 ${riskWords(this.data.scores[index])}`;
    const layer = event.target === this.heatMap.canvas ? this.heatMap.rowAt(event.offsetY) : null;
    const lines = [element("b", "", first)];
    if (layer) lines.push(element("b", "", layerWords(layer, index)));
    this.tip.replaceChildren(...lines, element("span", "", short));
    const host = this.host.getBoundingClientRect();
    const x = event.clientX - host.left;
    this.tip.style.left = `${clamp(x - 120, 0, Math.max(this.plot.width - 260, 0))}px`;
    this.tip.style.top = `${event.clientY - host.top + 18}px`;
  }
}

function layerWords({ layer, threshold, scores }, index) {
  const limit = threshold === null ? "no threshold" : `threshold ${brief(threshold)}`;
  return `layer ${layer} \u00B7 ${riskWords(scores[index])} \u00B7 ${limit}`;
}
