/** The phase portrait of the coupled dynamics of an instability, and the excess over the steps. */
import { conserved, levelCurve } from "../lib/coupled.js";
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {number} alpha @property {number} beta @property {number} q
 * @property {number} eta
 * @property {import("../lib/coupled.js").Coupled} run
 * @property {Float64Array} size |x|
 * @property {Float64Array} times 0, 1, 2, ...
 */

/** The largest |x| and |excess| that the portrait shows. */
export const REACH = { x: 0.62, excess: 0.4 };

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawPortrait(plot, { key, alpha, beta, q, run, size }, t) {
  plot.legend([
    { text: "steps", color: "blue", shape: "dot" },
    { text: "what the flow keeps, at q = 0", color: "grey", shape: "line" },
    ...(alpha > 0 ? [/** @type {const} */ ({ text: "steady oscillation", color: "green", shape: "dot" })] : []),
  ]);
  plot.describe(
    `The excess of the sharpness against the size of the oscillation. At step ${t} the size is ` +
      `${format(size[t])} and the excess ${format(run.excess[t])}. Drag the start, or use its sliders.`,
  );
  plot.draw(
    key,
    (p) => {
      const rest = Math.sqrt((2 * alpha) / beta);
      for (let i = 1; i <= 7; i++) {
        const through = rest + ((REACH.x - rest) * i) / 7;
        const xs = Array.from({ length: 301 }, (_, k) => through * Math.max(1e-4, k / 300) ** 2);
        const value = conserved(through, 0, alpha, beta);
        const ups = xs.map((x) => levelCurve(x, value, alpha, beta));
        const style = /** @type {const} */ ({ color: "grey", width: 0.9, alpha: 0.5 });
        p.line(xs, ups, style);
        p.line(
          xs,
          ups.map((e) => -e),
          style,
        );
      }
      p.threshold(0, "sharpness 2/η");
      // Of the map, which q moves off the line (G4).
      if (alpha > 0) p.point(rest, (-q * alpha) / (3 * beta), { color: "green", size: 5 });
    },
    (p) => {
      p.line(size, run.excess, { color: "blue", width: 0.9, alpha: 0.6 }, 0, t);
      p.marks(size, run.excess, { color: "blue", size: 2.4 }, 0, t);
      p.point(size[0], run.excess[0], { color: "text", size: 4.5, shape: "square" });
      p.point(size[t], run.excess[t], { color: "text", size: 6, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawExcess(plot, { key, run, times }, t) {
  plot.describe(
    `The excess against the step: ${format(run.excess[0])} at the start, ` +
      `${format(run.excess[t])} at step ${t}.`,
  );
  plot.draw(
    key,
    (p) => {
      p.threshold(0, "2/η");
    },
    (p) => {
      p.line(times, run.excess, { color: "blue", width: 1.8 }, 0, t);
      p.point(t, run.excess[t], { color: "text", size: 5, ring: true });
    },
  );
}

/** @param {State} state @param {number} t */
export function describeMoment({ run, size }, t) {
  return `Step ${t} of ${run.last}: |x| = ${format(size[t])}, excess ${format(run.excess[t])}.`;
}

/** What became of the orbit, in words. @param {State} state */
export function describeEnd({ alpha, beta, q, eta, run, size }) {
  const [first, last] = [run.excess[0], run.excess[run.last]];
  if (run.diverged) return `The orbit escapes after step ${run.last}.`;
  if (alpha === 0) {
    const gone = size[run.last] < 1e-3;
    return gone
      ? `The oscillation is gone, and the excess has changed its sign: from ${format(first)} to ${format(last)}.`
      : `The excess went from ${format(first)} to ${format(last)}, and the oscillation goes on.`;
  }
  const kept = (/** @type {number} */ t) => conserved(run.x[t], run.excess[t], alpha, beta);
  const way = kept(run.last) > kept(0) ? "outward" : "inward";
  const limit = -3 * eta * beta;
  // Within the ranges of the controls the other condition of G4 holds: alpha is small enough.
  const why =
    q < limit
      ? `q = ${format(q)} lies below −3ηβ = ${format(limit)}, where the steady oscillation attracts.`
      : q > limit
        ? `q = ${format(q)} lies above −3ηβ = ${format(limit)}, where the steady oscillation repels.`
        : `q lies at −3ηβ = ${format(limit)}, exactly between the two.`;
  return `The orbit has gone ${way}: what the flow keeps went from ${format(kept(0))} to ${format(kept(run.last))}. ${why}`;
}
