/** The four figures of the quadratic. */
import * as quadratic from "../lib/quadratic.js";
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */
/** @typedef {import("../ui/plot.js").Painter} Painter */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {quadratic.Method} method
 * @property {number} eta
 * @property {number} beta
 * @property {[number, number]} lambdas
 * @property {number[][]} path
 * @property {number[]} losses
 * @property {number[]} times 0, 1, 2, ...
 * @property {[number, number]} radii factor per step along either eigenvector
 * @property {number} edge the largest stable learning rate
 */

export const REACH = 2.2;

/** Set the axes that depend on the run. @param {{factor: Plot, along: Plot, fall: Plot}} plots @param {State} state */
export function setViews({ factor, along, fall }, { eta, edge, lambdas, path, losses, times }) {
  // In whole multiples, so that the axis does not run away from a drag toward its end.
  const range = Math.max(1.25 * edge, 2.4 / lambdas[0]);
  factor.x.domain = [0, range * Math.max(1, Math.ceil(eta / range - 1e-9))];
  factor.y.domain = [0, 1.6];
  const last = times.length - 1;
  const size = Math.max(...path.flat().map((v) => Math.min(Math.abs(v), 6)), 0.5);
  along.x.domain = fall.x.domain = [0, last];
  along.y.domain = [-1.08 * size, 1.08 * size];
  const seen = losses.map((v) => Math.min(Math.max(v, 1e-16), 1e6));
  fall.y.domain = [Math.min(...seen) / 2, Math.max(...seen) * 2];
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawPlane(plot, { path, losses, lambdas, key }, t) {
  plot.legend([
    { text: "the loss fell", color: "blue", shape: "dot" },
    { text: "the loss rose", color: "vermillion", shape: "dot" },
  ]);
  const [x, y] = path[t];
  plot.describe(
    `The plane of the two eigenvectors with contours of the loss. At step ${t} the iterate is at ` +
      `x₁ = ${format(x)}, x₂ = ${format(y)}, where the loss is ${format(losses[t])}. ` +
      `Drag the start to another place, or use its sliders.`,
  );
  const xs = path.map((point) => point[0]);
  const ys = path.map((point) => point[1]);
  plot.draw(
    key,
    (p) => {
      const most = (lambdas[0] * REACH ** 2 + lambdas[1] * REACH ** 2) / 2;
      const turns = Array.from({ length: 181 }, (_, i) => (i * Math.PI) / 90);
      for (let i = 1; i <= 9; i++) {
        const level = 2 * most * (i / 9) ** 2;
        const half = lambdas.map((lambda) => Math.sqrt(level / lambda));
        p.line(
          turns.map((w) => half[0] * Math.cos(w)),
          turns.map((w) => half[1] * Math.sin(w)),
          { color: "grey", width: 0.8, alpha: 0.5 },
        );
      }
      p.point(0, 0, { color: "green", size: 4 });
    },
    (p) => {
      p.line(xs, ys, { color: "grey", width: 1 }, 0, t);
      p.marks(xs, ys, { color: "blue", size: 3.5 }, 1, t, (i) => losses[i] <= losses[i - 1]);
      p.marks(xs, ys, { color: "vermillion", size: 3.5 }, 1, t, (i) => losses[i] > losses[i - 1]);
      p.point(xs[0], ys[0], { color: "text", size: 4, shape: "square" });
      p.text("start", xs[0], ys[0], { dx: 8, dy: -10 });
      p.point(x, y, { color: "text", size: 6, ring: true });
    },
  );
}

/**
 * The coordinate along v_1 on the loss along it.
 *
 * @param {Plot} plot @param {State} state @param {number} t
 */
export function drawParabola(plot, { path, lambdas, losses, key }, t) {
  const along = path.map((point) => point[0]);
  const heights = along.map((x) => (lambdas[0] * x * x) / 2);
  plot.describe(
    `The loss along v₁, a parabola, with the iterates on it. At step ${t} x₁ is ` +
      `${format(along[t])}, at height ${format(heights[t])}. Drag the start, or use its slider.`,
  );
  plot.draw(
    key,
    (p) => {
      p.curve((x) => (lambdas[0] * x * x) / 2, { color: "grey", width: 2 });
      p.point(0, 0, { color: "green", size: 4 });
    },
    (p) => {
      p.line(along, heights, { color: "grey", width: 1, alpha: 0.8 }, 0, t);
      p.marks(along, heights, { color: "blue", size: 3.5 }, 1, t, (i) => losses[i] <= losses[i - 1]);
      p.marks(
        along,
        heights,
        { color: "vermillion", size: 3.5 },
        1,
        t,
        (i) => losses[i] > losses[i - 1],
      );
      p.point(along[0], heights[0], { color: "text", size: 4, shape: "square" });
      p.point(along[t], heights[t], { color: "text", size: 6, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state */
export function drawFactor(plot, { method, eta, beta, lambdas, radii, edge, key }) {
  plot.legend([
    { text: "along v₁", color: "vermillion", shape: "line" },
    { text: "along v₂", color: "blue", shape: "line" },
    { text: "this learning rate", color: "text", shape: "line" },
  ]);
  plot.describe(
    `The factor per step in the long run, against the learning rate. At η = ${format(eta)} it is ` +
      `${format(radii[0])} along v₁ and ${format(radii[1])} along v₂; the edge of stability is at ` +
      `${format(edge)}. Drag to change the learning rate, or use its slider.`,
  );
  plot.draw(
    key,
    (p) => {
      p.horizontal(1, { color: "muted", width: 1.2 });
      const dashed = { color: /** @type {const} */ ("muted"), width: 1.2, dash: [6, 5] };
      const marks = [
        { at: 1 / lambdas[0], text: "1/λ₁" },
        { at: 2 / lambdas[0], text: "2/λ₁" },
      ];
      if (method !== "gd") marks.push({ at: edge, text: "edge" });
      marks.forEach(({ at, text }, i) => {
        p.vertical(at, { ...dashed, ...(text === "edge" ? { color: "orange", width: 2 } : {}) });
        p.text(text, at, p.y.domain()[1], { dx: 4, dy: 9 + 15 * (i === 2 ? 1 : 0) });
      });
      const over = /** @type {import("../ui/plot.js").Interval} */ (p.x.domain());
      for (const [k, color] of /** @type {const} */ ([
        [1, "blue"],
        [0, "vermillion"],
      ])) {
        const radius = (/** @type {number} */ rate) =>
          quadratic.spectralRadius(method, lambdas[k], rate, beta);
        p.curve(radius, { color, width: 2.4 }, over);
      }
    },
    (p) => {
      p.vertical(eta, { color: "text", width: 1.6 });
      p.point(eta, radii[1], { color: "blue", size: 6, ring: true });
      p.point(eta, radii[0], { color: "vermillion", size: 6, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawAlong(plot, { path, times, radii, key }, t) {
  plot.legend([
    { text: "x₁, along v₁", color: "vermillion", shape: "line" },
    { text: "x₂, along v₂", color: "blue", shape: "line" },
    { text: "± the factor along v₁, to the power t", color: "grey", shape: "dotted" },
  ]);
  plot.describe(
    `The two coordinates against the step. At step ${t}, x₁ = ${format(path[t][0])} and ` +
      `x₂ = ${format(path[t][1])}.`,
  );
  const first = path.map((point) => point[0]);
  const second = path.map((point) => point[1]);
  const envelope = times.map((i) => Math.abs(first[0]) * radii[0] ** i);
  plot.draw(
    key,
    (p) => {
      p.horizontal(0, { color: "muted", width: 1 });
      const dotted = { color: /** @type {const} */ ("grey"), width: 1.4, dash: [2, 4] };
      p.line(times, envelope, dotted);
      p.line(
        times,
        envelope.map((v) => -v),
        dotted,
      );
    },
    (p) => {
      p.line(times, second, { color: "blue", width: 1.6 }, 0, t);
      p.marks(times, second, { color: "blue", size: 2.6 }, 0, t);
      p.line(times, first, { color: "vermillion", width: 1.6 }, 0, t);
      p.marks(times, first, { color: "vermillion", size: 2.6 }, 0, t);
      p.point(t, first[t], { color: "text", size: 5, ring: true });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawFall(plot, { losses, times, key }, t) {
  plot.describe(
    `The loss against the step, on a logarithmic scale. It starts at ${format(losses[0])} and is ` +
      `${format(losses[t])} at step ${t}.`,
  );
  plot.draw(
    key,
    () => {},
    (p) => {
      const seen = losses.map((v) => Math.max(v, 1e-300));
      p.line(times, seen, { color: "grey", width: 1.2 }, 0, t);
      p.marks(times, seen, { color: "blue", size: 3.2 }, 0, t, (i) => !(losses[i] > losses[i - 1]));
      p.marks(
        times,
        seen,
        { color: "vermillion", size: 3.2 },
        1,
        t,
        (i) => losses[i] > losses[i - 1],
      );
      p.point(t, seen[t], { color: "text", size: 5, ring: true });
    },
  );
}

/** What the whole run does, in words. @param {State} state */
export function describeOutcome({ method, eta, beta, lambdas, radii, edge, losses }) {
  const z = eta * lambdas[0];
  const rose = losses.some((v, t) => t > 0 && v > losses[t - 1]);
  if (method === "gd") {
    if (z > 2)
      return `Unstable: ηλ₁ = ${format(z)} > 2. Each overshoot along v₁ is ${format(radii[0])} times the last.`;
    if (z === 2)
      return "At the edge: ηλ₁ = 2. The iterate swings along v₁ for ever, with the same size.";
    if (z > 1)
      return `Stable and oscillating: ηλ₁ = ${format(z)} lies between 1 and 2. The iterate overshoots along v₁ and comes back.`;
    if (z === 1) return "ηλ₁ = 1: the coordinate along v₁ is gone after one step.";
    return `Stable and monotone: ηλ₁ = ${format(z)} is below 1. The iterate creeps in from one side.`;
  }
  const name = method === "heavy_ball" ? "The heavy ball" : "Nesterov's method";
  const limit = `the edge at η = ${format(edge)}`;
  if (eta >= edge)
    return `Unstable: ${name.toLowerCase().replace("nesterov", "Nesterov")} with β = ${format(beta)} has ${limit}.`;
  const spiral = quadratic.turns(method, lambdas[0], eta, beta)
    ? " The coordinate along v₁ turns like a damped pendulum."
    : "";
  return `Stable: ${name} with β = ${format(beta)} has ${limit}.${spiral}${rose ? " The loss rises at times, and yet the run converges." : ""}`;
}
