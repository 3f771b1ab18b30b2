/** A run near a curve of minima of two weights: the plane, the sharpness, and what its rotation pays. */
import * as pair from "../lib/pair.js";
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */
/** @typedef {import("../ui/plot.js").Painter} Painter */
/** @typedef {import("../ui/plot.js").Interval} Interval */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {pair.Name} name @property {number} eta @property {number} y
 * @property {pair.Pair} start
 * @property {ReturnType<typeof pair.descend>} run
 * @property {ReturnType<typeof pair.account>} account
 * @property {number} law where the reflection law sends it
 * @property {number[]} times 0, 1, 2, ...
 */

/** What the plane shows of a and b. @type {{a: Interval, b: Interval}} */
export const WINDOW = { a: [0.2, 1.25], b: [1.5, 2.75] };

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawPlane(plot, { key, name, eta, y, start, run }, t) {
  plot.legend([
    { text: "stable minima", color: "green", shape: "line" },
    { text: "minima sharper than 2/η", color: "orange", shape: "dashed" },
    { text: "v₁", color: "vermillion", shape: "line" },
  ]);
  plot.describe(
    `The plane of the two weights with the curve of minima. From the start (${format(start[0])}, ` +
      `${format(start[1])}) the run is at (${format(run.a[t])}, ${format(run.b[t])}) at step ${t}, and ` +
      `the minimum ahead at (${format(run.ahead[t][0])}, ${format(run.ahead[t][1])}). Drag the start.`,
  );
  plot.draw(
    key,
    (p) => {
      const [left, right] = p.x.domain();
      const from = Math.max(left, 0.1);
      const as = Array.from({ length: 81 }, (_, i) => from + ((right - from) * i) / 80);
      const along = (/** @type {number} */ f) => as.map((a) => pair.second(name, a, f));
      for (let i = 1; i <= 4; i++) {
        for (const f of [y + 0.4 * i, y - 0.4 * i]) {
          p.line(as, along(f), { color: "grey", width: 0.8, alpha: 0.45 });
        }
      }
      drawMinima(p, { name, eta, y }, as, along(y));
    },
    (p) => {
      p.line(run.a, run.b, { color: "grey", width: 0.9, alpha: 0.8 }, 0, t);
      p.marks(run.a, run.b, { color: "blue", size: 2.6 }, 0, t);
      p.point(...start, { color: "text", shape: "square", size: 4.5, ring: true });
      const { vector } = pair.leading(name, [run.a[t], run.b[t]], y);
      const [u, v] = vector.map((part) => 0.12 * part);
      p.segments([[run.a[t] - u, run.b[t] - v, run.a[t] + u, run.b[t] + v]], { color: "vermillion", width: 3.5 });
      p.point(...run.ahead[t], { color: "green", size: 4.5, ring: true });
      p.point(run.a[t], run.b[t], { color: "text", size: 6, ring: true });
    },
  );
}

/** @param {Painter} p @param {{name: pair.Name, eta: number, y: number}} of @param {number[]} as @param {number[]} bs */
function drawMinima(p, { name, eta }, as, bs) {
  const sharp = as.map((a, i) => eta * pair.frame(name, [a, bs[i]]).sharpness > 2);
  const only = (/** @type {boolean} */ wanted) =>
    bs.map((b, i) => ([i - 1, i, i + 1].some((j) => sharp[j] === wanted) ? b : NaN));
  p.line(as, only(true), { color: "orange", width: 2.2, dash: [7, 5] });
  p.line(as, only(false), { color: "green", width: 2.4 });
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawSharpness(plot, { key, eta, run, law, times }, t) {
  plot.describe(
    `The sharpness of the minimum ahead against the step: ${format(run.sharpness[0])} at the start, ` +
      `${format(run.sharpness[t])} at step ${t}; the threshold 2/η is ${format(2 / eta)}.`,
  );
  plot.draw(
    key,
    (p) => {
      p.threshold(2 / eta, "2/η");
    },
    (p) => {
      // Only at the end: before it, the reader says where that will be.
      if (t === run.last && law > 0) {
        p.horizontal(law, { color: "green", width: 2.2, dash: [2, 4] });
        p.text("by reflection", p.x.domain()[0], law, { dx: 6, dy: -9 });
      }
      p.line(times, run.sharpness, { color: "blue", width: 1.8 }, 0, t);
      p.point(t, run.sharpness[t], { color: "text", size: 5, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawAccount(plot, { key, account: { spent, lost } }, t) {
  plot.describe(
    `What the rotation has paid against what the sharpness has lost. At step ${t} the squares of the ` +
      `angles add up to ${format(spent[t])}, and the logarithm of the sharpness has lost ${format(lost[t])}.`,
  );
  plot.draw(
    key,
    (p) => {
      const [low, high] = p.x.domain();
      p.line([low, high], [low, high], { color: "green", width: 1.6 });
      p.text("one for one", high / 2, high / 2, { align: "right", dx: -10, dy: -8 });
    },
    (p) => {
      p.line(lost, spent, { color: "blue", width: 0.9, alpha: 0.6 }, 0, t);
      p.marks(lost, spent, { color: "blue", size: 2.6 }, 0, t);
      p.point(lost[t], spent[t], { color: "text", size: 5, ring: true });
    },
  );
}

/** @param {State} state @param {number} t */
export function describeMoment({ run, eta }, t) {
  const lean = (run.turn[t] * 180) / Math.PI;
  return (
    `Step ${t} of ${run.last}: the minimum ahead has sharpness ${format(run.sharpness[t])} = ` +
    `${format((run.sharpness[t] * eta) / 2)} × 2/η; v₁ leans by ${format(lean < 1e-3 ? 0 : lean, 2)}° along the minima.`
  );
}

/** What came out, in words. @param {State} state */
export function describeEnd({ run, eta, law, account: { spent, lost } }) {
  const { last, sharpness, escaped } = run;
  if (escaped) return `The run leaves the neighborhood of the minima after step ${last}: no law holds there.`;
  const [before, after] = [sharpness[0], sharpness[last]];
  const side = (/** @type {number} */ level) => (level > 2 / eta ? "above" : "below");
  const moved = Math.abs(before - after) > 1e-3 * before;
  const paid = moved
    ? ` The squared angles add up to ${format(spent[last])}, and the logarithm of the sharpness has lost ${format(lost[last])}.`
    : " Hardly anything turned, and hardly anything was lost.";
  return (
    `From sharpness ${format(before)}, ${side(before)} 2/η = ${format(2 / eta)}, to ${format(after)}, ` +
    `${side(after)} it; by reflection to ${format(law)}.${paid}`
  );
}
