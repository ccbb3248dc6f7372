// What lies below the curve on the same axis: probabilities, and every layer as a heat map.

// The oracle is a band with its interval at each prefix; a text monitor is a line.
function chanceLane(plot) {
  const { data } = plot;
  const parts = [0, 1].flatMap((value) => {
    const y = plot.yChance(value);
    return [
      shape("line", { x1: LEFT, x2: plot.width - RIGHT, y1: y, y2: y, class: "grid" }),
      shape("text", { x: LEFT - 6, y: y + 4, class: "tick end" }, value),
    ];
  });
  const legend = shape("text", { x: LEFT, y: plot.chanceTop - 6, class: "tick" }, "probability of acting");
  const name = (sign, kind, words) =>
    legend.append(shape("tspan", { class: kind, dx: 14 }, sign), shape("tspan", { dx: 5 }, words));
  if (data.oracle) {
    parts.push(...oracleBand(plot, data.oracle));
    name("\u25AC", "oracle-sign", data.oracle.name);
  }
  data.beside.filter(({ kind }) => kind === "probability").forEach((curve, index) => {
    const path = plot.steps(curve.scores, (score) => plot.yChance(score));
    parts.push(shape("path", { d: path, class: `beside probability line-${index}` }));
    name("\u2505", "monitor-sign", curve.name);
  });
  return [...parts, legend];
}

// A point is known at the end of a sentence, and holds until the next one is.
function oracleBand(plot, oracle) {
  const stops = oracle.points.map(([token], index) =>
    plot.x(oracle.points[index + 1]?.[0] ?? Math.max(plot.data.end, token)));
  let lower = "";
  let upper = "";
  let middle = "";
  oracle.points.forEach(([token, p, low, high], index) => {
    const from = plot.x(token);
    upper += `L${from} ${plot.yChance(high)}L${stops[index]} ${plot.yChance(high)}`;
    lower = `L${stops[index]} ${plot.yChance(low)}L${from} ${plot.yChance(low)}${lower}`;
    middle += `${middle ? "L" : "M"}${from} ${plot.yChance(p)}L${stops[index]} ${plot.yChance(p)}`;
  });
  return [
    shape("path", { d: `M${upper.slice(1)}${lower}Z`, class: "oracle-band" }),
    shape("path", { d: middle, class: "oracle-line" }),
  ];
}

class HeatMap {
  constructor(canvas) {
    this.canvas = canvas;
  }

  // One row a layer, the deepest on top; each is coloured against its own threshold.
  draw(plot, shown) {
    const { layers } = plot.data;
    this.canvas.hidden = !layers || !shown;
    if (this.canvas.hidden) return;
    this.plot = plot;
    this.rows = [...layers.rows].reverse();
    this.size = clamp(Math.floor(192 / this.rows.length), 5, 18);
    const height = this.rows.length * this.size + 22;
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = plot.width * scale;
    this.canvas.height = height * scale;
    this.canvas.style.height = `${height}px`;
    const words = `Scores of ${this.rows.length} layers by position, each against its own threshold`;
    this.canvas.setAttribute("aria-label", words);
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    this.ink = getComputedStyle(this.canvas);
    this.rows.forEach((row, place) => this.drawRow(pen, row, place));
    this.drawNames(pen);
  }

  drawRow(pen, row, place) {
    const { plot, size } = this;
    const top = place * size + 18;
    const overSet = new Set(row.over);
    plot.data.sentences.forEach(([start, stop], index) => {
      const score = row.scores[index];
      const over = overSet.has(index);
      const step = stepOf(score, row.threshold, row.range, over);
      const left = plot.x(start);
      const width = Math.max(plot.x(stop) - left - 0.5, 0.5);
      if (step === null) {
        pen.fillStyle = this.colour("--grey-1");
        for (let x = left; x < left + width; x += 4) pen.fillRect(x, top + size / 2 - 0.5, 2, 1);
        return;
      }
      const names = ["--grey-0", "--grey-1", "--grey-2", "--over"];
      pen.fillStyle = this.colour(step === "plain" ? "--grey-1" : names[step]);
      pen.fillRect(left, top, width, size - 1);
      if (!over) return;
      pen.fillStyle = this.colour("--ink");
      pen.fillRect(left, top, width, 1.5);
    });
  }

  drawNames(pen) {
    const { shown } = this.plot.data.layers;
    const every = Math.ceil(11 / this.size);
    const marked = this.rows.findIndex(({ layer }) => layer === shown);
    pen.font = `11px ${this.ink.fontFamily}`;
    pen.textAlign = "right";
    this.rows.forEach(({ layer }, place) => {
      const crowded = marked >= 0 && Math.abs(place - marked) < every;
      if (layer !== shown && (place % every || crowded)) return;
      pen.fillStyle = this.colour(layer === shown ? "--ink" : "--quiet");
      const name = layer === shown ? `\u25B8 ${layer}` : String(layer);
      pen.fillText(name, LEFT - 6, place * this.size + 18 + this.size / 2 + 4);
    });
    pen.textAlign = "left";
    pen.fillStyle = this.colour("--quiet");
    const short = "layer, each against its own threshold";
    const words = `${short}: a line on top of a cell is an alarm`;
    pen.fillText(this.plot.width < NARROW ? short : words, LEFT, 11);
  }

  colour(name) {
    return this.ink.getPropertyValue(name);
  }

  rowAt(y) {
    return this.canvas.hidden ? undefined : this.rows[Math.floor((y - 18) / this.size)];
  }
}
