/** The two pictures of gradient descent, central flow and gradient flow side by side. */
import { edge } from "../lib/central.js";
import { format } from "../ui/dom.js";
import { drawContours, drawMinima } from "./scalar.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */
/** @typedef {import("../ui/plot.js").Painter} Painter */
/** @typedef {import("../ui/plot.js").Interval} Interval */
/** @typedef {import("../ui/plot.js").Color} Color */
/** @typedef {import("../lib/central.js").Flow} Flow */
/** @typedef {import("../lib/scalar.js").Run} Run */

/**
 * Three motions from one start, and what is known about them.
 *
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {number} eta
 * @property {number} y the target
 * @property {[number, number]} start
 * @property {number} steps the last step that is shown
 * @property {number} substeps points of a flow to a step
 * @property {Run} run gradient descent
 * @property {import("../lib/scalar.js").Outcome} outcome of it
 * @property {Flow} central the central flow
 * @property {Flow} flow the gradient flow
 * @property {Float64Array} times of the steps of gradient descent
 * @property {Float64Array} moments of the points of a flow
 * @property {number} mirrored where gradient descent ends by the reflection law, NaN if it is silent
 */

/** What the plane shows of a and b at least, and at most. */
const WINDOW = { a: [-0.1, 1.1], b: [1.7, 2.45] };
const MOST = { a: [-1.5, 1.7], b: [-1, 2.6] };
/** Pixels that a label takes, from its curve to its end, and from one to the next below it. */
const LABEL = { width: 125, height: 16 };
/** Colors of the three motions, as in the chapter's figures. */
const COLORS = /** @type {const} */ ({ run: "blue", central: "vermillion", flow: "grey" });
const NAMES = { run: "gradient descent", central: "central flow", flow: "gradient flow" };

/**
 * A part of the axis that holds a window and some values, widened by quarters so that it seldom
 * changes.
 *
 * @param {number[]} least @param {number[]} most @param {Float64Array} values
 * @returns {Interval}
 */
function around([low, high], [lowest, highest], values) {
  const inside = values.filter((v) => v >= lowest && v <= highest);
  const down = Math.floor((Math.min(low, ...inside) - low) * 4) / 4;
  const up = Math.ceil((Math.max(high, ...inside) - high) * 4) / 4;
  return [low + down, high + up];
}

/** Set what both pictures show, from the whole of the three motions. @param {{plane: Plot, sharp: Plot}} plots @param {State} state */
export function setViews({ plane, sharp }, { eta, run, central, flow, steps, times, mirrored }) {
  plane.x.domain = around(WINDOW.a, MOST.a, run.a.subarray(0, steps + 1));
  plane.y.domain = around(WINDOW.b, MOST.b, run.b.subarray(0, steps + 1));
  const ceiling = 4 / eta;
  const levels = [run.sharpness.subarray(0, steps + 1), central.sharpness, flow.sharpness];
  const shown = levels.flatMap((values) => [...values]).filter((v) => v <= ceiling);
  if (mirrored > 0) shown.push(mirrored);
  const [low, high] = [Math.min(1.9 / eta, ...shown), Math.max(2.1 / eta, ...shown)];
  const margin = 0.1 * (high - low);
  sharp.x.domain = [0, times[steps]];
  sharp.y.domain = [low - margin, high + margin];
}

/** Where the three motions are. @param {State} state @param {number} t in steps, in parts of one for the flows */
function heads({ run, central, flow, substeps }, t) {
  const step = Math.floor(t);
  const moment = Math.round(t * substeps);
  return { step, moment, before: Math.max(0, step - 1), run, central, flow };
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawPlane(plot, state, t) {
  const { eta, y, start, run, central, flow, key } = state;
  const { step, moment, before } = heads(state, t);
  const place = (/** @type {Run | Flow} */ m, /** @type {number} */ i) =>
    `(${format(m.a[i])}, ${format(m.b[i])})`;
  plot.legend([
    { text: "stable minima", color: "green", shape: "line" },
    { text: "minima sharper than 2/η", color: "orange", shape: "dashed" },
  ]);
  plot.describe(
    `The plane of a and b. From the start (${format(start[0])}, ${format(start[1])}), gradient ` +
      `descent is at ${place(run, step)}, the central flow at ${place(central, moment)}, the ` +
      `gradient flow at ${place(flow, moment)}.`,
  );
  plot.draw(
    key,
    (p) => {
      drawContours(p, y);
      drawMinima(p, eta, y);
      drawEdge(p, y, 2 / eta);
    },
    (p) => {
      p.line(flow.a, flow.b, { color: COLORS.flow, width: 2.6 }, 0, moment);
      p.line(central.a, central.b, { color: COLORS.central, width: 2.6 }, 0, moment);
      p.line(run.a, run.b, { color: COLORS.run, width: 0.9, alpha: 0.6 }, 0, step);
      p.marks(run.a, run.b, { color: COLORS.run, size: 2.6 }, 0, step);
      p.point(...start, { color: "text", shape: "square", size: 4.5, ring: true });
      const head = { size: 5.5, ring: true };
      p.point(flow.a[moment], flow.b[moment], { color: COLORS.flow, ...head });
      p.point(central.a[moment], central.b[moment], { color: COLORS.central, ...head });
      p.point(run.a[step], run.b[step], { color: COLORS.run, ...head });
      // What jumps is called by its name where it is on average.
      drawLabels(p, [
        ["run", (run.a[step] + run.a[before]) / 2, (run.b[step] + run.b[before]) / 2],
        ["central", central.a[moment], central.b[moment]],
        ["flow", flow.a[moment], flow.b[moment]],
      ]);
    },
  );
}

/** Where the sharpness is 2 / eta. @param {Painter} p @param {number} y @param {number} level */
function drawEdge(p, y, level) {
  const [left, right] = p.x.domain();
  const as = Array.from({ length: 241 }, (_, i) => left + ((right - left) * i) / 240);
  const bs = as.map((a) => edge(a, y, level));
  p.line(as, bs, { color: "vermillion", width: 1.6, dash: [7, 5] });
  p.text("sharpness 2/η", left, bs[0], { dx: 6, dy: 12 });
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawSharpness(plot, state, t) {
  const { eta, steps, run, central, flow, times, moments, mirrored, key } = state;
  const { step, moment, before } = heads(state, t);
  plot.describe(
    `Sharpness against time. At time ${format(eta * t)} it is ${format(run.sharpness[step])} for ` +
      `gradient descent, ${format(central.sharpness[moment])} for the central flow and ` +
      `${format(flow.sharpness[moment])} for the gradient flow. The threshold 2/η is ` +
      `${format(2 / eta)}.`,
  );
  plot.draw(
    key,
    (p) => {
      p.horizontal(2 / eta, { color: "vermillion", dash: [7, 5], width: 1.6 });
      p.text("2/η", p.x.domain()[1], 2 / eta, { align: "right", dx: -4, dy: 11 });
    },
    (p) => {
      // Only at the end: before it, the reader says where that will be.
      if (mirrored > 0 && step === steps) {
        p.horizontal(mirrored, { color: "green", dash: [2, 4], width: 2.2 });
        p.text("end by reflection", p.x.domain()[0], mirrored, { dx: 6, dy: 11 });
      }
      p.line(moments, flow.sharpness, { color: COLORS.flow, width: 2.6 }, 0, moment);
      p.line(moments, central.sharpness, { color: COLORS.central, width: 2.6 }, 0, moment);
      p.line(times, run.sharpness, { color: COLORS.run, width: 0.9, alpha: 0.6 }, 0, step);
      p.marks(times, run.sharpness, { color: COLORS.run, size: 2.8 }, 0, step);
      const now = moments[moment];
      drawLabels(p, [
        ["run", now, (run.sharpness[step] + run.sharpness[before]) / 2],
        ["central", now, central.sharpness[moment]],
        ["flow", now, flow.sharpness[moment]],
      ]);
    },
  );
}

/**
 * The names of the motions beside them, each with a dot of its color: to the right where there is
 * room, else to the left and above, and below each other where they would meet.
 *
 * @param {Painter} p
 * @param {[keyof typeof NAMES, number, number][]} places
 */
function drawLabels(p, places) {
  const [, right] = p.x.range();
  const [bottom, top] = p.y.range();
  const found = places
    .map(([name, x, y]) => ({ name, px: p.x(x), py: p.y(y), side: 1 }))
    .filter(({ px, py }) => Number.isFinite(px) && Number.isFinite(py));
  for (const label of found) {
    // On the left is the curve itself: above it.
    if (label.px + LABEL.width <= right) continue;
    label.side = -1;
    label.py -= LABEL.height * 0.6;
  }
  found.sort((one, other) => one.py - other.py);
  let free = top + LABEL.height / 2;
  for (const label of found) {
    label.py = free = Math.max(free, label.py);
    free += LABEL.height;
  }
  // What has been pushed out below goes up again.
  let last = bottom - LABEL.height / 2;
  for (const label of [...found].reverse()) {
    label.py = last = Math.min(last, label.py);
    last -= LABEL.height;
  }
  for (const { name, px, py, side } of found) {
    const at = Math.min(right - 6, px + 14 * side);
    p.point(p.x.invert(at), p.y.invert(py), { color: COLORS[name], size: 3.5 });
    p.text(NAMES[name], p.x.invert(at), p.y.invert(py), {
      align: side > 0 ? "left" : "right",
      dx: 7 * side,
    });
  }
}

/** Where the three are. @param {State} state @param {number} t */
export function describeMoment(state, t) {
  const { eta, steps } = state;
  const { step, moment, run, central, flow } = heads(state, t);
  return (
    `Step ${step} of ${steps}, time ${format(eta * step)}. Sharpness of gradient descent ` +
    `${format(run.sharpness[step])}, of the central flow ${format(central.sharpness[moment])}, of ` +
    `the gradient flow ${format(flow.sharpness[moment])}; 2/η = ${format(2 / eta)}.`
  );
}

/** What became of the three, in words. @param {State} state */
export function describeEnd({ eta, start, run, outcome, central, flow, steps, mirrored }) {
  const limit = 2 / eta;
  const level = format(limit);
  const last = (/** @type {Float64Array} */ values) => values[values.length - 1];
  const [calm, quiet] = [last(flow.sharpness), last(central.sharpness)];
  const end = run.minimumSharpness[steps];
  // On the edge up to what is left of the way there.
  const on = Math.abs(quiet / limit - 1) < 5e-3 ? "on it" : `at ${format(quiet)}`;
  const flows =
    calm > limit
      ? `Gradient flow ends at sharpness ${format(calm)}, above 2/η = ${level}; the central flow ends ${on}.`
      : `Gradient flow ends at sharpness ${format(calm)}, below 2/η = ${level}, the central flow at ${format(quiet)}.`;
  if (outcome === "diverged") return `Gradient descent escapes. ${flows}`;
  if (outcome !== "settled") return `Gradient descent has not settled in ${steps} steps. ${flows}`;
  const law =
    mirrored > 0
      ? `, ${format(limit - end, 2)} below; the reflection law says ${format(limit - mirrored, 2)}, to first order`
      : "";
  const beyond =
    run.sharpness[0] > limit * (1 + 1e-9)
      ? ` The start (${start.map((v) => format(v)).join(", ")}) lies beyond the edge, where no central flow can be: it is brought there at once.`
      : "";
  return `${flows} Gradient descent ends at ${format(end)}${law}.${beyond}`;
}
