/** Opposite displacements along v_1, and the two runs from them: how v_1 turns, and where they drift. */
import * as turn from "../lib/turn.js";
import { format } from "../ui/dom.js";

/** @typedef {import("../ui/plot.js").Plot} Plot */

/**
 * @typedef {object} State
 * @property {string} key it changes with the state
 * @property {turn.Loss} loss
 * @property {number} x the displacement
 * @property {number} steps
 * @property {ReturnType<typeof turn.descend>[]} runs from +x and from -x
 * @property {number[]} times 0, 1, 2, ...
 */

const DEGREES = 180 / Math.PI;
/** What the plane shows of x and y. */
export const REACH = { x: 0.62, low: -0.5, high: 0.2 };
const SIDES = /** @type {const} */ ([
  { text: "from +x", color: "vermillion", shape: "up" },
  { text: "from −x", color: "blue", shape: "down" },
]);

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawPlane(plot, { key, loss, x, runs }, t) {
  plot.legend(SIDES.map((side) => ({ ...side })));
  plot.describe(
    `The plane of x, along v₁ at the origin, and y, along which the sharpness rises, with contours of ` +
      `the loss. v₁ is drawn on the axis of x: at x = ${format(x)} it is turned by ` +
      `${format(turn.angle(loss, [x, 0]) * DEGREES)} degrees. At step ${t} the two runs are at ` +
      `${runs.map(({ xs, ys, last }) => at(xs, ys, Math.min(t, last))).join(" and ")}. Drag the start.`,
  );
  plot.draw(
    key,
    (p) => {
      drawContours(p, loss);
      p.horizontal(0, { color: "muted", width: 1 });
      for (let i = -6; i <= 6; i++) {
        const place = i / 10;
        const color = place > 0 ? "vermillion" : place < 0 ? "blue" : "text";
        const [u, v] = direction(loss, place);
        p.segments([[place - u, -v, place + u, v]], { color, width: 3, alpha: 0.75 });
      }
      p.text("v₁", 0, 0, { dx: 8, dy: -12 });
    },
    (p) => {
      runs.forEach(({ xs, ys, last }, side) => {
        const { color, shape } = SIDES[side];
        const now = Math.min(t, last);
        p.line(xs, ys, { color, width: 0.9, alpha: 0.6 }, 0, now);
        p.marks(xs, ys, { color, shape, size: 3 }, 0, now);
        p.point(xs[0], ys[0], { color: "text", shape: "square", size: 4 });
        p.point(xs[now], ys[now], { color, size: 6, ring: true });
      });
    },
  );
}

/** Half of the piece of a line along v_1 that is drawn at (x, 0). @param {turn.Loss} loss @param {number} x */
function direction(loss, x) {
  const angle = turn.angle(loss, [x, 0]);
  return [0.045 * Math.cos(angle), 0.045 * Math.sin(angle)];
}

/** Contours: x as a function of y. @param {import("../ui/plot.js").Painter} p @param {turn.Loss} loss */
function drawContours(p, { first, second, slope }) {
  const [low, high] = p.y.domain();
  const ys = Array.from({ length: 241 }, (_, i) => low + ((high - low) * i) / 240);
  for (let i = 1; i <= 6; i++) {
    const level = (first * REACH.x ** 2 * (i / 6) ** 2) / 2;
    const xs = ys.map((y) => Math.sqrt((2 * level - second * y * y) / (first + slope * y)));
    for (const side of [1, -1]) {
      p.line(xs.map((v) => side * v), ys, { color: "grey", width: 0.8, alpha: 0.45 });
    }
  }
}

/** A place in words: what is far below all that can be seen is at 0. @param {number} place @param {number} [digits] */
function say(place, digits) {
  return format(Math.abs(place) < 1e-9 ? 0 : place, digits);
}

/** @param {number[]} xs @param {number[]} ys @param {number} t */
function at(xs, ys, t) {
  return `(${say(xs[t], 2)}, ${say(ys[t], 2)})`;
}

/** @param {Plot} plot @param {State} state */
export function drawTurn(plot, { key, loss, x }) {
  plot.legend([
    { text: "v₁", color: "green", shape: "line" },
    { text: "the gradient", color: "purple", shape: "line" },
    { text: "slope ρ at the origin", color: "grey", shape: "dashed" },
  ]);
  const v = (/** @type {number} */ at) => turn.angle(loss, [at, 0]) * DEGREES;
  const g = (/** @type {number} */ at) => (at === 0 ? 0 : turn.tilt(loss, at) * DEGREES);
  plot.describe(
    `Angles to the axis of x against the displacement along it. At x = ${format(x)}, v₁ is turned by ` +
      `${format(v(x))} degrees and the gradient by ${format(g(x))}; at −x by the same with the other sign.`,
  );
  plot.draw(
    key,
    (p) => {
      p.horizontal(0, { color: "muted", width: 1 });
      p.vertical(0, { color: "muted", width: 1 });
      const rate = turn.turning(loss) * DEGREES;
      p.curve((at) => rate * at, { color: "grey", width: 1.4, dash: [6, 4] });
      p.curve(g, { color: "purple", width: 2.2 });
      p.curve(v, { color: "green", width: 2.2 });
    },
    (p) => {
      [x, -x].forEach((place, side) => {
        const { color } = SIDES[side];
        p.point(place, v(place), { color, size: 5.5, ring: true });
        p.point(place, g(place), { color, size: 4.5, ring: true });
      });
    },
  );
}

/** @param {Plot} plot @param {State} state @param {number} t */
export function drawDrift(plot, { key, loss, x, runs, times }, t) {
  plot.legend(SIDES.map((side) => ({ ...side })));
  plot.describe(
    `The place along y against the step: ${format(y(runs[0], t))} at step ${t}, from either side. ` +
      `Above zero the ground is sharper, below it flatter.`,
  );
  const predicted = turn.twoSteps(loss, x, 1);
  plot.draw(
    key,
    (p) => {
      p.horizontal(0, { color: "muted", width: 1 });
      p.text("flatter below", p.x.domain()[1], 0, { align: "right", dx: -6, dy: 11 });
    },
    (p) => {
      runs.forEach((run, side) => {
        const { color, shape } = SIDES[side];
        const now = Math.min(t, run.last);
        p.line(times, run.ys, { color, width: 1, alpha: 0.6 }, 0, now);
        p.marks(times, run.ys, { color, shape, size: side ? 2.4 : 4 }, 0, now);
      });
      if (t >= 2) {
        p.point(2, predicted, { color: "green", shape: "square", size: 4, ring: true });
        p.text("after two steps, by the theorem", 2, predicted, { dx: 10, dy: 12 });
      }
    },
  );
}

/** @param {State["runs"][0]} run @param {number} t */
function y({ ys, last }, t) {
  return ys[Math.min(t, last)];
}

/** @param {State} state @param {number} t */
export function describeMoment({ loss, runs, steps }, t) {
  const now = runs.map(({ xs, ys, last }) => /** @type {const} */ ([xs[Math.min(t, last)], ys[Math.min(t, last)]]));
  const angles = now.map((point) => `${say(turn.angle(loss, [...point]) * DEGREES, 2)}°`);
  return (
    `Step ${t} of ${steps}: x = ${now.map(([x]) => say(x, 2)).join(" and ")}, y = ` +
    `${say(now[0][1], 2)} for both; v₁ at ${angles.join(" and ")}.`
  );
}

/** What two steps did, and the whole run, in words. @param {State} state */
export function describeEnd({ loss, x, runs: [run] }) {
  const angle = turn.angle(loss, [x, 0]) * DEGREES;
  if (loss.slope === 0) {
    const grows = loss.first > 2 ? "and it grows for ever" : loss.first < 2 ? "and it dies out by itself" : "and it stays as it is";
    return `The sharpness has no slope: v₁ does not turn, nothing pushes the oscillation aside, ${grows}.`;
  }
  const moved = run.ys[Math.min(2, run.last)];
  const way = moved < 0 ? "flatter" : "sharper";
  const end = run.ys[run.last];
  const after = run.escaped
    ? "Then the run escapes."
    : `At the end y = ${say(end)} and |x| = ${say(Math.abs(run.xs[run.last]))}.`;
  return (
    `v₁ turns by ${format(angle)}° at x = ${format(x)} and by ${format(-angle)}° at −x, the gradient by ` +
    `${format(turn.tilt(loss, x) * DEGREES)}° and back: two odd things. Their product is even: from either side ` +
    `two steps move y by ${format(moved)}, to ${way} ground. ${after}`
  );
}
