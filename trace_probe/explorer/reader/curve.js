// The emergence curve: bars are sentences, the line is the running risk, lanes hold the marks.

const LANE = 20;
const PLOT = 108;
const STRIP = 16;
const LEFT = 40;
const RIGHT = 14;
const LABEL_ROOM = 160;

class Curve {
  constructor(host, onPick) {
    this.host = host;
    this.svg = host.querySelector("svg");
    this.tip = host.querySelector(".tip");
    this.svg.onclick = (event) => this.pickAt(event, onPick);
    this.svg.onmousemove = (event) => this.hover(event);
    this.svg.onmouseleave = () => { this.tip.hidden = true; };
  }

  draw(data) {
    this.data = data;
    this.width = Math.max(this.host.clientWidth, 320);
    this.top = 3 * LANE + 6;
    this.height = this.top + PLOT + STRIP + 22;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.setAttribute("height", this.height);
    this.svg.setAttribute("aria-label", data.headline);
    this.svg.replaceChildren(this.patterns());
    this.drawAxis();
    this.drawBars();
    this.drawRunning();
    this.drawThreshold();
    this.drawMarks();
    this.drawStrip();
    this.cursor = shape("rect", { class: "cursor", y: this.top, height: PLOT + STRIP });
    this.view = shape("rect", { class: "view", y: this.top + PLOT + 1, height: STRIP - 2, rx: 3 });
    this.svg.append(this.cursor, this.view);
  }

  x(token) {
    const { begin, end } = this.data;
    const share = (token - begin) / Math.max(end - begin, 1);
    return LEFT + clamp(share, 0, 1) * (this.width - LEFT - RIGHT);
  }

  y(score) {
    const [low, high] = this.data.range;
    const share = (score - low) / (high - low || 1);
    return this.top + PLOT * (1 - clamp(share, 0, 1));
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
    const [low, high] = this.data.range;
    for (const value of [low, high]) {
      const y = this.y(value);
      this.svg.append(
        shape("line", { x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y, class: "grid" }),
        shape("text", { x: LEFT - 6, y: y + 4, class: "tick end" }, Number(value.toPrecision(3))),
      );
    }
  }

  drawBars() {
    this.data.sentences.forEach(([start, stop, channel], index) => {
      const step = riskStep(this.data, index);
      const left = this.x(start);
      const width = Math.max(this.x(stop) - left - 0.75, 0.75);
      const y = step === null ? this.top : this.y(this.data.scores[index]);
      const height = Math.max(this.top + PLOT - y, 1);
      const kind = `bar ${channel} ${step === null ? "missing" : `step-${step}`}`;
      this.svg.append(shape("rect", { x: left, y, width, height, class: kind }));
    });
  }

  drawRunning() {
    let best = null;
    let path = "";
    this.data.sentences.forEach(([start, stop, channel], index) => {
      const score = this.data.scores[index];
      if (channel === "reasoning" && score !== null && (best === null || score > best)) best = score;
      if (best === null) return;
      const y = this.y(best);
      path += `${path ? "L" : "M"}${this.x(start)} ${y}L${this.x(stop)} ${y}`;
    });
    if (path) this.svg.append(shape("path", { d: path, class: "running" }));
  }

  drawThreshold() {
    if (this.data.threshold === null) return;
    const y = this.y(this.data.threshold);
    const label = Number(this.data.threshold.toPrecision(3));
    this.svg.append(
      shape("line", { x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y, class: "threshold" }),
      shape("text", { x: LEFT + 4, y: y - 4, class: "tick halo" }, `threshold ${label}`),
    );
  }

  drawMarks() {
    const { marks } = this.data;
    Object.keys(MARKS).forEach((name, lane) => {
      const mark = marks[name];
      const y = LANE * lane + 14;
      if (!mark) {
        const absent = `${MARKS[name].glyph} ${this.data.absent[name]}`;
        this.svg.append(shape("text", { x: LEFT, y, class: "tick absent" }, absent));
        return;
      }
      const x = this.x(mark.token + (name === "action" ? 0 : 1));
      this.svg.append(
        shape("line", { x1: x, x2: x, y1: y - 4, y2: this.top + PLOT, class: `stem ${name}` }),
      );
      if (marks.alarm && mark.lead !== null) this.drawLead(this.x(marks.alarm.token + 1), x, y);
      this.drawLabel(name, mark, x, y);
    });
  }

  drawLead(from, to, y) {
    this.svg.append(shape("line", { x1: from, x2: to, y1: y - 4, y2: y - 4, class: "lead" }));
    this.svg.append(shape("circle", { cx: from, cy: y - 4, r: 2.5, class: "lead-end" }));
  }

  drawLabel(name, mark, x, y) {
    const { outline } = MARKS[name];
    let words = `${MARKS[name].name} \u00B7 token ${mark.token.toLocaleString("en")}`;
    if (mark.lead) {
      const size = Math.abs(mark.lead).toLocaleString("en");
      words = `${MARKS[name].name} \u00B7 ${size} tokens ${mark.lead > 0 ? "later" : "EARLIER"}`;
    }
    const right = x + LABEL_ROOM < this.width;
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
    const y = this.top + PLOT;
    let from = 0;
    const { sentences } = this.data;
    sentences.forEach((sentence, index) => {
      const last = index + 1 === sentences.length || sentences[index + 1][2] !== sentence[2];
      if (!last) return;
      const left = this.x(sentences[from][0]);
      const width = Math.max(this.x(sentence[1]) - left, 1);
      this.svg.append(
        shape("rect", { x: left, y, width, height: STRIP, class: `phase ${sentence[2]}` }),
      );
      if (width > 60) {
        const at = { x: left + width / 2, y: y + STRIP + 14, class: "tick middle" };
        this.svg.append(shape("text", at, sentence[2]));
      }
      from = index + 1;
    });
    const { begin, end } = this.data;
    const ends = [[LEFT, begin, ""], [this.width - RIGHT, end, "end"]];
    for (const [x, token, side] of ends) {
      const words = side ? token.toLocaleString("en") : `token ${token.toLocaleString("en")}`;
      this.svg.append(shape("text", { x, y: y + STRIP + 14, class: `tick ${side}` }, words));
    }
  }

  select(index) {
    const [start, stop] = this.data.sentences[index];
    this.cursor.setAttribute("x", this.x(start) - 1);
    this.cursor.setAttribute("width", Math.max(this.x(stop) - this.x(start) + 1.5, 3));
  }

  showWindow(first, last) {
    const left = this.x(this.data.sentences[first][0]);
    const right = this.x(this.data.sentences[last][1]);
    this.view.setAttribute("x", left);
    this.view.setAttribute("width", Math.max(right - left, 4));
  }

  sentenceAt(event) {
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    const { begin, end, sentences } = this.data;
    const token = begin + ((x - LEFT) / (this.width - LEFT - RIGHT)) * (end - begin);
    const index = sentences.findIndex(([start, stop]) => token >= start && token < stop);
    return index < 0 ? null : index;
  }

  pickAt(event, onPick) {
    const index = this.sentenceAt(event);
    if (index !== null) onPick(index);
  }

  hover(event) {
    const index = this.sentenceAt(event);
    this.tip.hidden = index === null;
    if (index === null) return;
    const [, , , text] = this.data.sentences[index];
    const short = text.length > 140 ? `${text.slice(0, 139)}\u2026` : text;
    const words = `${index + 1} \u00B7 ${riskWords(this.data.scores[index])}`;
    this.tip.replaceChildren(element("b", "", words), element("span", "", short));
    const x = event.clientX - this.host.getBoundingClientRect().left;
    this.tip.style.left = `${clamp(x - 120, 0, Math.max(this.width - 260, 0))}px`;
  }
}
