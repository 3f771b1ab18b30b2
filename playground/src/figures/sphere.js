/** Two directions at the edge: where the minimum is carried, and how large the two oscillations are. */
import * as sphere from "../lib/sphere.js";
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {[sphere.Symmetric, sphere.Symmetric]} couplings
 * @property {ReturnType<typeof sphere.sphereDynamics>} run
 * @property {number} radius of the sphere of the start
 * @property {number[]} above in directions around the center, how many excesses are above zero
 * @property {{g1: number[], g2: number[], far: number[], one: number[], other: number[]}} columns
 *     the position, its distance from the center, and |X_1| and |X_2| over the root of two
 * @property {number[]} times 0, 1, 2, ...
 */

/** What the plane shows of G_1 and G_2. */
export const REACH = 0.06;

/** The excesses of both directions at a step. @param {State} state @param {number} t */
export function excesses({ couplings, run }, t) {
  return sphere.eigenvalues(sphere.excess(couplings, run.positions[t]));
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawPlane(plot, state, t) {
  const { key, above, radius, columns } = state;
  const { g1, g2 } = columns;
  plot.legend([
    { text: "none above 2/η", color: "green", shape: "line" },
    { text: "one above", color: "orange", shape: "line" },
    { text: "both above", color: "vermillion", shape: "line" },
  ]);
  plot.describe(
    `The plane of positions along the minima; at the center both eigenvalues equal 2/η. The start has ` +
      `the radius ${format(radius)}. At step ${t} the minimum is at (${format(g1[t])}, ${format(g2[t])}), at ` +
      `the distance ${format(columns.far[t])}. Drag the start.`,
  );
  plot.draw(
    key,
    (p) => {
      const turn = (2 * Math.PI) / above.length;
      for (const [count, color] of /** @type {const} */ ([[0, "green"], [1, "orange"], [2, "vermillion"]])) {
        // A piece of the circle reaches from the middle of one direction to that of the next.
        const own = (/** @type {(w: number) => number} */ f) =>
          [...above, above[0]].map((n, i) =>
            n === count || above[(i || above.length) - 1] === count ? radius * f(i * turn) : NaN,
          );
        p.line(own(Math.cos), own(Math.sin), { color, width: 4, alpha: 0.8 });
      }
      // From the center on, the border of where none is above.
      above.forEach((n, i) => {
        if ((n === 0) === (above[(i || above.length) - 1] === 0)) return;
        const border = [3 * REACH * Math.cos(i * turn), 3 * REACH * Math.sin(i * turn)];
        p.segments([[0, 0, ...border]], { color: "green", width: 1.4, dash: [7, 5] });
      });
      const inside = above.flatMap((n, i) => (n === 0 ? [(i + 0.5) * turn] : []));
      if (inside.length > 0) {
        const [x, y] = [Math.cos, Math.sin].map((f) => inside.reduce((sum, w) => sum + f(w), 0));
        const scale = (0.6 * radius) / Math.hypot(x, y);
        p.text("all stable", scale * x, scale * y, { align: "center" });
      }
      p.point(0, 0, { color: "muted", size: 3 });
    },
    (p) => {
      p.line(g1, g2, { color: "blue", width: 2.2 }, 0, t);
      p.point(g1[0], g2[0], { color: "text", shape: "square", size: 4.5, ring: true });
      p.text("start", g1[0], g2[0], { dx: 8, dy: -10 });
      p.point(g1[t], g2[t], { color: "text", size: 6, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawSizes(plot, { key, radius, columns: { far, one, other }, times }, t) {
  plot.legend([
    { text: "the first oscillates, |X₁|/√2", color: "vermillion", shape: "line" },
    { text: "the second, |X₂|/√2", color: "purple", shape: "line" },
    { text: "distance |G| from the center", color: "blue", shape: "line" },
  ]);
  plot.describe(
    `Sizes against the step: at step ${t} the first oscillation is ${format(one[t])}, the second ` +
      `${format(other[t])}, and the distance from the center ${format(far[t])}; the radius is ${format(radius)}.`,
  );
  plot.draw(
    key,
    (p) => {
      p.horizontal(radius, { color: "grey", width: 1.4, dash: [2, 4] });
      p.text("radius", p.x.domain()[1] / 2, radius, { align: "center", dy: 11 });
    },
    (p) => {
      p.line(times, far, { color: "blue", width: 2 }, 0, t);
      p.line(times, one, { color: "vermillion", width: 1.8 }, 0, t);
      p.line(times, other, { color: "purple", width: 1.8 }, 0, t);
      for (const [values, color] of /** @type {const} */ ([[far, "blue"], [one, "vermillion"], [other, "purple"]])) {
        p.point(t, values[t], { color, size: 4.5, ring: true });
      }
    },
  );
}

/** @param {State} state @param {number} t */
export function describeMoment(state, t) {
  const { run, columns } = state;
  return (
    `Step ${t} of ${run.last}: excesses ${excesses(state, t).map((v) => format(v, 2)).join(" and ")}, oscillations ` +
    `${format(columns.one[t], 2)} and ${format(columns.other[t], 2)}, distance ${format(columns.far[t])}.`
  );
}

/** What came out, in words. @param {State} state */
export function describeEnd(state) {
  const { run, radius, above, columns } = state;
  const { last } = run;
  const [high, low] = excesses(state, 0);
  const begin = low > 0 ? "Both directions began" : high > 0 ? "One direction began" : "Neither direction began";
  const left = Math.max(columns.one[last], columns.other[last]);
  const at = columns.far[last];
  if (last < state.times.length - 1) return `${begin} above 2/η, and the run escapes after step ${last}.`;
  const [end] = excesses(state, last);
  if (end > 1e-3 * radius) {
    return (
      `${begin} above 2/η. At the end one still is, by ${format(end)}, with oscillations of up to ` +
      `${format(left, 2)}: ` +
      (above.includes(0) ? "the run has not come to rest." : "no position lowers both, and the instability begins again.")
    );
  }
  return (
    `${begin} above 2/η; at the end none is. The minimum has come to the distance ${format(at)} from the center, ` +
    `on a sphere of radius ${format(radius)}, up to ${format(100 * Math.abs(at / radius - 1), 2)} % of it.`
  );
}
