/** A point of the phase diagram, and its run: chapter "flatness_bias". */
import { drawPhases, kind } from "../figures/phase.js";
import { describeOutcome, drawSharpness, setViews } from "../figures/scalar.js";
import { finalSharpness, phaseDiagram } from "../lib/phase.js";
import * as scalar from "../lib/scalar.js";
import { from } from "../runs/scalar.js";
import { slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

const Y = 1;
const R = 0.01;
const FLOOR = 2 * Y;
const RATES = { low: 0.02, high: 1.9, count: 84 };
const SHARPNESS = { low: 2.01, high: 200, count: 66 };
/** A start that has not settled by then is drawn as one that does not. */
const STEPS = 1500;
/** Of a run that is shown. */
const MOST_STEPS = 400;

/** @param {{low: number, high: number, count: number}} range */
const spaced = ({ low, high, count }) =>
  Float64Array.from({ length: count }, (_, i) => low * (high / low) ** (i / (count - 1)));

/** The run of a point, up to where it has settled and a little on. @param {Record<string, number>} given */
function compute({ eta, s }) {
  const point = scalar.at(R, Math.sqrt((s - FLOOR) * (s + FLOOR)), Y);
  const long = scalar.descend({ start: point, y: Y, eta, steps: MOST_STEPS });
  let moving = long.last;
  while (moving > 0 && eta * Math.abs(long.residual[moving]) < 2e-3) moving--;
  const steps = long.diverged ? long.last + 1 : Math.max(20, Math.ceil(1.2 * moving) + 2);
  const state = from(point, Y, eta, Math.min(MOST_STEPS, steps));
  return { ...state, end: finalSharpness(state.r, state.k, Y, eta, 4 * STEPS) };
}

/** @param {DOMStringMap} given */
export function phaseFigure(given) {
  const first = numbers(given, { eta: 0.1, s: 26 });
  const controls = {
    eta: slider({
      key: "eta",
      label: "Learning rate η",
      min: RATES.low,
      max: RATES.high,
      value: first.eta,
      scale: "log",
    }),
    s: slider({
      key: "s",
      label: "Starting sharpness",
      min: SHARPNESS.low,
      max: SHARPNESS.high,
      value: first.s,
      scale: "log",
    }),
  };
  const square = (/** @type {number} */ width) => (width > 560 ? 1.2 : 1.05);
  /** @type {import("../figures/phase.js").Diagram | undefined} */
  let diagram;
  const drawn = () => {
    if (diagram) return diagram;
    const [rates, sharpness] = [spaced(RATES), spaced(SHARPNESS)];
    const ends = phaseDiagram({ rates, sharpness, y: Y, r: R, steps: STEPS });
    return (diagram = { rates, sharpness, ends, floor: FLOOR });
  };
  const figure = liveFigure({
    controls,
    presets: {
      "Above 2/η": first,
      "Below 2/η": { eta: 0.1, s: 16 },
      "The flattest end": { eta: 0.1, s: 31.5 },
      "Beyond 4/η": { eta: 0.1, s: 42 },
      "No stable minimum": { eta: 1.3, s: 2.3 },
    },
    compute,
    length: (state) => state.run.last,
    rate: (length) => Math.max(6, length / 8),
    beside: ["phases", "sharp"],
    plots: (redraw) => ({
      phases: new Plot({
        title: "Where runs end: choose one",
        x: {
          label: "learning rate η",
          domain: [RATES.low, RATES.high],
          log: true,
          ticks: [0.02, 0.05, 0.1, 0.2, 0.5, 1],
          format: String,
        },
        y: {
          label: "starting sharpness",
          domain: [SHARPNESS.low, SHARPNESS.high],
          log: true,
          ticks: [3, 10, 30, 100],
          format: String,
        },
        aspect: square,
        redraw,
      }),
      sharp: new Plot({
        title: "The run of that point",
        x: { label: "step t", domain: [0, 1] },
        y: { label: "sharpness", domain: [0, 1] },
        aspect: square,
        redraw,
      }),
    }),
    connect({ phases, sharp }, { changed, show }) {
      phases.onDrag((eta, s) => {
        controls.eta.set(Number(eta.toPrecision(3)));
        controls.s.set(Number(s.toPrecision(3)));
        changed();
      });
      sharp.onDrag(show);
    },
    describe(state, { sharp }) {
      setViews({ sharp }, state);
      const { eta, start, end } = state;
      controls.eta.hint(`2/η = ${format(2 / eta)}, 4/η = ${format(4 / eta)}`);
      controls.s.hint(`${format((start * eta) / 2)} × 2/η`);
      const what = kind(start, end, FLOOR);
      return `${describeOutcome(state)} In the map this start ${what}.`;
    },
    draw(state, { phases, sharp }, t) {
      const { run, eta, start, end } = state;
      drawPhases(phases, drawn(), eta, start, end);
      drawSharpness(sharp, state, t);
      return (
        `Step ${t} of ${run.last}: sharpness ${format(run.sharpness[t])}, of the minimum ahead ` +
        `${format(run.minimumSharpness[t])} = ${format((run.minimumSharpness[t] * eta) / 2)} × 2/η.`
      );
    },
  });
  return { ...figure, diagram: drawn };
}
