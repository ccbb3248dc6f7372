// Geometry of the curve: tokens to the right, scores upwards; panels one below the other.

const LANE = 20;
const LEGEND = 14;
const PLOT = 112;
const CHANCE = 64;
const STRIP = 14;
const LEFT = 48;
const RIGHT = 16;
const LABEL_ROOM = 170;

class Plot {
  constructor(data, width) {
    this.data = data;
    this.width = width;
    this.lanes = data.lanes ?? Object.keys(MARKS).filter((name) => data.marks[name]);
    this.top = this.lanes.length * LANE + LEGEND + 8;
    this.bottom = this.top + PLOT;
    this.chanceTop = this.bottom + 22;
    this.stripTop = this.bottom + (this.hasChance() ? CHANCE + 30 : 0);
    this.height = this.stripTop + STRIP + 22;
  }

  hasChance() {
    return Boolean(this.data.oracle) || this.data.beside.some(({ kind }) => kind === "probability");
  }

  x(token) {
    const [from, to] = this.data.axis;
    const share = (token - from) / Math.max(to - from, 1);
    return LEFT + clamp(share, 0, 1) * (this.width - LEFT - RIGHT);
  }

  token(x) {
    const [from, to] = this.data.axis;
    return from + ((x - LEFT) / (this.width - LEFT - RIGHT)) * (to - from);
  }

  y(score) {
    const [low, high] = this.data.range;
    return this.bottom - PLOT * clamp((score - low) / (high - low || 1), 0, 1);
  }

  score(y) {
    const [low, high] = this.data.range;
    return low + ((this.bottom - y) / PLOT) * (high - low);
  }

  // Another detector has another scale: its threshold is put on ours, its span on our span.
  yBeside(curve, score) {
    const [low, high] = curve.range;
    const ours = this.data.range;
    const unit = (ours[1] - ours[0]) / (high - low || 1);
    const both = curve.threshold !== null && this.data.threshold !== null;
    const from = both ? curve.threshold : low;
    return this.y((both ? this.data.threshold : ours[0]) + (score - from) * unit);
  }

  yChance(share) {
    return this.chanceTop + CHANCE * (1 - clamp(share, 0, 1));
  }

  // A stepped line over sentences; it breaks where there is no value.
  steps(values, height) {
    const parts = [];
    let open = null;
    let end = 0;
    this.data.sentences.forEach(([start, stop], index) => {
      const y = values[index] === null ? null : height(values[index]);
      if (y !== open) {
        if (open !== null) parts.push(`L${end} ${open}`);
        if (y !== null) parts.push(`${open === null ? "M" : "L"}${this.x(start)} ${y}`);
      }
      open = y;
      end = this.x(stop);
    });
    if (open !== null) parts.push(`L${end} ${open}`);
    return parts.join("");
  }
}
