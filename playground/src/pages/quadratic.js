/** The playground of the quadratic: gradient descent and momentum around 2 / lambda. */
import {
  describeOutcome,
  drawAlong,
  drawFactor,
  drawFall,
  drawPlane,
  REACH,
  setViews,
} from "../figures/quadratic.js";
import * as quadratic from "../lib/quadratic.js";
import { compute } from "../runs/quadratic.js";
import { choice, dragControls, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { differences } from "../ui/kept.js";
import { mount } from "../ui/page.js";
import { Plot } from "../ui/plot.js";
import { shownRun } from "../ui/run.js";

const BASE = { eta: 1.6, method: 0, beta: 0.5, lambda: 1, ratio: 0.1, x: 1, y: 1.6, steps: 30 };
const PRESETS = {
  "Below 1/λ₁": { ...BASE, eta: 0.5 },
  "Between 1/λ₁ and 2/λ₁": BASE,
  "Best step": { ...BASE, eta: 1.82 },
  "At 2/λ₁": { ...BASE, eta: 2 },
  "Past 2/λ₁": { ...BASE, eta: 2.1 },
  "Heavy ball past 2/λ₁": { ...BASE, eta: 2.1, method: 1 },
  "Nesterov below 2/λ₁": { ...BASE, eta: 1.5, method: 2, beta: 0.9 },
};

const METHODS = ["gradient descent", "heavy ball", "Nesterov's method"];
const SYMBOLS = { lambda: "λ₁", ratio: "λ₂/λ₁", x: "start x₁", y: "start x₂" };

const wide = (/** @type {number} */ width) => (width > 560 ? 3 : 1.3);
const square = (/** @type {number} */ width) => (width > 560 ? 1.2 : 0.95);

mount("quadratic", () => {
  const controls = {
    eta: slider({
      key: "eta",
      label: "Learning rate η",
      min: 0.01,
      max: 6,
      value: BASE.eta,
      step: 0.01,
    }),
    method: choice({
      key: "method",
      label: "Method",
      options: METHODS,
      value: BASE.method,
    }),
    beta: slider({
      key: "beta",
      label: "Momentum β",
      min: 0,
      max: 0.99,
      value: BASE.beta,
      step: 0.01,
    }),
    lambda: slider({
      key: "lambda",
      label: "Sharpness λ₁",
      min: 0.5,
      max: 4,
      value: BASE.lambda,
      step: 0.05,
    }),
    ratio: slider({
      key: "ratio",
      label: "Ratio λ₂ / λ₁",
      min: 0.01,
      max: 1,
      value: BASE.ratio,
      step: 0.01,
    }),
    x: slider({ key: "x", label: "Start along v₁", min: -2, max: 2, value: BASE.x, step: 0.01 }),
    y: slider({ key: "y", label: "Start along v₂", min: -2, max: 2, value: BASE.y, step: 0.01 }),
    steps: slider({ key: "steps", label: "Steps", min: 5, max: 200, value: BASE.steps, step: 5 }),
  };
  const domain = () => /** @type {[number, number]} */ ([0, 1]);
  return shownRun({
    name: "quadratic",
    controls,
    presets: PRESETS,
    caption: "In numbers",
    compute,
    length: (state) => state.path.length - 1,
    rate: (length) => Math.max(3, length / 10),
    plots: (redraw) => ({
      plane: new Plot({
        title: "The iterates over the loss",
        x: { label: "x₁, along v₁", domain: [-REACH, REACH] },
        y: { label: "x₂, along v₂", domain: [-REACH, REACH] },
        aspect: square,
        equal: true,
        redraw,
      }),
      factor: new Plot({
        title: "Factor per step against η",
        x: { label: "learning rate η", domain: domain() },
        y: { label: "spectral radius", domain: domain() },
        aspect: square,
        redraw,
      }),
      along: new Plot({
        title: "The coordinates over the run",
        x: { label: "step t", domain: domain() },
        y: { label: "x₁, x₂", domain: domain() },
        aspect: wide,
        redraw,
      }),
      fall: new Plot({
        title: "The loss over the run",
        x: { label: "step t", domain: domain() },
        y: { label: "loss", domain: [0.1, 1], log: true },
        aspect: wide,
        redraw,
      }),
    }),
    overSteps: ({ along, fall }) => [along, fall],
    keeps: {
      name: (values) =>
        [
          `η = ${format(values.eta)}`,
          ...(values.method ? [`${METHODS[values.method]}, β = ${format(values.beta)}`] : []),
          ...differences(values, BASE, SYMBOLS),
        ].join(", "),
      curves: {
        along: { what: "x₁", values: ({ path }) => path.map(([x]) => x) },
        fall: { values: ({ losses }) => losses },
      },
      rates: true,
      path: {
        plot: "plane",
        points: ({ path }) => [path.map(([x]) => x), path.map(([, y]) => y)],
        over: ({ lambda, ratio }) => `${lambda} ${ratio}`,
      },
    },
    connect({ plane, factor }, changed) {
      dragControls(plane, changed, controls.x, controls.y);
      dragControls(factor, changed, controls.eta);
    },
    describe(state, plots) {
      const { eta, lambdas, edge, radii, method } = state;
      setViews(plots, state);
      controls.eta.hint(`η λ₁ = ${format(eta * lambdas[0])}, η λ₂ = ${format(eta * lambdas[1])}`);
      controls.beta.hint(method === "gd" ? "gradient descent has none" : "");
      controls.ratio.hint(`λ₂ = ${format(lambdas[1])}`);
      const [best, rate] = quadratic.bestLearningRate(lambdas);
      return {
        verdict: describeOutcome(state),
        rows: [
          ["Edge of stability, the largest stable η", format(edge)],
          ["Factor per step along v₁", format(radii[0])],
          ["Factor per step along v₂", format(radii[1])],
          ["Best η of gradient descent, 2/(λ₁ + λ₂)", `${format(best)}, factor ${format(rate)}`],
          ["Condition number λ₁/λ₂", format(lambdas[0] / lambdas[1])],
        ],
      };
    },
    draw(state, plots, t) {
      const [x, y] = state.path[t];
      drawPlane(plots.plane, state, t);
      drawFactor(plots.factor, state);
      drawAlong(plots.along, state, t);
      drawFall(plots.fall, state, t);
      return (
        `Step ${t} of ${state.path.length - 1}: x₁ = ${format(x)}, x₂ = ${format(y)}, ` +
        `loss ${format(state.losses[t])}.`
      );
    },
  });
});
