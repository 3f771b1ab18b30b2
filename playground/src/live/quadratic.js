/** The learning rate moved across 1/lambda and 2/lambda: chapter "quadratic_threshold". */
import {
  describeOutcome,
  drawFactor,
  drawParabola,
  drawPlane,
  REACH,
} from "../figures/quadratic.js";
import { compute } from "../runs/quadratic.js";
import { dragControls, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

const LAMBDA = 1;
const RATIO = 0.3;
const STEPS = 20;
/** The largest learning rate, beyond 2 / lambda_1. */
const MOST = 2.4;

/** @param {DOMStringMap} given */
export function thresholdFigure(given) {
  const first = numbers(given, { eta: 0.6, x: 1.6, y: 1.4 });
  const controls = {
    eta: slider({
      key: "eta",
      label: "Learning rate η",
      min: 0.05,
      max: MOST,
      value: first.eta,
      step: 0.01,
    }),
    x: slider({ key: "x", label: "Start, x₁", min: -2, max: 2, value: first.x, step: 0.05 }),
    y: slider({ key: "y", label: "Start, x₂", min: -2, max: 2, value: first.y, step: 0.05 }),
  };
  const square = (/** @type {number} */ width) => (width > 560 ? 1.4 : 1.1);
  return liveFigure({
    controls,
    presets: {
      "Below 1/λ₁": { ...first, eta: 0.6 },
      "Between 1/λ₁ and 2/λ₁": { ...first, eta: 1.7 },
      "At 2/λ₁": { ...first, eta: 2 },
      "Past 2/λ₁": { ...first, eta: 2.1 },
    },
    compute: (values) =>
      compute({ ...values, method: 0, beta: 0, lambda: LAMBDA, ratio: RATIO, steps: STEPS }),
    length: () => STEPS,
    rate: () => 4,
    beside: ["parabola", "plane"],
    plots: (redraw) => ({
      factor: new Plot({
        title: "Factor per step: drag the learning rate",
        x: { label: "learning rate η", domain: [0, MOST] },
        y: { label: "factor |1 − ηλ|", domain: [0, 1.5] },
        aspect: (width) => (width > 560 ? 3.4 : 1.7),
        redraw,
      }),
      parabola: new Plot({
        title: "Along v₁, on the parabola",
        x: { label: "x₁", domain: [-REACH, REACH] },
        y: { label: "λ₁x₁²/2", domain: [0, (LAMBDA * REACH ** 2) / 2] },
        aspect: square,
        redraw,
      }),
      plane: new Plot({
        title: "Over the contours: drag the start",
        x: { label: "x₁, along v₁", domain: [-REACH, REACH] },
        y: { label: "x₂, along v₂", domain: [-REACH / 1.3, REACH / 1.3] },
        aspect: square,
        equal: true,
        redraw,
      }),
    }),
    connect({ factor, parabola, plane }, { changed }) {
      dragControls(factor, changed, controls.eta);
      dragControls(parabola, changed, controls.x);
      dragControls(plane, changed, controls.x, controls.y);
    },
    describe(state) {
      const { eta, lambdas } = state;
      controls.eta.hint(`ηλ₁ = ${format(eta * lambdas[0])}, ηλ₂ = ${format(eta * lambdas[1])}`);
      return describeOutcome(state);
    },
    draw(state, { factor, parabola, plane }, t) {
      const [x, y] = state.path[t];
      drawFactor(factor, state);
      drawParabola(parabola, state, t);
      drawPlane(plane, state, t);
      return (
        `Step ${t} of ${STEPS}: x₁ = ${format(x)}, x₂ = ${format(y)}, ` +
        `loss ${format(state.losses[t])}.`
      );
    },
  });
}
