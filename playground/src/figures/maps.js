/** The four figures of the maps of one variable. */
import * as maps from "../lib/maps.js";
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */
/** @typedef {import("../ui/plot.js").Interval} Interval */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {string} shape it changes with the loss alone
 * @property {maps.Loss} loss
 * @property {number} eta
 * @property {(eta: number) => number} cycle x > 0 of the symmetric cycle, NaN where none is known
 * @property {number} reach the part of the line to show is [-reach, reach]
 * @property {Interval} rates the learning rates of the diagram
 * @property {Float64Array} x the orbit
 * @property {number[]} times 0, 1, 2, ...
 * @property {number} last the last step before divergence
 * @property {number[]} settled where the orbit lives in the long run, [] if it diverges
 * @property {number} period 0 for none up to 32
 */

const COLUMNS = 480;
const SETTLE = 600;
const KEEP = 60;

/** Where orbits live in the long run: the points of the diagram. @param {State} state */
export function diagram({ loss, rates, reach }) {
  const [low, high] = rates;
  /** @type {{etas: number[], xs: number[]}[]} one for each of two starts */
  const dust = [];
  for (const start of [0.1, -0.1]) {
    /** @type {number[]} */
    const etas = [];
    /** @type {number[]} */
    const xs = [];
    for (let i = 0; i < COLUMNS; i++) {
      const eta = low + ((high - low) * (i + 0.5)) / COLUMNS;
      for (const x of maps.orbit(loss, start, eta, SETTLE + KEEP - 1, KEEP)) {
        if (Math.abs(x) <= 2 * reach) {
          etas.push(eta);
          xs.push(x);
        }
      }
    }
    dust.push({ etas, xs });
  }
  return dust;
}

/** @param {Plot} plot @param {State} state @param {() => ReturnType<typeof diagram>} points */
export function drawDiagram(plot, state, points) {
  const { loss, eta, rates, cycle, shape, settled, period } = state;
  plot.legend([
    { text: "long run, from x = 0.1", color: "blue", shape: "dot" },
    { text: "from −0.1", color: "orange", shape: "dot" },
    { text: "exact cycle of two points (dashed: repels)", color: "green", shape: "line" },
    { text: "this learning rate", color: "vermillion", shape: "line" },
  ]);
  plot.describe(
    `Bifurcation diagram: where orbits live in the long run, against the learning rate from ` +
      `${format(rates[0])} to ${format(rates[1])}. At η = ${format(eta)} ${longRun(state)}. ` +
      `Drag along it, or use the slider of the learning rate.`,
  );
  plot.draw(
    shape,
    (p) => {
      p.vertical(2, { color: "muted", width: 1.2, dash: [6, 5] });
      p.text("2", 2, p.y.domain()[1], { dx: 4, dy: 9, color: "muted" });
      const [first, second] = points();
      p.dust(second.etas, second.xs, { color: "orange", size: 1.1, alpha: 0.55 });
      p.dust(first.etas, first.xs, { color: "blue", size: 1.1, alpha: 0.55 });
      for (const attracts of [true, false]) {
        const half = (/** @type {number} */ rate) => {
          const x = cycle(rate);
          return Math.abs(maps.multiplier(loss, [x, -x], rate)) <= 1 === attracts ? x : NaN;
        };
        const dash = attracts ? [] : [5, 4];
        p.curve(half, { color: "green", width: 1.8, dash });
        p.curve((rate) => -half(rate), { color: "green", width: 1.8, dash });
      }
    },
    (p) => {
      p.vertical(eta, { color: "vermillion", width: 1.8 });
      const shown = settled.slice(0, period || settled.length);
      p.marks(
        shown.map(() => eta),
        shown,
        { color: "vermillion", size: period ? 4 : 2 },
        0,
        shown.length - 1,
      );
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawCobweb(plot, { loss, eta, x, key, settled, period }, t) {
  plot.legend([
    { text: "one step, x − ηL′(x)", color: "blue", shape: "line" },
    { text: "orbit", color: "grey", shape: "line" },
    { text: "cycle", color: "vermillion", shape: "dot" },
  ]);
  plot.describe(
    `The map of one step with the orbit as a cobweb. At step ${t} the iterate is ${format(x[t])}.`,
  );
  const xs = [x[0]];
  const ys = [0];
  for (let i = 0; i < t; i++) {
    xs.push(x[i], x[i + 1]);
    ys.push(x[i + 1], x[i + 1]);
  }
  plot.draw(
    key,
    (p) => {
      p.line(p.x.domain(), p.x.domain(), { color: "muted", width: 1.2 });
      p.curve((v) => v - eta * loss(v, 1), { color: "blue", width: 2.4 });
    },
    (p) => {
      const from = Math.max(0, xs.length - 81);
      p.line(xs, ys, { color: "grey", width: 1, alpha: 0.4 }, 0, from);
      p.line(xs, ys, { color: "grey", width: 1.4, alpha: 0.95 }, from);
      const shown = settled.slice(0, period);
      p.marks(shown, shown, { color: "vermillion", size: 4.5 }, 0, period - 1);
      p.point(x[t], x[t], { color: "text", size: 5.5, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawLoss(plot, { loss, x, key }, t) {
  plot.legend([
    { text: "L(x)", color: "blue", shape: "line" },
    { text: "iterates", color: "text", shape: "dot" },
  ]);
  plot.describe(
    `The loss with the iterates on it. At step ${t} the loss is ${format(loss(x[t]))}.`,
  );
  const ys = Array.from(x, (v) => loss(v));
  plot.draw(
    key,
    (p) => p.curve((v) => loss(v), { color: "blue", width: 2.4 }),
    (p) => {
      const from = Math.max(0, t - 30);
      p.line(x, ys, { color: "grey", width: 1, alpha: 0.8 }, from, t);
      p.marks(x, ys, { color: "text", size: 2.4, alpha: 0.35 }, 0, from);
      p.marks(x, ys, { color: "text", size: 2.8, alpha: 0.9 }, from, t);
      p.point(x[t], ys[t], { color: "text", size: 5.5, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawTime(plot, { x, times, key }, t) {
  plot.describe(`The iterate against the step: ${format(x[t])} at step ${t}.`);
  plot.draw(
    key,
    (p) => p.horizontal(0, { color: "muted", width: 1 }),
    (p) => {
      p.line(times, x, { color: "grey", width: 1 }, 0, t);
      p.marks(times, x, { color: "blue", size: 2.8 }, 0, t);
      p.point(t, x[t], { color: "text", size: 5, ring: true });
    },
  );
}

/** Where the orbit ends, in words. @param {State} state */
export function longRun({ settled, period }) {
  if (settled.length === 0) return "the orbit diverges";
  if (period === 0) return "the orbit has no period up to 32";
  if (period === 1) {
    // What is left of the way to zero is none.
    return `the orbit settles on x = ${format(Math.abs(settled[0]) < 1e-9 ? 0 : settled[0])}`;
  }
  return `the orbit settles on a cycle of ${period} points`;
}
