/** Four methods on one coordinate of a quadratic: their factor per step, and how the coordinate goes. */
import * as quadratic from "../lib/quadratic.js";
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */
/** @typedef {import("../ui/plot.js").Color} Color */

/**
 * @typedef {object} Arm one method
 * @property {quadratic.Method} method
 * @property {string} text
 * @property {Color} color
 * @property {number} radius the factor per step in the end
 * @property {number} threshold of eta lambda
 * @property {number[]} x
 * @property {number[]} size |x|
 */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {number} z eta lambda
 * @property {number} beta
 * @property {Arm[]} arms
 * @property {number[]} times 0, 1, 2, ...
 */

/** As in the chapter's figure. @type {Pick<Arm, "method" | "text" | "color">[]} */
export const METHODS = [
  { method: "nesterov", text: "Nesterov", color: "purple" },
  { method: "gd", text: "gradient descent", color: "blue" },
  { method: "heavy_ball", text: "heavy ball", color: "green" },
  { method: "adam", text: "Adam, frozen", color: "orange" },
];
export const RANGE = { low: 0.1, high: 100 };
const LEVELS = { low: 1e-3, high: 1e3 };

/** @param {Plot} plot @param {State} state */
export function drawFactors(plot, { z, beta, arms }) {
  plot.legend(arms.map(({ text, color }) => ({ text, color, shape: "line" })));
  plot.describe(
    `The factor per step of four methods against ηλ; below 1 the iterates die out. At ` +
      `ηλ = ${format(z)} it is ${arms.map((a) => `${format(a.radius)} for ${named(a)}`).join(", ")}.`,
  );
  plot.draw(
    String(beta),
    (p) => {
      p.horizontal(1, { color: "vermillion", width: 1.6, dash: [7, 5] });
      p.text("unstable above", RANGE.low, 1, { dx: 6, dy: -9 });
      const zs = Array.from({ length: 481 }, (_, i) => RANGE.low * (RANGE.high / RANGE.low) ** (i / 480));
      for (const { method, color, threshold } of arms) {
        p.line(zs, zs.map((v) => quadratic.spectralRadius(method, v, 1, beta)), { color, width: 2.2 });
        p.point(threshold, 1, { color, size: 4 });
      }
    },
    (p) => {
      p.vertical(z, { color: "text", width: 1.4 });
      for (const { color, radius } of arms) p.point(z, radius, { color, size: 5.5, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawSizes(plot, { key, arms, times }, t) {
  plot.legend([
    { text: "x > 0", color: "text", shape: "up" },
    { text: "x < 0", color: "text", shape: "down" },
  ]);
  plot.describe(
    `The size of the coordinate against the step, on a logarithmic scale, from 1. At step ${t} it is ` +
      `${arms.map((a) => `${format(a.size[t])} for ${named(a)}`).join(", ")}.`,
  );
  plot.draw(
    key,
    (p) => p.horizontal(1, { color: "muted", width: 1 }),
    (p) => {
      for (const { color, x, size } of arms) {
        const seen = size.map((v) => Math.min(Math.max(v, LEVELS.low / 2), 2 * LEVELS.high));
        p.line(times, seen, { color, width: 1.2, alpha: 0.6 }, 0, t);
        p.marks(times, seen, { color, shape: "up", size: 3.2 }, 0, t, (i) => x[i] >= 0);
        p.marks(times, seen, { color, shape: "down", size: 3.2 }, 0, t, (i) => x[i] < 0);
        p.point(t, seen[t], { color, size: 5, ring: true });
      }
    },
  );
}

/** How a sentence calls a method. @param {Arm} arm */
function named({ method }) {
  const names = { nesterov: "Nesterov's method", gd: "gradient descent", heavy_ball: "the heavy ball", adam: "frozen Adam" };
  return names[method];
}

/** @param {string[]} names */
function list(names) {
  return names.length < 2 ? names.join() : `${names.slice(0, -1).join(", ")} and ${names[names.length - 1]}`;
}

/** Where the four are. @param {State} state @param {number} t */
export function describeMoment({ arms, times }, t) {
  const all = arms.map((arm) => `${format(arm.x[t], 2)} with ${named(arm)}`);
  return `Step ${t} of ${times.length - 1}: from 1, x has come to ${all.join(", ")}.`;
}

/** Which are stable, in words. @param {State} state */
export function describeEnd({ z, arms }) {
  const say = (/** @type {Arm[]} */ some) => list(some.map((a) => `${named(a)} (threshold ${format(a.threshold)})`));
  const stable = arms.filter((arm) => z < arm.threshold);
  const unstable = arms.filter((arm) => z > arm.threshold);
  const edge = arms.filter((arm) => z === arm.threshold);
  return [
    stable.length ? `Stable at ηλ = ${format(z)}: ${say(stable)}.` : `At ηλ = ${format(z)} none is stable.`,
    ...(edge.length ? [`At its threshold: ${list(edge.map(named))}.`] : []),
    unstable.length ? `Unstable, in the end with the other sign at each step: ${say(unstable)}.` : "None is unstable.",
  ].join(" ");
}
