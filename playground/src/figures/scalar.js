/** The four figures of the scalar network of depth two. */
import * as scalar from "../lib/scalar.js";
import { format } from "../ui/dom.js";
import { Plot } from "../ui/plot.js";

const DEGREES = 180 / Math.PI;
/** Steps before the present one whose v_1 is drawn at full strength. */
const RECENT = 150;

/** @typedef {import("../ui/plot.js").Painter} Painter */
/** @typedef {import("../ui/plot.js").Interval} Interval */

/**
 * A run and what is known about it.
 *
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {number} eta
 * @property {number} y
 * @property {number} r the starting residual
 * @property {number} k the starting imbalance
 * @property {number} start the sharpness of the minimum ahead of the start
 * @property {number} floor the sharpness of the flattest minimum
 * @property {scalar.Run} run
 * @property {scalar.Outcome} outcome
 * @property {boolean} noisy
 * @property {Float64Array} spent the budget
 * @property {Float64Array} flattened -log |kappa_t / kappa_0|
 * @property {{residual: Float64Array, noise: Float64Array, cross: Float64Array}} shares
 * @property {Float64Array} times 0, 1, 2, ...
 * @property {number} predicted by reflection, NaN below the threshold
 * @property {number} refined the same to second order
 */

/** A domain that stands until `setViews` knows the run. @returns {Interval} */
const domain = () => [0, 1];

/** @typedef {(width: number) => number} Aspect */

/** @param {() => void} redraw @param {Aspect} aspect */
export const planePlot = (redraw, aspect) =>
  new Plot({
    title: "The steps over the loss, with v₁",
    x: { label: "a", domain: domain() },
    y: { label: "b", domain: domain() },
    aspect,
    equal: true,
    redraw,
  });

/** @param {() => void} redraw @param {Aspect} aspect */
export const turnPlot = (redraw, aspect) =>
  new Plot({
    title: "The angle of v₁ against the residual",
    x: { label: "residual r", domain: domain() },
    y: {
      label: "angle φ (degrees)",
      domain: domain(),
      format: (v) => `${v}`.replace("-", "−"),
    },
    aspect,
    redraw,
  });

/** @param {() => void} redraw @param {Aspect} aspect */
export const sharpnessPlot = (redraw, aspect) =>
  new Plot({
    title: "Sharpness over the run",
    x: { label: "step t", domain: domain() },
    y: { label: "sharpness", domain: domain() },
    aspect,
    redraw,
  });

/** @param {number} low @param {number} high @param {number} share @returns {Interval} */
function padded(low, high, share) {
  const margin = share * (high - low) || 1;
  return [low - margin, high + margin];
}

/** The finite ones of some values, at most so large. @param {Iterable<number>} values @param {number} most */
function within(values, most) {
  return [...values].filter((v) => Math.abs(v) <= most);
}

/** A round number at least as large, so that the axes do not tremble. @param {number} v */
function roundUp(v) {
  const unit = 10 ** Math.floor(Math.log10(v));
  const step = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((m) => m * unit >= v * (1 - 1e-12)) ?? 10;
  return step * unit;
}

/**
 * Set what each figure shows, from the whole run: playing it moves no axis.
 *
 * @param {{plane?: Plot, turn?: Plot, sharp?: Plot, budget?: Plot}} plots those that there are
 * @param {State} state
 */
export function setViews({ plane, turn, sharp, budget }, state) {
  if (plane) viewPlane(plane, state);
  if (turn) viewTurn(turn, state);
  if (sharp) viewSharpness(sharp, state);
  if (budget) viewBudget(budget, state);
}

/** @param {Plot} plane @param {State} state */
function viewPlane(plane, { run, eta, start }) {
  // A run that escapes is followed to a little beyond where bounded runs can be.
  const reach = Math.max(3 / Math.sqrt(eta), 1.5 * Math.sqrt(start));
  // A run that hardly moves is shown with the valley around it.
  const around = 0.2 * Math.sqrt(start);
  const sides = (/** @type {Float64Array} */ values) => {
    const inside = within(values, reach);
    const [low, high] = [Math.min(...inside), Math.max(...inside)];
    const missing = Math.max(0, around - (high - low)) / 2;
    return padded(low - missing, high + missing, 0.12);
  };
  plane.x.domain = sides(run.a);
  plane.y.domain = sides(run.b);
}

/** @param {Plot} turn @param {State} state */
function viewTurn(turn, { run, eta }) {
  const most = roundUp(Math.max(1e-3, ...within(run.residual, 4 / eta).map(Math.abs)) * 1.05);
  turn.x.domain = [-most, most];
  const folded = run.kappa.some((k) => k < 0);
  const tilted = Math.max(0, ...within(run.angle, 2).map(Math.abs)) * DEGREES;
  const limit = folded ? 95 : tilted > 22 ? 50 : 25;
  const tick = folded ? 45 : tilted > 22 ? 15 : 10;
  turn.y.domain = [-limit, limit];
  turn.y.ticks = [-2, -1, 0, 1, 2].map((i) => i * tick);
  if (limit === 50) turn.y.ticks.push(-45, 45);
}

/** @param {Plot} sharp @param {State} state */
function viewSharpness(sharp, { run, eta, start, floor, predicted, refined }) {
  const ceiling = 2.5 * Math.max(start, 2 / eta);
  const shown = [2.1 / eta, 1.9 / eta, ...within(run.sharpness, ceiling)];
  shown.push(...[predicted, refined].filter((level) => level >= floor));
  const [lowest, highest] = padded(Math.min(...shown), Math.max(...shown), 0.08);
  sharp.x.domain = [0, Math.max(1, run.last)];
  sharp.y.domain = lowest < 0.4 * highest ? [0, highest] : [lowest, highest];
}

/** @param {Plot} budget @param {State} state */
function viewBudget(budget, { run, spent, flattened, shares, noisy }) {
  const largest = Math.max(1e-12, ...within(spent, 30), ...within(flattened, 30));
  const least = Math.min(0, ...within(flattened, 30), ...within(shares.cross, 30));
  budget.x.domain = [0, Math.max(1, run.last)];
  budget.y.domain = [least && 1.1 * least, roundUp(1.05 * largest)];
  budget.y.label = noisy ? "Σ η²(r + ξ)²" : "Σ η²r²";
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawPlane(plot, state, t) {
  const { run, eta, y, key, noisy } = state;
  plot.legend([
    { text: "v₁ where r > 0", color: "vermillion", shape: "line" },
    { text: "v₁ where r < 0", color: "blue", shape: "line" },
    { text: "stable minima", color: "green", shape: "line" },
    { text: "minima sharper than 2/η", color: "orange", shape: "dashed" },
    ...(noisy ? [] : [boundary(eta, y)].flat()),
  ]);
  plot.describe(
    `The plane of a and b with contours of the loss. At step ${t} the run is at ` +
      `a = ${format(run.a[t])}, b = ${format(run.b[t])}; v₁ makes an angle of ` +
      `${format(run.angle[t] * DEGREES)} degrees with the a axis.`,
  );
  plot.draw(
    key,
    (p) => drawLandscape(p, state),
    (p) => {
      const [left, right] = p.x.domain();
      const length = 0.09 * (right - left);
      p.line(run.a, run.b, { color: "grey", width: 0.8, alpha: 0.7 }, 0, t);
      const size = t > 200 ? 1.4 : 2;
      const recent = Math.max(0, t - RECENT);
      for (const [sign, color] of /** @type {const} */ ([
        [1, "vermillion"],
        [-1, "blue"],
      ])) {
        const pieces = (/** @type {number} */ first, /** @type {number} */ last) => {
          const found = [];
          for (let i = first; i <= last; i++) {
            if (Math.sign(run.residual[i]) === sign) found.push(segment(run, i, length));
          }
          return found.filter((piece) => piece.every(Number.isFinite));
        };
        p.segments(pieces(0, recent - 1), { color, width: 1.5, alpha: 0.3 });
        p.segments(pieces(recent, t), { color, width: 2.2, alpha: 0.9 });
      }
      p.marks(run.a, run.b, { color: "text", size }, 0, t);
      const now = run.residual[t] > 0 ? "vermillion" : "blue";
      p.segments([segment(run, t, 1.8 * length)], { color: now, width: 4 });
      p.point(run.a[t], run.b[t], { color: "text", size: 6, ring: true });
    },
  );
}

/** @param {number} eta @param {number} y @returns {import("../ui/plot.js").Entry[]} */
function boundary(eta, y) {
  return eta * Math.abs(y) < 2 ? [{ text: "escape beyond", color: "purple", shape: "dotted" }] : [];
}

/** The piece of the line along v_1 through a point. @param {scalar.Run} run @param {number} t @param {number} length */
function segment(run, t, length) {
  const u = (Math.cos(run.angle[t]) * length) / 2;
  const v = (Math.sin(run.angle[t]) * length) / 2;
  return [run.a[t] - u, run.b[t] - v, run.a[t] + u, run.b[t] + v];
}

/**
 * The two branches of a b = output, on what a painter shows: points evenly spaced in log |a|.
 *
 * @param {Painter} p @param {number} output
 * @returns {[number[], number[]][]}
 */
function hyperbola(p, output) {
  const [left, right] = p.x.domain();
  const [bottom, top] = p.y.domain();
  const far = 1.05 * Math.max(...[left, right, bottom, top].map(Math.abs));
  if (output === 0) {
    return [
      [
        [left, right],
        [0, 0],
      ],
      [
        [0, 0],
        [bottom, top],
      ],
    ];
  }
  // On a branch |a| runs from where |b| is far to where |a| is.
  const near = Math.abs(output) / far;
  if (near >= far) return [];
  const as = Array.from({ length: 161 }, (_, i) => near * (far / near) ** (i / 160));
  return [1, -1].map((side) => [as.map((a) => side * a), as.map((a) => (side * output) / a)]);
}

/** Contours of the loss, at equal steps of |r|. @param {Painter} p @param {number} y */
export function drawContours(p, y) {
  const [left, right] = p.x.domain();
  const [bottom, top] = p.y.domain();
  const corners = [left, right].flatMap((a) => [bottom, top].map((b) => Math.abs(a * b - y)));
  const most = Math.max(...corners);
  for (let i = 1; i <= 8; i++) {
    const r = (i * most) / 9;
    for (const [as, bs] of [...hyperbola(p, y + r), ...hyperbola(p, y - r)]) {
      p.line(as, bs, { color: "grey", width: 0.8, alpha: 0.45 });
    }
  }
}

/** The minima: those sharper than 2 / eta dashed. @param {Painter} p @param {number} eta @param {number} y */
export function drawMinima(p, eta, y) {
  for (const [as, bs] of hyperbola(p, y)) {
    const tooSharp = as.map((a, i) => eta * (a * a + bs[i] * bs[i]) > 2);
    // Neighbors of a stable point are drawn with it, so that no gap is left where they meet.
    const stable = as.map((_, i) => [i - 1, i, i + 1].some((j) => tooSharp[j] === false));
    const only = (/** @type {number[]} */ values, /** @type {boolean[]} */ wanted) =>
      values.map((v, i) => (wanted[i] ? v : NaN));
    const dashed = { color: /** @type {const} */ ("orange"), width: 2.2, dash: [7, 5] };
    p.line(only(as, tooSharp), only(bs, tooSharp), dashed);
    p.line(only(as, stable), only(bs, stable), { color: "green", width: 2.4 });
  }
}

/** Contours at equal steps of |r|, the minima, and the ellipse of escape. @param {Painter} p @param {State} state */
function drawLandscape(p, { eta, y, noisy }) {
  drawContours(p, y);
  drawMinima(p, eta, y);
  if (eta * Math.abs(y) < 2 && !noisy) {
    // 4 - eta (a^2 + b^2) + eta^2 y (a b - y) = 0 in the coordinates along the two diagonals.
    const size = 4 - (eta * y) ** 2;
    const along = Math.sqrt(size / (eta - (eta * eta * y) / 2));
    const across = Math.sqrt(size / (eta + (eta * eta * y) / 2));
    const turns = Array.from({ length: 361 }, (_, i) => i / DEGREES);
    const half = Math.SQRT1_2;
    p.line(
      turns.map((w) => half * (along * Math.cos(w) - across * Math.sin(w))),
      turns.map((w) => half * (along * Math.cos(w) + across * Math.sin(w))),
      { color: "purple", width: 2, dash: [2, 4] },
    );
  }
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawTurn(plot, state, t) {
  const { run, y, k, key } = state;
  plot.legend([
    { text: "exact curve at the present imbalance", color: "green", shape: "line" },
    { text: "at the start", color: "grey", shape: "dashed" },
    { text: "steps, r > 0", color: "vermillion", shape: "up" },
    { text: "steps, r < 0", color: "blue", shape: "down" },
  ]);
  plot.describe(
    `The angle of v₁ against the residual. At step ${t} the residual is ` +
      `${format(run.residual[t])} and the angle ${format(run.angle[t] * DEGREES)} degrees, on the ` +
      `exact curve of imbalance ${format(run.kappa[t])}.`,
  );
  const curve = (/** @type {number} */ imbalance) => (/** @type {number} */ r) =>
    DEGREES * scalar.angleAt(r, imbalance, y);
  const angles = run.angle.map((v) => v * DEGREES);
  plot.draw(
    key,
    (p) => {
      const diagonalAngle = y < 0 ? -45 : 45;
      const dotted = /** @type {const} */ ({ color: "muted", width: 1.2, dash: [2, 4] });
      p.horizontal(diagonalAngle, dotted);
      p.vertical(0, { color: "muted", width: 1 });
      drawBranches(p, curve(k), { color: "grey", width: 1.6, dash: [6, 4] });
      const high = p.y.domain()[1];
      if (high > 45)
        p.text("balanced diagonal", p.x.domain()[0], diagonalAngle, {
          dx: 6,
          dy: diagonalAngle > 0.8 * high ? 11 : -11,
          color: "muted",
        });
    },
    (p) => {
      drawBranches(p, curve(run.kappa[t]), { color: "green", width: 2.4 });
      const size = t > 200 ? 2.4 : 3.4;
      const up = /** @type {const} */ ({ color: "vermillion", shape: "up", size, alpha: 0.6 });
      const down = /** @type {const} */ ({ color: "blue", shape: "down", size, alpha: 0.6 });
      p.marks(run.residual, angles, up, 0, t, (i) => run.residual[i] > 0);
      p.marks(run.residual, angles, down, 0, t, (i) => run.residual[i] < 0);
      p.point(run.residual[t], angles[t], { color: "text", size: 6, ring: true });
    },
  );
}

/** A curve of angles, interrupted where it jumps from one end of the range to the other. @param {Painter} p @param {(r: number) => number} f @param {import("../ui/plot.js").Style} style */
function drawBranches(p, f, style) {
  const [low, high] = p.x.domain();
  const xs = Array.from({ length: 401 }, (_, i) => low + ((high - low) * i) / 400);
  const ys = xs.map(f);
  const broken = ys.map((v, i) => (i > 0 && Math.abs(v - ys[i - 1]) > 90 ? NaN : v));
  p.line(xs, broken, style);
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawSharpness(plot, state, t) {
  const { run, eta, floor, key, times, predicted, refined, start } = state;
  const credible = (/** @type {number} */ level) => level >= floor;
  plot.legend([
    { text: "λ₁ where r > 0", color: "vermillion", shape: "up" },
    { text: "λ₁ where r < 0", color: "blue", shape: "down" },
    { text: "minimum ahead", color: "text", shape: "line" },
    { text: "2/η", color: "vermillion", shape: "dashed" },
    ...(credible(predicted) || credible(refined)
      ? [
          /** @type {const} */ ({
            text: "predicted by reflection",
            color: "green",
            shape: "dotted",
          }),
        ]
      : []),
  ]);
  plot.describe(
    `Sharpness against the step. It starts at ${format(run.sharpness[0])}; the threshold 2/η is ` +
      `${format(2 / eta)}. At step ${t} it is ${format(run.sharpness[t])}, and that of the minimum ` +
      `ahead ${format(run.minimumSharpness[t])}.` +
      (credible(predicted) ? ` Reflection predicts an end at ${format(predicted)}.` : ""),
  );
  plot.draw(
    key,
    (p) => {
      p.horizontal(2 / eta, { color: "vermillion", dash: [7, 5], width: 1.6 });
      const dotted = /** @type {const} */ ({ color: "green", dash: [2, 4], width: 2.2 });
      if (credible(predicted)) p.horizontal(predicted, dotted);
      if (credible(refined)) p.horizontal(refined, { ...dotted, width: 1.4 });
      if (floor > 0) p.horizontal(floor, { color: "muted", width: 1, alpha: 0.8 });
      const right = p.x.domain()[1];
      const label = { align: /** @type {const} */ ("right"), dx: -4 };
      p.text("2/η", right, 2 / eta, { ...label, dy: -9 });
      if (floor > p.y.domain()[0] + 0.02 * p.y.domain()[1]) {
        p.text("flattest minimum", right, floor, { ...label, dy: -9, color: "muted" });
      }
    },
    (p) => {
      const size = Math.max(1.6, Math.min(4, 420 / (run.last + 1)));
      p.line(times, run.sharpness, { color: "grey", width: 0.9, alpha: 0.8 }, 0, t);
      p.marks(
        times,
        run.sharpness,
        { color: "vermillion", shape: "up", size },
        0,
        t,
        (i) => run.residual[i] > 0,
      );
      p.marks(
        times,
        run.sharpness,
        { color: "blue", shape: "down", size },
        0,
        t,
        (i) => run.residual[i] <= 0,
      );
      p.line(times, run.minimumSharpness, { color: "text", width: 2 }, 0, t);
      p.point(t, run.sharpness[t], { color: "text", size: 5, ring: true });
      if (state.outcome === "diverged" && t === run.last) {
        p.text("diverged", t, Math.min(start, p.y.domain()[1]), { align: "right", dx: -8 });
      }
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawBudget(plot, state, t) {
  const { spent, flattened, shares, noisy, key, times } = state;
  plot.legend([
    { text: noisy ? "budget Σ η²(r + ξ)²" : "budget Σ η²r²", color: "blue", shape: "line" },
    { text: "flattening −log |κ/κ₀|", color: "green", shape: "dashed" },
    ...(noisy
      ? /** @type {import("../ui/plot.js").Entry[]} */ ([
          { text: "share of the residual", color: "vermillion", shape: "line" },
          { text: "share of the noise", color: "orange", shape: "line" },
          { text: "cross term", color: "purple", shape: "dotted" },
        ])
      : []),
  ]);
  plot.describe(
    `The budget against the step. At step ${t} it is ${format(spent[t])}, and the imbalance has ` +
      `shrunk by a factor whose negative logarithm is ${format(flattened[t])}.` +
      (noisy
        ? ` The residual's share is ${format(shares.residual[t])}, the noise's ` +
          `${format(shares.noise[t])}, the cross term ${format(shares.cross[t])}.`
        : ""),
  );
  plot.draw(
    key,
    () => {},
    (p) => {
      if (noisy) {
        p.line(times, shares.residual, { color: "vermillion", width: 1.8 }, 0, t);
        p.line(times, shares.noise, { color: "orange", width: 1.8 }, 0, t);
        p.line(times, shares.cross, { color: "purple", width: 1.6, dash: [2, 4] }, 0, t);
      }
      p.line(times, spent, { color: "blue", width: 2.4 }, 0, t);
      p.line(times, flattened, { color: "green", width: 2.2, dash: [7, 5] }, 0, t);
      p.point(t, spent[t], { color: "text", size: 5, ring: true });
    },
  );
}

/**
 * What happened in the whole run, in words.
 *
 * @param {State} state
 */
export function describeOutcome(state) {
  const { run, eta, y, start, floor, outcome, predicted, spent } = state;
  const end = run.minimumSharpness[run.last];
  const [from, to] = [format(start), format(end)];
  if (outcome === "diverged") {
    return `Diverged: after step ${run.last} the numbers leave the range of floating point.`;
  }
  if (outcome === "noisy") {
    return (
      `With label noise the run never rests. In ${run.last} steps the minimum ahead went from ` +
      `sharpness ${from} to ${to}, for a budget of ${format(spent[run.last])}.`
    );
  }
  if (outcome === "period two") {
    return (
      "Period two: the run settles on two points and jumps between them." +
      (eta * Math.abs(y) > 1 ? " As η|y| > 1, even the flattest minimum is sharper than 2/η." : "")
    );
  }
  if (outcome === "moving") {
    return `Still moving after ${run.last} steps: the minimum ahead is now ${to}, from ${from}.`;
  }
  if (eta * start <= 2) {
    return (
      `Stable: the run settles. The minimum ahead went from sharpness ${from} to ${to}, for a ` +
      `budget of ${format(spent[run.last])}.`
    );
  }
  const law =
    predicted >= floor
      ? ` Reflection, 4/η − ${from}, predicts ${format(predicted)}.`
      : ` Reflection would lead below the flattest minimum, ${format(floor)}, where it says nothing.`;
  return `An instability: the minimum ahead went from sharpness ${from} to ${to}.${law}`;
}

/** A predicted sharpness in words. @param {State} state @param {number} level */
export function describePrediction({ floor, eta, start }, level) {
  if (!(eta * start > 2)) return "none: the start is stable";
  if (Number.isNaN(level)) return "none: η|y| ≥ 1";
  if (level < floor) return "none: below the flattest minimum";
  return `${format(level)} = ${format((level * eta) / 2)} × 2/η`;
}
