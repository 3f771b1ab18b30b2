/** The interventions, as arms to switch: chapter "cause_or_company". */
import { ARMS, describeEnd, describeMoment, drawPlane, drawSharpness } from "../figures/arms.js";
import { runArms } from "../lib/interventions.js";
import * as scalar from "../lib/scalar.js";
import { slider, toggle } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

const Y = 1;
const ETA = 0.4;
/** The residual of the start, and the length of the displacement given to each arm. */
const R = 0.03;
const OFFSET = 1e-3;
const STEPS = 40;

/** @param {DOMStringMap} given */
export function armsFigure(given) {
  const first = numbers(given, { factor: 1.2, control: 1, within: 0, across: 0, drift: 0, reversed: 0 });
  const controls = Object.fromEntries([
    ...Object.entries(ARMS).map(([key, { text }]) => [
      key,
      toggle({ key, label: text[0].toUpperCase() + text.slice(1), value: first[/** @type {keyof typeof ARMS} */ (key)] }),
    ]),
    [
      "factor",
      slider({
        key: "factor",
        label: "Start, × 2/η",
        min: 1.05,
        max: 1.3,
        value: first.factor,
        step: 0.01,
      }),
    ],
  ]);
  const off = { ...first, control: 0 };
  const square = (/** @type {number} */ width) => (width > 560 ? 1.2 : 1.05);
  return liveFigure({
    controls,
    presets: {
      "Gradient descent": first,
      "Take the force away": { ...first, within: 1 },
      "Leave it alone": { ...off, across: 1, drift: 1 },
      "Turn it around": { ...off, drift: 1, reversed: 1 },
      "All arms": { ...first, within: 1, across: 1, drift: 1, reversed: 1 },
    },
    compute(values) {
      const { factor } = values;
      const start = (factor * 2) / ETA;
      const point = scalar.at(R, Math.sqrt(start * start - 4 * Y * Y), Y);
      const arms = runArms({ start: point, y: Y, eta: ETA, steps: STEPS, offset: OFFSET });
      return {
        key: String(factor),
        eta: ETA,
        y: Y,
        steps: STEPS,
        arms,
        on: Object.keys(ARMS).filter((name) => values[name] === 1),
        times: Float64Array.from({ length: STEPS + 1 }, (_, t) => t),
      };
    },
    length: (state) => state.steps,
    rate: () => 5,
    main: "factor",
    beside: ["sharp", "plane"],
    plots: (redraw) => ({
      sharp: new Plot({
        title: "Sharpness at the center",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "× η/2", domain: [0.4, 2.6] },
        aspect: square,
        redraw,
      }),
      plane: new Plot({
        title: "The parameters, and their centers",
        x: { label: "a", domain: [-0.2, 1.2] },
        y: { label: "b", domain: [1.5, 3.6] },
        aspect: square,
        redraw,
      }),
    }),
    connect({ sharp }, { show }) {
      sharp.onDrag(show);
    },
    describe(state) {
      controls.factor.hint(`η = ${ETA}, 2/η = ${format(2 / ETA)}`);
      return describeEnd(state);
    },
    draw(state, { sharp, plane }, t) {
      drawSharpness(sharp, state, t);
      drawPlane(plane, state, t);
      return describeMoment(state, t);
    },
  });
}
