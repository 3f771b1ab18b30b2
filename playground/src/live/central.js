/** Gradient descent, central flow and gradient flow from one start: chapter "average_motion". */
import * as central from "../figures/central.js";
import { centralFlow, reflectionRadius } from "../lib/central.js";
import * as scalar from "../lib/scalar.js";
import { dragControls, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

/** The target of the network; only its product with eta matters. */
const Y = 1;
/** Points of a flow to a step of gradient descent; in the window eta times the sharpness is below 7. */
const SUBSTEPS = 16;
/** Gradient descent starts so far along v_1 from the flows, or it would never leave a minimum. */
const PUSH = 1e-3;
const MOST_STEPS = 400;

/** The three motions from where the controls say. @param {Record<string, number>} given @returns {central.State} */
function compute({ eta, a, b }) {
  /** @type {[number, number]} */
  const start = [a, b];
  const angle = scalar.angle(a, b, Y) || 0;
  const run = scalar.descend({
    start: [a + PUSH * Math.cos(angle), b + PUSH * Math.sin(angle)],
    y: Y,
    eta,
    steps: MOST_STEPS,
  });
  // Up to where it has settled, and a little on.
  let moving = run.last;
  while (moving > 0 && eta * Math.abs(run.residual[moving]) < 5e-3) moving--;
  const steps = Math.min(run.last, Math.max(16, Math.ceil(1.25 * moving) + 2));
  const flows = { start, y: Y, eta, steps, substeps: SUBSTEPS };
  const below = 2 / eta - reflectionRadius(a, b, Y, eta);
  return {
    key: JSON.stringify([eta, a, b]),
    eta,
    y: Y,
    start,
    steps,
    substeps: SUBSTEPS,
    run,
    outcome: scalar.outcome(run, eta, false),
    central: centralFlow(flows),
    flow: centralFlow({ ...flows, oscillating: false }),
    times: run.residual.map((_, t) => eta * t),
    moments: Float64Array.from({ length: steps * SUBSTEPS + 1 }, (_, i) => (eta * i) / SUBSTEPS),
    // No minimum is flatter than 2 |y|.
    mirrored: below >= 2 * Math.abs(Y) ? below : NaN,
  };
}

/** @param {DOMStringMap} given */
export function centralFlowFigure(given) {
  const first = numbers(given, { eta: 0.4, a: 0.25, b: 2.2 });
  const controls = {
    eta: slider({
      key: "eta",
      label: "Learning rate η",
      min: 0.25,
      max: 0.7,
      value: first.eta,
      step: 0.005,
    }),
    a: slider({ key: "a", label: "Start, a", min: -0.1, max: 1.1, value: first.a, step: 0.01 }),
    b: slider({ key: "b", label: "Start, b", min: 1.4, max: 2.45, value: first.b, step: 0.01 }),
  };
  const domain = () => /** @type {[number, number]} */ ([0, 1]);
  return liveFigure({
    controls,
    presets: {
      "Below the edge": first,
      "On a sharp minimum": { ...first, a: 0.44, b: Number((Y / 0.44).toFixed(2)) },
      Stable: { ...first, eta: 0.3 },
    },
    compute,
    length: (state) => state.steps,
    parts: SUBSTEPS,
    plots: (redraw) => ({
      plane: new Plot({
        title: "The loss over a and b: drag the start",
        x: { label: "a", domain: domain() },
        y: { label: "b", domain: domain() },
        aspect: (width) => (width > 560 ? 1.7 : 1.1),
        equal: true,
        redraw,
      }),
      sharp: new Plot({
        title: "Sharpness against time",
        x: { label: "time ηt", domain: domain() },
        y: { label: "sharpness", domain: domain() },
        aspect: (width) => (width > 560 ? 2.6 : 1.3),
        redraw,
      }),
    }),
    connect({ plane, sharp }, { changed, show }) {
      dragControls(plane, changed, controls.a, controls.b);
      sharp.onDrag((time) => show(time / controls.eta.get()));
    },
    describe(state, plots) {
      const { eta, y, start, run } = state;
      central.setViews(plots, state);
      controls.eta.hint(`2/η = ${format(2 / eta)}`);
      controls.a.hint(`residual ab − y = ${format(scalar.residual(...start, y))}`);
      controls.b.hint(`minimum ahead: sharpness ${format(run.minimumSharpness[0])}`);
      return central.describeEnd(state);
    },
    draw(state, plots, t) {
      central.drawPlane(plots.plane, state, t);
      central.drawSharpness(plots.sharp, state, t);
      return central.describeMoment(state, t);
    },
  });
}
