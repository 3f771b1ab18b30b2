/** Gradient descent, central flow and gradient flow through the threshold, from starts of any size. */
import { centralFlow, gradientFlow } from "../lib/late.js";
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {number} e the excess at the start, at most 0
 * @property {number} alpha @property {number} eta
 * @property {number} steps
 * @property {import("../lib/coupled.js").Coupled} run
 * @property {number} held the size of the oscillation in the central flow
 * @property {number[]} growth of the oscillation while it does not act back
 * @property {Float64Array} size |x|
 * @property {number} crossing the step at which the gradient flow crosses the threshold
 * @property {number} arrival the first step after that at which |x| has come near the held size, or -1
 * @property {number} predicted the same of growth
 * @property {number[]} times 0, 1, 2, ...
 */

const COLORS = /** @type {const} */ ({ run: "blue", central: "green", flow: "orange" });
const SMALLEST = 1e-9;

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawExcess(plot, { key, e, eta, alpha, run, times }, t) {
  plot.legend([
    { text: "gradient descent", color: COLORS.run, shape: "line" },
    { text: "central flow", color: COLORS.central, shape: "line" },
    { text: "gradient flow", color: COLORS.flow, shape: "line" },
  ]);
  const now = Math.min(t, run.last);
  const flow = times.map((s) => gradientFlow(e, eta, alpha, s));
  const central = times.map((s) => centralFlow(e, eta, alpha, s));
  plot.describe(
    `The excess of the sharpness over 2/η against the step. At step ${now} it is ${format(run.excess[now])} for ` +
      `gradient descent, ${format(central[now])} for the central flow and ${format(flow[now])} for the gradient flow.`,
  );
  plot.draw(
    key,
    (p) => {
      p.threshold(0, "2/η", 11);
    },
    (p) => {
      p.line(times, flow, { color: COLORS.flow, width: 2.4 }, 0, now);
      p.line(times, central, { color: COLORS.central, width: 2.4 }, 0, now);
      p.line(times, run.excess, { color: COLORS.run, width: 1.8 }, 0, now);
      p.point(now, run.excess[now], { color: "text", size: 5, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawSize(plot, { key, run, size, held, growth, times, crossing }, t) {
  plot.legend([
    { text: "|x|", color: COLORS.run, shape: "line" },
    { text: "of the central flow", color: COLORS.central, shape: "line" },
    { text: "growth along the gradient flow", color: "grey", shape: "dotted" },
  ]);
  const now = Math.min(t, run.last);
  plot.describe(
    `The size of the oscillation against the step, on a logarithmic scale: ${format(size[0])} at the start, ` +
      `${format(size[now])} at step ${now}; the central flow holds it at ${format(held)}.`,
  );
  plot.draw(
    key,
    (p) => {
      p.line([crossing, times.length - 1], [held, held], { color: COLORS.central, width: 2.4 });
      p.vertical(crossing, { color: "muted", width: 1, dash: [2, 4] });
      p.text("2/η is crossed", crossing, SMALLEST * 3, { dx: 6 });
    },
    (p) => {
      const seen = size.map((v) => Math.max(v, SMALLEST / 10));
      p.line(times, growth, { color: "grey", width: 1.6, dash: [2, 4] }, 0, now);
      p.line(times, seen, { color: COLORS.run, width: 1.8 }, 0, now);
      p.point(now, seen[now], { color: "text", size: 5, ring: true });
    },
  );
}

/** @param {State} state @param {number} t */
export function describeMoment({ run, size, held, steps }, t) {
  const now = Math.min(t, run.last);
  return `Step ${now} of ${steps}: excess ${format(run.excess[now])}, |x| = ${format(size[now])}, which the central flow holds at ${format(held)}.`;
}

/** What came out, in words. @param {State} state */
export function describeEnd({ run, crossing, arrival, predicted, eta, e, alpha, steps }) {
  if (run.diverged) return `The oscillation escapes after step ${run.last}.`;
  if (arrival < 0) {
    return `After ${steps} steps the oscillation has not yet come: gradient descent follows the gradient flow, past the edge.`;
  }
  const late = arrival - Math.ceil(crossing);
  const above = gradientFlow(e, eta, alpha, arrival);
  if (late <= 0) {
    return "The oscillation is there when the edge is reached: gradient descent swings about the central flow from there on.";
  }
  const why = predicted < 0 ? "no step" : `step ${predicted}`;
  return (
    `The oscillation is there at step ${arrival}, ${late} ${late === 1 ? "step" : "steps"} after the edge; by its growth along the ` +
    `gradient flow, at ${why}. That flow is then ${format(above)} above the edge, and gradient descent at ` +
    `${format(run.excess[arrival])}.`
  );
}
