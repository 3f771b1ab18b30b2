/**
 * Gradient descent on L = (a b - y)^2 / 2: a start to drag, for the chapter "scalar_networks", and
 * one instability to step through, for "polarity".
 */
import {
  describeOutcome,
  drawPlane,
  drawSharpness,
  drawTurn,
  planePlot,
  setViews,
  sharpnessPlot,
  turnPlot,
} from "../figures/scalar.js";
import * as scalar from "../lib/scalar.js";
import { compute, from } from "../runs/scalar.js";
import { dragControls, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";

const Y = 1;
const DEGREES = 180 / Math.PI;
/** What the plane shows: the ellipse beyond which runs escape lies inside it at the first rate. */
const WINDOW = /** @type {[number, number]} */ ([-0.4, 3.4]);
const square = (/** @type {number} */ width) => (width > 560 ? 1.25 : 1.05);

/** @param {DOMStringMap} given */
export function startFigure(given) {
  const first = numbers(given, { eta: 0.4, a: 0.45, b: 2.5 });
  const controls = {
    eta: slider({
      key: "eta",
      label: "Learning rate η",
      min: 0.2,
      max: 0.9,
      value: first.eta,
      step: 0.01,
    }),
    a: slider({ key: "a", label: "Start, a", min: -0.4, max: 3.4, value: first.a, step: 0.01 }),
    b: slider({ key: "b", label: "Start, b", min: -0.4, max: 3.4, value: first.b, step: 0.01 }),
  };
  return liveFigure({
    controls,
    presets: {
      "Sharp side": first,
      "Flat side": { ...first, a: 0.7, b: 1.6 },
      "From afar": { ...first, a: 2.6, b: 1.2 },
      Escapes: { ...first, a: 1.2, b: 3.2 },
    },
    compute: ({ eta, a, b }) => from([a, b], Y, eta, 60),
    length: (state) => state.run.last,
    rate: () => 6,
    beside: ["plane", "sharp"],
    plots: (redraw) => {
      const plane = planePlot(redraw, square);
      return { plane, sharp: sharpnessPlot(redraw, square) };
    },
    connect({ plane, sharp }, { changed, show }) {
      dragControls(plane, changed, controls.a, controls.b);
      sharp.onDrag(show);
    },
    describe(state, plots) {
      const { eta, r, start, margin, outcome } = state;
      setViews(plots, state);
      // It stays as it is while the start is dragged.
      plots.plane.x.domain = plots.plane.y.domain = WINDOW;
      controls.eta.hint(`2/η = ${format(2 / eta)}`);
      controls.a.hint(`residual ab − y = ${format(r)}`);
      controls.b.hint(`minimum ahead: sharpness ${format(start)}`);
      const escapes = outcome === "diverged" && margin < 0;
      return describeOutcome(state) + (escapes ? " The start lies outside the ellipse." : "");
    },
    draw(state, plots, t) {
      drawPlane(plots.plane, state, t);
      drawSharpness(plots.sharp, state, t);
      const { run, eta, start } = state;
      return (
        `Step ${t} of ${run.last}: residual ${format(run.residual[t])}, sharpness ` +
        `${format(run.sharpness[t])}; minimum ahead ${format(run.minimumSharpness[t])}, at the ` +
        `start ${format(start)}; 2/η = ${format(2 / eta)}.`
      );
    },
  });
}

/** @param {DOMStringMap} given */
export function polarityFigure(given) {
  const first = numbers(given, { eta: 0.4, s: 6, r: 0.01 });
  const controls = {
    eta: slider({
      key: "eta",
      label: "Learning rate η",
      min: 0.3,
      max: 0.6,
      value: first.eta,
      step: 0.01,
    }),
    s: slider({ key: "s", label: "Starting sharpness", min: 3, max: 9, value: first.s, step: 0.1 }),
    r: slider({
      key: "r",
      label: "First residual r₀",
      min: -0.3,
      max: 0.3,
      value: first.r,
      step: 0.01,
    }),
  };
  return liveFigure({
    controls,
    presets: {
      "One instability": first,
      "From the other side": { ...first, r: -first.r },
      Stronger: { ...first, s: 7.6 },
      Stable: { ...first, s: 4.5, r: 0.3 },
    },
    compute: (values) => compute({ ...values, y: Y, noise: 0, seed: 1, steps: 50 }),
    length: (state) => state.run.last,
    rate: () => 3,
    beside: ["plane", "turn"],
    plots: (redraw) => ({
      plane: planePlot(redraw, square),
      turn: turnPlot(redraw, square),
      // On the start page the three stand in one row, and this one is as narrow as the others.
      sharp: sharpnessPlot(redraw, (width) =>
        width > 560 ? 3.4 : width > 300 ? 1.6 : square(width),
      ),
    }),
    connect({ sharp }, { show }) {
      sharp.onDrag(show);
    },
    describe(state, plots) {
      const { eta, start } = state;
      setViews(plots, state);
      controls.eta.hint(`2/η = ${format(2 / eta)}`);
      controls.s.hint(`${format((start * eta) / 2)} × 2/η, of the minimum ahead`);
      controls.r.hint(`ηr₀ = ${format(eta * state.r)}`);
      return describeOutcome(state);
    },
    draw(state, plots, t) {
      drawPlane(plots.plane, state, t);
      drawTurn(plots.turn, state, t);
      drawSharpness(plots.sharp, state, t);
      const { run } = state;
      return `Step ${t} of ${run.last}: residual ${format(run.residual[t])}, ${turned(run, t)}.`;
    },
  });
}

/**
 * Where v_1 points, against where it points at the minimum ahead, of residual zero (D3).
 *
 * @param {scalar.Run} run @param {number} t
 */
function turned(run, t) {
  const resting = scalar.angleAt(0, run.kappa[t], Y);
  const off = (run.angle[t] - resting) * DEGREES;
  const at = `v₁ at ${format(run.angle[t] * DEGREES)}°`;
  if (!(Math.abs(off) >= 0.05)) return `${at}, as at the minimum ahead`;
  const toward = off > 0 ? "toward the balanced diagonal" : "away from the balanced diagonal";
  return `${at}, turned ${format(Math.abs(off), 2)}° ${toward}`;
}
