/** The circle of the reflection law, and the excess of the sharpness as a bar. */
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */

/**
 * @typedef {import("./scalar.js").State & {
 *   residuals: Float64Array,
 *   excess: Float64Array,
 *   radius: number,
 * }} State residuals: sqrt(c) r, with its sign changed at odd steps; radius: of the circle
 */

/** Set what both pictures show, from the whole run. @param {{circle: Plot, bars: Plot}} plots @param {State} state */
export function setViews({ circle, bars }, { radius, eta, floor, excess }) {
  const reach = 1.3 * radius;
  circle.x.domain = [-0.55 * reach, 1.15 * reach];
  circle.y.domain = [-reach, reach];
  const below = Math.max(1.15 * radius, ...excess.map((e) => (Number.isNaN(e) ? 0 : -e)));
  const level = 2 / eta;
  bars.y.domain = [Math.max(0, level - 1.1 * below), level + 1.3 * Math.max(radius, excess[0])];
  bars.x.domain = [0.4, 3.6];
  bars.x.ticks = [1, 2, 3];
  bars.x.format = (i) => ["before", "now", "mirrored"][i - 1];
  if (floor > bars.y.domain[1]) bars.y.domain[1] = floor;
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawCircle(plot, { residuals, excess, radius, key }, t) {
  plot.legend([
    { text: "steps", color: "blue", shape: "dot" },
    { text: "the circle of the law", color: "green", shape: "dotted" },
  ]);
  plot.describe(
    `The excess of the sharpness over 2/η against the residual times √c, whose sign is changed at ` +
      `odd steps, with a circle of radius ${format(radius)}. At step ${t} the excess is ` +
      `${format(excess[t])} and the residual times √c ${format(residuals[t])}.`,
  );
  plot.draw(
    key,
    (p) => {
      const turns = Array.from({ length: 181 }, (_, i) => (i * Math.PI) / 90);
      p.line(
        turns.map((w) => radius * Math.sin(w)),
        turns.map((w) => radius * Math.cos(w)),
        { color: "green", width: 2, dash: [2, 4] },
      );
      p.horizontal(0, { color: "vermillion", width: 1.6, dash: [7, 5] });
      p.text("2/η", p.x.domain()[1], 0, { align: "right", dx: -4, dy: -9 });
      p.vertical(0, { color: "muted", width: 1 });
    },
    (p) => {
      p.line(residuals, excess, { color: "blue", width: 1, alpha: 0.6 }, 0, t);
      p.marks(residuals, excess, { color: "blue", size: 3.2 }, 0, t);
      p.point(residuals[0], excess[0], { color: "text", size: 4.5, shape: "square" });
      p.point(residuals[t], excess[t], { color: "text", size: 6, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawBars(plot, { eta, excess, radius, floor, run, key }, t) {
  const level = 2 / eta;
  const mirrored = level - radius;
  const now = run.minimumSharpness[t];
  plot.describe(
    `The sharpness of the minimum ahead as a bar from 2/η = ${format(level)}: before it ends at ` +
      `${format(level + excess[0])}, now, at step ${t}, at ${format(now)}; mirrored it would end ` +
      `at ${format(mirrored)}.`,
  );
  plot.draw(
    key,
    (p) => {
      bar(p, 1, level, level + excess[0], "grey", 0.55);
      if (floor > p.y.domain()[0]) {
        p.horizontal(floor, { color: "muted", width: 1 });
        p.text("flattest minimum", p.x.domain()[1], floor, { align: "right", dx: -4, dy: -9 });
      }
    },
    (p) => {
      bar(p, 2, level, now, now > level ? "vermillion" : "blue", 0.9);
      // Only at the end: before it, the reader says where that will be.
      if (t === run.last) bar(p, 3, level, mirrored, "green", 0.55);
      p.horizontal(level, { color: "vermillion", width: 1.8, dash: [7, 5] });
      p.text("2/η", p.x.domain()[0], level, { dx: 4, dy: -9 });
    },
  );
}

/**
 * @param {import("../ui/plot.js").Painter} p @param {number} at @param {number} from
 * @param {number} to @param {import("../ui/plot.js").Color} color @param {number} alpha
 */
function bar(p, at, from, to, color, alpha) {
  p.rectangle([at - 0.32, at + 0.32], [Math.min(from, to), Math.max(from, to)], { color, alpha });
}

/** @param {State} state @param {number} t */
export function describeMoment({ excess, residuals, run, eta }, t) {
  return (
    `Step ${t} of ${run.last}: excess of the minimum ahead ${format(excess[t])} = ` +
    `${format((excess[t] * eta) / 2)} × 2/η, residual times √c ${format(residuals[t])}.`
  );
}
