/** An instability along the circle of the reflection law: chapter "reflection_law". */
import {
  describeMoment,
  drawBars,
  drawCircle,
  setViews,
} from "../figures/reflection.js";
import { describeOutcome } from "../figures/scalar.js";
import { reflectionConstant } from "../lib/central.js";
import { compute } from "../runs/scalar.js";
import { slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

const Y = 1;
const STEPS = 80;

/** @param {DOMStringMap} given */
export function reflectionFigure(given) {
  const first = numbers(given, { eta: 0.1, factor: 1.1, r: 0.02 });
  const controls = {
    factor: slider({
      key: "factor",
      label: "Before, × 2/η",
      min: 0.8,
      max: 1.6,
      value: first.factor,
      step: 0.01,
    }),
    eta: slider({
      key: "eta",
      label: "Learning rate η",
      min: 0.05,
      max: 0.6,
      value: first.eta,
      step: 0.01,
    }),
    r: slider({
      key: "r",
      label: "First residual r₀",
      min: 0.01,
      max: 2,
      value: first.r,
      scale: "log",
    }),
  };
  const square = (/** @type {number} */ width) => (width > 560 ? 1.3 : 1.05);
  const domain = () => /** @type {[number, number]} */ ([0, 1]);
  return liveFigure({
    controls,
    presets: {
      "A tenth above": first,
      "A quarter above": { ...first, factor: 1.25 },
      "Far above": { ...first, factor: 1.5 },
      "A tenth below, pushed": { ...first, factor: 0.9, r: 1 },
    },
    compute({ eta, factor, r }) {
      const state = compute({ eta, s: (factor * 2) / eta, r, y: Y, noise: 0, seed: 1, steps: STEPS });
      const c = reflectionConstant(Y, eta);
      const residuals = state.run.residual.map((v, t) => Math.sqrt(c) * (t % 2 ? -v : v));
      const excess = state.run.minimumSharpness.map((v) => v - 2 / eta);
      return { ...state, residuals, excess, radius: Math.hypot(residuals[0], excess[0]) };
    },
    length: (state) => state.run.last,
    rate: () => 6,
    beside: ["circle", "bars"],
    plots: (redraw) => ({
      circle: new Plot({
        title: "Residual and excess, step by step",
        x: { label: "√c r, turned over at odd steps", domain: domain() },
        y: { label: "excess ε", domain: domain() },
        aspect: square,
        equal: true,
        redraw,
      }),
      bars: new Plot({
        title: "The sharpness of the minimum ahead",
        x: { label: "", domain: domain() },
        y: { label: "sharpness", domain: domain() },
        aspect: square,
        redraw,
      }),
    }),
    connect() {},
    describe(state, plots) {
      setViews(plots, state);
      const { eta, start, excess, radius } = state;
      controls.eta.hint(`2/η = ${format(2 / eta)}`);
      controls.factor.hint(`excess ε = ${format(excess[0])} at sharpness ${format(start)}`);
      controls.r.hint(`the circle has radius ${format(radius)}`);
      return describeOutcome(state);
    },
    draw(state, plots, t) {
      drawCircle(plots.circle, state, t);
      drawBars(plots.bars, state, t);
      return describeMoment(state, t);
    },
  });
}
